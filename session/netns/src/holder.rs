//! The process that holds the session netns: it makes the namespace, makes sockets in it on request, and passes them out.
//!
//! [`run`] is the process (`__netns`), [`Holder`] the host's end. The wire is [`mirrord_protocol::sockets`], which the layer's
//! supervisor speaks by itself over an endpoint that the host hands to both sides.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use mirrord_protocol::sockets::{REPLY_BYTES, REQUEST_BYTES, Reply, Request};
use rustix::{
    event::{PollFd, PollFlags, poll},
    net::{AddressFamily, Protocol, SocketFlags, SocketType},
};
use thiserror::Error;

use crate::{
    limits::{HOLDER_ENDPOINTS, HOLDER_REPLY},
    netlink::{self, Family},
    ns::{self, Kind, NsError, UserMap},
    rtnl::{LOOPBACK, Rtnl, RtnlError},
    seqpacket::{Received, SeqPacket},
};

/// Why the holder or a request to it failed.
#[derive(Debug, Error)]
pub enum HolderError {
    /// The namespace could not be set up.
    #[error("the session's network namespace could not be set up: cannot {step}")]
    SetUp {
        /// What could not be done.
        step: String,
        /// Why.
        source: io::Error,
    },
    /// The holder's process is gone or does not answer.
    #[error("the holder of the session's network namespace does not answer")]
    Gone(#[source] io::Error),
    /// The addresses could not be set.
    #[error("the target's addresses could not be given to the session's network namespace")]
    Configure(#[source] RtnlError),
    /// The holder serves too many endpoints.
    #[error("the holder of the session's network namespace serves no further endpoint")]
    Serve(#[source] io::Error),
    /// The kernel refused a socket.
    #[error("no socket of domain {domain} and type {kind} can be made in the session's network namespace")]
    Socket {
        /// Address family.
        domain: u16,
        /// Type.
        kind: u32,
        /// Why.
        source: io::Error,
    },
}

/// Sysctls that a namespace must have.
const NEEDED: [(&str, &str); 1] = [
    // The program may listen on port 80 as it does in its container.
    ("net/ipv4/ip_unprivileged_port_start", "0"),
];

/// Sysctls that are set when the kernel has them.
const WANTED: [(&str, &str); 8] = [
    // An expired flow is held and asked about again, but a late reply of it would be lost.
    ("net/netfilter/nf_conntrack_udp_timeout", "3600"),
    ("net/netfilter/nf_conntrack_udp_timeout_stream", "7200"),
    // Dialling from a client's IPv6 address, which no interface has.
    ("net/ipv6/ip_nonlocal_bind", "1"),
    // MPTCP sockets would be relayed as TCP anyway; without it Go falls back to TCP by itself.
    ("net/mptcp/enabled", "0"),
    // A new namespace takes these from the machine, and both can break connections from foreign addresses over `lo`.
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/lo/rp_filter", "0"),
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/lo/disable_ipv6", "0"),
];

/// The process: sets the namespace up, says so on `control`, then serves requests until `control` is closed. Needs a process with one
/// thread. As an ordinary user it makes a user namespace, too. The caller ties it to its parent ([`ns::die_with_parent`]).
///
/// # Errors
/// [`HolderError::SetUp`] (also sent to the other end), [`HolderError::Gone`].
pub fn run(control: OwnedFd) -> Result<(), HolderError> {
    let control = SeqPacket::from(control);
    if let Err((step, source)) = set_up() {
        let errno = source.raw_os_error().and_then(|code| u32::try_from(code).ok()).unwrap_or(0);
        control.try_send(&Reply::Failed { errno }.encode(), &[]).map_err(HolderError::Gone)?;
        return Err(HolderError::SetUp { step, source });
    }
    control.try_send(&Reply::Ready.encode(), &[]).map_err(HolderError::Gone)?;
    serve_all(control)
}

fn set_up() -> Result<(), (String, io::Error)> {
    if rustix::process::geteuid().is_root() {
        ns::unshare(&[Kind::Net]).map_err(NsError::into_parts)?;
    } else {
        ns::enter_user_namespace(UserMap::Identity, &[Kind::Net]).map_err(NsError::into_parts)?;
    }
    let up = Rtnl::open().and_then(|rtnl| rtnl.set_up(LOOPBACK));
    up.map_err(|error| ("set up its loopback interface".to_owned(), error.io()))?;
    for (name, value) in NEEDED {
        ns::set_sysctl(name, value).map_err(NsError::into_parts)?;
    }
    for (name, value) in WANTED {
        // Which of them exist depends on the kernel's configuration; `doctor` shows what follows from it.
        ns::set_sysctl(name, value).ok();
    }
    Ok(())
}

/// Answers requests until the first endpoint is closed.
fn serve_all(control: SeqPacket) -> Result<(), HolderError> {
    let mut endpoints = vec![control];
    loop {
        let mut fds: Vec<_> = endpoints.iter().map(|endpoint| PollFd::new(endpoint, PollFlags::IN)).collect();
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(HolderError::Gone(error.into())),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let room = HOLDER_ENDPOINTS.saturating_sub(endpoints.len());
        let mut added = Vec::new();
        let mut closed = Vec::new();
        for (endpoint, ready) in endpoints.iter().zip(ready) {
            let open = !ready || serve_one(endpoint, room - added.len().min(room), &mut added).is_ok();
            closed.push(!open);
        }
        if closed.first() == Some(&true) {
            return Ok(());
        }
        let mut closed = closed.into_iter();
        endpoints.retain(|_| closed.next() != Some(true));
        endpoints.extend(added);
    }
}

/// Answers one request. An error means that the endpoint is closed, does not read its replies, or does not speak this wire.
fn serve_one(endpoint: &SeqPacket, room: usize, added: &mut Vec<SeqPacket>) -> io::Result<()> {
    let mut buffer = [0; REQUEST_BYTES];
    let Received { len, fds } = match endpoint.try_recv(&mut buffer) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
        result => result?,
    };
    let request = buffer.get(..len).and_then(Request::decode);
    match request.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))? {
        Request::Socket { domain, kind, protocol } => match make_socket(domain, kind, protocol) {
            Ok(socket) => endpoint.try_send(&Reply::Socket.encode(), &[socket.as_fd()]),
            Err(error) => endpoint.try_send(&failed(error), &[]),
        },
        Request::Serve => match fds.into_iter().next() {
            Some(fd) if room > 0 => {
                added.push(SeqPacket::from(fd));
                endpoint.try_send(&Reply::Serving.encode(), &[])
            }
            Some(_) => endpoint.try_send(&failed(rustix::io::Errno::MFILE), &[]),
            None => endpoint.try_send(&failed(rustix::io::Errno::BADF), &[]),
        },
    }
}

