//! The process that is impersonated: found by pid once, afterwards only spoken to through descriptors that cannot come to mean
//! another process. Owns nothing but those descriptors.

use std::{
    ffi::CStr,
    fs::File,
    io::{self, Read},
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{Mode, OFlags, fstat, openat},
    process::{Pid, PidfdFlags, pidfd_open},
    thread::{CapabilitySet, capabilities},
};
use thiserror::Error;
use tokio::io::{Interest, unix::AsyncFd};

use crate::{
    files::Root,
    limits::{ENVIRON, NAMESERVERS, RESOLV_CONF, SEARCH_DOMAINS},
};

/// Why there is no target to work on.
#[derive(Debug, Error)]
pub(crate) enum TargetError {
    #[error("there is no process {pid}")]
    Gone { pid: u32, source: io::Error },
    #[error("process {pid} lives in a user namespace that this agent may not join")]
    JoinUser { pid: u32, source: io::Error },
    #[error("cannot open {what} of process {pid}")]
    Open { pid: u32, what: &'static str, source: io::Error },
}

/// A process of the target.
#[derive(Debug)]
pub(crate) struct Target {
    pid: u32,
    pidfd: OwnedFd,
    /// /proc/PID; once the process has ended every read below it fails with ESRCH.
    proc: OwnedFd,
    root: Result<Root, io::Error>,
}

/// Joins the target's user namespace when it is another one and this process has no power over it from outside, so that an
/// ordinary user is root over a local pod of theirs. Call it while the process has one thread.
///
/// Root stays where it is: it has its capabilities over every namespace below its own, and inside it would lose the files of
/// users that are not mapped there.
pub(crate) fn join_user_namespace(pid: u32) -> Result<(), TargetError> {
    let privileged = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
    if privileged {
        return Ok(());
    }
    let open = |path: String| rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let theirs = open(format!("/proc/{pid}/ns/user")).map_err(|errno| match errno {
        rustix::io::Errno::NOENT => TargetError::Gone { pid, source: errno.into() },
        _ => TargetError::JoinUser { pid, source: errno.into() },
    })?;
    let joined = open("/proc/self/ns/user".to_owned()).and_then(|ours| {
        if same_file(ours.as_fd(), theirs.as_fd())? {
            return Ok(());
        }
        rustix::thread::move_into_link_name_space(
            theirs.as_fd(),
            Some(rustix::thread::LinkNameSpaceType::User),
        )
    });
    joined.map_err(|errno| TargetError::JoinUser { pid, source: errno.into() })
}

impl Target {
    /// Takes hold of a process.
    pub(crate) fn open(pid: u32) -> Result<Self, TargetError> {
        let gone = |errno: rustix::io::Errno| TargetError::Gone { pid, source: errno.into() };
        let raw =
            i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| gone(rustix::io::Errno::SRCH))?;
        let pidfd = pidfd_open(raw, PidfdFlags::NONBLOCK).map_err(gone)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = rustix::fs::open(format!("/proc/{pid}"), flags, Mode::empty())
            .map_err(|errno| TargetError::Open { pid, what: "the folder in /proc", source: errno.into() })?;
        let root = openat(&proc, c"root", flags, Mode::empty()).map(Root::new).map_err(io::Error::from);
        Ok(Self { pid, pidfd, proc, root })
    }

