//! What is said on the node's control socket and on the link between a node and its pods: one JSON value per datagram, with
//! descriptors beside it.
//!
//! On the control socket every request gets one reply. On a pod's link the pod speaks ([`Note`]) and the node says [`Order`].

use std::{
    io,
    net::Ipv4Addr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Mutex, PoisonError},
};

use mirrord_netns::seqpacket::SeqPacket;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::{io::Interest, net::UnixStream};

use super::LocalPod;
use crate::limits::POD_MESSAGE;

/// Asked by a client.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Start a pod. Beside it: a memfd with the specification, then a listener for each published port, in order.
    Start,
    /// All pods that run.
    List,
    /// Stop a pod and remove its folder.
    Stop {
        /// Its name.
        name: String,
    },
    /// An unconnected TCP socket of the node's network namespace.
    Socket {
        /// The pod that it shall be connected to.
        name: String,
    },
    /// The node's process.
    Node,
    /// Start an agent for the client. Beside it: its standard descriptors.
    Agent {
        /// What it is told.
        arguments: Vec<std::ffi::OsString>,
    },
}

/// Answered by the node.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// The pod is up.
    Started(Box<LocalPod>),
    /// The pods that run.
    Pods(Vec<LocalPod>),
    /// It is gone.
    Stopped,
    /// The socket comes beside; this is the pod's address.
    Socket(Ipv4Addr),
    /// The node's process as the machine sees it.
    Node(u32),
    /// The agent's process as the machine sees it.
    Agent(u32),
    /// Refused.
    Failed(Failure),
}

/// Said by the processes of a pod.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Note {
    /// The command runs. Beside it: pidfds of process 1 and of the command.
    Started,
    /// Bring-up failed; the processes end.
    Failed(Failure),
    /// The command has ended.
    Ended(super::PodState),
}

/// Said by the node to process 1 of a pod.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// End the command by SIGTERM.
    Terminate,
}

/// Why something was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Failure {
    /// No such pod.
    Unknown,
    /// A pod of this name runs.
    Taken,
    /// No address is left.
    Full,
    /// No such program in the pod.
    NotFound {
        /// What was to be run.
        command: String,
    },
    /// The program cannot be executed.
    NotExecutable {
        /// What was to be run.
        command: String,
        /// What the system said.
        reason: String,
    },
    /// No namespaces here.
    Namespaces {
        /// Which.
        what: String,
        /// What the system said.
        reason: String,
    },
    /// A step failed.
    Setup {
        /// What was done.
        step: String,
        /// What the system said.
        reason: String,
    },
}

impl Failure {
    /// A failed step, with all its causes in one line.
    pub(super) fn setup(step: impl Into<String>, error: &dyn std::error::Error) -> Self {
        Self::Setup { step: step.into(), reason: chain(error) }
    }
}

/// An error and its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Why a message was not sent or received.
#[derive(Debug, Error)]
pub enum WireError {
    /// The socket failed.
    #[error("the control socket failed")]
    Socket(#[source] io::Error),
    /// The other end has closed.
    #[error("the other end has closed the control socket")]
    Closed,
    /// Nothing came in time.
    #[error("no answer came in time")]
    Timeout,
    /// What came is no message.
    #[error("what came over the control socket is no message")]
    Malformed(#[source] serde_json::Error),
}

/// A peer that closes with our message unread makes the next call fail with `ECONNRESET` or `EPIPE` (unix(7)): it has closed, like one
/// that has read it.
impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Socket(error),
        }
    }
}

/// A socket that carries messages; blocking unless it is used as an [`AsyncWire`].
#[derive(Debug)]
pub(super) struct Wire {
    socket: SeqPacket,
    /// Room for the largest message, made once: a fresh one for each cost more than the rest of the exchange.
    buffer: Mutex<Vec<u8>>,
}

