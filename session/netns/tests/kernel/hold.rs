//! The first packet of a TCP connection waits for its verdict, and connect(2) tells exactly what the verdict said.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use mirrord_netns::{
    Transport,
    netlink::Family,
    nft::{NftError, QueueForm, SessionTable, Verdict},
    sockopt,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{AddressFamily, SocketType},
};

use crate::session::{Decision, LIMIT, Session, V4, V6, address, answering};

/// How long verdicts are held here.
const DELAY: Duration = Duration::from_millis(60);
const REFUSED: u16 = 81;
const NO_HOST: u16 = 83;
const NO_NET: u16 = 84;
/// One address of every kind: the last is IPv4 on a dual-stack socket.
const REMOTES: [&str; 3] = ["10.1.2.3", "2001:db8::1", "::ffff:10.1.2.3"];
const DENIED: [(u16, Errno); 3] =
    [(REFUSED, Errno::CONNREFUSED), (NO_HOST, Errno::HOSTUNREACH), (NO_NET, Errno::NETUNREACH)];

fn decide(relay: u16) -> impl Fn(&mirrord_netns::nfqueue::Packet) -> Decision {
    move |packet| {
        let verdict = match packet.flow.dst.port() {
            REFUSED => Verdict::Refused,
            NO_HOST => Verdict::HostUnreachable,
            NO_NET => Verdict::NetUnreachable,
            _ => Verdict::Redirect(relay),
        };
        (DELAY, Some(verdict))
    }
}

fn port(listener: &TcpListener) -> u16 {
    listener.local_addr().unwrap().port()
}

pub(crate) fn accepted() {
    let session = Session::start();
    let relay = session.listen("[::]:61000");
    let (queue, table) = session.table();
    assert_ne!(table.form(), QueueForm::None);
    let ((), held) = answering(&queue, decide(port(&relay)), || {
        for remote in REMOTES {
            let to = address(remote, 80);
            let start = Instant::now();
            let stream = session.connect(to).unwrap();
            assert!(start.elapsed() >= DELAY, "connect() to {to} came back before its verdict");
            assert_eq!(stream.peer_addr().unwrap(), to);
            let own = stream.local_addr().unwrap().ip().to_canonical().to_string();
            assert_eq!(own, if remote == REMOTES[1] { V6 } else { V4 });
            let (accepted, peer) = relay.accept().unwrap();
            assert_eq!(peer.port(), stream.local_addr().unwrap().port());
            let canonical = SocketAddr::new(to.ip().to_canonical(), to.port());
            assert_eq!(sockopt::original_dst(&accepted).unwrap(), canonical);
            assert_eq!(sockopt::tcp_info(&accepted).unwrap().state, 1);
        }
    });
    assert_eq!(held.len(), REMOTES.len(), "each SYN is held once");
    assert!(held.iter().all(|packet| packet.payload_len == 0 && packet.flow.transport == Transport::Tcp));
}

pub(crate) fn denied_blocking() {
    let session = Session::start();
    let (queue, _table) = session.table();
    let ((), held) = answering(&queue, decide(0), || {
        for remote in REMOTES {
            for (port, errno) in DENIED {
                let to = address(remote, port);
                let start = Instant::now();
                let error = session.connect(to).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(errno.raw_os_error()), "{to}: {error}");
                assert!(start.elapsed() >= DELAY && start.elapsed() < Duration::from_millis(900), "{to}");
            }
        }
    });
    assert_eq!(held.len(), REMOTES.len() * DENIED.len());
}

pub(crate) fn denied_nonblocking() {
    let session = Session::start();
    let relay = session.listen("[::]:61000");
    let (queue, _table) = session.table();
    let cases = DENIED.iter().map(|(port, errno)| (*port, Err(*errno))).chain([(80, Ok(()))]);
    let cases: Vec<_> = cases.collect();
    answering(&queue, decide(port(&relay)), || {
        for remote in REMOTES {
            for (port, expected) in &cases {
                let to = address(remote, *port);
                let socket = session.tcp(to);
                rustix::io::ioctl_fionbio(&socket, true).unwrap();
                let start = Instant::now();
                assert_eq!(rustix::net::connect(&socket, &to), Err(Errno::INPROGRESS), "{to}");
                assert!(start.elapsed() < DELAY, "{to}: the call itself does not wait");
                assert!(writable(&socket, LIMIT), "{to}: no event");
                assert!(start.elapsed() >= DELAY, "{to}: an event before the verdict");
                assert_eq!(rustix::net::sockopt::socket_error(&socket).unwrap(), *expected, "{to}");
            }
        }
    });
}

fn writable(socket: &OwnedFd, limit: Duration) -> bool {
    poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&limit.try_into().unwrap())).unwrap() == 1
}

pub(crate) fn dropped_packet_comes_again() {
    let session = Session::start();
    let relay = session.listen("[::]:61000");
    let relay_port = port(&relay);
    let (queue, _table) = session.table();
    let count = std::sync::atomic::AtomicUsize::new(0);
    let ((), held) = answering(
        &queue,
        |_| {
            let first = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
            (Duration::ZERO, (!first).then_some(Verdict::Redirect(relay_port)))
        },
        || drop(session.connect(address("10.1.2.3", 80)).unwrap()),
    );
    assert_eq!(held.len(), 2);
    assert_eq!(held[0].flow, held[1].flow);
}

pub(crate) fn own_mark() {
    let session = Session::start();
    let relay = session.listen("[::]:61000");
    let (queue, _table) = session.table();
    let ((), held) = answering(&queue, decide(port(&relay)), || {
        let to = address("10.1.2.3", 80);
        let socket = session.tcp(to);
        sockopt::set_mark(&socket, 0xffff).unwrap();
        rustix::net::connect(&socket, &to).unwrap();
        assert_eq!(sockopt::original_dst(&relay.accept().unwrap().0).unwrap(), to);
    });
    assert_eq!(held.len(), 1);
}

