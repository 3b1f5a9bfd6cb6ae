//! A user and mount namespace of our own, and making a mount read-only.
#![expect(unsafe_code, reason = "unshare of the user namespace and mount_setattr have no safe wrapper")]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use super::check;

/// `struct mount_attr` of linux/mount.h.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}
const MOUNT_ATTR_RDONLY: u64 = 1;

/// Moves this process, which must have one thread, into a new user and mount namespace in which it may mount.
///
/// # Errors
/// EPERM when the machine does not allow user namespaces to this user, EINVAL with a second thread.
pub(crate) fn enter_own_namespaces() -> io::Result<()> {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    // SAFETY: unshare(2) with these flags touches no memory and no descriptor of ours; it fails when there is a second thread.
    let result = unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) };
    check(result.into())?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))
}

/// Makes a mount read-only from now on.
///
/// # Errors
/// EBUSY while a file on it is open for writing; as mount_setattr(2).
pub(crate) fn make_read_only(mount: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = MountAttributes { set: MOUNT_ATTR_RDONLY, clear: 0, propagation: 0, user_namespace: 0 };
    // SAFETY: mount_setattr(2) reads a NUL-terminated path (a C literal) and `size_of` bytes of the attributes, a live local with the
    // layout of struct mount_attr.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    check(result).map(drop)
}
