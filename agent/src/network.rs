//! The target's network: one thread that has joined its network namespace and does short jobs there.
//!
//! A socket belongs to the namespace in which it was made, whoever uses it. So this thread only makes sockets; all waiting and
//! copying happens on the runtime.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use mirrord_netns::{
    Flow, Transport,
    conntrack::{Conntrack, ConntrackError},
    netlink::NetlinkError,
    nft::AGENT_MARK,
};
use rustix::{
    fs::{Mode, OFlags, open},
    net::{AddressFamily, Protocol, SocketFlags, SocketType, netlink, socket_with},
    thread::{CapabilitySet, LinkNameSpaceType, capabilities, move_into_link_name_space},
};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::{
    address,
    limits::{NETWORK_JOBS, OWN_LINGER, STOCKED_SOCKETS},
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

/// Local addresses of the connections that the agent itself has opened in the target's network. They may lead to the target's own
/// ports and are neither stolen nor mirrored: a local process that calls the target must not get its own call back.
#[derive(Clone, Debug, Default)]
pub(crate) struct OwnConnections(Arc<Mutex<Own>>);

#[derive(Debug, Default)]
struct Own {
    open: HashSet<SocketAddr>,
    /// Ended ones in the order of their ends; the capture may still see their packets.
    ended: VecDeque<(Instant, SocketAddr)>,
}

impl OwnConnections {
    pub(crate) fn contains(&self, local: SocketAddr) -> bool {
        let own = self.lock();
        own.open.contains(&local) || own.ended.iter().any(|(_, ended)| *ended == local)
    }

    /// Counts as the agent's as long as the guard lives, and [`OWN_LINGER`] longer.
    pub(crate) fn add(&self, local: SocketAddr) -> OwnConnection {
        let local = address::canonical(local);
        self.lock().open.insert(local);
        OwnConnection { all: self.clone(), local }
    }

    fn lock(&self) -> MutexGuard<'_, Own> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`OwnConnections::add`].
#[derive(Debug)]
pub(crate) struct OwnConnection {
    all: OwnConnections,
    local: SocketAddr,
}

impl Drop for OwnConnection {
    fn drop(&mut self) {
        let mut own = self.all.lock();
        own.open.remove(&self.local);
        own.ended.push_back((Instant::now(), self.local));
        while own.ended.front().is_some_and(|(at, _)| at.elapsed() > OWN_LINGER) {
            own.ended.pop_front();
        }
    }
}

/// A handle on the thread; the thread ends with the last handle.
#[derive(Clone, Debug)]
pub(crate) struct TargetNetwork {
    /// whoever needs a socket --jobs--> the thread; full: the caller waits
    jobs_tx: mpsc::Sender<Job>,
    /// Whether sockets can be marked as the agent's own; only then anything is stolen, and only then it matters.
    may_mark: bool,
    hostname: Option<Vec<u8>>,
    own: OwnConnections,
    limits: Arc<NetworkLimits>,
    stock: Stock,
}

/// TCP sockets that were made ahead: the way to the thread and back would be a good part of a connect.
type Stock = Arc<Mutex<HashMap<AddressFamily, Vec<OwnedFd>>>>;

/// What does not work in the target's network, each with one sentence why.
#[derive(Clone, Debug, Default)]
pub(crate) struct NetworkLimits {
    pub(crate) mirror: Option<String>,
    pub(crate) steal: Option<String>,
}

impl NetworkLimits {
    /// Tries what mirroring and stealing begin with, in the namespace of the calling thread.
    fn probe() -> Self {
        let packets = socket_with(AddressFamily::PACKET, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let flow = Flow { transport: Transport::Tcp, src: nowhere, dst: nowhere };
        // Asking connection tracking needs the same capability as changing rules, and changes nothing.
        let asked = netlink(netlink::NETFILTER).map(|socket| Conntrack::from_socket(socket).lookup(&flow));
        let refused = matches!(&asked, Ok(Err(error)) if is_refused(error));
        Self {
            mirror: packets
                .err()
                .map(|errno| format!("capture needs CAP_NET_RAW in the target's network: {errno}")),
            steal: match asked {
                Err(error) => Some(format!("the kernel has no netfilter netlink: {error}")),
                Ok(_) if refused => Some("rules need CAP_NET_ADMIN in the target's network".to_owned()),
                Ok(_) => None,
            },
        }
    }
}

fn is_refused(error: &ConntrackError) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<NetlinkError>());
    cause.and_then(NetlinkError::errno) == Some(libc::EPERM)
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
                let told = joined_tx.send(joined.map(|()| (hostname, NetworkLimits::probe())));
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
        let (hostname, limits) =
            joined_rx.recv().map_err(|_| NetworkError::Gone)?.map_err(NetworkError::Join)?;
        let may_mark = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_ADMIN));
        let (own, limits) = (OwnConnections::default(), Arc::new(limits));
        Ok(Self { jobs_tx, may_mark, hostname, own, limits, stock: Stock::default() })
    }

    /// The target's host name, when its UTS namespace may be joined.
    pub(crate) fn hostname(&self) -> Option<&[u8]> {
        self.hostname.as_deref()
    }

    /// What does not work there.
    pub(crate) fn limits(&self) -> &NetworkLimits {
        &self.limits
    }

    /// The agent's own connections there.
    pub(crate) fn own(&self) -> &OwnConnections {
        &self.own
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
        let stocked = kind == SocketType::STREAM && family != AddressFamily::UNIX;
        if stocked {
            let ready = lock(&self.stock).get_mut(&family).and_then(Vec::pop);
            self.restock(family);
            if let Some(socket) = ready {
                return Ok(socket);
            }
        }
        let may_mark = self.may_mark;
        self.run(move || make(family, kind, may_mark)).await?
    }

    /// Lets the thread fill up the stock; nobody waits for it.
    fn restock(&self, family: AddressFamily) {
        let (stock, may_mark) = (Arc::clone(&self.stock), self.may_mark);
        let job = move || {
            while lock(&stock).get(&family).map_or(0, Vec::len) < STOCKED_SOCKETS
                && let Ok(socket) = make(family, SocketType::STREAM, may_mark)
            {
                lock(&stock).entry(family).or_default().push(socket);
            }
        };
        // A busy thread has enough to do; the next socket asks again.
        drop(self.jobs_tx.try_send(Box::new(job)));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a socket in the namespace of the calling thread.
fn make(family: AddressFamily, kind: SocketType, may_mark: bool) -> io::Result<OwnedFd> {
    let socket = socket_with(family, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
    if may_mark && family != AddressFamily::UNIX {
        match socket2::SockRef::from(&socket).set_mark(AGENT_MARK) {
            // Capabilities, but not over this namespace: then nothing can be stolen here either.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            result => result?,
        }
    }
    Ok(socket)
}

/// A netlink socket of the current namespace.
pub(crate) fn netlink(protocol: Protocol) -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol))?)
}

/// Whether the target's network is the one that the agent was started in: it is a container of the same pod.
pub(crate) fn is_own(target: &Target) -> bool {
    let own = open(c"/proc/self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let theirs = target.namespace(c"net");
    own.is_ok_and(|own| {
        theirs.is_ok_and(|theirs| same_file(own.as_fd(), theirs.as_fd()).is_ok_and(|same| same))
    })
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
