//! The client of a stolen connection, played by the test.

use bytes::Bytes;
use mirrord_protocol::agent::v1 as wire;

use super::service::Parked;
use crate::agent_link::Chunk;

/// What the client of a stolen connection sees and can do.
#[derive(Debug)]
pub struct StolenClient {
    parked: Parked,
}

/// Hands the connection to the host.
pub(super) async fn begin(parked: Parked, connection: wire::StolenConnection) -> Option<StolenClient> {
    let kind = Some(wire::accept_down::Kind::Connection(connection));
    parked.down_tx.send(Ok(wire::AcceptDown { kind })).await.ok()?;
    Some(StolenClient { parked })
}

impl StolenClient {
    /// The client sends bytes. False: the connection is gone.
    pub async fn send(&self, bytes: impl Into<Bytes>) -> bool {
        self.down(wire::accept_down::Kind::Data(bytes.into())).await
    }

    /// The client closes its half.
    pub async fn shut_down(&self) -> bool {
        self.down(wire::accept_down::Kind::Shutdown(wire::Shutdown {})).await
    }

    /// The client resets.
    pub async fn reset(&self) -> bool {
        self.down(wire::accept_down::Kind::Reset(wire::Reset {})).await
    }

    /// What the local process sent; `None` when the host has ended the stream.
    pub async fn recv(&mut self) -> Option<Chunk> {
        loop {
            let message = self.parked.up.message().await.ok()??;
            match message.kind {
                Some(wire::accept_up::Kind::Data(data)) => return Some(Chunk::Data(data)),
                Some(wire::accept_up::Kind::Shutdown(_)) => return Some(Chunk::Shutdown),
                Some(wire::accept_up::Kind::Reset(_)) => return Some(Chunk::Reset),
                Some(wire::accept_up::Kind::Park(_)) | None => {}
            }
        }
    }

    /// Everything until the local process closes its half; `None` when it reset instead.
    pub async fn recv_all(&mut self) -> Option<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            match self.recv().await? {
                Chunk::Data(data) => all.extend_from_slice(&data),
                Chunk::Shutdown => return Some(all),
                Chunk::Reset => return None,
            }
        }
    }

    async fn down(&self, kind: wire::accept_down::Kind) -> bool {
        self.parked.down_tx.send(Ok(wire::AcceptDown { kind: Some(kind) })).await.is_ok()
    }
}
