//! One byte stream between a socket of the target's network and one gRPC call: bytes both ways, half-close and reset.
//!
//! Dialled and stolen connections use the same code; they differ in the names of their messages only ([`Up`], [`Down`]).
//! Nothing is queued beyond [`crate::limits::RELAY_QUEUE`] chunks: a slow side slows the other through TCP and HTTP/2 flow control.

use std::{io, net::Shutdown, pin::pin};

use bytes::{Bytes, BytesMut};
use mirrord_protocol::agent::v1 as wire;
use socket2::SockRef;
use tokio::{
    net::{TcpStream, UnixStream},
    sync::mpsc,
    time::timeout,
};
use tonic::{Status, Streaming};

use crate::limits::{CHUNK_MAX, CHUNK_MIN, DRAIN, LAST_WORD};

/// A piece of a connection's life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Chunk {
    Data(Bytes),
    /// No more bytes follow in this direction.
    Shutdown,
    /// The connection is gone.
    Reset,
}

/// A message from the client that may carry a chunk.
pub(crate) trait Up {
    /// `None` for the messages that open a call, and for kinds of later versions.
    fn chunk(self) -> Option<Chunk>;
}

/// A message to the client that can carry a chunk.
pub(crate) trait Down: Send {
    fn from_chunk(chunk: Chunk) -> Self;
}

macro_rules! carries_chunks {
    ($up:ident $up_kind:ident, $down:ident $down_kind:ident) => {
        impl Up for wire::$up {
            fn chunk(self) -> Option<Chunk> {
                use wire::$up_kind::Kind;
                match self.kind? {
                    Kind::Data(data) => Some(Chunk::Data(data)),
                    Kind::Shutdown(_) => Some(Chunk::Shutdown),
                    Kind::Reset(_) => Some(Chunk::Reset),
                    _ => None,
                }
            }
        }

        impl Down for wire::$down {
            fn from_chunk(chunk: Chunk) -> Self {
                use wire::$down_kind::Kind;
                let kind = match chunk {
                    Chunk::Data(data) => Kind::Data(data),
                    Chunk::Shutdown => Kind::Shutdown(wire::Shutdown {}),
                    Chunk::Reset => Kind::Reset(wire::Reset {}),
                };
                Self { kind: Some(kind) }
            }
        }
    };
}
carries_chunks!(DialUp dial_up, DialDown dial_down);
carries_chunks!(AcceptUp accept_up, AcceptDown accept_down);

/// Where the messages of one call to the client go. relay --messages--> HTTP/2; full: the relay waits
pub(crate) type DownSender<D> = mpsc::Sender<Result<D, Status>>;

/// A connected stream socket.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.readable().await,
            Self::Unix(socket) => socket.readable().await,
        }
    }

    fn try_read(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_read_buf(buffer),
            Self::Unix(socket) => socket.try_read_buf(buffer),
        }
    }

    async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.writable().await,
            Self::Unix(socket) => socket.writable().await,
        }
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_write(bytes),
            Self::Unix(socket) => socket.try_write(bytes),
        }
    }

    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.try_write(bytes) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn as_ref(&self) -> SockRef<'_> {
        match self {
            Self::Tcp(socket) => SockRef::from(socket),
            Self::Unix(socket) => SockRef::from(socket),
        }
    }

    /// Ends our half. The peer may have reset the connection already, then there is nothing to end.
    fn shutdown_write(&self) {
        if let Err(error) = self.as_ref().shutdown(Shutdown::Write) {
            tracing::debug!(%error, "half-close failed");
        }
    }

    /// Closes with RST where the socket knows that.
    pub(crate) fn reset(self) {
        if let Self::Tcp(socket) = &self
            && let Err(error) = mirrord_netns::sockopt::reset_on_close(socket)
        {
            tracing::debug!(%error, "a connection is closed instead of reset");
        }
        drop(self);
    }
}

/// Why one direction ended before its time.
enum Broken {
    /// The peer's socket is gone; the client has been or must be told.
    Peer { told: bool },
    /// The client, or its wish to go on, is gone.
    Client,
}

/// Moves bytes until both directions have ended or one side is gone. A connection that breaks is reset towards both sides.
pub(crate) async fn run<U: Up, D: Down>(socket: Socket, mut up: Streaming<U>, down_tx: DownSender<D>) {
    let mut up_ended = false;
    let broken = both_ways(&socket, &mut up, &mut up_ended, &down_tx).await.err();
    match broken {
        None => {}
        // Everything that the client wanted to say has been handed to the kernel, which delivers it.
        Some(Broken::Client) if up_ended => {}
        Some(Broken::Client) => socket.reset(),
        Some(Broken::Peer { told }) => {
            socket.reset();
            if !told {
                let last_word = down_tx.send(Ok(D::from_chunk(Chunk::Reset)));
                // A client that reads nothing any more learns it from the end of the call.
                drop(timeout(LAST_WORD, last_word).await);
            }
        }
    }
}

