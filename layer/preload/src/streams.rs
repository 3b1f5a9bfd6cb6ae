//! Hooks of functions that open paths inside libc: streams, directories, realpath(3). libc's own calls do not come by our names, so
//! these begin with a descriptor of ours and let the real functions go on from there.

use core::ffi::{c_char, c_int, c_void};

use libc::{AT_FDCWD, DIR, FILE};

use crate::{
    calls::Outcome,
    decimal,
    files::{link, opened},
    hook::hooks,
    sys,
    wire::PAYLOAD_BYTES,
};

/// Filter and order of scandir(3).
type Select = Option<unsafe extern "C" fn(*const c_void) -> c_int>;
type Compare = Option<unsafe extern "C" fn(*mut *const c_void, *mut *const c_void) -> c_int>;

hooks! {
    fn fopen(path: *const c_char, mode: *const c_char) -> *mut FILE, checked = stream;
    fn fopen64(path: *const c_char, mode: *const c_char) -> *mut FILE = stream;
    fn freopen(path: *const c_char, mode: *const c_char, old: *mut FILE) -> *mut FILE, checked = stream_again;
    fn freopen64(path: *const c_char, mode: *const c_char, old: *mut FILE) -> *mut FILE = stream_again;
    fn opendir(path: *const c_char) -> *mut DIR, checked = directory;
    fn scandir(path: *const c_char, list: *mut c_void, select: Select, compare: Compare) -> c_int = |path, list, select, compare| listing(&real::scandir::REAL, path, list, select, compare);
    fn scandir64(path: *const c_char, list: *mut c_void, select: Select, compare: Compare) -> c_int = |path, list, select, compare| listing(&real::scandir64::REAL, path, list, select, compare);
    fn realpath(path: *const c_char, buffer: *mut c_char) -> *mut c_char, checked = resolved;
    fn __realpath_chk(path: *const c_char, buffer: *mut c_char, room: usize) -> *mut c_char = |path, buffer, _| resolved(path, buffer);
    fn canonicalize_file_name(path: *const c_char) -> *mut c_char = |path| resolved(path, core::ptr::null_mut());
}

/// Flags of open(2) for a mode of fopen(3).
fn flags(mode: *const c_char) -> c_int {
    let mut flags = 0;
    for index in 0.. {
        // SAFETY: the mode is a C string; its NUL ends the loop.
        let letter = unsafe { mode.cast::<u8>().wrapping_add(index).read() };
        flags = match letter {
            b'r' if index == 0 => libc::O_RDONLY,
            b'w' if index == 0 => libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC,
            b'a' if index == 0 => libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND,
            b'+' => (flags & !libc::O_ACCMODE) | libc::O_RDWR,
            b'e' => flags | libc::O_CLOEXEC,
            b'x' => flags | libc::O_EXCL,
            // What follows names a character set.
            0 | b',' => break,
            _ => flags,
        };
    }
    flags
}

fn stream(path: *const c_char, mode: *const c_char) -> Outcome<*mut FILE> {
    if mode.is_null() {
        return Outcome::GoOn;
    }
    on_descriptor(opened(AT_FDCWD, path, flags(mode), 0), |descriptor| {
        // SAFETY: the mode is the program's C string, and the descriptor is ours to give away.
        unsafe { libc::fdopen(descriptor, mode) }
    })
}

/// freopen(3): the stream is kept, so the real function opens our descriptor anew under its name in /proc.
fn stream_again(path: *const c_char, mode: *const c_char, old: *mut FILE) -> Outcome<*mut FILE> {
    if path.is_null() || mode.is_null() {
        return Outcome::GoOn;
    }
    match opened(AT_FDCWD, path, flags(mode), 0) {
        Outcome::Value(descriptor) => {
            let link = decimal::Text::path(descriptor);
            // SAFETY: the path is our C string, mode and stream are the program's own.
            let stream = unsafe { real::freopen::call(link.pointer(), mode, old) };
            sys::close(descriptor);
            Outcome::Value(stream)
        }
        outcome => outcome.map(|_| core::ptr::null_mut()),
    }
}

