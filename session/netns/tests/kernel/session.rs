//! A session netns as the session host sets it up, and a thread that answers held packets.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    process::{Child, Command},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use command_fds::{CommandFdExt, FdMapping};
use mirrord_netns::{
    holder::{Holder, HolderError},
    netlink::Family,
    nfqueue::{Packet, Queue},
    nft::{LOCAL_MARK, NftError, SessionTable, Verdict},
    seqpacket::SeqPacket,
    sockopt,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    net::{AddressFamily, SocketType},
};

use crate::runner::{ROLE, skip};

/// Addresses of the session.
pub(crate) const V4: &str = "10.99.0.5";
/// Addresses of the session.
pub(crate) const V6: &str = "fd00:99::5";
const QUEUE: u16 = 7;
/// What the test waits for is there much sooner.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// A holder in a child process.
pub(crate) struct Session {
    pub(crate) holder: Holder,
    child: Child,
}

impl Session {
    pub(crate) fn start() -> Self {
        let session = Self::unconfigured();
        session.holder.configure(&[V4.parse().unwrap(), V6.parse().unwrap()], true).unwrap();
        session
    }

    /// Without addresses.
    pub(crate) fn unconfigured() -> Self {
        let (control, theirs) = SeqPacket::pair().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(ROLE, "holder");
        command.fd_mappings(vec![FdMapping { parent_fd: OwnedFd::from(theirs), child_fd: 3 }]).unwrap();
        let child = command.spawn().unwrap();
        drop(command);
        let holder = match Holder::connect(control) {
            Ok(holder) => holder,
            Err(HolderError::SetUp { source, .. }) => skip(&format!("no session netns: {source}")),
            Err(error) => panic!("{error:?}"),
        };
        Self { holder, child }
    }

    pub(crate) fn table(&self) -> (Queue, SessionTable) {
        let socket = || self.holder.netlink(Family::Netfilter).unwrap();
        let queue = match Queue::from_socket(socket(), QUEUE) {
            Ok(queue) => queue,
            Err(error) => skip(&format!("no packet queue: {error}")),
        };
        match SessionTable::install(socket(), QUEUE) {
            Ok(table) => (queue, table),
            Err(error @ NftError::NoQueue) => skip(&error.to_string()),
            Err(error) => panic!("{error:?}"),
        }
    }

    pub(crate) fn socket(&self, family: AddressFamily, kind: SocketType) -> OwnedFd {
        self.holder.socket(family.as_raw(), kind.as_raw(), 0).unwrap()
    }

    pub(crate) fn tcp(&self, to: SocketAddr) -> OwnedFd {
        self.socket(family(to), SocketType::STREAM)
    }

    pub(crate) fn udp(&self, family: AddressFamily) -> UdpSocket {
        let socket = UdpSocket::from(self.socket(family, SocketType::DGRAM));
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket
    }

    /// As [`TcpListener::bind`], inside; marked, as the relay's are.
    pub(crate) fn listen(&self, at: &str) -> TcpListener {
        let at = at.parse().unwrap();
        let socket = self.tcp(at);
        sockopt::set_mark(&socket, LOCAL_MARK).unwrap();
        rustix::net::bind(&socket, &at).unwrap();
        rustix::net::listen(&socket, 4096).unwrap();
        TcpListener::from(socket)
    }

    /// connect(2), blocking.
    pub(crate) fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = self.tcp(to);
        rustix::net::connect(&socket, &to)?;
        Ok(TcpStream::from(socket))
    }

    /// Closes the control link and gives the process.
    pub(crate) fn end(self) -> Child {
        self.child
    }
}

pub(crate) fn family(address: SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

pub(crate) fn address(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse::<IpAddr>().unwrap(), port)
}

/// A decision, given so long after the packet came. `None`: the packet is dropped.
pub(crate) type Decision = (Duration, Option<Verdict>);

/// Runs `work` while another thread answers the queue with `decide`; returns the packets that were held as well.
pub(crate) fn answering<T>(
    queue: &Queue,
    decide: impl Fn(&Packet) -> Decision + Sync,
    work: impl FnOnce() -> T,
) -> (T, Vec<Packet>) {
    let done = AtomicBool::new(false);
    let seen = Mutex::new(Vec::new());
    let result = thread::scope(|scope| {
        scope.spawn(|| answer(queue, &decide, &done, &seen));
        // Also when `work` panics, else the scope would wait for ever.
        let _end = OnDrop(&done);
        work()
    });
    (result, seen.into_inner().unwrap())
}

struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn answer(
    queue: &Queue,
    decide: &(impl Fn(&Packet) -> Decision + Sync),
    done: &AtomicBool,
    seen: &Mutex<Vec<Packet>>,
) {
    let mut held: Vec<(Instant, u32, Option<Verdict>)> = Vec::new();
    while !done.load(Ordering::Relaxed) {
        let next = held.iter().map(|(due, ..)| *due).min();
        let wait =
            next.map_or(Duration::from_millis(20), |due| due.saturating_duration_since(Instant::now()));
        let wait = wait.min(Duration::from_millis(20)).try_into().unwrap();
        let fd = queue.as_fd();
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&wait)).unwrap();
        let mut packets = Vec::new();
        queue.recv(&mut packets).unwrap();
        for packet in packets {
            let (delay, verdict) = decide(&packet);
            held.push((Instant::now() + delay, packet.id, verdict));
            seen.lock().unwrap().push(packet);
        }
        held.retain(|(due, id, verdict)| {
            let is_due = *due <= Instant::now();
            match verdict {
                Some(verdict) if is_due => queue.verdict(*id, *verdict).unwrap(),
                None if is_due => queue.drop(*id).unwrap(),
                _ => {}
            }
            !is_due
        });
    }
}
