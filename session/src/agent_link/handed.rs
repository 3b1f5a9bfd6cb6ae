//! Connected sockets that an agent on this machine hands over, so that their bytes take no way through it.
//!
//! The agent sends each before the reply that announces it (`protocol::handed`), so taking one never waits. What nobody takes,
//! because the call was given up in between, is closed after [`HANDED_UNCLAIMED`].

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use mirrord_netns::seqpacket::{Received, SeqPacket};
use mirrord_protocol::handed::{HANDED_BYTES, decode};
use rustix::net::Shutdown;
use tokio::{net::TcpStream, time::interval};
use tokio_util::sync::CancellationToken;

use crate::limits::HANDED_UNCLAIMED;

/// The link over which an agent hands sockets over. It is the agent's standard input as well, so the agent ends with it.
#[derive(Debug)]
pub struct HandedSockets {
    ours: SeqPacket,
    theirs: SeqPacket,
    arrived: Mutex<HashMap<u64, (Instant, OwnedFd)>>,
}

impl HandedSockets {
    /// A link of its own.
    ///
    /// # Errors
    /// As socketpair(2).
    pub fn new() -> io::Result<Self> {
        let (ours, theirs) = SeqPacket::pair()?;
        Ok(Self { ours, theirs, arrived: Mutex::default() })
    }

    /// The standard input of an agent.
    pub(crate) fn for_agent(&self) -> io::Result<OwnedFd> {
        self.theirs.as_fd().try_clone_to_owned()
    }

    /// Ends the agent's standard input, which ends the agent.
    pub(crate) fn hang_up(&self) {
        if let Err(error) = rustix::net::shutdown(&self.ours, Shutdown::Write) {
            tracing::debug!(%error, "the agent's standard input has ended already");
        }
    }

    /// The socket with this number; `None` when it has not come, or cannot be watched.
    pub(super) fn take(&self, number: u64) -> Option<TcpStream> {
        let socket = {
            let mut arrived = self.lock();
            self.receive(&mut arrived);
            arrived.remove(&number)?.1
        };
        let socket = TcpStream::from_std(socket.into());
        socket.inspect_err(|error| tracing::warn!(%error, "a socket of the agent cannot be watched")).ok()
    }

    /// Closes what nobody takes, until the link ends.
    pub(super) async fn tidy(&self, cancel: CancellationToken) {
        let mut ticks = interval(HANDED_UNCLAIMED);
        while cancel.run_until_cancelled(ticks.tick()).await.is_some() {
            let mut arrived = self.lock();
            self.receive(&mut arrived);
            arrived.retain(|_, (since, _)| since.elapsed() < HANDED_UNCLAIMED);
        }
    }

    fn receive(&self, arrived: &mut HashMap<u64, (Instant, OwnedFd)>) {
        let mut buffer = [0; HANDED_BYTES];
        loop {
            match self.ours.try_recv(&mut buffer) {
                Ok(Received { len: 0, .. }) => return,
                Ok(Received { len, fds }) => {
                    let number = buffer.get(..len).and_then(decode);
                    if let (Some(number), Some(socket)) = (number, fds.into_iter().next()) {
                        arrived.insert(number, (Instant::now(), socket));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return tracing::warn!(%error, "sockets of the agent cannot be received"),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, (Instant, OwnedFd)>> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use mirrord_protocol::handed::encode;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        time::timeout,
    };

    use super::*;

    /// A connection whose one end has been handed over with `number`; the other end.
    async fn handed(sockets: &HandedSockets, number: u64) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (theirs, _) = listener.accept().await.unwrap();
        sockets.theirs.send(&encode(number), &[theirs.as_fd()]).unwrap();
        ours
    }

    #[tokio::test]
    async fn a_socket_is_taken_by_its_number() {
        let sockets = HandedSockets::new().unwrap();
        let mut one = handed(&sockets, 1).await;
        let _two = handed(&sockets, 2).await;
        let mut taken = sockets.take(1).unwrap();
        taken.write_all(b"x").await.unwrap();
        assert_eq!(one.read_u8().await.unwrap(), b'x');
        assert!(sockets.take(1).is_none());
        assert!(sockets.take(2).is_some());
    }

    #[tokio::test]
    async fn what_nobody_takes_is_closed() {
        let sockets = HandedSockets::new().unwrap();
        let mut peer = handed(&sockets, 1).await;
        let tidying = sockets.tidy(CancellationToken::new());
        let closed = timeout(HANDED_UNCLAIMED * 10, peer.read_u8());
        tokio::select! {
            () = tidying => unreachable!("nobody cancels it"),
            closed = closed => assert_eq!(closed.unwrap().unwrap_err().kind(), io::ErrorKind::UnexpectedEof),
        }
        assert!(sockets.take(1).is_none());
    }

    #[test]
    fn hanging_up_ends_the_agents_standard_input() {
        let sockets = HandedSockets::new().unwrap();
        let stdin = SeqPacket::from(sockets.for_agent().unwrap());
        sockets.hang_up();
        assert_eq!(stdin.recv(&mut [0; 8]).unwrap().len, 0);
    }
}