fn failed(error: rustix::io::Errno) -> [u8; REPLY_BYTES] {
    Reply::Failed { errno: u32::try_from(error.raw_os_error()).unwrap_or(0) }.encode()
}

fn make_socket(domain: u16, kind: u32, protocol: u32) -> rustix::io::Result<OwnedFd> {
    /// SOCK_TYPE_MASK of the kernel; what is above are flags.
    const TYPE: u32 = 0xf;
    let flags = SocketFlags::from_bits_truncate(kind & !TYPE) | SocketFlags::CLOEXEC;
    let protocol = std::num::NonZeroU32::new(protocol).map(Protocol::from_raw);
    rustix::net::socket_with(
        AddressFamily::from_raw(domain),
        SocketType::from_raw(kind & TYPE),
        flags,
        protocol,
    )
}

/// The host's end. One request at a time: the methods wait for their reply.
#[derive(Debug)]
pub struct Holder {
    /// `None` after a reply did not come in time: it may come yet and would be taken for another request's.
    control: Mutex<Option<SeqPacket>>,
}

impl Holder {
    /// Waits until the process on the other end of `control` has set the namespace up.
    ///
    /// # Errors
    /// [`HolderError`].
    pub fn connect(control: SeqPacket) -> Result<Self, HolderError> {
        match receive(&control)? {
            (Reply::Ready, _) => Ok(Self { control: Mutex::new(Some(control)) }),
            (Reply::Failed { errno }, _) => {
                Err(HolderError::SetUp { step: "make or configure it".to_owned(), source: from_errno(errno) })
            }
            _ => Err(unexpected()),
        }
    }

