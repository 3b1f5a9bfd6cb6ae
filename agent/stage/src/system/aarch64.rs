//! AArch64: the entry, the numbers of system calls, and how one is made.

/// The kernel starts the program here, with an aligned stack.
macro_rules! entry {
    () => {
        ".globl _start
        _start:
            mov x29, xzr
            mov x30, xzr
            mov x0, sp
            bl {start}
            brk #0"
    };
}
pub(super) use entry;

pub(super) mod number {
    pub(crate) const OPENAT: usize = 56;
    pub(crate) const READ: usize = 63;
    pub(crate) const WRITE: usize = 64;
    pub(crate) const EXIT_GROUP: usize = 94;
    pub(crate) const MMAP: usize = 222;
    pub(crate) const MEMFD_CREATE: usize = 279;
    pub(crate) const EXECVEAT: usize = 281;
}

/// # Safety
/// The arguments must be such that the system call touches only memory that it may touch.
pub(super) unsafe fn call(number: usize, [a, b, c, d, e, f]: [usize; 6]) -> usize {
    let answer;
    // SAFETY: `svc` changes no register but x0 and no stack, as declared; what the kernel touches is up to the caller.
    unsafe {
        core::arch::asm!("svc 0", in("x8") number, inlateout("x0") a => answer, in("x1") b, in("x2") c, in("x3") d,
            in("x4") e, in("x5") f, options(nostack));
    }
    answer
}