    /// As the agent sees it.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns when the process has ended.
    pub(crate) async fn ended(&self) -> io::Result<()> {
        let pidfd = self.pidfd.try_clone()?;
        #[expect(
            unsafe_code,
            reason = "tokio has no safe way to wait for a descriptor of a kind that it does not know"
        )]
        // SAFETY: `register_with_interest` wants a descriptor that stays open and the same until the AsyncFd is dropped; the
        // AsyncFd owns the OwnedFd, which nothing else can close.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
        pidfd.readable().await.map(drop)
    }

    /// The target's root folder, or why it may not be entered.
    pub(crate) fn root(&self) -> Result<&Root, &io::Error> {
        self.root.as_ref()
    }

    /// A namespace of the target, `net`, `uts`, ...
    pub(crate) fn namespace(&self, kind: &CStr) -> io::Result<OwnedFd> {
        let path = [b"ns/", kind.to_bytes()].concat();
        Ok(openat(&self.proc, path.as_slice(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// The name of the program as the kernel shows it.
    pub(crate) fn command(&self) -> Vec<u8> {
        let mut command = self.read(c"comm", 64).unwrap_or_default();
        if command.last() == Some(&b'\n') {
            command.pop();
        }
        command
    }

    /// The environment with which the process was started: `NAME=VALUE` strings with a NUL behind each.
    pub(crate) fn environ(&self) -> io::Result<Vec<u8>> {
        self.read(c"environ", ENVIRON)
    }

    /// A fresh descriptor of the target's mount table; poll(2) reports changes as POLLPRI.
    pub(crate) fn mountinfo(&self) -> io::Result<File> {
        Ok(openat(&self.proc, c"mountinfo", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?.into())
    }

    /// Name servers of the target's resolv.conf, in order.
    pub(crate) fn nameservers(&self) -> Vec<IpAddr> {
        parse_nameservers(&self.resolv_conf())
    }

    /// Search domains of the target's resolv.conf, in order.
    pub(crate) fn search(&self) -> Vec<String> {
        parse_search(&self.resolv_conf())
    }

    /// Empty when there is none.
    fn resolv_conf(&self) -> Vec<u8> {
        let text = self.root().ok().and_then(|root| root.read(c"/etc/resolv.conf", RESOLV_CONF).ok());
        text.unwrap_or_default()
    }

    /// First line of the target's /etc/hostname, for when its host name may not be asked for.
    pub(crate) fn hostname_file(&self) -> Option<Vec<u8>> {
        let text = self.root().ok()?.read(c"/etc/hostname", 256).ok()?;
        text.split(u8::is_ascii_whitespace).next().filter(|name| !name.is_empty()).map(<[u8]>::to_vec)
    }

    fn read(&self, name: &CStr, limit: u64) -> io::Result<Vec<u8>> {
        let file = File::from(openat(&self.proc, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?);
        let mut content = Vec::new();
        file.take(limit).read_to_end(&mut content)?;
        Ok(content)
    }
}

/// Whether two descriptors mean the same file; for namespaces, the same namespace.
pub(crate) fn same_file(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    let (a, b) = (fstat(a)?, fstat(b)?);
    Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

/// `nameserver` lines of resolv.conf(5). A zone (`fe80::1%eth0`) is left out: its index means nothing outside the target.
fn parse_nameservers(text: &[u8]) -> Vec<IpAddr> {
    String::from_utf8_lossy(text)
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok())?
        })
        .take(NAMESERVERS)
        .collect()
}

/// The last `search` or `domain` line of resolv.conf(5), without dots at the ends.
fn parse_search(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    let line = text
        .lines()
        .rev()
        .map(str::split_whitespace)
        .find_map(|mut words| matches!(words.next(), Some("search" | "domain")).then_some(words));
    line.into_iter()
        .flatten()
        .map(|domain| domain.trim_matches('.').to_owned())
        .filter(|domain| !domain.is_empty())
        .take(SEARCH_DOMAINS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_search_line_holds() {
        let text = b"domain old\nnameserver 10.0.0.1\nsearch a.svc.cluster.local. b\n";
        assert_eq!(parse_search(text), ["a.svc.cluster.local", "b"]);
        assert!(parse_search(b"nameserver 10.0.0.1\nsearching x\nsearch .\n").is_empty());
    }

    #[test]
    fn nameservers_come_in_the_order_of_the_file() {
        let text = b"# made by kubelet\nsearch a.svc b\nnameserver 10.96.0.10\n nameserver  fd00::a \nnameserver fe80::1%eth0\noptions ndots:5\n;nameserver 9.9.9.9\n";
        assert_eq!(
            parse_nameservers(text),
            ["10.96.0.10".parse::<IpAddr>().unwrap(), "fd00::a".parse().unwrap()]
        );
        assert!(parse_nameservers(b"").is_empty());
        assert_eq!(parse_nameservers(&b"nameserver 1.1.1.1\n".repeat(50)).len(), NAMESERVERS);
    }

    #[test]
    fn this_process_can_be_a_target() {
        let target = Target::open(std::process::id()).unwrap();
        assert!(!target.command().is_empty());
        assert!(!target.environ().unwrap().is_empty());
        let own = rustix::fs::open(c"/proc/self/ns/net", OFlags::RDONLY, Mode::empty()).unwrap();
        assert!(same_file(own.as_fd(), target.namespace(c"net").unwrap().as_fd()).unwrap());
    }

    #[test]
    fn an_ended_process_is_no_target() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        assert!(matches!(Target::open(pid), Err(TargetError::Gone { .. })));
    }
}
