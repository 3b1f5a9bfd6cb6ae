//! Hooks of the functions that go through directories inside libc: glob(3), ftw(3), nftw(3). glob(3) of glibc can be told which
//! functions to use; the others cannot, so a walk that begins at a path of the target is done here. As nothing is allocated, one
//! directory stays open for each level, whatever number the program allows.

use core::{
    ffi::{c_char, c_int, c_void},
    mem,
};

use libc::{DIR, dirent, stat as Stat};

use crate::{
    calls::Outcome,
    files,
    hook::{Real, hooks},
    start, streams, sys,
    wire::{PAYLOAD_BYTES, wants},
};

type GlobError = Option<unsafe extern "C" fn(*const c_char, c_int) -> c_int>;
/// `struct FTW` of ftw.h.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Place {
    base: c_int,
    level: c_int,
}
type Visit = unsafe extern "C" fn(*const c_char, *const Stat, c_int, *mut Place) -> c_int;

hooks! {
    fn glob(pattern: *const c_char, flags: c_int, errors: GlobError, found: *mut Glob) -> c_int = |pattern, flags, errors, found| globbed(&real::glob::REAL, pattern, flags, errors, found);
    fn glob64(pattern: *const c_char, flags: c_int, errors: GlobError, found: *mut Glob) -> c_int = |pattern, flags, errors, found| globbed(&real::glob64::REAL, pattern, flags, errors, found);
    // Without its last argument, which functions given to ftw(3) do not look at: they are called alike.
    fn ftw(path: *const c_char, visit: Visit, open: c_int) -> c_int = |path, visit, _| walked(path, visit, 0, false);
    fn ftw64(path: *const c_char, visit: Visit, open: c_int) -> c_int = |path, visit, _| walked(path, visit, 0, false);
    fn nftw(path: *const c_char, visit: Visit, open: c_int, flags: c_int) -> c_int = |path, visit, _, flags| walked(path, visit, flags, true);
    fn nftw64(path: *const c_char, visit: Visit, open: c_int, flags: c_int) -> c_int = |path, visit, _, flags| walked(path, visit, flags, true);
}

/// `glob_t` of glob.h, where musl has room that it does not use.
#[repr(C)]
pub(crate) struct Glob {
    count: usize,
    paths: *mut *mut c_char,
    offset: usize,
    flags: c_int,
    functions: Functions,
}

/// What glob(3) calls in place of libc's own functions.
#[repr(C)]
struct Functions {
    close: unsafe extern "C" fn(*mut DIR) -> c_int,
    read: unsafe extern "C" fn(*mut DIR) -> *mut dirent,
    open: unsafe extern "C" fn(*const c_char) -> *mut DIR,
    link_status: unsafe extern "C" fn(*const c_char, *mut Stat) -> c_int,
    status: unsafe extern "C" fn(*const c_char, *mut Stat) -> c_int,
}

/// GLOB_ALTDIRFUNC of glob.h, a flag without meaning to musl.
const OTHER_FUNCTIONS: c_int = 1 << 9;

fn globbed(
    real: &Real,
    pattern: *const c_char,
    flags: c_int,
    errors: GlobError,
    found: *mut Glob,
) -> Outcome<c_int> {
    let address = real.address();
    if found.is_null() || address.is_null() || flags & OTHER_FUNCTIONS != 0 || !start::wants(wants::FILES) {
        return Outcome::GoOn;
    }
    // SAFETY: both functions that come here have this type.
    let function = unsafe { mem::transmute::<*mut c_void, real::glob::Function>(address) };
    let functions = Functions {
        close: libc::closedir,
        read: libc::readdir,
        open: streams::opendir,
        link_status: files::lstat,
        status: files::stat,
    };
    // The other fields may not be set yet, so there is no reference to the whole.
    let place = found.wrapping_byte_add(mem::offset_of!(Glob, functions)).cast::<Functions>();
    // SAFETY: the program's own structure has room for them.
    unsafe { place.write(functions) };
    // SAFETY: the arguments are the program's own.
    let result = unsafe { function(pattern, flags | OTHER_FUNCTIONS, errors, found) };
    let place = found.wrapping_byte_add(mem::offset_of!(Glob, flags)).cast::<c_int>();
    // SAFETY: the real function has set the flags.
    let flags = unsafe { place.read() };
    // SAFETY: as above.
    unsafe { place.write(flags & !OTHER_FUNCTIONS) };
    Outcome::Value(result)
}

