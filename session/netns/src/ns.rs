//! Namespaces: making, opening, joining; sysctls of the current one; dying with the parent.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use thiserror::Error;

/// A kind of namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Users and capabilities.
    User,
    /// Network.
    Net,
    /// Mounts.
    Mount,
    /// Host name.
    Uts,
    /// System V IPC and POSIX queues.
    Ipc,
    /// Process ids; counts for children only.
    Pid,
    /// Control groups.
    Cgroup,
}

/// How the caller's user and group look in a new user namespace. Only that one user and group exist there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserMap {
    /// As root (0).
    Root,
    /// As themselves.
    Identity,
}

/// Why a step failed.
#[derive(Debug, Error)]
#[error("cannot {operation}")]
pub struct NsError {
    operation: String,
    source: io::Error,
}

/// Namespaces of a process, held open: they live at least as long as this.
#[derive(Debug)]
pub struct Namespaces {
    /// User.
    pub user: OwnedFd,
    /// Network.
    pub net: OwnedFd,
    /// Mounts.
    pub mount: OwnedFd,
    /// Host name.
    pub uts: OwnedFd,
    /// IPC.
    pub ipc: OwnedFd,
    /// Process ids.
    pub pid: OwnedFd,
    /// Control groups.
    pub cgroup: OwnedFd,
}

impl Namespaces {
    /// Opens /proc/PID/ns/*.
    ///
    /// # Errors
    /// [`NsError`]: no such process, or not allowed (ptrace access is needed).
    pub fn of(pid: u32) -> Result<Self, NsError> {
        unimplemented!("{pid}")
    }
}

/// Opens one namespace of a process.
///
/// # Errors
/// As [`Namespaces::of`].
pub fn open(pid: u32, kind: Kind) -> Result<OwnedFd, NsError> {
    unimplemented!("{pid} {kind:?}")
}

/// Opens one namespace of the calling thread.
///
/// # Errors
/// [`NsError`].
pub fn current(kind: Kind) -> Result<OwnedFd, NsError> {
    unimplemented!("{kind:?}")
}

/// Moves the calling thread into new namespaces.
///
/// # Errors
/// [`NsError`]; for [`Kind::User`] the process must have one thread.
pub fn unshare(kinds: &[Kind]) -> Result<(), NsError> {
    unimplemented!("{kinds:?}")
}

/// Moves the calling thread into an existing namespace.
///
/// # Errors
/// [`NsError`]; for [`Kind::User`] and [`Kind::Mount`] the process must have one thread.
pub fn join(namespace: BorrowedFd<'_>, kind: Kind) -> Result<(), NsError> {
    unimplemented!("{namespace:?} {kind:?}")
}

/// A new user namespace with the caller's user and group mapped, and `others` owned by it, in one call. The process must have one
/// thread.
///
/// # Errors
/// [`NsError`].
pub fn enter_user_namespace(map: UserMap, others: &[Kind]) -> Result<(), NsError> {
    unimplemented!("{map:?} {others:?}")
}

/// Runs `work` on a new thread that has joined the network namespace, and waits for it. Sockets that it makes belong there for ever.
///
/// # Errors
/// [`NsError`] when the thread cannot be made or may not join, or when `work` panicked.
pub fn in_thread_netns<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> T + Send,
) -> Result<T, NsError> {
    let _ = (netns, work);
    unimplemented!()
}

/// Writes a sysctl of the current namespaces, for example `net/ipv4/ip_unprivileged_port_start`.
///
/// # Errors
/// [`NsError`].
pub fn set_sysctl(name: &str, value: &str) -> Result<(), NsError> {
    unimplemented!("{name} {value}")
}

/// The kernel kills this process when the *thread* that started it ends. Call it first; `parent` is the pid that must still be the
/// parent, else the parent died before.
///
/// # Errors
/// [`NsError`]; the parent is gone already.
pub fn die_with_parent(parent: Option<u32>) -> Result<(), NsError> {
    unimplemented!("{parent:?}")
}