pub(crate) fn many_at_once() {
    const MANY: usize = 300;
    let session = Session::start();
    let relay = session.listen("[::]:61000");
    let (queue, _table) = session.table();
    let (sockets, held) = answering(&queue, decide(port(&relay)), || {
        let to = address("10.1.2.3", 80);
        let sockets: Vec<OwnedFd> = (0..MANY).map(|_| session.tcp(to)).collect();
        for socket in &sockets {
            rustix::io::ioctl_fionbio(socket, true).unwrap();
            assert_eq!(rustix::net::connect(socket, &to), Err(Errno::INPROGRESS));
        }
        for socket in &sockets {
            assert!(writable(socket, LIMIT));
            assert_eq!(rustix::net::sockopt::socket_error(socket).unwrap(), Ok(()));
        }
        sockets
    });
    assert_eq!((sockets.len(), held.len()), (MANY, MANY), "a held SYN is not sent again");
}

pub(crate) fn redirect_only() {
    let session = Session::start();
    let relay = session.listen("[::]:61000");
    let local = session.listen("127.0.0.1:5000");
    let dns = session.udp(AddressFamily::INET);
    sockopt::set_mark(&dns, mirrord_netns::nft::LOCAL_MARK).unwrap();
    dns_bind(&dns);
    let dns_port = dns.local_addr().unwrap().port();
    let socket = session.holder.netlink(Family::Netfilter).unwrap();
    let table = SessionTable::install_redirect_only(socket, port(&relay), dns_port).unwrap();
    assert_eq!(table.form(), QueueForm::None);
    for remote in REMOTES {
        let to = address(remote, 80);
        let _stream = session.connect(to).unwrap();
        let canonical = SocketAddr::new(to.ip().to_canonical(), to.port());
        assert_eq!(sockopt::original_dst(&relay.accept().unwrap().0).unwrap(), canonical);
    }
    let inside: TcpStream = session.connect(address("127.0.0.1", 5000)).unwrap();
    assert_eq!(local.accept().unwrap().1, inside.local_addr().unwrap());
    let program = session.udp(AddressFamily::INET);
    rustix::net::sendto(&program, b"?", rustix::net::SendFlags::empty(), &address("10.0.0.10", 53)).unwrap();
    let mut buffer = [0; 8];
    let (len, from) = dns.recv_from(&mut buffer).unwrap();
    dns.send_to(&buffer[..len], from).unwrap();
    assert_eq!(program.recv_from(&mut buffer).unwrap(), (1, address("10.0.0.10", 53)));
    let other = session.udp(AddressFamily::INET);
    other.connect("10.0.0.10:123").unwrap();
    other.send(b"?").unwrap();
    assert_eq!(other.recv(&mut buffer).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

fn dns_bind(socket: &std::net::UdpSocket) {
    rustix::net::bind(socket, &address("127.0.0.1", 0)).unwrap();
}

pub(crate) fn table_goes_with_its_socket() {
    let session = Session::start();
    let (queue, table) = session.table();
    let socket = || session.holder.netlink(Family::Netfilter).unwrap();
    // The kernel lets nobody else touch an owned table.
    match SessionTable::install(socket(), queue.number()) {
        Err(NftError::Kernel { source, .. }) => assert_eq!(source.errno(), Some(Errno::PERM.raw_os_error())),
        other => panic!("{other:?}"),
    }
    drop(table);
    // Nothing is held any more; the namespace itself refuses, as nobody listens there.
    let error = session.connect(address("10.1.2.3", 80)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(queue.recv(&mut Vec::new()).unwrap(), 0);
    SessionTable::install(socket(), queue.number()).unwrap();
}

pub(crate) fn pings() {
    let session = Session::start();
    let (_queue, table) = session.table();
    let own = [V4.parse().unwrap(), V6.parse().unwrap()];
    table.answer_pings(&own).unwrap();
    // (family, protocol, echo request, echo reply, skipped header, own address, another)
    let cases = [
        (AddressFamily::INET, 1, 8, 0, 20, V4, "8.8.8.8"),
        (AddressFamily::INET6, 58, 128, 129, 0, V6, "2001:db8::8"),
    ];
    for (family, protocol, request, reply, header, own, other) in cases {
        let socket = session.holder.socket(family.as_raw(), SocketType::RAW.as_raw(), protocol).unwrap();
        rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Recv, Some(LIMIT))
            .unwrap();
        let mut number = 0;
        // The kernel answers within the call, in order: had it answered the other address, that would come first.
        for to in [other, "own"] {
            number += 1;
            let to = address(if to == "own" { own } else { to }, 0);
            rustix::net::sendto(&socket, &echo(request, number), rustix::net::SendFlags::empty(), &to)
                .unwrap();
        }
        let mut buffer = [0; 128];
        // A raw socket sees the requests as well.
        let first = loop {
            let (len, _) = rustix::net::recv(&socket, &mut buffer, rustix::net::RecvFlags::empty()).unwrap();
            let message = &buffer[header..len];
            if message[0] == reply {
                break message[7];
            }
        };
        assert_eq!(first, 2, "{family:?}");
    }
}

/// An echo message with identifier 0; the kernel fills the checksum of ICMPv6 in.
fn echo(kind: u8, number: u8) -> [u8; 8] {
    let checksum = if kind == 8 { !(u16::from(kind) << 8).wrapping_add(u16::from(number)) } else { 0 };
    let [high, low] = checksum.to_be_bytes();
    [kind, 0, high, low, 0, 0, 0, number]
}
