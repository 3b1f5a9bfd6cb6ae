//! The kernel: entry, arguments, and the few system calls, without a libc.

use core::{
    arch::global_asm,
    ffi::{CStr, c_char},
    fmt,
};

use alloc::vec::Vec;

#[cfg(target_arch = "aarch64")]
#[path = "system/aarch64.rs"]
mod arch;
#[cfg(target_arch = "x86_64")]
#[path = "system/x86_64.rs"]
mod arch;

use self::arch::{call, number};
use crate::start;

global_asm!(arch::entry!(), start = sym start);

const AT_FDCWD: usize = -100_isize as usize;
const AT_EMPTY_PATH: usize = 0x1000;
const O_CLOEXEC: usize = 0o2_000_000;
const MFD_CLOEXEC: usize = 1;
const MFD_EXEC: usize = 0x10;
const PROT_READ_WRITE: usize = 3;
const MAP_PRIVATE_ANONYMOUS: usize = 0x22;
const NOENT: Errno = Errno(2);
const INTERRUPTED: Errno = Errno(4);
const INVALID: Errno = Errno(22);
const STDERR: usize = 2;
/// Largest errno that a system call gives as a negative number.
const ERRNO_MAX: usize = 4095;

/// What a system call failed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) usize);

/// Tells the answer of a system call from its failure.
fn answer(raw: usize) -> Result<usize, Errno> {
    let errno = raw.wrapping_neg();
    if (1..=ERRNO_MAX).contains(&errno) { Err(Errno(errno)) } else { Ok(raw) }
}

/// The arguments and the environment on the stack that the kernel made.
#[derive(Debug)]
pub(crate) struct Arguments {
    count: usize,
    first: *mut *const c_char,
}

impl Arguments {
    /// # Safety
    /// `stack` must be the stack pointer with which the kernel started the program, and nothing else may change what lies there.
    pub(crate) unsafe fn new(stack: *mut usize) -> Self {
        // SAFETY: the caller guarantees that argc lies at the stack pointer, aligned.
        let count = unsafe { *stack };
        // SAFETY: the array of arguments follows argc on the kernel's stack.
        let first = unsafe { stack.add(1) };
        Self { count, first: first.cast() }
    }

    pub(crate) fn get(&self, index: usize) -> Option<&'static CStr> {
        if index >= self.count {
            return None;
        }
        // SAFETY: `index` is below argc, so the pointer lies in the array that `new` was promised.
        let argument = unsafe { self.first.add(index) };
        // SAFETY: the array is aligned and lives as long as the process.
        let argument = unsafe { *argument };
        // SAFETY: the kernel ends each argument with NUL, and the text lives, unchanged, as long as the process.
        Some(unsafe { CStr::from_ptr(argument) })
    }

    /// Replaces an argument; beyond the last one: nothing happens.
    pub(crate) fn set(&mut self, index: usize, text: &'static CStr) {
        if index < self.count {
            // SAFETY: `index` is below argc, so the pointer lies in the array that `new` was promised.
            let argument = unsafe { self.first.add(index) };
            // SAFETY: the array is aligned, writable, and ours alone by the promise to `new`.
            unsafe { argument.write(text.as_ptr()) };
        }
    }

    /// The array from `index` on, and that of the environment.
    fn arrays(&self, index: usize) -> (usize, usize) {
        let size = size_of::<*const c_char>();
        let first = self.first as usize;
        (first + index.min(self.count) * size, first + (self.count + 1) * size)
    }
}

/// An open file; never closed, for execution does that.
#[derive(Debug)]
pub(crate) struct File(usize);

impl File {
    /// A new file without a name that may be executed.
    pub(crate) fn in_memory() -> Result<Self, Errno> {
        let create = |flags| {
            // SAFETY: memfd_create(2) reads the name, which is a constant that NUL ends, and touches no other memory.
            answer(unsafe { call(number::MEMFD_CREATE, [c"agent".as_ptr() as usize, flags, 0, 0, 0, 0]) })
        };
        match create(MFD_CLOEXEC | MFD_EXEC) {
            // Kernels before 6.3 do not know the flag, and allow it without.
            Err(INVALID) => create(MFD_CLOEXEC),
            created => created,
        }
        .map(Self)
    }

    fn open(path: &CStr) -> Result<Self, Errno> {
        // SAFETY: openat(2) reads the path, which NUL ends, and touches no other memory.
        answer(unsafe { call(number::OPENAT, [AT_FDCWD, path.as_ptr() as usize, O_CLOEXEC, 0, 0, 0]) })
            .map(Self)
    }

