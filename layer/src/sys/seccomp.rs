//! seccomp user notification: installing a filter with a listener, and the four ioctls on the listener (seccomp_unotify(2)).
#![expect(unsafe_code, reason = "seccomp(2) and its ioctls have no safe wrapper")]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use super::check;

// linux/seccomp.h
const SET_MODE_FILTER: libc::c_ulong = 1;
const FLAG_NEW_LISTENER: libc::c_ulong = 1 << 3;
const FD_SYNC_WAKE_UP: u64 = 1;
const USER_NOTIF_CONTINUE: u32 = 1;
const ADDFD_SEND: u32 = 2;
const IOCTL_RECV: libc::Ioctl = 0xc050_2100_u32 as libc::Ioctl;
const IOCTL_SEND: libc::Ioctl = 0xc018_2101_u32 as libc::Ioctl;
const IOCTL_ID_VALID: libc::Ioctl = 0x4008_2102;
const IOCTL_ADDFD: libc::Ioctl = 0x4018_2103;
const IOCTL_SET_FLAGS: libc::Ioctl = 0x4008_2104;

/// A trapped system call (`struct seccomp_notif` with its `struct seccomp_data`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Notification {
    /// Names this notification; never 0.
    pub(crate) id: u64,
    /// The thread that made the call, in our pid namespace. 0 when it is not visible from here.
    pub(crate) tid: u32,
    flags: u32,
    /// System call number.
    pub(crate) number: i32,
    architecture: u32,
    instruction_pointer: u64,
    /// The six arguments.
    pub(crate) arguments: [u64; 6],
}

#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

#[repr(C)]
struct AddDescriptor {
    id: u64,
    flags: u32,
    source: u32,
    target: u32,
    target_flags: u32,
}

/// Puts the filter on the calling thread and returns its listener, which is close-on-exec.
///
/// # Errors
/// EACCES without NO_NEW_PRIVS and CAP_SYS_ADMIN; EBUSY when a filter with a listener is already there; EINVAL for a bad program.
pub(crate) fn install(program: &[libc::sock_filter]) -> io::Result<OwnedFd> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: seccomp(2) copies `len` instructions from `filter`, the borrowed slice of that length, and keeps no reference;
    // the flags ask for nothing that takes further arguments.
    let listener =
        unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, FLAG_NEW_LISTENER, &raw const program) };
    let listener = i32::try_from(check(listener)?).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: the system call has just made this descriptor for us; nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(listener) })
}

/// Asks the kernel to hand the processor over directly on each notification (6.6 and later); false when it cannot.
pub(crate) fn wake_synchronously(listener: BorrowedFd<'_>) -> bool {
    // SAFETY: this ioctl takes its argument by value and touches no memory of ours.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), IOCTL_SET_FLAGS, FD_SYNC_WAKE_UP) };
    result == 0
}

/// The next trapped call; waits for one.
///
/// # Errors
/// ENOENT when the caller was killed or interrupted in the meantime, EINTR on a signal.
pub(crate) fn receive(listener: BorrowedFd<'_>) -> io::Result<Notification> {
    // The kernel demands that all of it is zero.
    let mut notification = Notification::default();
    // SAFETY: the ioctl writes one `struct seccomp_notif` of 80 bytes; `Notification` has its layout (repr(C), asserted below)
    // and is exclusively borrowed.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), IOCTL_RECV, &raw mut notification) };
    check(result.into()).map(|_| notification)
}

/// Whether the caller still waits in this call.
pub(crate) fn is_valid(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the ioctl reads eight bytes at the pointer, which is a live local of that size.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), IOCTL_ID_VALID, &raw const id) };
    result == 0
}

/// Lets the kernel do the call as if it had not been trapped.
///
/// # Errors
/// ENOENT when the caller no longer waits.
pub(crate) fn go_on(listener: BorrowedFd<'_>, id: u64) -> io::Result<()> {
    send(listener, &Response { id, value: 0, error: 0, flags: USER_NOTIF_CONTINUE })
}

/// Answers the call with a value.
///
/// # Errors
/// ENOENT when the caller no longer waits.
pub(crate) fn answer(listener: BorrowedFd<'_>, id: u64, value: i64) -> io::Result<()> {
    send(listener, &Response { id, value, error: 0, flags: 0 })
}

/// Answers the call with an error number (positive).
///
/// # Errors
/// ENOENT when the caller no longer waits.
pub(crate) fn fail(listener: BorrowedFd<'_>, id: u64, errno: i32) -> io::Result<()> {
    send(listener, &Response { id, value: 0, error: -errno.abs(), flags: 0 })
}

/// Puts a duplicate of `descriptor` into the caller and answers the call with its number, in one step: either both happen or
/// neither.
///
/// # Errors
/// ENOENT when the caller no longer waits, EMFILE when its table is full.
pub(crate) fn answer_with(
    listener: BorrowedFd<'_>,
    id: u64,
    descriptor: BorrowedFd<'_>,
    close_on_exec: bool,
) -> io::Result<()> {
    let add = AddDescriptor {
        id,
        flags: ADDFD_SEND,
        source: descriptor.as_raw_fd().unsigned_abs(),
        target: 0,
        target_flags: if close_on_exec { libc::O_CLOEXEC.unsigned_abs() } else { 0 },
    };
    // SAFETY: the ioctl reads one `struct seccomp_notif_addfd` of 24 bytes; `AddDescriptor` has its layout (repr(C), asserted
    // below) and lives until the call returns. The descriptor is borrowed, hence open.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), IOCTL_ADDFD, &raw const add) };
    check(result.into()).map(drop)
}

fn send(listener: BorrowedFd<'_>, response: &Response) -> io::Result<()> {
    // SAFETY: the ioctl reads one `struct seccomp_notif_resp` of 24 bytes; `Response` has its layout (repr(C), asserted below)
    // and lives until the call returns.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), IOCTL_SEND, std::ptr::from_ref(response)) };
    check(result.into()).map(drop)
}

// The sizes are part of the ioctl numbers above.
const _: () = assert!(size_of::<Notification>() == 80);
const _: () = assert!(size_of::<Response>() == 24);
const _: () = assert!(size_of::<AddDescriptor>() == 24);