    /// socket(2) inside. SOCK_CLOEXEC is always added.
    ///
    /// # Errors
    /// [`HolderError`].
    pub fn socket(&self, domain: u16, kind: u32, protocol: u32) -> Result<OwnedFd, HolderError> {
        match self.ask(Request::Socket { domain, kind, protocol }, &[])? {
            (Reply::Socket, Some(socket)) => Ok(socket),
            (Reply::Failed { errno }, _) => {
                Err(HolderError::Socket { domain, kind, source: from_errno(errno) })
            }
            _ => Err(unexpected()),
        }
    }

    /// A netlink socket (SOCK_RAW) inside.
    ///
    /// # Errors
    /// [`HolderError`].
    pub fn netlink(&self, family: Family) -> Result<OwnedFd, HolderError> {
        self.socket(AddressFamily::NETLINK.as_raw(), SocketType::RAW.as_raw(), family.protocol())
    }

    /// Lets the holder answer requests on `endpoint`, too.
    ///
    /// # Errors
    /// [`HolderError`].
    pub fn serve(&self, endpoint: SeqPacket) -> Result<(), HolderError> {
        let endpoint = OwnedFd::from(endpoint);
        match self.ask(Request::Serve, &[endpoint.as_fd()])? {
            (Reply::Serving, _) => Ok(()),
            (Reply::Failed { errno }, _) => Err(HolderError::Serve(from_errno(errno))),
            _ => Err(unexpected()),
        }
    }

    /// Puts the target's addresses on `lo` and makes every address local (AnyIP); IPv6 only when `ipv6` is set, else connecting to
    /// an IPv6 address fails as it does in the target.
    ///
    /// # Errors
    /// [`HolderError`].
    pub fn configure(&self, addresses: &[IpAddr], ipv6: bool) -> Result<(), HolderError> {
        let rtnl = Rtnl::from_socket(self.netlink(Family::Route)?);
        let usable = || addresses.iter().copied().filter(|ip| ipv6 || ip.is_ipv4());
        for ip in usable() {
            let prefix = if ip.is_ipv4() { 32 } else { 128 };
            match rtnl.add_address(LOOPBACK, ip, prefix) {
                Err(error) if error.is_exists() => {}
                result => result.map_err(HolderError::Configure)?,
            }
        }
        let source = |v4: bool, none: IpAddr| usable().find(|ip| ip.is_ipv4() == v4).unwrap_or(none);
        let mut sources = vec![source(true, Ipv4Addr::UNSPECIFIED.into())];
        if ipv6 {
            sources.push(source(false, Ipv6Addr::UNSPECIFIED.into()));
        }
        for source in sources {
            match rtnl.add_any_ip(source) {
                Err(error) if error.is_exists() => {}
                result => result.map_err(HolderError::Configure)?,
            }
        }
        Ok(())
    }

    fn ask(&self, request: Request, fds: &[BorrowedFd<'_>]) -> Result<(Reply, Option<OwnedFd>), HolderError> {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let link = control.as_ref().ok_or_else(|| HolderError::Gone(io::ErrorKind::NotConnected.into()))?;
        let answer =
            link.try_send(&request.encode(), fds).map_err(HolderError::Gone).and_then(|()| receive(link));
        if answer.is_err() {
            *control = None;
        }
        answer
    }
}

fn receive(control: &SeqPacket) -> Result<(Reply, Option<OwnedFd>), HolderError> {
    let ready = wait(control, HOLDER_REPLY).map_err(HolderError::Gone)?;
    if !ready {
        return Err(HolderError::Gone(io::ErrorKind::TimedOut.into()));
    }
    let mut buffer = [0; REPLY_BYTES];
    let Received { len, fds } = control.try_recv(&mut buffer).map_err(HolderError::Gone)?;
    if len == 0 {
        return Err(HolderError::Gone(io::ErrorKind::UnexpectedEof.into()));
    }
    let reply = buffer.get(..len).and_then(Reply::decode).ok_or_else(unexpected)?;
    Ok((reply, fds.into_iter().next()))
}

fn wait(control: &SeqPacket, timeout: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if netlink::wait_readable(control.as_fd(), left)? {
            return Ok(true);
        }
        if left.is_zero() {
            return Ok(false);
        }
    }
}

fn from_errno(errno: u32) -> io::Error {
    io::Error::from_raw_os_error(i32::try_from(errno).unwrap_or(0))
}

fn unexpected() -> HolderError {
    HolderError::Gone(io::Error::new(io::ErrorKind::InvalidData, "the reply does not fit the request"))
}
