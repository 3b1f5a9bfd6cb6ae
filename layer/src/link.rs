//! The link between supervisor and host: one protobuf message per datagram, descriptors beside it.
//!
//! Both ends use this file. Nothing here waits; the owner polls the descriptor.

use std::{
    io::{self, IoSlice, IoSliceMut, Read as _, Seek as _, Write as _},
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use prost::Message;
use rustix::{
    fs::MemfdFlags,
    net::{
        self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    },
};
use thiserror::Error;

use crate::limits::{DESCRIPTORS, MESSAGE_BYTES, SPILLED_BYTES};

/// First byte of a datagram: the message follows.
const INLINE: u8 = 0;
/// First byte of a datagram: the first descriptor holds the message.
const SPILLED: u8 = 1;

/// One end of a link.
#[derive(Debug)]
pub struct Link {
    socket: OwnedFd,
}

/// Why a message could not be sent or received.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The socket said so; `WouldBlock` when there is nothing to read or no room to write.
    #[error("the link between supervisor and host failed")]
    Socket(#[source] io::Error),
    /// The other end has gone.
    #[error("the other end of the link between supervisor and host is closed")]
    Closed,
    /// What came is no message.
    #[error("the link between supervisor and host carried bytes that are no message")]
    Decode(#[source] prost::DecodeError),
    /// The datagram, its descriptors or the spilled message break the rules of the wire.
    #[error("the link between supervisor and host carried a malformed datagram: {0}")]
    Malformed(&'static str),
}

impl LinkError {
    /// There is nothing to read, or no room to write, now.
    #[must_use]
    pub fn would_block(&self) -> bool {
        matches!(self, Self::Socket(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    fn from_write(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected => {
                Self::Closed
            }
            _ => Self::Socket(error),
        }
    }
}

impl Link {
    /// Both ends of a new link, close-on-exec.
    ///
    /// # Errors
    /// As socketpair(2).
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) =
            net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self { socket: one }, Self { socket: other }))
    }

    /// Sends one message.
    ///
    /// # Errors
    /// [`LinkError::would_block`] when the other end does not read fast enough; nothing has been sent then.
    pub fn send(&self, message: &impl Message, descriptors: &[BorrowedFd<'_>]) -> Result<(), LinkError> {
        let length = message.encoded_len();
        if length >= MESSAGE_BYTES {
            let spilled = spill(&message.encode_to_vec()).map_err(LinkError::Socket)?;
            let all: Vec<_> = [spilled.as_fd()].into_iter().chain(descriptors.iter().copied()).collect();
            return self.send_bytes(&[SPILLED], &all);
        }
        let mut bytes = Vec::with_capacity(length + 1);
        bytes.push(INLINE);
        bytes.extend_from_slice(&message.encode_to_vec());
        self.send_bytes(&bytes, descriptors)
    }

    fn send_bytes(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), LinkError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(LinkError::Malformed("too many descriptors"));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::io::retry_on_intr(|| net::sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, flags))
            .map(drop)
            .map_err(|error| LinkError::from_write(error.into()))
    }

    /// The next message with its descriptors. `buffer` is scratch space that the caller keeps between calls.
    ///
    /// # Errors
    /// [`LinkError::Closed`] at the end; [`LinkError::would_block`] when there is none now.
    pub fn receive<M: Message + Default>(
        &self,
        buffer: &mut Vec<u8>,
    ) -> Result<(M, Vec<OwnedFd>), LinkError> {
        buffer.resize(MESSAGE_BYTES, 0);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = rustix::io::retry_on_intr(|| {
            net::recvmsg(&self.socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)
        })
        .map_err(|error| LinkError::from_write(error.into()))?;
        let mut descriptors = Vec::new();
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = part {
                descriptors.extend(rights);
            }
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(LinkError::Malformed("larger than allowed"));
        }
        let Some((kind, bytes)) = buffer.get(..received.bytes).and_then(<[u8]>::split_first) else {
            return Err(LinkError::Closed);
        };
        let message = match *kind {
            INLINE => M::decode(bytes),
            SPILLED if !descriptors.is_empty() => {
                M::decode(unspill(descriptors.remove(0)).map_err(LinkError::Socket)?.as_slice())
            }
            _ => return Err(LinkError::Malformed("unknown first byte")),
        };
        Ok((message.map_err(LinkError::Decode)?, descriptors))
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Link {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl From<OwnedFd> for Link {
    fn from(socket: OwnedFd) -> Self {
        Self { socket }
    }
}

impl From<Link> for OwnedFd {
    fn from(link: Link) -> Self {
        link.socket
    }
}

fn spill(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = std::fs::File::from(rustix::fs::memfd_create("message", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(file.into())
}

fn unspill(descriptor: OwnedFd) -> io::Result<Vec<u8>> {
    let mut file = std::fs::File::from(descriptor);
    let length = file.metadata()?.len();
    if length > SPILLED_BYTES {
        return Err(io::Error::from(io::ErrorKind::FileTooLarge));
    }
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use mirrord_protocol::layer::v1::{Launch, ToLayer, to_layer};

    use super::*;

    fn launch(size: usize) -> ToLayer {
        let argument = vec![b'x'; size];
        let launch = Launch { arguments: vec![argument.into()], ..Launch::default() };
        ToLayer { id: 7, kind: Some(to_layer::Kind::Launch(launch)) }
    }

    #[test]
    fn small_and_large_messages_arrive_with_their_descriptors() {
        let (one, other) = Link::pair().unwrap();
        let mut buffer = Vec::new();
        for size in [0, 1, MESSAGE_BYTES - 1, MESSAGE_BYTES, 3 << 20] {
            let sent = launch(size);
            one.send(&sent, &[one.as_fd(), other.as_fd(), one.as_fd()]).unwrap();
            let (message, descriptors) = other.receive::<ToLayer>(&mut buffer).unwrap();
            assert!(message == sent && descriptors.len() == 3, "{size}");
        }
        assert!(other.receive::<ToLayer>(&mut buffer).unwrap_err().would_block());
        drop(one);
        assert!(matches!(other.receive::<ToLayer>(&mut buffer), Err(LinkError::Closed)));
        assert!(matches!(other.send(&launch(1), &[]), Err(LinkError::Closed)));
    }

    #[test]
    fn nonsense_is_an_error_and_not_a_panic() {
        let (one, other) = Link::pair().unwrap();
        let mut buffer = Vec::new();
        for bytes in [&[9_u8, 1, 2][..], &[SPILLED], &[INLINE, 0xff, 0xff, 0xff]] {
            one.send_bytes(bytes, &[]).unwrap();
            assert!(other.receive::<ToLayer>(&mut buffer).is_err_and(|error| !error.would_block()));
        }
    }
}
