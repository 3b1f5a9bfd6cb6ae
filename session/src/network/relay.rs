//! Moves the bytes of one connection between a socket and the agent, or between two sockets, exactly as TCP would: half-close,
//! reset in both directions, and a peer that does not read stops only its own stream.
//!
//! ```text
//! socket --read--> Bytes --permit--> gRPC stream        memory: STREAM_MESSAGES chunks and one HTTP/2 window per direction
//! socket <--write-- Bytes <-- gRPC stream
//! ```

use std::{
    io,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use mirrord_netns::sockopt;
use rustix::net::Shutdown;
use scopeguard::ScopeGuard;
use tokio::{io::Interest, net::TcpStream, time::timeout};

use super::tap::{Tap, now_ns};
use crate::{
    agent_link::{AgentReceiver, AgentSender, Carrier, Chunk},
    limits::{RELAY_CHUNK, RELAY_CHUNK_MIN, RELAY_END},
};

/// Which end of the connection a relay's socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The socket is the client's; the other end is the server.
    Client,
    /// The socket is the server's.
    Server,
}

impl Side {
    const fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// Counts a connection's bytes and shows them to its tap.
pub(super) struct Observer {
    tap: Option<Mutex<Box<dyn Tap>>>,
    from_client: AtomicU64,
    from_server: AtomicU64,
}

impl Observer {
    pub(super) fn new(tap: Option<Box<dyn Tap>>) -> Self {
        Self { tap: tap.map(Mutex::new), from_client: AtomicU64::new(0), from_server: AtomicU64::new(0) }
    }

    /// The bytes that the client, and those that the server has sent.
    pub(super) fn bytes(&self) -> (u64, u64) {
        (self.from_client.load(Ordering::Relaxed), self.from_server.load(Ordering::Relaxed))
    }

    fn passed(&self, from: Side, bytes: &[u8]) {
        let counter = match from {
            Side::Client => &self.from_client,
            Side::Server => &self.from_server,
        };
        counter.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if let Some(tap) = &self.tap {
            let mut tap = tap.lock().unwrap_or_else(PoisonError::into_inner);
            match from {
                Side::Client => tap.client(now_ns(), bytes),
                Side::Server => tap.server(now_ns(), bytes),
            }
        }
    }

    fn closed(&self, reset: bool) {
        if let Some(tap) = &self.tap {
            tap.lock().unwrap_or_else(PoisonError::into_inner).closed(now_ns(), reset);
        }
    }
}

/// How a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// Both directions were closed in order.
    Closed,
    /// Reset by one of the ends, or the link broke; in words when it was not the socket.
    Reset(Option<String>),
}

/// Which end broke a connection.
enum Broken {
    Socket,
    Agent(Option<String>),
}

/// Relays between a socket and the other end, however its bytes travel, until both directions have ended.
pub(super) async fn run(socket: TcpStream, other: Carrier, socket_is: Side, observer: &Observer) -> End {
    match other {
        Carrier::Chunks(tx, rx) => with_agent(socket, tx, rx, socket_is, observer).await,
        Carrier::Socket(other, call) => {
            let end = with_socket(socket, other, socket_is, observer).await;
            drop(call);
            end
        }
    }
}

/// Relays between a socket and the agent until both directions have ended.
pub(super) async fn with_agent(
    socket: TcpStream,
    tx: AgentSender,
    mut rx: AgentReceiver,
    socket_is: Side,
    observer: &Observer,
) -> End {
    let up = socket_to_agent(&socket, &tx, socket_is, observer);
    let down = agent_to_socket(&mut rx, &socket, socket_is, observer);
    let end = match tokio::try_join!(up, down) {
        Ok(((), ())) => {
            drop(tx);
            End::Closed
        }
        Err(Broken::Socket) => {
            // A full queue empties or the deadline passes; the agent then sees the stream cancelled, which it takes for a reset.
            let told = timeout(RELAY_END, tx.send(Chunk::Reset)).await;
            tracing::trace!(told = told.is_ok(), "the socket reset its connection");
            drop(tx);
            End::Reset(None)
        }
        Err(Broken::Agent(why)) => {
            reset(socket);
            observer.closed(true);
            return End::Reset(why);
        }
    };
    // The agent ends the stream when it has our last message; leaving before would cancel it and lose that message.
    let drained = timeout(RELAY_END, async { while let Ok(Some(_)) = rx.recv().await {} }).await;
    tracing::trace!(drained = drained.is_ok(), "the stream has ended");
    observer.closed(matches!(end, End::Reset(_)));
    end
}

