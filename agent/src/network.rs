//! The target's network: one thread that has joined its network namespace and does short jobs there.
//!
//! A socket belongs to the namespace in which it was made, whoever uses it. So this thread only makes sockets; all waiting and
//! copying happens on the runtime.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
};

use mirrord_netns::nft::AGENT_MARK;
use rustix::{
    fs::{Mode, OFlags, open},
    net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with},
    thread::{CapabilitySet, LinkNameSpaceType, capabilities, move_into_link_name_space},
};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::{
    limits::NETWORK_JOBS,
    target::{Target, same_file},
};

/// Why the target's network cannot be used.
#[derive(Debug, Error)]
pub(crate) enum NetworkError {
    #[error("cannot start the thread for the target's network")]
    Thread(#[source] io::Error),
    #[error("cannot open the target's network namespace")]
    Open(#[source] io::Error),
    #[error("may not join the target's network namespace")]
    Join(#[source] io::Error),
    #[error("the thread in the target's network is gone")]
    Gone,
}

impl From<NetworkError> for io::Error {
    fn from(error: NetworkError) -> Self {
        match error {
            NetworkError::Thread(source) | NetworkError::Open(source) | NetworkError::Join(source) => source,
            NetworkError::Gone => rustix::io::Errno::SHUTDOWN.into(),
        }
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// A handle on the thread; the thread ends with the last handle.
#[derive(Clone, Debug)]
pub(crate) struct TargetNetwork {
    /// whoever needs a socket --jobs--> the thread; full: the caller waits
    jobs_tx: mpsc::Sender<Job>,
    /// Whether sockets can be marked as the agent's own; only then anything is stolen, and only then it matters.
    may_mark: bool,
    hostname: Option<Vec<u8>>,
}

impl TargetNetwork {
    /// Starts the thread and waits until it is inside.
    pub(crate) fn start(target: &Target) -> Result<Self, NetworkError> {
        let net = target.namespace(c"net").map_err(NetworkError::Open)?;
        let uts = target.namespace(c"uts").ok();
        let (jobs_tx, mut jobs_rx) = mpsc::channel::<Job>(NETWORK_JOBS);
        let (joined_tx, joined_rx) = std::sync::mpsc::sync_channel(1);
        thread::Builder::new()
            .name("target-network".to_owned())
            .spawn(move || {
                let joined = join(&net, c"/proc/thread-self/ns/net", LinkNameSpaceType::Network);
                let inside = joined.is_ok();
                let hostname = uts.and_then(|uts| hostname(&uts));
                // The receiver waits for exactly this; it cannot be gone.
                let told = joined_tx.send(joined.map(|()| hostname));
                while inside
                    && told.is_ok()
                    && let Some(job) = jobs_rx.blocking_recv()
                {
                    // One broken job must not take the target's network from all others; its caller sees `Gone`.
                    if catch_unwind(AssertUnwindSafe(job)).is_err() {
                        tracing::error!("a job in the target's network panicked");
                    }
                }
            })
            .map_err(NetworkError::Thread)?;
        let hostname = joined_rx.recv().map_err(|_| NetworkError::Gone)?.map_err(NetworkError::Join)?;
        let may_mark = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_ADMIN));
        Ok(Self { jobs_tx, may_mark, hostname })
    }

    /// The target's host name, when its UTS namespace may be joined.
    pub(crate) fn hostname(&self) -> Option<&[u8]> {
        self.hostname.as_deref()
    }

    /// Does something short inside the target's network namespace.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NetworkError> {
        let (done_tx, done_rx) = oneshot::channel();
        let job = Box::new(move || {
            // A caller that has gone away does not want the result any more.
            drop(done_tx.send(work()));
        });
        self.jobs_tx.send(job).await.map_err(|_| NetworkError::Gone)?;
        done_rx.await.map_err(|_| NetworkError::Gone)
    }

    /// A non-blocking socket of the target's network, marked so that it is never stolen.
    pub(crate) async fn socket(&self, family: AddressFamily, kind: SocketType) -> io::Result<OwnedFd> {
        let may_mark = self.may_mark;
        self.run(move || {
            let socket = socket_with(family, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
            if may_mark && family != AddressFamily::UNIX {
                match socket2::SockRef::from(&socket).set_mark(AGENT_MARK) {
                    // Capabilities, but not over this namespace: then nothing can be stolen here either.
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                    result => result?,
                }
            }
            Ok(socket)
        })
        .await?
    }

    /// A netlink socket of the target's network.
    pub(crate) async fn netlink(&self, protocol: Protocol) -> io::Result<OwnedFd> {
        self.run(move || netlink(protocol)).await?
    }
}

/// A netlink socket of the current namespace.
pub(crate) fn netlink(protocol: Protocol) -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol))?)
}

/// Joins unless the thread is there already, which needs no capability.
fn join(namespace: &OwnedFd, own: &std::ffi::CStr, kind: LinkNameSpaceType) -> io::Result<()> {
    let own = open(own, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    if !same_file(own.as_fd(), namespace.as_fd())? {
        move_into_link_name_space(namespace.as_fd(), Some(kind))?;
    }
    Ok(())
}

fn hostname(uts: &OwnedFd) -> Option<Vec<u8>> {
    join(uts, c"/proc/thread-self/ns/uts", LinkNameSpaceType::HostNameAndNISDomainName).ok()?;
    Some(rustix::system::uname().nodename().to_bytes().to_vec())
}
