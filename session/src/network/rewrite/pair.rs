//! Makes a program's own socket one end of a connection on loopback, of which we hold the other.
//!
//! A program that does not want to wait is given the one state in which a socket waits for the network: SYN_SENT, toward a listener
//! whose queue is full, so that the kernel drops the SYN. When the destination has answered, our end connects to the program's from the listener's address,
//! which TCP calls a simultaneous open: the program's event loop wakes up as from any connection. When the destination has refused,
//! the socket is disconnected, which ends the attempt with an error.
//!
//! ```text
//! program's socket --SYN--> (dropped)     listener with a full queue
//!                  <--SYN-- our socket    same address; both SYNs cross: established
//! ```

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        AddressFamily, SocketFlags, SocketType, bind, connect, connect_unspec, getsockname, listen,
        socket_with, sockopt as options,
    },
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};

use super::sockaddr::mapped_loopback;
use crate::limits::PAIR;

/// What a program's socket is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) v6: bool,
    /// IPV6_V6ONLY is on: it has no mapped addresses.
    pub(super) only: bool,
    pub(super) stream: bool,
}

impl Kind {
    /// `None`: not an internet socket.
    pub(super) fn of(socket: &OwnedFd) -> Option<Self> {
        let family = options::socket_domain(socket).ok()?;
        let v6 = family == AddressFamily::INET6;
        let internet = v6 || family == AddressFamily::INET;
        let kind = options::socket_type(socket).ok()?;
        let fits = internet && (kind == SocketType::STREAM || kind == SocketType::DGRAM);
        let only = v6 && options::ipv6_v6only(socket).unwrap_or(false);
        fits.then_some(Self { v6, only, stream: kind == SocketType::STREAM })
    }

    /// The loopback address that this socket can use.
    pub(super) const fn loopback(self) -> IpAddr {
        mapped_loopback(self.v6, self.only)
    }
}