impl Wire {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket: SeqPacket::from(socket), buffer: Mutex::default() }
    }

    /// Both ends of a new link.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        SeqPacket::pair().map(|(ours, theirs)| (Self::new(ours.into()), theirs.into()))
    }

    pub(super) fn send(&self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> Result<(), WireError> {
        let bytes = serde_json::to_vec(message).map_err(WireError::Malformed)?;
        Ok(self.socket.send(&bytes, fds)?)
    }

    /// Waits for a message, at most so long.
    pub(super) fn recv<T: DeserializeOwned>(
        &self,
        timeout: std::time::Duration,
    ) -> Result<(T, Vec<OwnedFd>), WireError> {
        let mut poll_fd = [PollFd::new(&self.socket, PollFlags::IN)];
        let timeout = Timespec::try_from(timeout).map_err(|_| WireError::Timeout)?;
        match rustix::io::retry_on_intr(|| poll(&mut poll_fd, Some(&timeout))) {
            Ok(0) => Err(WireError::Timeout),
            Ok(_) => self.read(),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }

    fn read<T: DeserializeOwned>(&self) -> Result<(T, Vec<OwnedFd>), WireError> {
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        buffer.resize(POD_MESSAGE, 0);
        let received = self.socket.try_recv(&mut buffer)?;
        let bytes = buffer.get(..received.len).unwrap_or_default();
        if bytes.is_empty() {
            return Err(WireError::Closed);
        }
        let message = serde_json::from_slice(bytes).map_err(WireError::Malformed)?;
        Ok((message, received.fds))
    }
}

/// A wire in a runtime. Sends do not wait: a peer that lets its buffer fill up is not one of ours.
#[derive(Debug)]
pub(super) struct AsyncWire {
    wire: Wire,
    /// A second descriptor of the socket, for the runtime to wait on: its type for any descriptor is not safe to make.
    ready: UnixStream,
}

impl AsyncWire {
    pub(super) fn new(wire: Wire) -> io::Result<Self> {
        let second = wire.socket.as_fd().try_clone_to_owned()?;
        let second = std::os::unix::net::UnixStream::from(second);
        second.set_nonblocking(true)?;
        Ok(Self { wire, ready: UnixStream::from_std(second)? })
    }

    pub(super) fn send(&self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> Result<(), WireError> {
        let bytes = serde_json::to_vec(message).map_err(WireError::Malformed)?;
        Ok(self.wire.socket.try_send(&bytes, fds)?)
    }

    /// Waits for a message.
    ///
    /// # Cancel safety
    /// A datagram is taken whole, without waiting in between.
    pub(super) async fn recv<T: DeserializeOwned>(&self) -> Result<(T, Vec<OwnedFd>), WireError> {
        loop {
            self.ready.readable().await?;
            let received = self.ready.try_io(Interest::READABLE, || match self.wire.read() {
                Err(WireError::Socket(error)) => Err(error),
                other => Ok(other),
            });
            match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_message_arrives_with_its_descriptors() {
        let (ours, theirs) = Wire::pair().unwrap();
        let theirs = Wire::new(theirs);
        let file = tempfile::tempfile().unwrap();
        theirs.send(&Request::Stop { name: "web".into() }, &[file.as_fd()]).unwrap();
        let (request, fds) = ours.recv::<Request>(Duration::from_secs(5)).unwrap();
        assert!(matches!(request, Request::Stop { name } if name == "web"));
        assert_eq!(fds.len(), 1);
        assert!(matches!(ours.recv::<Request>(Duration::from_millis(1)), Err(WireError::Timeout)));
        drop(theirs);
        assert!(matches!(ours.recv::<Request>(Duration::from_secs(5)), Err(WireError::Closed)));
    }

    #[test]
    fn a_peer_that_goes_without_reading_has_closed() {
        let (ours, theirs) = Wire::pair().unwrap();
        ours.send(&Request::List, &[]).unwrap();
        drop(theirs);
        assert!(matches!(ours.recv::<Request>(Duration::from_secs(5)), Err(WireError::Closed)));
        assert!(matches!(ours.send(&Request::List, &[]), Err(WireError::Closed)));
    }

    #[test]
    fn causes_are_said_in_one_line() {
        let error = WireError::Socket(io::Error::other("reset"));
        assert_eq!(chain(&error), "the control socket failed: reset");
    }
}