// ftw.h: what a path is, and how to walk.
const FILE: c_int = 0;
const DIRECTORY: c_int = 1;
const UNREADABLE: c_int = 2;
const NO_STATUS: c_int = 3;
const LINK: c_int = 4;
const DIRECTORY_AFTER: c_int = 5;
const LINK_TO_NOTHING: c_int = 6;
const PHYSICAL: c_int = 1;
const MOUNT: c_int = 2;
const CHANGE_DIRECTORY: c_int = 4;
const DEPTH: c_int = 8;
const ACTIONS: c_int = 16;
// What a visit returns with ACTIONS.
const SKIP_SUBTREE: c_int = 2;
const SKIP_SIBLINGS: c_int = 3;

/// A walk and the path that it is at, which lies behind NUL.
struct Walk {
    path: [u8; PAYLOAD_BYTES],
    length: usize,
    visit: Visit,
    flags: c_int,
    /// nftw(3), which tells links from what they lead to.
    new: bool,
    device: libc::dev_t,
}

/// The directories above, by which a circle of links is found.
struct Above<'a> {
    up: Option<&'a Self>,
    device: libc::dev_t,
    inode: libc::ino_t,
}

impl Above<'_> {
    fn holds(&self, status: &Stat) -> bool {
        (self.device == status.st_dev && self.inode == status.st_ino)
            || self.up.is_some_and(|up| up.holds(status))
    }
}

fn walked(path: *const c_char, visit: Visit, flags: c_int, new: bool) -> Outcome<c_int> {
    // A walk that goes into directories is left alone: nobody can go into those of the target.
    if path.is_null() || flags & CHANGE_DIRECTORY != 0 || !start::wants(wants::FILES) {
        return Outcome::GoOn;
    }
    // SAFETY: stat is a plain structure for which zeroes are valid.
    let mut status = unsafe { mem::zeroed::<Stat>() };
    match files::link_status(path, &raw mut status) {
        Outcome::Value(_) => {}
        Outcome::Errno(errno) => return Outcome::Errno(errno),
        Outcome::GoOn => return Outcome::GoOn,
    }
    // SAFETY: the path is the program's C string.
    let length = unsafe { sys::length(path) };
    // SAFETY: it has just been measured.
    let text = unsafe { core::slice::from_raw_parts(path.cast::<u8>(), length) };
    // Slashes at the end are not repeated in the paths below.
    let end = text.iter().rposition(|byte| *byte != b'/').map_or(1, |last| last + 1);
    let mut walk = Walk { path: [0; PAYLOAD_BYTES], length: 0, visit, flags, new, device: status.st_dev };
    if !walk.push(text.get(..end).unwrap_or(text)) {
        return Outcome::Errno(libc::ENAMETOOLONG);
    }
    let base = text.get(..end).unwrap_or(text).iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
    match walk.step(base, 0, None) {
        Ok(SKIP_SUBTREE | SKIP_SIBLINGS) if flags & ACTIONS != 0 => Outcome::Value(0),
        Ok(result) => Outcome::Value(result),
        Err(errno) => Outcome::Errno(errno),
    }
}

impl Walk {
    fn push(&mut self, text: &[u8]) -> bool {
        let Some(room) = self.path.get_mut(self.length..) else { return false };
        if text.len() >= room.len() {
            return false;
        }
        room.iter_mut().zip(text.iter().chain(&[0])).for_each(|(to, from)| *to = *from);
        self.length += text.len();
        true
    }

    fn cut(&mut self, length: usize) {
        self.length = length;
        if let Some(end) = self.path.get_mut(length) {
            *end = 0;
        }
    }

    const fn pointer(&self) -> *const c_char {
        self.path.as_ptr().cast()
    }

