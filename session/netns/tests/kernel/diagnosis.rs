//! Dialling with a client's address, and events of sockets that are gone.

use std::{
    net::{SocketAddr, TcpListener},
    os::fd::AsFd,
};

use mirrord_netns::{
    netlink::Family,
    nft::LOCAL_MARK,
    sock_diag::{DestroyEvents, SockDiag},
    sockopt,
};
use rustix::event::{PollFd, PollFlags, poll};

use crate::session::{LIMIT, Session, V4, V6, address};

pub(crate) fn dial_from_client_address() {
    let session = Session::start();
    let (_queue, _table) = session.table();
    let v4 = session.listen("0.0.0.0:80");
    let dual = session.listen("[::]:8080");
    // Listener, its address, the client's. The last two clients use a port that a listener has: bind(2) alone would say EADDRINUSE.
    let cases: [(&TcpListener, SocketAddr, &str); 6] = [
        (&v4, address(V4, 80), "203.0.113.7:40000"),
        (&dual, address(V4, 8080), "203.0.113.7:40001"),
        (&dual, address(V6, 8080), "[2001:db8:1::7]:40002"),
        (&v4, address("127.0.0.1", 80), "127.0.0.1:40003"),
        (&v4, address(V4, 80), "203.0.113.7:80"),
        (&dual, address(V6, 8080), "[2001:db8:1::7]:8080"),
    ];
    for (listener, to, client) in cases {
        let client: SocketAddr = client.parse().unwrap();
        let socket = session.tcp(to);
        sockopt::set_mark(&socket, LOCAL_MARK).unwrap();
        sockopt::bind_from(&socket, client).unwrap_or_else(|error| panic!("{client}: {error}"));
        rustix::net::connect(&socket, &to).unwrap_or_else(|error| panic!("{client} to {to}: {error}"));
        let (accepted, peer) = listener.accept().unwrap();
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        assert_eq!(canonical(peer), client);
        assert_eq!(canonical(accepted.local_addr().unwrap()), to);
        // The other end sees a reset, not an orderly end.
        sockopt::reset_on_close(&socket).unwrap();
        drop(socket);
        let mut accepted = accepted;
        let error = std::io::Read::read(&mut accepted, &mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

pub(crate) fn destroy_events() {
    let session = Session::start();
    let diag = SockDiag::from_socket(session.holder.netlink(Family::SockDiag).unwrap());
    let events = DestroyEvents::from_socket(session.holder.netlink(Family::SockDiag).unwrap()).unwrap();
    for at in ["127.0.0.1:7777", "[::]:7778"] {
        let listener = session.listen(at);
        let (local, cookie) = (listener.local_addr().unwrap(), sockopt::cookie(&listener).unwrap());
        let listed = diag.listeners().unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].addr, listed[0].cookie), (local, cookie));
        assert_eq!(listed[0].uid, rustix::process::getuid().as_raw());
        drop(listener);
        let fd = events.as_fd();
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(&LIMIT.try_into().unwrap())), Ok(1), "no event for {at}");
        let mut seen = Vec::new();
        assert!(!events.recv(&mut seen).unwrap(), "nothing is lost");
        assert_eq!(seen.len(), 1);
        assert_eq!((seen[0].cookie, seen[0].local, seen[0].state), (cookie, local, 7));
    }
    assert!(diag.listeners().unwrap().is_empty());
}