fn directory(path: *const c_char) -> Outcome<*mut DIR> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    on_descriptor(opened(AT_FDCWD, path, flags, 0), |descriptor| {
        // SAFETY: fdopendir(3) takes over a descriptor, which is ours to give away.
        unsafe { libc::fdopendir(descriptor) }
    })
}

/// Hands a descriptor to a function that makes an object of it, and closes it when that fails.
fn on_descriptor<T>(outcome: Outcome<c_int>, make: impl FnOnce(c_int) -> *mut T) -> Outcome<*mut T> {
    outcome_of(outcome, |descriptor| {
        let object = make(descriptor);
        if object.is_null() {
            let errno = sys::errno();
            sys::close(descriptor);
            return Outcome::Errno(errno);
        }
        Outcome::Value(object)
    })
}

fn outcome_of<T, U>(outcome: Outcome<T>, then: impl FnOnce(T) -> Outcome<U>) -> Outcome<U> {
    match outcome {
        Outcome::Value(value) => then(value),
        Outcome::GoOn => Outcome::GoOn,
        Outcome::Errno(errno) => Outcome::Errno(errno),
    }
}

fn listing(
    real: &crate::hook::Real,
    path: *const c_char,
    list: *mut c_void,
    select: Select,
    compare: Compare,
) -> Outcome<c_int> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    outcome_of(opened(AT_FDCWD, path, flags, 0), |descriptor| {
        let address = real.address();
        if address.is_null() {
            sys::close(descriptor);
            return Outcome::Errno(libc::ENOSYS);
        }
        // SAFETY: both functions that come here have this type.
        let function = unsafe { core::mem::transmute::<*mut c_void, real::scandir::Function>(address) };
        let link = decimal::Text::path(descriptor);
        // SAFETY: the path is our C string, the other arguments are the program's own.
        let count = unsafe { function(link.pointer(), list, select, compare) };
        let errno = sys::errno();
        sys::close(descriptor);
        if count < 0 { Outcome::Errno(errno) } else { Outcome::Value(count) }
    })
}

/// Links that are followed in one path, as in the kernel (MAXSYMLINKS).
const LINKS: usize = 40;

/// A path that is put together from the left; always NUL-terminated.
struct Path {
    bytes: [u8; PAYLOAD_BYTES],
    length: usize,
}

impl Path {
    /// Copies text; false: too long.
    fn push(&mut self, text: &[u8]) -> bool {
        let Some(room) = self.bytes.get_mut(self.length..) else { return false };
        if text.len() >= room.len() {
            return false;
        }
        room.iter_mut().zip(text.iter().chain(&[0])).for_each(|(to, from)| *to = *from);
        self.length += text.len();
        true
    }

    /// Takes the last part away.
    fn pop(&mut self) {
        let all = self.bytes.get(..self.length).unwrap_or_default();
        self.length = all.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        if let Some(end) = self.bytes.get_mut(self.length) {
            *end = 0;
        }
    }
}

/// realpath(3) of a path of the target. Local ones are left to the real function, which also takes the malloc(3) for the result.
fn resolved(path: *const c_char, buffer: *mut c_char) -> Outcome<*mut c_char> {
    if path.is_null() {
        return Outcome::GoOn;
    }
    let mut target = [0_u8; PAYLOAD_BYTES];
    match link(AT_FDCWD, path, target.as_mut_ptr().cast(), PAYLOAD_BYTES) {
        Outcome::GoOn => return Outcome::GoOn,
        Outcome::Errno(errno) if errno != libc::EINVAL => return Outcome::Errno(errno),
        _ => {}
    }
    let mut done = Path { bytes: [0; PAYLOAD_BYTES], length: 0 };
    // SAFETY: the path is the program's C string.
    let length = unsafe { sys::length(path) };
    // SAFETY: it has just been measured.
    let text = unsafe { core::slice::from_raw_parts(path.cast::<u8>(), length) };
    let mut rest = Path { bytes: [0; PAYLOAD_BYTES], length: 0 };
    let fits = if text.starts_with(b"/") {
        rest.push(text)
    } else {
        working_directory(&mut rest) && rest.push(b"/") && rest.push(text)
    };
    if !fits {
        return Outcome::Errno(libc::ENAMETOOLONG);
    }
    match walk(&mut done, &mut rest, &mut target) {
        Ok(()) => finish(&mut done, buffer),
        Err(errno) => Outcome::Errno(errno),
    }
}

