//! x86-64: the entry, the numbers of system calls, and how one is made.

/// The kernel starts the program here. `start` gets the stack as it was, and an aligned one to work on.
macro_rules! entry {
    () => {
        ".globl _start
        _start:
            xor ebp, ebp
            mov rdi, rsp
            and rsp, -16
            call {start}
            ud2"
    };
}
pub(super) use entry;

pub(super) mod number {
    pub(crate) const READ: usize = 0;
    pub(crate) const WRITE: usize = 1;
    pub(crate) const MMAP: usize = 9;
    pub(crate) const EXIT_GROUP: usize = 231;
    pub(crate) const OPENAT: usize = 257;
    pub(crate) const MEMFD_CREATE: usize = 319;
    pub(crate) const EXECVEAT: usize = 322;
}

/// # Safety
/// The arguments must be such that the system call touches only memory that it may touch.
pub(super) unsafe fn call(number: usize, [a, b, c, d, e, f]: [usize; 6]) -> usize {
    let answer;
    // SAFETY: `syscall` clobbers rcx and r11 and no stack, as declared; what the kernel touches is up to the caller.
    unsafe {
        core::arch::asm!("syscall", inlateout("rax") number => answer, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    answer
}
