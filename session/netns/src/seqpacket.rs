//! Datagrams with descriptors over a connected unix socket (SOCK_SEQPACKET): the link between the processes of a session.
//!
//! A datagram arrives whole or not at all; one that is larger than the reader's buffer is an error, not a cut.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{
    self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use crate::limits::DESCRIPTORS;

/// One end.
#[derive(Debug)]
pub struct SeqPacket {
    socket: OwnedFd,
}

/// What came.
#[derive(Debug)]
pub struct Received {
    /// Bytes of the datagram; 0: the other end is closed.
    pub len: usize,
    /// Descriptors that came with it, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

impl SeqPacket {
    /// Both ends of a new link, close-on-exec.
    ///
    /// # Errors
    /// As socketpair(2).
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) =
            net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self { socket: one }, Self { socket: other }))
    }

    /// Sends one datagram; waits while the other end's buffer is full.
    ///
    /// # Errors
    /// `InvalidInput` for an empty datagram (it would look like a closed link) or too many descriptors; as sendmsg(2).
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send_with(bytes, fds, SendFlags::empty())
    }

    /// As [`SeqPacket::send`], but `WouldBlock` when the buffer is full.
    ///
    /// # Errors
    /// As [`SeqPacket::send`].
    pub fn try_send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send_with(bytes, fds, SendFlags::DONTWAIT)
    }

    /// Waits for one datagram.
    ///
    /// # Errors
    /// `InvalidData` when the datagram or its descriptors do not fit; as recvmsg(2).
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<Received> {
        self.recv_with(buffer, RecvFlags::empty())
    }

    /// As [`SeqPacket::recv`], but `WouldBlock` when there is none.
    ///
    /// # Errors
    /// As [`SeqPacket::recv`].
    pub fn try_recv(&self, buffer: &mut [u8]) -> io::Result<Received> {
        self.recv_with(buffer, RecvFlags::DONTWAIT)
    }

    fn send_with(&self, bytes: &[u8], fds: &[BorrowedFd<'_>], flags: SendFlags) -> io::Result<()> {
        if bytes.is_empty() || fds.len() > DESCRIPTORS {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let flags = flags | SendFlags::NOSIGNAL;
        rustix::io::retry_on_intr(|| {
            net::sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, flags)
        })?;
        Ok(())
    }

    fn recv_with(&self, buffer: &mut [u8], flags: RecvFlags) -> io::Result<Received> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = flags | RecvFlags::CMSG_CLOEXEC;
        let message = rustix::io::retry_on_intr(|| {
            net::recvmsg(&self.socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)
        })?;
        let mut fds = Vec::new();
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = part {
                fds.extend(rights);
            }
        }
        if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the datagram is larger than its reader expects",
            ));
        }
        Ok(Received { len: message.bytes, fds })
    }
}

impl AsFd for SeqPacket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl From<OwnedFd> for SeqPacket {
    fn from(socket: OwnedFd) -> Self {
        Self { socket }
    }
}

impl From<SeqPacket> for OwnedFd {
    fn from(link: SeqPacket) -> Self {
        link.socket
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_descriptors_arrive_together_and_the_end_is_seen() {
        let (one, other) = SeqPacket::pair().unwrap();
        let (carried, kept) = SeqPacket::pair().unwrap();
        one.send(b"hello", &[carried.as_fd()]).unwrap();
        drop(carried);
        let mut buffer = [0; 16];
        let received = other.recv(&mut buffer).unwrap();
        assert_eq!((&buffer[..received.len], received.fds.len()), (&b"hello"[..], 1));
        let arrived = SeqPacket::from(received.fds.into_iter().next().unwrap());
        assert!(rustix::io::fcntl_getfd(&arrived).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        arrived.send(b"x", &[]).unwrap();
        assert_eq!(kept.recv(&mut buffer).unwrap().len, 1);
        drop(one);
        assert_eq!(other.recv(&mut buffer).unwrap().len, 0);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let (one, other) = SeqPacket::pair().unwrap();
        one.send(&[7; 32], &[]).unwrap();
        assert_eq!(other.recv(&mut [0; 16]).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(other.try_recv(&mut [0; 16]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(one.send(&[], &[]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let many = vec![one.as_fd(); DESCRIPTORS + 1];
        assert_eq!(one.send(b"x", &many).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