    /// What the path is, and its status.
    fn look(&self) -> (c_int, Stat) {
        // SAFETY: stat is a plain structure for which zeroes are valid.
        let mut status = unsafe { mem::zeroed::<Stat>() };
        let physical = self.flags & PHYSICAL != 0;
        // SAFETY: a C string of ours and a local.
        if !physical && unsafe { files::stat(self.pointer(), &raw mut status) } == 0 {
            return (kind(&status), status);
        }
        // SAFETY: as above.
        if unsafe { files::lstat(self.pointer(), &raw mut status) } != 0 {
            return (NO_STATUS, status);
        }
        match kind(&status) {
            LINK if !self.new => (NO_STATUS, status),
            LINK if !physical => (LINK_TO_NOTHING, status),
            kind => (kind, status),
        }
    }

    fn tell(&mut self, what: c_int, status: &Stat, base: usize, level: c_int) -> c_int {
        let mut place = Place { base: c_int::try_from(base).unwrap_or(0), level };
        // SAFETY: the program's own function; path, status and place are valid until it returns.
        unsafe { (self.visit)(self.pointer(), status, what, &raw mut place) }
    }

    /// Visits the path and what is below. What is not 0 ends the walk.
    fn step(&mut self, base: usize, level: c_int, above: Option<&Above<'_>>) -> Result<c_int, c_int> {
        let (what, status) = self.look();
        let elsewhere = self.flags & MOUNT != 0 && status.st_dev != self.device;
        if what != DIRECTORY {
            return Ok(if elsewhere { 0 } else { self.tell(what, &status, base, level) });
        }
        if elsewhere || above.is_some_and(|above| above.holds(&status)) {
            return Ok(0);
        }
        // SAFETY: a C string of ours.
        let directory = unsafe { streams::opendir(self.pointer()) };
        if directory.is_null() {
            return if sys::errno() == libc::EACCES {
                Ok(self.tell(UNREADABLE, &status, base, level))
            } else {
                Err(sys::errno())
            };
        }
        let above = Above { up: above, device: status.st_dev, inode: status.st_ino };
        let result = self.inside(directory, &status, base, level, &above);
        // SAFETY: opened above, and nobody else has it.
        let _ = unsafe { libc::closedir(directory) };
        result
    }

    fn inside(
        &mut self,
        directory: *mut DIR,
        status: &Stat,
        base: usize,
        level: c_int,
        above: &Above<'_>,
    ) -> Result<c_int, c_int> {
        let (before, actions) = (self.flags & DEPTH == 0, self.flags & ACTIONS != 0);
        if before {
            match self.tell(DIRECTORY, status, base, level) {
                0 => {}
                SKIP_SUBTREE if actions => return Ok(0),
                other => return Ok(other),
            }
        }
        let length = self.length;
        loop {
            // SAFETY: the directory is open and only used here.
            let entry = unsafe { libc::readdir(directory) };
            if entry.is_null() {
                break;
            }
            // SAFETY: readdir(3) returned an entry, whose name is a C string until the next call.
            let name = unsafe { (&raw const (*entry).d_name).cast::<c_char>() };
            // SAFETY: as above.
            let name = unsafe { core::ffi::CStr::from_ptr(name) }.to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let slash = if self.path.get(length.wrapping_sub(1)) == Some(&b'/') { &b""[..] } else { b"/" };
            if !(self.push(slash) && self.push(name)) {
                return Err(libc::ENAMETOOLONG);
            }
            let result = self.step(length + slash.len(), level + 1, Some(above));
            self.cut(length);
            match result? {
                0 => {}
                SKIP_SUBTREE if actions => {}
                SKIP_SIBLINGS if actions => break,
                other => return Ok(other),
            }
        }
        let after = if self.new { DIRECTORY_AFTER } else { DIRECTORY };
        Ok(if before { 0 } else { self.tell(after, status, base, level) })
    }
}

fn kind(status: &Stat) -> c_int {
    match status.st_mode & libc::S_IFMT {
        libc::S_IFDIR => DIRECTORY,
        libc::S_IFLNK => LINK,
        _ => FILE,
    }
}