/// Where a socket is; mapped addresses as IPv4.
pub(super) fn own_end(socket: impl AsFd) -> io::Result<SocketAddr> {
    let address = SocketAddr::try_from(getsockname(socket)?)?;
    Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// Connects the program's socket to one of ours, at once; ours is returned, with the program's end. Without an answer from anybody
/// else, so also a program that waits does so for microseconds only.
pub(super) async fn connect_pair(socket: &OwnedFd, kind: Kind) -> io::Result<(TcpStream, SocketAddr)> {
    let listener = TcpListener::bind(SocketAddr::new(kind.loopback().to_canonical(), 0)).await?;
    let place = listener.local_addr()?;
    match connect(socket, &SocketAddr::new(kind.loopback(), place.port())) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let near = own_end(socket)?;
    let accepting = async {
        loop {
            let (stream, peer) = listener.accept().await?;
            // Anybody on this machine may connect to the port while it is open.
            if peer == near {
                return Ok((stream, near));
            }
        }
    };
    timeout(PAIR, accepting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// A listener that answers nobody: its queue has room for one connection, which is ours and never accepted.
#[derive(Debug)]
pub(super) struct Silence {
    place: SocketAddr,
    _listener: OwnedFd,
    _queued: OwnedFd,
}

impl Silence {
    /// Listens on this loopback address; waits for its own handshake.
    pub(super) fn begin(loopback: IpAddr) -> io::Result<Self> {
        let listener = unconnected(loopback)?;
        bind(&listener, &SocketAddr::new(loopback, 0))?;
        listen(&listener, 0)?;
        let place = own_end(&listener)?;
        let queued = unconnected(loopback)?;
        match connect(&queued, &place) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let limit = Timespec::try_from(PAIR).map_err(io::Error::other)?;
        if poll(&mut [PollFd::new(&listener, PollFlags::IN)], Some(&limit))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(Self { place, _listener: listener, _queued: queued })
    }
}

/// A program's socket that waits for its connection.
pub(super) struct Waiting {
    socket: OwnedFd,
    /// What it waits for.
    silence: Arc<Silence>,
    near: SocketAddr,
}

impl Waiting {
    /// Lets the socket wait; its connect(2) is then in progress. On failure the socket is as before.
    pub(super) fn begin(socket: OwnedFd, kind: Kind, silence: Arc<Silence>) -> io::Result<Self> {
        match connect(&socket, &SocketAddr::new(kind.loopback(), silence.place.port())) {
            Err(rustix::io::Errno::INPROGRESS) => {}
            Ok(()) => return Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) => return Err(error.into()),
        }
        let near = own_end(&socket)?;
        Ok(Self { socket, silence, near })
    }

    /// The program's end.
    pub(super) const fn near(&self) -> SocketAddr {
        self.near
    }

    /// The destination has answered: the program is connected, and ours is the other end.
    pub(super) async fn connected(self) -> io::Result<TcpStream> {
        let ours = unconnected(self.silence.place.ip())?;
        bind(&ours, &self.silence.place)?;
        let ours = TcpSocket::from_std_stream(std::net::TcpStream::from(ours));
        timeout(PAIR, ours.connect(self.near)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// The destination has refused, or cannot be reached: the program's attempt fails. The kernel says ECONNRESET; whoever asks for
    /// the error is told the true one by the library. (To connect to a port where nobody listens would give ECONNREFUSED, but for a
    /// moment no error at all, and programs that looked then took it for success.)
    pub(super) fn failed(self) -> io::Result<()> {
        Ok(connect_unspec(&self.socket)?)
    }
}

/// A socket of ours. Several of them may share an address.
fn unconnected(loopback: IpAddr) -> io::Result<OwnedFd> {
    let family = if loopback.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    options::set_socket_reuseport(&socket, true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::fd::AsFd,
        time::Duration,
    };

    use super::*;

    fn program(family: AddressFamily) -> OwnedFd {
        socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap()
    }

    fn events(socket: &OwnedFd, wait: Duration) -> PollFlags {
        let mut fds = [PollFd::new(socket, PollFlags::OUT)];
        poll(&mut fds, Some(&Timespec::try_from(wait).unwrap())).unwrap();
        let [fd] = fds;
        fd.revents()
    }

    /// Duplicates stand for what a program keeps while we hold its socket.
    fn waiting(family: AddressFamily) -> (OwnedFd, Waiting) {
        let socket = program(family);
        let own = socket.as_fd().try_clone_to_owned().unwrap();
        let kind = Kind::of(&socket).unwrap();
        let silence = Silence::begin(kind.loopback().to_canonical()).unwrap();
        let waiting = Waiting::begin(socket, kind, Arc::new(silence)).unwrap();
        assert!(events(&own, Duration::from_millis(50)).is_empty(), "nothing has happened yet");
        (own, waiting)
    }

    #[tokio::test]
    async fn a_waiting_socket_is_connected_when_we_say_so() {
        for family in [AddressFamily::INET, AddressFamily::INET6] {
            let (own, waiting) = waiting(family);
            let near = waiting.near();
            let ours = waiting.connected().await.unwrap();
            assert_eq!(ours.peer_addr().unwrap(), near);
            assert_eq!(events(&own, Duration::from_secs(5)), PollFlags::OUT);
            let mut own = std::net::TcpStream::from(own);
            own.set_nonblocking(false).unwrap();
            own.write_all(b"hello").unwrap();
            let mut ours = ours.into_std().unwrap();
            ours.set_nonblocking(false).unwrap();
            let mut bytes = [0; 5];
            ours.read_exact(&mut bytes).unwrap();
            assert_eq!(&bytes, b"hello");
        }
    }

    #[test]
    fn a_waiting_socket_fails_when_we_say_so() {
        let (own, waiting) = waiting(AddressFamily::INET);
        waiting.failed().unwrap();
        assert!(events(&own, Duration::from_secs(5)).contains(PollFlags::ERR | PollFlags::HUP));
        let error = options::socket_error(&own).unwrap();
        assert_eq!(error, Err(rustix::io::Errno::CONNRESET));
    }

    #[tokio::test]
    async fn a_pair_is_there_at_once() {
        for (family, flags) in [
            (AddressFamily::INET, SocketFlags::empty()),
            (AddressFamily::INET6, SocketFlags::empty()),
            (AddressFamily::INET, SocketFlags::NONBLOCK),
        ] {
            let socket = socket_with(family, SocketType::STREAM, flags, None).unwrap();
            let (ours, near) = connect_pair(&socket, Kind::of(&socket).unwrap()).await.unwrap();
            assert_eq!(ours.peer_addr().unwrap(), near);
            rustix::io::write(&socket, b"x").unwrap();
            ours.readable().await.unwrap();
        }
    }
}
