//! System calls without libc: what the library calls may itself be hooked, is no cancellation point, and touches errno.

use core::ffi::c_int;

/// A system call; a negative result is an error number.
///
/// # Safety
/// As the call itself: pointers must be valid for what it reads and writes.
#[cfg(target_arch = "x86_64")]
pub(crate) unsafe fn call(number: i64, a: [usize; 6]) -> isize {
    let result;
    let [a0, a1, a2, a3, a4, a5] = a;
    // SAFETY: the registers are those of the kernel's calling convention (syscall(2)); it clobbers rcx and r11 and leaves the stack
    // alone. What the call does to memory is the caller's promise.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a0, in("rsi") a1, in("rdx") a2, in("r10") a3, in("r8") a4, in("r9") a5,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// A system call; a negative result is an error number.
///
/// # Safety
/// As the call itself: pointers must be valid for what it reads and writes.
#[cfg(target_arch = "aarch64")]
pub(crate) unsafe fn call(number: i64, a: [usize; 6]) -> isize {
    let result;
    let [a0, a1, a2, a3, a4, a5] = a;
    // SAFETY: the registers are those of the kernel's calling convention (syscall(2)), and the stack is left alone. What the call
    // does to memory is the caller's promise.
    unsafe {
        core::arch::asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a0 => result,
            in("x1") a1, in("x2") a2, in("x3") a3, in("x4") a4, in("x5") a5,
            options(nostack),
        );
    }
    result
}

/// A system call that takes no pointer.
fn by_value(number: i64, a: [usize; 6]) -> isize {
    // SAFETY: only calls that take numbers alone come here (socket, close, fcntl with an integer): they touch no memory of ours.
    unsafe { call(number, a) }
}

const fn word(value: c_int) -> usize {
    value.cast_unsigned() as usize
}

/// A result as `c_int`; what does not fit is an error.
pub(crate) fn int(result: isize) -> c_int {
    c_int::try_from(result).unwrap_or(-libc::EIO)
}

pub(crate) fn unix_socket() -> c_int {
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    int(by_value(libc::SYS_socket, [word(libc::AF_UNIX), word(kind), 0, 0, 0, 0]))
}

pub(crate) fn close(descriptor: c_int) {
    by_value(libc::SYS_close, [word(descriptor), 0, 0, 0, 0, 0]);
}

/// A duplicate with the lowest free number.
pub(crate) fn duplicate(descriptor: c_int, close_on_exec: bool) -> c_int {
    let command = if close_on_exec { libc::F_DUPFD_CLOEXEC } else { libc::F_DUPFD };
    int(by_value(libc::SYS_fcntl, [word(descriptor), word(command), 0, 0, 0, 0]))
}

unsafe extern "C" {
    fn __errno_location() -> *mut c_int;
}

pub(crate) fn errno() -> c_int {
    // SAFETY: __errno_location(3) has no preconditions and returns the calling thread's own errno.
    let errno = unsafe { __errno_location() };
    // SAFETY: the address is valid and aligned as long as the thread lives, and no other thread uses it.
    unsafe { errno.read() }
}

pub(crate) fn set_errno(value: c_int) {
    // SAFETY: __errno_location(3) has no preconditions and returns the calling thread's own errno.
    let errno = unsafe { __errno_location() };
    // SAFETY: the address is valid and aligned as long as the thread lives, and no other thread uses it.
    unsafe { errno.write(value) };
}

/// Length of a C string.
///
/// # Safety
/// `text` must point to bytes that end with a NUL.
pub(crate) unsafe fn length(text: *const libc::c_char) -> usize {
    let mut length = 0;
    // SAFETY: the caller promises that a NUL comes, and everything up to it may be read.
    while unsafe { text.wrapping_add(length).read() } != 0 {
        length += 1;
    }
    length
}
