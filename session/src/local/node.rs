//! The node of the local pods (`__node DIR`): one process per user that holds the network between them.
//!
//! It owns a network namespace (as an ordinary user within a user namespace of its own) with a bridge, runs the resolver,
//! starts pods and ends with the last of them. Everything happens on its main thread: the kernel ties the life of a pod to the
//! *thread* that started it. The one exception is the relay of published ports (`publish`).

mod control;
mod tenant;

use std::{
    fs,
    io::{self, Write},
    net::IpAddr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use mirrord_netns::{
    ns::{self, Kind, UserMap},
    rtnl::Rtnl,
};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use serde::{Deserialize, Serialize};
use tokio::{
    net::UnixListener,
    runtime::Runtime,
    sync::{Notify, mpsc},
    task::JoinSet,
    time::sleep,
};

pub(super) use self::control::dial;
use self::tenant::Tenant;
use super::{
    NODE_IP, NODE_IPV6,
    pod::{PREFIX_V4, PREFIX_V6},
    pods_dir,
    registry::Registry,
    resolver::Resolver,
    wire::{Failure, chain},
};
use crate::limits::{NODE_BACKLOG, NODE_LOCK_RETRY};

/// The bridge that all pods are ports of.
pub(super) const BRIDGE: &str = "pods";

/// What the node says to its starter on standard output, in one line.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Greeting {
    /// It listens.
    Ready,
    /// It ends.
    Failed(Failure),
}

/// What the tasks of a node share.
#[derive(Clone, Debug)]
struct Node {
    /// Folder of the program.
    base: PathBuf,
    registry: Registry,
    /// The machine has IPv6.
    ipv6: bool,
    activity: Arc<Activity>,
    /// control --pod that is up--> main loop
    tenants_tx: mpsc::Sender<Tenant>,
}

/// How many clients have not yet had the answer to their first request. Each of them keeps the node alive.
#[derive(Debug, Default)]
struct Activity {
    clients: AtomicUsize,
    changed: Notify,
}

/// One such client.
#[derive(Debug)]
struct Busy(Arc<Activity>);

impl Busy {
    fn new(activity: &Arc<Activity>) -> Self {
        activity.clients.fetch_add(1, Ordering::Relaxed);
        Self(activity.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::Relaxed);
        self.0.changed.notify_one();
    }
}

/// Runs the role and returns its exit code.
pub(crate) fn run(dir: &Path) -> u8 {
    rustix::thread::set_name(c"mirrord-node").ok();
    match prepare(dir) {
        Ok(Prepared { runtime, socket, resolver, ipv6 }) => {
            greet(&Greeting::Ready);
            runtime.block_on(serve(dir, &socket, resolver, ipv6));
            0
        }
        Err(failure) => {
            greet(&Greeting::Failed(failure));
            1
        }
    }
}

/// Says the one line, and lets go of what the starter gave.
fn greet(greeting: &Greeting) {
    let mut line = serde_json::to_vec(greeting).unwrap_or_default();
    line.push(b'\n');
    // A starter that is gone has no use for it.
    io::stdout().write_all(&line).and_then(|()| io::stdout().flush()).ok();
    if let Ok(null) = fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
        rustix::stdio::dup2_stdin(&null).ok();
        rustix::stdio::dup2_stdout(&null).ok();
    }
}

/// What is there before the first client comes.
struct Prepared {
    runtime: Runtime,
    socket: UnixListener,
    resolver: Resolver,
    ipv6: bool,
}

