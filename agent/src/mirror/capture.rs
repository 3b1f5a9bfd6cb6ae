//! The capture thread: reads the ring block by block and feeds the connections. It lives in the target's network namespace, and
//! waits for nothing but packets and orders, so the ring is emptied as fast as one core can.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    net::SocketAddr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use mirrord_netns::{
    Flow, Transport,
    capture::{Capture, CaptureOptions, Frame},
    conntrack::Conntrack,
    packet,
    sock_diag::SockDiag,
};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::Errno,
    net::netlink,
};
use tokio::sync::oneshot;

use super::{
    MirrorError,
    flows::{Counters, Flows, Judge, Packet, Until},
    now_ns,
    queue::{MirrorQueue, Producer},
};
use crate::{
    limits::{CAPTURE_ORDERS, CAPTURE_PAUSE, FLOW_SWEEP},
    network::{self, OwnConnections},
};

/// Blocks that are read before orders are looked at.
const BLOCKS: usize = 16;
/// The loopback interface has this index in every namespace (LOOPBACK_IFINDEX).
const LOOPBACK: u32 = 1;
/// How many connections the namespace tracks; missing without the module.
const TRACKED: &str = "/proc/sys/net/netfilter/nf_conntrack_count";

/// What the thread shows to its owner.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// capture thread --numbers after each block--> owner
    pub(super) counters: Mutex<BTreeMap<u16, Counters>>,
}

enum Order {
    Ports { ports: BTreeMap<u16, Until>, redirects: bool, done: oneshot::Sender<Result<(), MirrorError>> },
}

/// The owner's end. Dropping it ends the thread.
#[derive(Debug)]
pub(super) struct CaptureThread {
    /// owner --orders--> capture thread; full: the owner is told that the thread is silent
    orders_tx: Option<SyncSender<Order>>,
    wake: Arc<OwnedFd>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl CaptureThread {
    /// Starts it in the network namespace of the calling thread; returns when the kernel captures.
    pub(super) fn start(
        ports: BTreeMap<u16, Until>,
        redirects: bool,
        queue: MirrorQueue,
        own: OwnConnections,
    ) -> Result<Self, MirrorError> {
        let mut flows = Flows::default();
        flows.set_ports(ports);
        let captured: Vec<u16> = flows.live_ports(now_ns()).collect();
        let capture = Capture::open(&CaptureOptions::default(), &captured).map_err(MirrorError::Capture)?;
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io_error)?);
        let shared: Arc<Shared> = Arc::default();
        let (orders_tx, orders_rx) = sync_channel(CAPTURE_ORDERS);
        let conntrack = network::netlink(netlink::NETFILTER).ok().map(Conntrack::from_socket);
        let diagnosis = network::netlink(netlink::SOCK_DIAG).ok().map(SockDiag::from_socket);
        let worker = Worker {
            capture,
            captured,
            flows,
            generation: queue.generation(),
            out: Producer::new(queue.clone()),
            queue,
            judge: Namespace { conntrack, diagnosis, redirects, tracked: tracked(), own },
            orders_rx,
            wake: Arc::clone(&wake),
            shared: Arc::clone(&shared),
            swept: Instant::now(),
        };
        let thread = thread::Builder::new()
            .name("capture".to_owned())
            .spawn(move || worker.run())
            .map_err(MirrorError::Thread)?;
        Ok(Self { orders_tx: Some(orders_tx), wake, shared, thread: Some(thread) })
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(super) fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Returns when the kernel captures these ports.
    pub(super) async fn set_ports(
        &self,
        ports: BTreeMap<u16, Until>,
        redirects: bool,
    ) -> Result<(), MirrorError> {
        let (done, done_rx) = oneshot::channel();
        let order = Order::Ports { ports, redirects, done };
        let orders_tx = self.orders_tx.as_ref().ok_or(MirrorError::Silent)?;
        orders_tx.try_send(order).map_err(|_| MirrorError::Silent)?;
        self.wake();
        done_rx.await.map_err(|_| MirrorError::Silent)?
    }

    fn wake(&self) {
        if let Err(error) = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes()) {
            tracing::debug!(%error, "the capture thread is being woken already");
        }
    }
}

impl Drop for CaptureThread {
    fn drop(&mut self) {
        drop(self.orders_tx.take());
        self.wake();
    }
}

fn io_error(errno: Errno) -> MirrorError {
    MirrorError::Thread(io::Error::from(errno))
}

struct Worker {
    capture: Capture,
    /// Ports of the kernel's filter.
    captured: Vec<u16>,
    flows: Flows,
    generation: u64,
    out: Producer,
    queue: MirrorQueue,
    judge: Namespace,
    orders_rx: Receiver<Order>,
    wake: Arc<OwnedFd>,
    shared: Arc<Shared>,
    swept: Instant,
}

impl Worker {
    fn run(mut self) {
        while self.follow_orders() {
            let read = self.read_blocks();
            if self.swept.elapsed() >= FLOW_SWEEP {
                self.sweep();
            }
            if !read && let Err(error) = self.wait() {
                tracing::error!(%error, "the capture ends");
                return;
            }
        }
    }

