//! Gives connected sockets to a session host on the same machine, so that their bytes need not pass through the agent.
//!
//! It is an offer: what the host has no room for at the moment stays here and is relayed.

use std::{
    io,
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use mirrord_netns::seqpacket::SeqPacket;
use mirrord_protocol::handed;
use tokio::net::TcpStream;

/// Where connected sockets go. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct HandOver(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    link: SeqPacket,
    last: AtomicU64,
}

impl HandOver {
    /// To whoever holds the other end of standard input, which must be a SOCK_SEQPACKET socket.
    pub(crate) fn to_starter() -> io::Result<Self> {
        let link = io::stdin().as_fd().try_clone_to_owned()?.into();
        Ok(Self(Some(Arc::new(Inner { link, last: AtomicU64::new(0) }))))
    }

    /// Gives a second descriptor of the socket away; the number under which it is announced. 0: the bytes are relayed instead.
    pub(crate) fn give(&self, socket: &TcpStream) -> u64 {
        let Some(inner) = &self.0 else { return 0 };
        let number = inner.last.fetch_add(1, Ordering::Relaxed) + 1;
        match inner.link.try_send(&handed::encode(number), &[socket.as_fd()]) {
            Ok(()) => number,
            Err(error) => {
                tracing::debug!(%error, "a socket could not be handed over");
                0
            }
        }
    }
}