fn prepare(dir: &Path) -> Result<Prepared, Failure> {
    let step = |error: &dyn std::error::Error| Failure::setup("starting the node", error);
    // The shell that started us may go. The leader of a process group cannot leave it, and need not: it has no shell.
    rustix::process::setsid().ok();
    std::env::set_current_dir("/").map_err(|error| step(&error))?;
    raise_descriptor_limit();
    namespaces()?;
    let ipv6 = network().map_err(|error| Failure::setup("making the node's network", error.as_ref()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = runtime.map_err(|error| step(&error))?;
    let resolver = runtime.block_on(Resolver::bind());
    let resolver = resolver.map_err(|error| Failure::setup("starting the resolver", &error))?;
    let entered = runtime.enter();
    let socket = control::listen(dir).map_err(|error| Failure::setup("making the control socket", &error))?;
    drop(entered);
    Ok(Prepared { runtime, socket, resolver, ipv6 })
}

/// Root takes a network namespace; everybody else one within a user namespace, in which they are root.
fn namespaces() -> Result<(), Failure> {
    if rustix::process::geteuid().is_root() && ns::unshare(&[Kind::Net]).is_ok() {
        return Ok(());
    }
    ns::enter_user_namespace(UserMap::Root, &[Kind::Net]).map_err(|error| {
        let what = "user namespaces to ordinary users".to_owned();
        Failure::Namespaces { what, reason: chain(&error) }
    })
}

/// Loopback and the bridge with the node's addresses; says whether there is IPv6.
fn network() -> Result<bool, Box<dyn std::error::Error>> {
    // The bridge takes over the smallest hardware address of its ports; pods must learn each change at once.
    ns::set_sysctl("net/ipv4/conf/default/arp_notify", "1")?;
    // A published port that leads nowhere fails after half a minute and not after two.
    ns::set_sysctl("net/ipv4/tcp_syn_retries", "4")?;
    // The node is the pods' router. It leads nowhere, and as a router it says so at once: a pod's connection to anywhere else fails
    // with ENETUNREACH instead of waiting for two minutes.
    ns::set_sysctl("net/ipv4/ip_forward", "1")?;
    ns::set_sysctl("net/ipv6/conf/all/forwarding", "1").ok();
    let rtnl = Rtnl::open()?;
    rtnl.set_up(rtnl.index("lo")?)?;
    rtnl.add_bridge(BRIDGE)?;
    let bridge = rtnl.index(BRIDGE)?;
    rtnl.add_address(bridge, IpAddr::V4(NODE_IP), PREFIX_V4)?;
    let ipv6 = ns::set_sysctl("net/ipv6/conf/default/ndisc_notify", "1").is_ok()
        && rtnl.add_address(bridge, IpAddr::V6(NODE_IPV6), PREFIX_V6).is_ok();
    rtnl.set_up(bridge)?;
    Ok(ipv6)
}

/// Every carried connection takes two descriptors, and most shells allow 1024.
fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).ok();
}

/// Serves until there is neither a pod nor anybody who wants to start one.
async fn serve(dir: &Path, socket: &UnixListener, resolver: Resolver, ipv6: bool) {
    let base = dir.parent().unwrap_or_else(|| Path::new("/")).to_owned();
    let (tenants_tx, mut tenants_rx) = mpsc::channel(NODE_BACKLOG);
    let (registry, activity) = (Registry::default(), Arc::<Activity>::default());
    let node = Node { base, registry, ipv6, activity, tenants_tx };
    let mut tasks = JoinSet::new();
    tasks.spawn(resolver.serve(node.registry.clone()));
    loop {
        let mut client = None;
        let last_look = if node.is_idle() { node.end(dir, socket) } else { LastLook::Wanted };
        match last_look {
            LastLook::Ended => return,
            LastLook::Client(waiting) => client = Some(waiting),
            LastLook::Wanted | LastLook::Locked => tokio::select! {
                accepted = control::accept(socket) => client = accepted,
                Some(tenant) = tenants_rx.recv() => drop(tasks.spawn(tenant.run())),
                Some(_) = tasks.join_next() => {}
                () = node.activity.changed.notified() => {}
                () = sleep(NODE_LOCK_RETRY), if matches!(last_look, LastLook::Locked) => {}
            },
        }
        if let Some(client) = client {
            tasks.spawn(control::serve(node.clone(), client, Busy::new(&node.activity)));
        }
    }
}

impl Node {
    fn is_idle(&self) -> bool {
        self.registry.is_empty() && self.activity.clients.load(Ordering::Relaxed) == 0
    }

    /// Removes what the node made, unless a client comes at the last moment. Who starts a pod holds the same lock until it is
    /// connected, so no client can come between the look and the removal. Never waits for the lock: its holder may be asking us.
    fn end(&self, dir: &Path, socket: &UnixListener) -> LastLook {
        // A folder that cannot be locked is gone; then there is nothing to be careful about.
        let folder = fs::File::open(&self.base);
        if let Ok(folder) = &folder
            && flock(folder, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK)
        {
            return LastLook::Locked;
        }
        if let Some(client) = control::accept_waiting(socket) {
            return LastLook::Client(client);
        }
        fs::remove_dir_all(dir).ok();
        // Succeeds when it is empty; pods that have ended keep their logs in it.
        fs::remove_dir(pods_dir(&self.base)).ok();
        LastLook::Ended
    }
}

/// Whether the node may end.
enum LastLook {
    /// It has pods or clients.
    Wanted,
    /// Somebody is just starting a pod or removing what one has left.
    Locked,
    /// A client has come.
    Client(OwnedFd),
    /// Nothing of it is left.
    Ended,
}

/// Waits until nobody else starts or ends a node. The lock goes with the returned file.
pub(super) fn lock(base: &Path) -> io::Result<fs::File> {
    let folder = fs::File::open(base)?;
    rustix::io::retry_on_intr(|| flock(&folder, FlockOperation::LockExclusive))?;
    Ok(folder)
}
