//! Copies of the target's connections: client bytes go to the local process in order, its answers are thrown away, and both
//! directions with their capture times go to the tap.
//!
//! ```text
//! agent --batches--> reader --bounded, never waits--> delivery (one task per connection) --> local process
//!                       └--> tap
//! ```
//! A gap, or a local process that does not keep up, ends the delivery of that connection; the tap reads on.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use mirrord_protocol::{agent::v1 as agent, session::v1 as wire};
use tokio::{net::TcpStream, sync::mpsc, time::sleep};

use super::{
    connection_log::{ConnectionLog, Totals},
    delivery,
    incoming::{Incoming, next_pause},
    owners::Owner,
    relay,
    tap::{Tap, TapContext},
};
use crate::{
    agent_link::{LinkError, socket_address},
    limits::{AGENT_RETRY_MIN, MIRROR_BYTES, MIRROR_CONNECTIONS, MIRROR_ITEMS, RELAY_CHUNK_MIN},
};

/// Takes the mirror stream.
pub(super) struct Mirror {
    incoming: Incoming,
    connections: HashMap<u64, Mirrored>,
}

/// One mirrored connection.
struct Mirrored {
    port: u16,
    log: ConnectionLog,
    tap: Option<Box<dyn Tap>>,
    /// `None`: nothing is delivered (any more).
    delivery: Option<Delivery>,
    client_closed: bool,
    server_closed: bool,
    totals: Totals,
}

/// The way to the task that writes to the local process. reader --items--> delivery
struct Delivery {
    items_tx: mpsc::Sender<Item>,
    /// Bytes that are queued, at most [`MIRROR_BYTES`].
    queued: Arc<AtomicUsize>,
}

enum Item {
    Data(Bytes),
    /// The client closed its half.
    Shutdown,
    /// The connection is gone.
    Reset,
}

impl Mirror {
    pub(super) fn new(incoming: Incoming) -> Self {
        Self { incoming, connections: HashMap::new() }
    }

    /// Reads the stream until the session ends; opens it anew when it breaks.
    pub(super) async fn run(mut self) {
        let mut pause = AGENT_RETRY_MIN;
        loop {
            match self.incoming.source.agent.clone().mirror().await {
                Ok(mut batches) => {
                    pause = AGENT_RETRY_MIN;
                    while let Ok(Some(batch)) = batches.message().await {
                        for item in batch.items {
                            self.item(item);
                        }
                    }
                    for (_, mirrored) in self.connections.drain() {
                        mirrored.finish(
                            super::tap::now_ns(),
                            true,
                            Some("the mirror stream broke".to_owned()),
                        );
                    }
                }
                Err(LinkError::Closed) => return,
                Err(error) => tracing::debug!(%error, "the mirror stream cannot be opened"),
            }
            sleep(pause).await;
            pause = next_pause(pause);
        }
    }

    fn item(&mut self, item: agent::MirrorItem) {
        use agent::mirror_item::Kind;
        let (id, time_ns) = (item.connection, item.time_ns);
        match item.kind {
            Some(Kind::Opened(opened)) => self.opened(id, &opened),
            Some(Kind::FromClient(bytes)) => self.with(id, |mirrored| mirrored.client_bytes(time_ns, bytes)),
            Some(Kind::FromServer(bytes)) => self.with(id, |mirrored| mirrored.server_bytes(time_ns, &bytes)),
            Some(Kind::Gap(gap)) => {
                let warning = self.connections.get_mut(&id).and_then(|mirrored| mirrored.gap(time_ns, &gap));
                self.warn(warning);
            }
            Some(Kind::Closed(closed)) => self.closed(id, time_ns, &closed),
            None => {}
        }
    }

    fn opened(&mut self, id: u64, opened: &agent::MirrorOpened) {
        let port = u16::try_from(opened.port).ok();
        let client = opened.client.as_ref().and_then(socket_address);
        let server = opened.server.as_ref().and_then(socket_address);
        let (Some(port), Some(client), Some(server)) = (port, client, server) else {
            return tracing::warn!(id, "a mirrored connection has no addresses");
        };
        if self.connections.len() >= MIRROR_CONNECTIONS {
            return self.warn(Some(format!(
                "a mirrored connection from {client} was left out: {MIRROR_CONNECTIONS} are open"
            )));
        }
        let shared = &self.incoming.shared;
        let connection = shared.connection_id();
        let log = self.incoming.log(connection, wire::Mode::Mirror, port, client, server);
        let tap = (shared.tap)(TapContext {
            direction: wire::Direction::Incoming,
            mode: wire::Mode::Mirror,
            port,
            peer: client,
            connection,
            owner: Owner::default(),
            pod: self.incoming.source.pod.clone(),
            mid_stream: opened.mid_stream,
        });
        // Half a connection makes no sense to the local process.
        let delivery = (!opened.mid_stream).then(|| self.deliver(port, client, server));
        let mirrored = Mirrored {
            port,
            log,
            tap,
            delivery,
            client_closed: false,
            server_closed: false,
            totals: Totals::default(),
        };
        if let Some(old) = self.connections.insert(id, mirrored) {
            old.finish(super::tap::now_ns(), true, None);
        }
    }