/// Waits until the client has no more use for a call whose socket it holds itself.
pub(crate) async fn until_ended<U>(mut up: Streaming<U>) {
    while let Ok(Some(_)) = up.message().await {}
}

async fn both_ways<U: Up, D: Down>(
    socket: &Socket,
    up: &mut Streaming<U>,
    up_ended: &mut bool,
    down_tx: &DownSender<D>,
) -> Result<(), Broken> {
    let mut to_peer = pin!(to_peer(socket, up, up_ended));
    let mut to_client = pin!(to_client(socket, down_tx));
    // What the client has said comes before what it is told.
    tokio::select! {
        biased;
        said = &mut to_peer => {
            said?;
            to_client.await
        }
        told = &mut to_client => match told {
            Ok(()) => to_peer.await,
            // A client may leave as soon as it has said everything, and what it said is still on its way.
            Err(Broken::Client) => timeout(DRAIN, to_peer).await.unwrap_or(Err(Broken::Client)),
            broken => broken,
        },
    }
}

async fn to_client<D: Down>(socket: &Socket, down_tx: &DownSender<D>) -> Result<(), Broken> {
    let mut size = CHUNK_MIN;
    loop {
        let permit = down_tx.reserve().await.map_err(|_| Broken::Client)?;
        let (read, buffer) = loop {
            // A client that went away outranks bytes that nobody wants.
            let readable = tokio::select! {
                biased;
                () = down_tx.closed() => return Err(Broken::Client),
                readable = socket.readable() => readable,
            };
            // Only now, and not kept when there is nothing to read after all: thousands of connections wait here.
            let mut buffer = BytesMut::with_capacity(size);
            match readable.and_then(|()| socket.try_read(&mut buffer)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => break (read, buffer),
            }
        };
        match read {
            Ok(0) => {
                permit.send(Ok(D::from_chunk(Chunk::Shutdown)));
                return Ok(());
            }
            Ok(read) => {
                size = next_size(size, read);
                permit.send(Ok(D::from_chunk(Chunk::Data(buffer.freeze()))));
            }
            Err(_) => {
                permit.send(Ok(D::from_chunk(Chunk::Reset)));
                return Err(Broken::Peer { told: true });
            }
        }
    }
}

/// Grows while reads fill the buffer, shrinks when they use a small part of it: idle connections cost little memory.
fn next_size(size: usize, read: usize) -> usize {
    if read >= size {
        (size * 2).min(CHUNK_MAX)
    } else if read < size / 4 {
        (size / 2).max(CHUNK_MIN)
    } else {
        size
    }
}

async fn to_peer<U: Up>(socket: &Socket, up: &mut Streaming<U>, ended: &mut bool) -> Result<(), Broken> {
    loop {
        match up.message().await {
            Ok(Some(message)) => match message.chunk() {
                Some(Chunk::Data(data)) => {
                    socket.write_all(&data).await.map_err(|_| Broken::Peer { told: false })?;
                }
                Some(Chunk::Shutdown) => break,
                Some(Chunk::Reset) => return Err(Broken::Client),
                None => {}
            },
            // An end without a word is a client that broke.
            Ok(None) | Err(_) => return Err(Broken::Client),
        }
    }
    socket.shutdown_write();
    *ended = true;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_follow_the_traffic() {
        let mut size = CHUNK_MIN;
        for _ in 0..10 {
            size = next_size(size, size);
        }
        assert_eq!(size, CHUNK_MAX);
        for _ in 0..10 {
            size = next_size(size, 1);
        }
        assert_eq!(size, CHUNK_MIN);
        assert_eq!(next_size(CHUNK_MAX, CHUNK_MAX / 2), CHUNK_MAX);
    }

    #[tokio::test]
    async fn large_writes_go_out_whole() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let socket = Socket::Unix(ours);
        let content = vec![7; 3 << 20];
        let reader = async {
            use tokio::io::AsyncReadExt;
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).await.unwrap();
            all
        };
        let writer = async {
            socket.write_all(&content).await.unwrap();
            socket.shutdown_write();
        };
        let (all, ()) = tokio::join!(reader, writer);
        assert!(all == content);
    }
}
