//! Where stolen connections meet the Accept calls that the client keeps parked for them, and how many are open.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use mirrord_protocol::agent::v1::{self as wire, accept_down, accept_up};
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::pass;
use crate::{
    address,
    limits::{FIRST_MESSAGE, PARK_WAIT, PARKED},
    network::TargetNetwork,
    relay::{self, DownSender, Socket},
};

/// One parked call; it takes one connection.
type Slot = oneshot::Sender<Stolen>;

/// Shared by the listener, the parked calls and the owner of the subscriptions. Clones mean the same.
#[derive(Clone, Debug)]
pub(crate) struct Parking(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Accept call --slot--> listener; full: the call is refused
    slots_tx: mpsc::Sender<Slot>,
    slots_rx: tokio::sync::Mutex<mpsc::Receiver<Slot>>,
    /// A client with subscriptions is there. Without one nothing waits. owner --whether--> waiting connections
    has_client: watch::Sender<bool>,
    open: Mutex<BTreeMap<u16, Open>>,
    last_id: AtomicU64,
    ending: CancellationToken,
}

/// Connections of one port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Open {
    /// Open ones, those that were passed on included.
    pub(crate) open: u64,
    /// All that were passed on to the target because nobody took them.
    pub(crate) passed: u64,
}

/// A stolen connection before its first byte.
#[derive(Debug)]
pub(crate) struct Stolen {
    pub(crate) socket: TcpStream,
    pub(crate) client: SocketAddr,
    /// Where the client wanted to.
    pub(crate) server: SocketAddr,
    pub(crate) counted: Counted,
    id: u64,
}

impl Stolen {
    pub(crate) fn new(parking: &Parking, socket: TcpStream, client: SocketAddr, server: SocketAddr) -> Self {
        let id = parking.0.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        Self { socket, client, server, counted: parking.count(server.port()), id }
    }
}

/// Counts a connection as open while it lives.
#[derive(Debug)]
pub(crate) struct Counted {
    parking: Parking,
    port: u16,
}

impl Counted {
    /// It goes to the target after all.
    pub(crate) fn passed(&self) {
        self.parking.opened().entry(self.port).or_default().passed += 1;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(counts) = self.parking.opened().get_mut(&self.port) {
            counts.open = counts.open.saturating_sub(1);
        }
    }
}

impl Parking {
    pub(crate) fn new(ending: CancellationToken) -> Self {
        let (slots_tx, slots_rx) = mpsc::channel(PARKED);
        Self(Arc::new(Inner {
            slots_tx,
            slots_rx: tokio::sync::Mutex::new(slots_rx),
            has_client: watch::Sender::new(false),
            open: Mutex::default(),
            last_id: AtomicU64::new(0),
            ending,
        }))
    }

    /// Says whether a client with subscriptions is there.
    pub(crate) fn set_client(&self, there: bool) {
        self.0.has_client.send_replace(there);
    }

    pub(crate) fn ending(&self) -> &CancellationToken {
        &self.0.ending
    }

    /// Connections that need the rules to stay.
    pub(crate) fn open(&self) -> u64 {
        self.opened().values().map(|counts| counts.open).sum()
    }

    /// The same by port.
    pub(crate) fn by_port(&self) -> BTreeMap<u16, Open> {
        self.opened().clone()
    }

    /// Gives the connection to the first parked call that is still there. Gives it back when none comes in time.
    pub(crate) async fn place(&self, stolen: Stolen) -> Result<(), Stolen> {
        let mut has_client = self.0.has_client.subscribe();
        let mut waiting = Some(stolen);
        let place = timeout(PARK_WAIT, async {
            while waiting.is_some() {
                // Connections wait for the lock in the order of their arrival. A call that has gone away refuses.
                let slot = self.0.slots_rx.lock().await.recv().await;
                if let (Some(slot), Some(stolen)) = (slot, waiting.take()) {
                    waiting = slot.send(stolen).err();
                }
            }
        });
        // Too late, or the client has left: the connection is still in `waiting`, as nothing waits between taking it out and giving
        // it away.
        tokio::select! {
            biased;
            _ = has_client.wait_for(|there| !there) => {}
            _ = place => {}
        }
        waiting.map_or(Ok(()), Err)
    }

    fn count(&self, port: u16) -> Counted {
        self.opened().entry(port).or_default().open += 1;
        Counted { parking: self.clone(), port }
    }

    fn opened(&self) -> MutexGuard<'_, BTreeMap<u16, Open>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves one Accept call: parks it, and then relays the connection that took it.
pub(crate) async fn serve(
    parking: Parking,
    network: TargetNetwork,
    mut up: Streaming<wire::AcceptUp>,
    down_tx: DownSender<wire::AcceptDown>,
) {
    if let Err(status) = wait_for_park(&mut up).await {
        // The client may be gone; then nobody waits for the status.
        drop(down_tx.send(Err(status)).await);
        return;
    }
    let (slot, mut stolen_rx) = oneshot::channel();
    if parking.0.slots_tx.try_send(slot).is_err() {
        let status = Status::resource_exhausted(format!("{PARKED} calls are parked already"));
        drop(down_tx.send(Err(status)).await);
        return;
    }
    // A connection that is there comes first: it must not get lost when the client leaves at the same moment.
    let stolen = tokio::select! {
        biased;
        stolen = &mut stolen_rx => stolen.ok(),
        () = down_tx.closed() => {
            stolen_rx.close();
            stolen_rx.try_recv().ok()
        }
    };
    let Some(stolen) = stolen else { return };
    let announced = wire::AcceptDown { kind: Some(accept_down::Kind::Connection(announce(&stolen))) };
    if down_tx.send(Ok(announced)).await.is_ok() {
        let Stolen { socket, counted, .. } = stolen;
        relay::run(Socket::Tcp(socket), up, down_tx).await;
        drop(counted);
    } else if let Err(stolen) = parking.place(stolen).await {
        pass::to_target(&network, stolen).await;
    }
}

async fn wait_for_park(up: &mut Streaming<wire::AcceptUp>) -> Result<(), Status> {
    let first = timeout(FIRST_MESSAGE, up.message()).await;
    match first.map_err(|_| Status::deadline_exceeded("no first message"))?? {
        Some(wire::AcceptUp { kind: Some(accept_up::Kind::Park(_)) }) => Ok(()),
        _ => Err(Status::invalid_argument("the first message of an Accept call parks it")),
    }
}

fn announce(stolen: &Stolen) -> wire::StolenConnection {
    wire::StolenConnection {
        id: stolen.id,
        port: stolen.server.port().into(),
        client: Some(address::to_wire(stolen.client)),
        server: Some(address::to_wire(stolen.server)),
    }
}