    fn read(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        loop {
            let arguments = [self.0, buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0];
            // SAFETY: read(2) writes at most the given length to the buffer, which is borrowed for writing.
            match answer(unsafe { call(number::READ, arguments) }) {
                Err(INTERRUPTED) => {}
                read => return read,
            }
        }
    }

    /// Writes all of it.
    pub(crate) fn write(&self, mut bytes: &[u8]) -> Result<(), Errno> {
        while !bytes.is_empty() {
            // SAFETY: write(2) reads at most the given length from the slice, which is borrowed.
            let written =
                unsafe { call(number::WRITE, [self.0, bytes.as_ptr() as usize, bytes.len(), 0, 0, 0]) };
            match answer(written) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(INTERRUPTED) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Becomes this file's program with the arguments from `first` on; returns only when that fails. Needs no /proc.
    pub(crate) fn execute(&self, arguments: &Arguments, first: usize) -> Errno {
        let (arguments, environment) = arguments.arrays(first);
        let empty = c"".as_ptr() as usize;
        let execute = [self.0, empty, arguments, environment, AT_EMPTY_PATH, 0];
        // SAFETY: execveat(2) reads the two arrays, which are the kernel's own and end with a null; it changes no memory of ours
        // unless it succeeds, and then none of it is there any more.
        answer(unsafe { call(number::EXECVEAT, execute) }).err().unwrap_or(Errno(0))
    }
}

/// The parts of the packed agent, read one behind the other.
#[derive(Debug)]
pub(crate) struct Parts {
    folder: Vec<u8>,
    next: usize,
    file: Option<File>,
    /// The part that could not be read, and why.
    pub(crate) failed: Option<(usize, Errno)>,
}

impl Parts {
    pub(crate) fn new(folder: &[u8]) -> Self {
        Self { folder: folder.to_vec(), next: 0, file: None, failed: None }
    }

    /// The next part's file; `None` behind the last.
    fn open_next(&mut self) -> Result<Option<File>, Errno> {
        let mut path = self.folder.clone();
        path.extend_from_slice(b"/part");
        for digit in [self.next / 10 % 10, self.next % 10] {
            path.push(b'0' + u8::try_from(digit).unwrap_or_default());
        }
        path.push(0);
        let Ok(path) = CStr::from_bytes_with_nul(&path) else { return Err(INVALID) };
        match File::open(path) {
            Err(NOENT) if self.next > 0 => Ok(None),
            opened => opened.map(Some),
        }
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        loop {
            if let Some(file) = &self.file {
                let read = file.read(buffer)?;
                if read > 0 || buffer.is_empty() {
                    return Ok(read);
                }
                self.next += 1;
            }
            self.file = self.open_next()?;
            if self.file.is_none() {
                return Ok(0);
            }
        }
    }
}

impl lzma_rust2::Read for Parts {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, lzma_rust2::Error> {
        self.read_some(buffer).map_err(|errno| {
            self.failed = Some((self.next, errno));
            lzma_rust2::Error::Eof
        })
    }
}

/// Fresh pages with zeros; null when there are none.
pub(crate) fn map(size: usize) -> *mut u8 {
    let arguments = [0, size, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, usize::MAX, 0];
    // SAFETY: mmap(2) without MAP_FIXED only adds memory that nothing else uses.
    answer(unsafe { call(number::MMAP, arguments) })
        .map_or(core::ptr::null_mut(), |address| address as *mut u8)
}

pub(crate) fn exit(code: i32) -> ! {
    loop {
        // SAFETY: exit_group(2) ends the process; no memory is involved.
        unsafe { call(number::EXIT_GROUP, [code as usize, 0, 0, 0, 0, 0]) };
    }
}

/// One line of text; what does not fit is cut.
pub(crate) struct Line {
    text: [u8; 160],
    length: usize,
}

impl Line {
    pub(crate) fn new() -> Self {
        Self { text: [0; 160], length: 0 }
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.text.get_mut(self.length..).ok_or(fmt::Error)?;
        for (to, from) in room.iter_mut().zip(text.as_bytes()) {
            *to = *from;
            self.length += 1;
        }
        Ok(())
    }
}

/// Tells whoever reads the container's log.
pub(crate) fn say(line: &Line) {
    let stderr = File(STDERR);
    // Nobody else could be told of a failure.
    let _ = stderr.write(b"mirrord-agent: ");
    let _ = stderr.write(line.text.get(..line.length).unwrap_or_default());
    let _ = stderr.write(b"\n");
}