fn working_directory(path: &mut Path) -> bool {
    let arguments = [path.bytes.as_mut_ptr().expose_provenance(), PAYLOAD_BYTES, 0, 0, 0, 0];
    // SAFETY: getcwd(2) writes at most the size given to the buffer, which is ours.
    let count = unsafe { sys::call(libc::SYS_getcwd, arguments) };
    path.length = usize::try_from(count).unwrap_or(0).saturating_sub(1);
    path.length > 0
}

/// Goes through `rest` part by part and replaces links.
fn walk(done: &mut Path, rest: &mut Path, target: &mut [u8; PAYLOAD_BYTES]) -> Result<(), c_int> {
    let mut links = 0;
    let mut at = 0;
    loop {
        let text = rest.bytes.get(at..rest.length).unwrap_or_default();
        let Some(start) = text.iter().position(|byte| *byte != b'/') else { return Ok(()) };
        let text = text.get(start..).unwrap_or_default();
        let length = text.iter().position(|byte| *byte == b'/').unwrap_or(text.len());
        let part = text.get(..length).unwrap_or_default();
        at += start + length;
        match part {
            b"." => continue,
            b".." => {
                done.pop();
                continue;
            }
            part if done.push(b"/") && done.push(part) => {}
            _ => return Err(libc::ENAMETOOLONG),
        }
        let count = match link_or_local(done, target) {
            Err(libc::EINVAL) => continue,
            count => count?,
        };
        links += 1;
        if links > LINKS {
            return Err(libc::ELOOP);
        }
        follow(done, rest, at, target.get(..count).unwrap_or_default())?;
        at = 0;
    }
}

/// Puts the link's target in front of what is left to do.
fn follow(done: &mut Path, rest: &mut Path, at: usize, target: &[u8]) -> Result<(), c_int> {
    let mut next = Path { bytes: [0; PAYLOAD_BYTES], length: 0 };
    let left = rest.bytes.get(at..rest.length).unwrap_or_default();
    if !(next.push(target) && next.push(left)) {
        return Err(libc::ENAMETOOLONG);
    }
    if target.starts_with(b"/") {
        done.length = 0;
    } else {
        done.pop();
    }
    *rest = next;
    Ok(())
}

/// readlink(2), wherever the path belongs.
fn link_or_local(path: &Path, target: &mut [u8; PAYLOAD_BYTES]) -> Result<usize, c_int> {
    let name = path.bytes.as_ptr().cast::<c_char>();
    let result = match link(AT_FDCWD, name, target.as_mut_ptr().cast(), PAYLOAD_BYTES) {
        Outcome::Value(count) => count,
        Outcome::Errno(errno) => return Err(errno),
        Outcome::GoOn => {
            let at = crate::calls::word(AT_FDCWD);
            let arguments =
                [at, name.expose_provenance(), target.as_mut_ptr().expose_provenance(), PAYLOAD_BYTES, 0, 0];
            // SAFETY: readlinkat(2) reads our C string and writes at most the size given to our buffer.
            unsafe { sys::call(libc::SYS_readlinkat, arguments) }
        }
    };
    usize::try_from(result).map_err(|_| -sys::int(result))
}

/// Gives the result to the program.
fn finish(done: &mut Path, buffer: *mut c_char) -> Outcome<*mut c_char> {
    if done.length == 0 && !done.push(b"/") {
        return Outcome::Errno(libc::ENAMETOOLONG);
    }
    let text = done.bytes.as_ptr().cast::<c_char>();
    if buffer.is_null() {
        // SAFETY: strdup(3) copies a C string, which `Path` is.
        let copy = unsafe { libc::strdup(text) };
        return if copy.is_null() { Outcome::Errno(libc::ENOMEM) } else { Outcome::Value(copy) };
    }
    // SAFETY: the program's buffer holds PATH_MAX bytes (realpath(3)), which is the size of a `Path`.
    unsafe { core::ptr::copy_nonoverlapping(text, buffer, done.length + 1) };
    Outcome::Value(buffer)
}