    /// False: the owner is gone.
    fn follow_orders(&mut self) -> bool {
        loop {
            match self.orders_rx.try_recv() {
                Ok(Order::Ports { ports, redirects, done }) => {
                    self.flows.set_ports(ports);
                    self.judge.redirects = redirects;
                    // An owner that does not wait any more will notice by itself.
                    drop(done.send(self.set_filter()));
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn set_filter(&mut self) -> Result<(), MirrorError> {
        let ports: Vec<u16> = self.flows.live_ports(now_ns()).collect();
        if ports != self.captured {
            self.capture.set_ports(&ports).map_err(MirrorError::Capture)?;
            self.captured = ports;
        }
        Ok(())
    }

    fn read_blocks(&mut self) -> bool {
        let generation = self.queue.generation();
        if generation != self.generation {
            self.generation = generation;
            self.out.clear();
            self.flows.forget();
        }
        let mut blocks = 0;
        while blocks < BLOCKS {
            let Self { capture, flows, judge, out, .. } = self;
            if capture.next_block(|frame| take(frame, flows, judge, out)).is_none() {
                break;
            }
            self.out.flush();
            blocks += 1;
        }
        if blocks > 0 {
            self.publish();
        }
        blocks > 0
    }

    fn publish(&self) {
        let mut counters = self.shared.counters.lock().unwrap_or_else(PoisonError::into_inner);
        counters.clone_from(self.flows.counters());
    }

    fn sweep(&mut self) {
        self.swept = Instant::now();
        self.flows.sweep(now_ns(), &mut self.judge, &mut self.out);
        self.out.flush();
        if let Err(error) = self.set_filter() {
            tracing::warn!(
                error = format!("{:#}", anyhow::Error::from(error)),
                "more is captured than needed"
            );
        }
        self.publish();
    }

    fn wait(&self) -> Result<(), Errno> {
        let mut wait = [
            PollFd::from_borrowed_fd(self.capture.as_fd(), PollFlags::IN | PollFlags::ERR),
            PollFd::new(&*self.wake, PollFlags::IN),
        ];
        let pause = Timespec::try_from(CAPTURE_PAUSE).map_err(|_| Errno::INVAL)?;
        match poll(&mut wait, Some(&pause)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        match rustix::io::read(&*self.wake, &mut [0; 8]) {
            // It was a packet that woke us.
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

fn take(frame: Frame<'_>, flows: &mut Flows, judge: &mut Namespace, out: &mut Producer) {
    // What cannot be read is no packet of ours: the kernel's filter lets IP fragments and odd headers through.
    let Ok(parsed) = packet::parse(frame.ip) else { return };
    if let Some(packet) = Packet::new(&parsed, frame.time_ns, frame.outgoing, frame.interface == LOOPBACK) {
        flows.packet(&packet, judge, out);
    }
}

/// Knows which connections are not the target's own.
struct Namespace {
    conntrack: Option<Conntrack>,
    diagnosis: Option<SockDiag>,
    /// We redirect ourselves.
    redirects: bool,
    /// [`TRACKED`] of this namespace, whichever thread reads it.
    tracked: Option<File>,
    own: OwnConnections,
}

/// The file shows the namespace of the thread that opens it.
fn tracked() -> Option<File> {
    File::open(TRACKED).ok()
}

impl Namespace {
    /// Somebody tracks connections here, so somebody may redirect. Asked for each connection, which is tracked itself then: a proxy's
    /// first one must not be taken for the target's.
    fn is_tracked(&self) -> bool {
        let mut first = [0];
        let read = self.tracked.as_ref().map(|file| file.read_at(&mut first, 0));
        matches!(read, Some(Ok(1))) && first != *b"0"
    }

    fn is_redirected(&mut self, client: SocketAddr, server: SocketAddr) -> bool {
        let asked = self.redirects || self.is_tracked();
        let Some(conntrack) = self.conntrack.as_ref().filter(|_| asked) else { return false };
        let flow = Flow { transport: Transport::Tcp, src: client, dst: server };
        match conntrack.lookup(&flow) {
            // Tracking that began in the middle may take the server for the one who began; that is no redirection.
            Ok(reply) => reply.is_some_and(|reply| reply.src != server && reply != flow),
            Err(error) => {
                // Without CAP_NET_ADMIN nobody can be asked, but then we redirect nothing either.
                tracing::warn!(
                    error = format!("{:#}", anyhow::Error::from(error)),
                    "redirected connections are not recognised"
                );
                self.conntrack = None;
                false
            }
        }
    }
}

impl Judge for Namespace {
    fn is_foreign(&mut self, client: SocketAddr, server: SocketAddr) -> bool {
        self.own.contains(client) || self.is_redirected(client, server)
    }

    fn is_gone(&mut self, client: SocketAddr, server: SocketAddr) -> bool {
        let diagnosis = self.diagnosis.as_ref();
        diagnosis.is_some_and(|diagnosis| matches!(diagnosis.tcp_state(server, client), Ok(None)))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_kernel_knows_which_connections_are_gone() {
        let diagnosis = network::netlink(netlink::SOCK_DIAG).ok().map(SockDiag::from_socket);
        let own = OwnConnections::default();
        let mut namespace = Namespace { conntrack: None, diagnosis, redirects: false, tracked: None, own };
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(listen).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, peer) = listener.accept().unwrap();
            let local = server.local_addr().unwrap();
            assert!(!namespace.is_gone(peer, local));
            mirrord_netns::sockopt::reset_on_close(&server).unwrap();
            drop((server, client));
            assert!(namespace.is_gone(peer, local), "the listener alone is no connection");
        }
        namespace.diagnosis = None;
        assert!(!namespace.is_gone(([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 2).into()), "nobody can say");
    }
}
