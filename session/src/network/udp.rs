//! UDP of the session: one relay socket inside per destination, one association (in the target or on this host) per pair of ends.
//!
//! ```text
//! program --held first packet--> admit: relay + association --verdict: redirect to the relay's port--> relay <-> association <-> peer
//! ```
//! The relay socket stands for the original destination; who sent is what it receives from. An association that is idle ends, its
//! flow is forgotten by conntrack (so the next packet is held again), and a relay without associations closes its port.

mod association;
mod icmp;

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use mirrord_netns::{Flow, Transport};
use tokio::{net::UdpSocket, sync::watch};
use tokio_util::sync::CancellationToken;

use self::association::Peer;
use super::{resolver, shared::SharedRef};
use crate::limits::{DATAGRAM, UDP_ASSOCIATIONS, UDP_RELAYS};

/// All UDP relays of a session. Clones share them.
#[derive(Clone)]
pub(super) struct UdpRelays {
    shared: SharedRef,
    relays: Arc<Mutex<Relays>>,
}

#[derive(Default)]
struct Relays {
    by_destination: HashMap<SocketAddr, Relay>,
    associations: usize,
}

impl Relays {
    /// Ends a relay that nobody uses; false: there is none.
    fn drop_idle(&mut self) -> bool {
        let idle = self.by_destination.iter().find(|(_, relay)| relay.sources.is_empty());
        let Some(dst) = idle.map(|(dst, _)| *dst) else { return false };
        self.by_destination.remove(&dst).is_some_and(|relay| {
            relay.end.cancel();
            true
        })
    }
}

/// The socket that stands for one destination.
struct Relay {
    socket: Arc<UdpSocket>,
    port: u16,
    sources: HashMap<SocketAddr, Source>,
    end: CancellationToken,
}

/// A program's socket as the relay sees it.
enum Source {
    /// The association is being opened; the watch tells when.
    Opening(watch::Receiver<Option<Result<(), i32>>>),
    Open(Peer),
}

/// What a datagram's source means to the relay.
enum Found {
    Ready(u16),
    Wait(watch::Receiver<Option<Result<(), i32>>>, u16),
    Open(Opening),
}

/// The right and the duty to open an association.
struct Opening {
    relay: Arc<UdpSocket>,
    port: u16,
    done_tx: watch::Sender<Option<Result<(), i32>>>,
}

impl UdpRelays {
    pub(super) fn new(shared: SharedRef) -> Self {
        Self { shared, relays: Arc::default() }
    }

    /// Port of the relay for datagrams from `src` to `dst`, once the far end is open; else the errno for the program.
    pub(super) async fn admit(&self, src: SocketAddr, dst: SocketAddr) -> Result<u16, i32> {
        let found = self.find(src, dst)?;
        match found {
            Found::Ready(port) => Ok(port),
            Found::Wait(mut done_rx, port) => {
                let done = done_rx.wait_for(Option::is_some).await.map_err(|_| libc::EHOSTUNREACH)?;
                done.unwrap_or(Err(libc::EHOSTUNREACH)).map(|()| port)
            }
            Found::Open(opening) => {
                let port = opening.port;
                self.open(src, dst, opening).await.map(|()| port)
            }
        }
    }

    /// Where the relay for datagrams to `dst` is, for programs whose addresses are rewritten: the far end is opened by the first one.
    pub(super) fn place_for(&self, dst: SocketAddr) -> Result<SocketAddr, i32> {
        let mut relays = self.lock();
        self.make(&mut relays, dst)?;
        let relay = relays.by_destination.get(&dst).ok_or(libc::EHOSTUNREACH)?;
        relay.socket.local_addr().map_err(|_| libc::EHOSTUNREACH)
    }

    /// Sees to it that there is a relay for the destination.
    fn make(&self, relays: &mut Relays, dst: SocketAddr) -> Result<(), i32> {
        if relays.by_destination.contains_key(&dst) {
            return Ok(());
        }
        if relays.by_destination.len() >= UDP_RELAYS && !relays.drop_idle() {
            self.refuse_bound(dst, UDP_RELAYS);
            return Err(libc::EHOSTUNREACH);
        }
        let relay = self.start(dst).map_err(|error| {
            tracing::warn!(%error, %dst, "no relay socket");
            libc::EHOSTUNREACH
        })?;
        relays.by_destination.insert(dst, relay);
        Ok(())
    }

    fn find(&self, src: SocketAddr, dst: SocketAddr) -> Result<Found, i32> {
        let mut relays = self.lock();
        let full = relays.associations >= UDP_ASSOCIATIONS;
        self.make(&mut relays, dst)?;
        let Some(relay) = relays.by_destination.get_mut(&dst) else { return Err(libc::EHOSTUNREACH) };
        let port = relay.port;
        if self.shared.nameservers.is_resolver(dst) {
            return Ok(Found::Ready(port));
        }
        match relay.sources.get(&src) {
            Some(Source::Open(_)) => Ok(Found::Ready(port)),
            Some(Source::Opening(done_rx)) => Ok(Found::Wait(done_rx.clone(), port)),
            None if full => {
                self.refuse_bound(dst, UDP_ASSOCIATIONS);
                Err(libc::EHOSTUNREACH)
            }
            None => {
                let (done_tx, done_rx) = watch::channel(None);
                relay.sources.insert(src, Source::Opening(done_rx));
                let socket = relay.socket.clone();
                relays.associations += 1;
                Ok(Found::Open(Opening { relay: socket, port, done_tx }))
            }
        }
    }

