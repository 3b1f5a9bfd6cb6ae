//! Making processes: fork, exec, signal state. Meant for the supervisor and its guardian, which have one thread.
#![expect(unsafe_code, reason = "fork, execve and the signal calls have no safe wrapper")]

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::process::{Pid, PidfdFlags};

use super::check;

/// Highest signal number of Linux.
const SIGNALS: libc::c_int = 64;
/// `PIDFD_THREAD` of linux/pidfd.h (6.9 and later).
const PIDFD_THREAD: u32 = libc::O_EXCL.unsigned_abs();

/// Which side of [`fork`] this is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    /// The old process; the child's pid.
    Parent(Pid),
    /// The new one.
    Child,
}

/// fork(2), refused with EBUSY when the process has a second thread: the child could then find locks held for ever.
///
/// # Errors
/// As fork(2).
pub(crate) fn fork() -> io::Result<Side> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    // SAFETY: fork(2) itself has no preconditions; with one thread (checked above) no lock can be held by a thread that does not
    // exist in the child, so the child may run any code.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(Pid::from_raw(pid).map_or(Side::Child, Side::Parent)),
    }
}

/// Replaces this process; returns only on failure.
pub(crate) fn execute(path: &CStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    let arguments = pointers(arguments);
    let environment = pointers(environment);
    // SAFETY: execve(2) wants a NUL-terminated path and two NULL-terminated arrays of NUL-terminated strings; `path` is a CStr,
    // `pointers` builds the arrays from CStrings that outlive the call.
    let _ = unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// Replaces this process by the program of a descriptor, which the program does not keep; returns only on failure.
pub(crate) fn execute_descriptor(
    descriptor: RawFd,
    arguments: &[CString],
    environment: &[CString],
) -> io::Error {
    let arguments = pointers(arguments);
    let environment = pointers(environment);
    // SAFETY: fcntl(2) with F_SETFD sets a flag of a number that nobody here owns; a wrong one fails.
    let _ = unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
    // SAFETY: fexecve(3) wants two NULL-terminated arrays of NUL-terminated strings, which `pointers` builds from CStrings that
    // outlive the call; a wrong descriptor fails.
    let _ = unsafe { libc::fexecve(descriptor, arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

/// Marks every descriptor from 3 on close-on-exec.
///
/// # Errors
/// As close_range(2): ENOSYS or EINVAL before Linux 5.11.
pub(crate) fn close_on_exec_all() -> io::Result<()> {
    // SAFETY: with CLOSE_RANGE_CLOEXEC close_range(2) closes nothing now, it only sets a flag, so no owner loses a descriptor.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    check(result).map(drop)
}

/// Blocks every signal of this thread and returns a non-blocking descriptor that reads those in `wanted`.
///
/// # Errors
/// As signalfd(2).
pub(crate) fn signal_descriptor(wanted: &[libc::c_int]) -> io::Result<OwnedFd> {
    set_mask(u64::MAX)?;
    let wanted = signal_set(mask_of(wanted));
    // SAFETY: signalfd(2) reads the set, which is an initialised local; -1 asks for a new descriptor.
    let descriptor = unsafe { libc::signalfd(-1, &raw const wanted, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    check(descriptor.into())?;
    // SAFETY: the call has just made this descriptor for us; nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// The bits of these signals: bit N-1 is signal N, as in /proc/PID/status.
pub(crate) fn mask_of(signals: &[libc::c_int]) -> u64 {
    signals
        .iter()
        .filter_map(|signal| u32::try_from(signal - 1).ok())
        .fold(0, |mask, bit| mask | 1_u64 << bit)
}

/// Sets the signal mask of this thread.
///
/// # Errors
/// As pthread_sigmask(3).
pub(crate) fn set_mask(blocked: u64) -> io::Result<()> {
    let set = signal_set(blocked);
    // SAFETY: pthread_sigmask(3) reads the set, an initialised local, and with a null third argument writes nothing.
    match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// `struct sigaction` as the kernel has it (asm-generic/signal.h); only the handler is ever other than zero here.
#[repr(C)]
#[derive(Default)]
struct KernelAction {
    handler: usize,
    flags: libc::c_ulong,
    /// On x86-64 the restorer and the mask; elsewhere the mask and nothing.
    rest: [u64; 2],
}

/// Sets every signal to ignored (its bit is set) or default.
pub(crate) fn set_dispositions(ignored: u64) {
    for signal in 1..=SIGNALS {
        let handler = if ignored & mask_of(&[signal]) == 0 { libc::SIG_DFL } else { libc::SIG_IGN };
        let action = KernelAction { handler, ..KernelAction::default() };
        // JUSTIFICATION: signal(3) refuses the two signals of the threading library, which the caller may ignore or not.
        // SAFETY: rt_sigaction(2) reads one struct sigaction, which the local is at least as large as, and with a null third
        // argument writes nothing; 8 is the size of the kernel's signal set. SIG_DFL and SIG_IGN install no code of ours. SIGKILL and
        // SIGSTOP are refused.
        let _ = unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                &raw const action,
                ptr::null::<KernelAction>(),
                8_usize,
            )
        };
    }
}

fn signal_set(mask: u64) -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset(3) initialises the whole set that the pointer names.
    let _ = unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: it has just been initialised.
    let mut set = unsafe { set.assume_init() };
    for signal in (1..=SIGNALS).filter(|signal| mask & mask_of(&[*signal]) != 0) {
        // SAFETY: the set is initialised and exclusively ours; a number that libc reserves is refused without an effect.
        let _ = unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    set
}

/// A duplicate of descriptor `number` of thread `tid`; both share the open file.
///
/// # Errors
/// EPERM when the process may not be inspected, EBADF when it has no such descriptor, ESRCH when it is gone.
pub(crate) fn duplicate_of(tid: u32, tgid: u32, number: u32) -> io::Result<OwnedFd> {
    let open = |id: u32, flags| {
        let pid = Pid::from_raw(id.cast_signed()).ok_or(rustix::io::Errno::SRCH)?;
        rustix::process::pidfd_open(pid, flags)
    };
    // Threads may have descriptor tables of their own, so the thread's is asked for first.
    let process =
        open(tid, PidfdFlags::from_bits_retain(PIDFD_THREAD)).or_else(|_| open(tgid, PidfdFlags::empty()))?;
    duplicate(process.as_fd(), number)
}

fn duplicate(process: BorrowedFd<'_>, number: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_getfd(2) takes three numbers and touches no memory.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0_u32) };
    let descriptor =
        i32::try_from(check(descriptor)?).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the system call has just made this descriptor for us; nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// A descriptor that this process was started with, by its number; `None` when it is not open. Descriptors 0 to 2 belong to the
/// standard library. Each number can be taken once.
pub fn inherited(number: u32) -> Option<OwnedFd> {
    static TAKEN: AtomicU64 = AtomicU64::new(0b111);
    let bit = 1_u64.checked_shl(number)?;
    if TAKEN.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
        return None;
    }
    let number = number.cast_signed();
    // SAFETY: fcntl(2) with F_SETFD takes its argument by value and changes at most a flag; EBADF says that it is not open.
    let open = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } == 0;
    // SAFETY: the descriptor is open, and by convention of the roles of this program whoever started us passed it to the code that
    // asks for it here; the bit above makes sure that it gets one owner.
    open.then(|| unsafe { OwnedFd::from_raw_fd(number) })
}

/// `struct pidfd_info` of linux/pidfd.h in its first version, which is all that we ask for.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    /// pid, tgid, ppid, then eight user and group ids.
    ids: [u32; 11],
    exit_code: i32,
}
const PIDFD_INFO_EXIT: u64 = 1 << 3;
const PIDFD_GET_INFO: libc::Ioctl = 0xc040_ff0b_u32 as libc::Ioctl;
const _: () = assert!(size_of::<PidfdInfo>() == 64);

/// Exit code, in the form of waitpid(2), of a process that has been reaped (6.15 and later).
pub(crate) fn exit_code(process: BorrowedFd<'_>) -> Option<i32> {
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the ioctl number carries the size 64, the kernel writes no more than that; `PidfdInfo` is 64 bytes (asserted above),
    // repr(C), and exclusively borrowed.
    let result = unsafe { libc::ioctl(process.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    (result == 0 && info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_have_the_bits_of_proc_status() {
        assert_eq!(mask_of(&[libc::SIGHUP]), 1);
        assert_eq!(mask_of(&[libc::SIGHUP, libc::SIGTERM]), 0x4001);
        assert_eq!(mask_of(&[64]), 1 << 63);
    }
}