/// Relays between two sockets; `first_is` says which end of the connection the first one is. The second one is reset when the
/// session ends before the connection does: its end must not take what came for all there was.
pub(super) async fn with_socket(
    first: TcpStream,
    second: TcpStream,
    first_is: Side,
    observer: &Observer,
) -> End {
    let second = scopeguard::guard(second, reset);
    let there = socket_to_socket(&first, &second, first_is, observer);
    let back = socket_to_socket(&second, &first, first_is.other(), observer);
    let end = match tokio::try_join!(there, back) {
        Ok(((), ())) => {
            drop(ScopeGuard::into_inner(second));
            End::Closed
        }
        Err(_) => {
            reset(first);
            drop(second);
            End::Reset(None)
        }
    };
    observer.closed(matches!(end, End::Reset(_)));
    end
}

/// Closes with RST, as the other end did.
pub(super) fn reset(socket: TcpStream) {
    if let Err(error) = sockopt::reset_on_close(&socket) {
        tracing::debug!(%error, "a connection is closed instead of reset");
    }
    drop(socket);
}

async fn socket_to_agent(
    socket: &TcpStream,
    tx: &AgentSender,
    from: Side,
    observer: &Observer,
) -> Result<(), Broken> {
    let mut reader = Reader::default();
    loop {
        // Room first: what is not read stays in the socket and slows its sender.
        let permit = tx.reserve().await.map_err(|_| Broken::Agent(None))?;
        let bytes = reader.read(socket).await.map_err(|_| Broken::Socket)?;
        if bytes.is_empty() {
            permit.send(Chunk::Shutdown);
            return Ok(());
        }
        observer.passed(from, &bytes);
        permit.send(Chunk::Data(bytes));
    }
}

async fn agent_to_socket(
    rx: &mut AgentReceiver,
    socket: &TcpStream,
    socket_is: Side,
    observer: &Observer,
) -> Result<(), Broken> {
    loop {
        match rx.recv().await {
            Ok(Some(Chunk::Data(bytes))) => {
                observer.passed(socket_is.other(), &bytes);
                write_all(socket, &bytes).await.map_err(|_| Broken::Socket)?;
            }
            Ok(Some(Chunk::Shutdown)) => {
                shut_down_writing(socket);
                return Ok(());
            }
            Ok(Some(Chunk::Reset) | None) => return Err(Broken::Agent(None)),
            Err(error) => return Err(Broken::Agent(Some(error.to_string()))),
        }
    }
}

async fn socket_to_socket(
    from: &TcpStream,
    to: &TcpStream,
    from_is: Side,
    observer: &Observer,
) -> Result<(), Broken> {
    let mut reader = Reader::default();
    loop {
        let bytes = reader.read(from).await.map_err(|_| Broken::Socket)?;
        if bytes.is_empty() {
            shut_down_writing(to);
            return Ok(());
        }
        observer.passed(from_is, &bytes);
        write_all(to, &bytes).await.map_err(|_| Broken::Socket)?;
    }
}

/// Reads into a buffer that grows with the stream and is not held while the stream is idle.
struct Reader {
    buffer: BytesMut,
    size: usize,
}

impl Default for Reader {
    fn default() -> Self {
        Self { buffer: BytesMut::new(), size: RELAY_CHUNK_MIN }
    }
}

impl Reader {
    /// What has arrived, at most [`RELAY_CHUNK`]; empty at the end of the stream.
    async fn read(&mut self, socket: &TcpStream) -> io::Result<Bytes> {
        loop {
            socket.readable().await?;
            self.buffer.reserve(self.size);
            match self.take(socket) {
                Ok(count) => {
                    if count >= self.size {
                        self.size = (self.size * 4).min(RELAY_CHUNK);
                    }
                    return Ok(self.buffer.split().freeze());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.buffer = BytesMut::new();
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Reader {
    /// One read. When it took all there was the socket counts as not readable from before the read on, so that the next one waits
    /// for new bytes instead of asking for what cannot be there.
    fn take(&mut self, socket: &TcpStream) -> io::Result<usize> {
        let room = self.buffer.capacity() - self.buffer.len();
        let mut taken = None;
        let read = socket.try_io(Interest::READABLE, || {
            let count = socket.try_read_buf(&mut self.buffer)?;
            taken = Some(count);
            if count == 0 || count == room { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
        });
        taken.map_or_else(|| read.map(|()| 0), Ok)
    }
}

pub(super) async fn write_all(socket: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match socket.try_write(bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

pub(super) fn shut_down_writing(socket: &TcpStream) {
    // Fails only when the connection is gone; reading then says so.
    if let Err(error) = rustix::net::shutdown(socket, Shutdown::Write) {
        tracing::trace!(%error, "the connection was gone before its half was closed");
    }
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observer").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}
