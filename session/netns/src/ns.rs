//! Namespaces: making, opening, joining; sysctls of the current one; dying with the parent.
#![expect(
    unsafe_code,
    reason = "unshare(2) is unsafe in rustix because of CLONE_FILES, which is not used here"
)]

use std::{
    fs::{self, File},
    io,
    os::fd::{BorrowedFd, OwnedFd},
    thread,
};

use rustix::{
    process::{Signal, getgid, getppid, getuid, set_parent_process_death_signal},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
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

impl NsError {
    fn new(operation: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self { operation: operation.into(), source: source.into() }
    }

    /// What the kernel said.
    #[must_use]
    pub fn io(&self) -> &io::Error {
        &self.source
    }

    /// What was tried, and what the kernel said.
    pub(crate) fn into_parts(self) -> (String, io::Error) {
        (self.operation, self.source)
    }
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
        Ok(Self {
            user: open(pid, Kind::User)?,
            net: open(pid, Kind::Net)?,
            mount: open(pid, Kind::Mount)?,
            uts: open(pid, Kind::Uts)?,
            ipc: open(pid, Kind::Ipc)?,
            pid: open(pid, Kind::Pid)?,
            cgroup: open(pid, Kind::Cgroup)?,
        })
    }
}

/// Opens one namespace of a process.
///
/// # Errors
/// As [`Namespaces::of`].
pub fn open(pid: u32, kind: Kind) -> Result<OwnedFd, NsError> {
    let path = format!("/proc/{pid}/ns/{}", kind.file());
    open_path(&path)
}

/// Opens one namespace of the calling thread.
///
/// # Errors
/// [`NsError`].
pub fn current(kind: Kind) -> Result<OwnedFd, NsError> {
    open_path(&format!("/proc/thread-self/ns/{}", kind.file()))
}

/// Moves the calling thread into new namespaces.
///
/// # Errors
/// [`NsError`]; for [`Kind::User`] the process must have one thread.
pub fn unshare(kinds: &[Kind]) -> Result<(), NsError> {
    let flags = kinds.iter().fold(UnshareFlags::empty(), |flags, kind| flags | kind.flag());
    // SAFETY: rustix asks that no thread sees descriptors of an unshared table; `Kind::flag` never gives CLONE_FILES.
    unsafe { unshare_unsafe(flags) }
        .map_err(|error| NsError::new(format!("make new namespaces ({})", names(kinds)), error))
}

/// Moves the calling thread into an existing namespace.
///
/// # Errors
/// [`NsError`]; for [`Kind::User`] and [`Kind::Mount`] the process must have one thread.
pub fn join(namespace: BorrowedFd<'_>, kind: Kind) -> Result<(), NsError> {
    move_into_link_name_space(namespace, Some(kind.link()))
        .map_err(|error| NsError::new(format!("join a namespace ({})", kind.file()), error))
}

/// A new user namespace with the caller's user and group mapped, and `others` owned by it, in one call. The process must have one
/// thread.
///
/// # Errors
/// [`NsError`].
pub fn enter_user_namespace(map: UserMap, others: &[Kind]) -> Result<(), NsError> {
    let (user, group) = (getuid().as_raw(), getgid().as_raw());
    let kinds: Vec<Kind> = [Kind::User].iter().chain(others).copied().collect();
    unshare(&kinds)?;
    let line = |outside: u32| match map {
        UserMap::Root => format!("0 {outside} 1"),
        UserMap::Identity => format!("{outside} {outside} 1"),
    };
    // Without this the kernel refuses the group map of an ordinary user (user_namespaces(7)).
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/uid_map", &line(user))?;
    write("/proc/self/gid_map", &line(group))
}

/// Runs `work` on a new thread that has joined the network namespace, and waits for it. Sockets that it makes belong there for ever.
///
/// # Errors
/// [`NsError`] when the thread cannot be made or may not join, or when `work` panicked.
pub fn in_thread_netns<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> T + Send,
) -> Result<T, NsError> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, || join(netns, Kind::Net).map(|()| work()))
            .map_err(|error| NsError::new("start a thread for a network namespace", error))?;
        thread.join().unwrap_or_else(|_| {
            Err(NsError::new("finish work in a network namespace", io::Error::other("the thread panicked")))
        })
    })
}

/// Writes a sysctl of the current namespaces, for example `net/ipv4/ip_unprivileged_port_start`.
///
/// # Errors
/// [`NsError`].
pub fn set_sysctl(name: &str, value: &str) -> Result<(), NsError> {
    write(&format!("/proc/sys/{name}"), value)
}

/// The kernel kills this process when the *thread* that started it ends. Call it first; `parent` is the pid that must still be the
/// parent, else the parent died before.
///
/// # Errors
/// [`NsError`]; the parent is gone already.
pub fn die_with_parent(parent: Option<u32>) -> Result<(), NsError> {
    let failed = |error: io::Error| NsError::new("tie this process to its parent", error);
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| failed(error.into()))?;
    let now = getppid().and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok());
    match parent {
        Some(_) if parent != now => Err(failed(io::Error::other("the parent has ended already"))),
        _ => Ok(()),
    }
}

impl Kind {
    /// Name in /proc/PID/ns.
    fn file(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Net => "net",
            Self::Mount => "mnt",
            Self::Uts => "uts",
            Self::Ipc => "ipc",
            Self::Pid => "pid",
            Self::Cgroup => "cgroup",
        }
    }

    fn flag(self) -> UnshareFlags {
        match self {
            Self::User => UnshareFlags::NEWUSER,
            Self::Net => UnshareFlags::NEWNET,
            Self::Mount => UnshareFlags::NEWNS,
            Self::Uts => UnshareFlags::NEWUTS,
            Self::Ipc => UnshareFlags::NEWIPC,
            Self::Pid => UnshareFlags::NEWPID,
            Self::Cgroup => UnshareFlags::NEWCGROUP,
        }
    }

    fn link(self) -> LinkNameSpaceType {
        match self {
            Self::User => LinkNameSpaceType::User,
            Self::Net => LinkNameSpaceType::Network,
            Self::Mount => LinkNameSpaceType::Mount,
            Self::Uts => LinkNameSpaceType::HostNameAndNISDomainName,
            Self::Ipc => LinkNameSpaceType::InterProcessCommunication,
            Self::Pid => LinkNameSpaceType::ProcessID,
            Self::Cgroup => LinkNameSpaceType::ControlGroup,
        }
    }
}

fn names(kinds: &[Kind]) -> String {
    kinds.iter().map(|kind| kind.file()).collect::<Vec<_>>().join(", ")
}

fn open_path(path: &str) -> Result<OwnedFd, NsError> {
    File::open(path).map(OwnedFd::from).map_err(|error| NsError::new(format!("open {path}"), error))
}

fn write(path: &str, value: &str) -> Result<(), NsError> {
    fs::write(path, value).map_err(|error| NsError::new(format!("write {value} to {path}"), error))
}