    /// Starts the task that writes to the local process.
    fn deliver(&self, port: u16, client: SocketAddr, server: SocketAddr) -> Delivery {
        let (items_tx, items_rx) = mpsc::channel(MIRROR_ITEMS);
        let queued = Arc::new(AtomicUsize::new(0));
        let (incoming, counter) = (self.incoming.clone(), queued.clone());
        self.incoming.shared.tasks.open(async move {
            let local = incoming.local_port(port);
            match delivery::connect(&incoming.shared.netns, client, server.ip(), local).await {
                Ok(socket) => {
                    incoming.count(port, true).await;
                    let end = write(socket, items_rx, &counter).await;
                    tracing::debug!(port, ?end, "a mirrored connection is delivered");
                }
                Err(error) => {
                    // Nobody listens: the pod's own answers still make the events whole.
                    tracing::debug!(%error, port, local, "a mirrored connection is not delivered");
                    incoming.count(port, false).await;
                }
            }
        });
        Delivery { items_tx, queued }
    }

    fn closed(&mut self, id: u64, time_ns: u64, closed: &agent::MirrorClosed) {
        let Some(mirrored) = self.connections.get_mut(&id) else { return };
        if !closed.reset {
            if closed.from_server {
                mirrored.server_closed = true;
            } else {
                mirrored.client_closed = true;
                mirrored.queue(Item::Shutdown);
            }
        }
        if (closed.reset || (mirrored.client_closed && mirrored.server_closed))
            && let Some(mirrored) = self.connections.remove(&id)
        {
            mirrored.finish(time_ns, closed.reset, None);
        }
    }

    fn with(&mut self, id: u64, change: impl FnOnce(&mut Mirrored) -> Option<String>) {
        let warning = self.connections.get_mut(&id).and_then(change);
        self.warn(warning);
    }

    fn warn(&self, text: Option<String>) {
        if let Some(text) = text {
            let hint = "the request events go on; only the local process misses the rest";
            self.incoming.events().warn(text, hint);
        }
    }
}

impl Mirrored {
    /// A warning when the delivery ends here.
    fn client_bytes(&mut self, time_ns: u64, bytes: Bytes) -> Option<String> {
        self.totals.bytes_in += bytes.len() as u64;
        if let Some(tap) = &mut self.tap {
            tap.client(time_ns, &bytes);
        }
        let length = bytes.len();
        if self.delivery.is_none() || self.queue(Item::Data(bytes)) {
            return None;
        }
        self.lost(length as u64);
        Some(format!(
            "delivery of a mirrored connection of port {} ended: the local process does not read, {length} bytes did not fit",
            self.port
        ))
    }

    fn server_bytes(&mut self, time_ns: u64, bytes: &[u8]) -> Option<String> {
        self.totals.bytes_out += bytes.len() as u64;
        if let Some(tap) = &mut self.tap {
            tap.server(time_ns, bytes);
        }
        None
    }

    fn gap(&mut self, time_ns: u64, gap: &agent::MirrorGap) -> Option<String> {
        if let Some(tap) = &mut self.tap {
            tap.gap(time_ns, gap.from_server, (!gap.unknown_length).then_some(gap.bytes));
        }
        self.lost(gap.bytes);
        if gap.from_server || self.delivery.take().is_none() {
            return None;
        }
        let size = if gap.unknown_length { "an unknown number of".to_owned() } else { gap.bytes.to_string() };
        Some(format!(
            "delivery of a mirrored connection of port {} ended: the capture lost {size} bytes",
            self.port
        ))
    }

    fn lost(&mut self, bytes: u64) {
        self.totals.gaps += 1;
        self.totals.gap_bytes += bytes;
    }

    /// Queues without waiting; false: no room, and the delivery has ended.
    fn queue(&mut self, item: Item) -> bool {
        let Some(delivery) = &self.delivery else { return true };
        let bytes = if let Item::Data(bytes) = &item { bytes.len() } else { 0 };
        let full = delivery.queued.fetch_add(bytes, Ordering::Relaxed) + bytes > MIRROR_BYTES;
        let fits = match delivery.items_tx.try_send(item) {
            Ok(()) => !full,
            // The local process has closed its connection: nothing is lost that it wanted.
            Err(mpsc::error::TrySendError::Closed(_)) => {
                self.delivery = None;
                return true;
            }
            Err(mpsc::error::TrySendError::Full(_)) => false,
        };
        if !fits {
            self.delivery = None;
        }
        fits
    }

    fn finish(mut self, time_ns: u64, reset: bool, error: Option<String>) {
        if reset {
            self.queue(Item::Reset);
        }
        if let Some(tap) = &mut self.tap {
            tap.closed(time_ns, reset);
        }
        self.log.closed(Totals { reset, ..self.totals }, error);
    }
}

/// Writes the client's bytes and throws the answers away, until the queue or the socket ends.
async fn write(
    socket: TcpStream,
    mut items_rx: mpsc::Receiver<Item>,
    queued: &AtomicUsize,
) -> io::Result<()> {
    let writing = async {
        while let Some(item) = items_rx.recv().await {
            match item {
                Item::Data(bytes) => {
                    queued.fetch_sub(bytes.len(), Ordering::Relaxed);
                    relay::write_all(&socket, &bytes).await?;
                }
                Item::Shutdown => {
                    relay::shut_down_writing(&socket);
                    return Ok(());
                }
                Item::Reset => return Err(io::Error::from(io::ErrorKind::ConnectionReset)),
            }
        }
        // Ended by a gap: the process must not take the piece for the whole.
        Err(io::Error::from(io::ErrorKind::UnexpectedEof))
    };
    let reading = async {
        let mut buffer = BytesMut::with_capacity(RELAY_CHUNK_MIN);
        loop {
            socket.readable().await?;
            buffer.clear();
            match socket.try_read_buf(&mut buffer) {
                Ok(0) => return Ok::<(), io::Error>(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    };
    let end = tokio::try_join!(writing, reading).map(|((), ())| ());
    if end.is_err() {
        relay::reset(socket);
    }
    end
}