    fn refuse_bound(&self, dst: SocketAddr, bound: usize) {
        self.shared.events.warn(
            format!("a UDP flow to {dst} was refused: {bound} are open"),
            "flows end after a minute without datagrams; start fewer at a time",
        );
    }

    /// Opens the far end and starts the association's task; on failure the source is forgotten.
    async fn open(&self, src: SocketAddr, dst: SocketAddr, opening: Opening) -> Result<(), i32> {
        // Also when this future is dropped half way, nobody shall wait for an association that never comes.
        let entry = Entry { relays: self.clone(), src, dst };
        let (peer, association) = match association::open(&self.shared, src, dst).await {
            Ok(opened) => opened,
            Err(errno) => {
                opening.done_tx.send_replace(Some(Err(errno)));
                return Err(errno);
            }
        };
        if let Some(relay) = self.lock().by_destination.get_mut(&dst) {
            relay.sources.insert(src, Source::Open(peer));
        }
        let (shared, relay) = (self.shared.clone(), opening.relay);
        // Datagrams are not drained at the end: nobody is promised that they arrive.
        self.shared.tasks.intake(async move {
            association.run(&shared, src, dst, &relay).await;
            drop(entry);
        });
        opening.done_tx.send_replace(Some(Ok(())));
        Ok(())
    }

    /// Makes the relay socket of a destination and its reader.
    fn start(&self, dst: SocketAddr) -> io::Result<Relay> {
        let socket = Arc::new(self.shared.netns.udp_relay(dst.ip())?);
        let port = socket.local_addr()?.port();
        let end = CancellationToken::new();
        let (this, reading, reader_end) = (self.clone(), socket.clone(), end.clone());
        self.shared.tasks.intake(async move {
            tokio::select! {
                biased;
                () = reader_end.cancelled() => {}
                () = this.read(dst, &reading) => {}
            }
        });
        Ok(Relay { socket, port, sources: HashMap::new(), end })
    }

    /// Hands what the relay socket gets to the associations.
    async fn read(&self, dst: SocketAddr, socket: &Arc<UdpSocket>) {
        let resolver = self.shared.nameservers.is_resolver(dst);
        let mut buffer = BytesMut::new();
        loop {
            if socket.readable().await.is_err() {
                return;
            }
            buffer.reserve(DATAGRAM);
            let Ok((_, src)) = socket.try_recv_buf_from(&mut buffer) else { continue };
            // Small datagrams are copied: a slice would keep the large buffer alive in the queue.
            let datagram = Bytes::copy_from_slice(&buffer);
            buffer.clear();
            if resolver {
                resolver::answer_datagram(&self.shared, socket, src, dst, datagram);
            } else {
                self.forward(src, dst, datagram);
            }
        }
    }

    fn forward(&self, src: SocketAddr, dst: SocketAddr, datagram: Bytes) {
        let mut relays = self.lock();
        let known = relays.by_destination.get_mut(&dst).and_then(|relay| relay.sources.get(&src));
        if let Some(Source::Open(peer)) = known {
            return peer.send(datagram);
        }
        drop(relays);
        // The association has ended while this datagram was on its way: open another one.
        let this = self.clone();
        self.shared.tasks.intake(async move {
            if this.admit(src, dst).await.is_ok()
                && let Some(Source::Open(peer)) =
                    this.lock().by_destination.get(&dst).and_then(|relay| relay.sources.get(&src))
            {
                peer.send(datagram);
            }
        });
    }

    /// An association has ended. Its flow goes first and the port last: a port must not be used again while a flow leads to it.
    fn remove(&self, src: SocketAddr, dst: SocketAddr) {
        self.shared.netns.forget(&Flow { transport: Transport::Udp, src, dst });
        let mut relays = self.lock();
        let Some(relay) = relays.by_destination.get_mut(&dst) else { return };
        let removed = relay.sources.remove(&src).is_some();
        // A program whose addresses are rewritten may send to the relay again at any time.
        let idle = relay.sources.is_empty() && self.shared.netns.rewrite().is_none();
        relays.associations -= usize::from(removed);
        if idle && let Some(relay) = relays.by_destination.remove(&dst) {
            relay.end.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Relays> {
        self.relays.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the table; dropping it gives it back.
struct Entry {
    relays: UdpRelays,
    src: SocketAddr,
    dst: SocketAddr,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.relays.remove(self.src, self.dst);
    }
}

/// Tells the program's socket that nobody listens at `dst`, as its own kernel would on an ICMP error.
fn refuse(shared: &SharedRef, src: SocketAddr, dst: SocketAddr) {
    let tell = || -> io::Result<()> {
        let socket = shared.netns.icmp(dst.ip())?;
        let message = icmp::port_unreachable(src, dst);
        rustix::net::sendto(
            &socket,
            &message,
            rustix::net::SendFlags::empty(),
            &SocketAddr::new(src.ip(), 0),
        )?;
        Ok(())
    };
    if let Err(error) = tell() {
        tracing::debug!(%error, %dst, "a refused datagram could not be told to the program");
    }
}

/// When the last datagram passed.
#[derive(Debug)]
struct LastUse(Mutex<Instant>);

impl LastUse {
    fn now() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    fn touch(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn since(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
