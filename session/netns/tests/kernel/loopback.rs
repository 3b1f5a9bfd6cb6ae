//! Loopback destinations: the kernel says whether a socket of the session would get the packet.

use std::{io::ErrorKind, net::SocketAddr, time::Duration};

use mirrord_netns::{netlink::Family, nfqueue::Packet, nft::Verdict, sock_diag::SockDiag};
use rustix::net::AddressFamily;

use crate::session::{Decision, Session, address, answering};

fn decide(diag: &SockDiag) -> impl Fn(&Packet) -> Decision + '_ {
    |packet| {
        let flow = packet.flow;
        let inside = diag.listener_for(flow.transport, flow.dst, flow.src).unwrap();
        (Duration::ZERO, Some(if inside { Verdict::Local } else { Verdict::Refused }))
    }
}

fn diag(session: &Session) -> SockDiag {
    SockDiag::from_socket(session.holder.netlink(Family::SockDiag).unwrap())
}

pub(crate) fn listener_stays_inside() {
    let session = Session::start();
    let listeners =
        ["127.0.0.1:5000", "0.0.0.0:5001", "[::1]:5002", "[::]:5003"].map(|at| session.listen(at));
    let (queue, _table) = session.table();
    let diag = diag(&session);
    // Destination, and which listener gets it.
    let cases = [
        ("127.0.0.1:5000", Some(0)),
        ("127.0.0.2:5000", None),
        ("127.0.0.1:5001", Some(1)),
        ("127.9.9.9:5001", Some(1)),
        ("[::1]:5001", None),
        ("127.0.0.1:5002", None),
        ("[::1]:5002", Some(2)),
        ("127.0.0.1:5003", Some(3)),
        ("[::1]:5003", Some(3)),
        ("[::ffff:127.0.0.1]:5003", Some(3)),
        ("127.0.0.1:6000", None),
        ("[::1]:6000", None),
    ];
    let ((), held) = answering(&queue, decide(&diag), || {
        for (to, listener) in cases {
            let result = session.connect(to.parse::<SocketAddr>().unwrap());
            match listener {
                Some(listener) => {
                    let stream = result.unwrap_or_else(|error| panic!("{to}: {error}"));
                    let (_, peer) = listeners[listener].accept().unwrap();
                    assert_eq!(peer.port(), stream.local_addr().unwrap().port(), "{to}");
                }
                None => assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionRefused, "{to}"),
            }
        }
    });
    assert_eq!(held.len(), cases.len());
    let mut found: Vec<String> = diag.listeners().unwrap().iter().map(|l| l.addr.to_string()).collect();
    found.sort();
    assert_eq!(found, ["0.0.0.0:5001", "127.0.0.1:5000", "[::1]:5002", "[::]:5003"]);
}

pub(crate) fn udp_stays_inside() {
    let session = Session::start();
    let server = session.udp(AddressFamily::INET);
    rustix::net::bind(&server, &address("127.0.0.1", 5100)).unwrap();
    let (queue, _table) = session.table();
    let diag = diag(&session);
    let ((), held) = answering(&queue, decide(&diag), || {
        let client = session.udp(AddressFamily::INET);
        client.connect("127.0.0.1:5100").unwrap();
        client.send(b"ping").unwrap();
        let mut buffer = [0; 8];
        let (len, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..len], from), (&b"ping"[..], client.local_addr().unwrap()));
        server.send_to(b"pong", from).unwrap();
        assert_eq!(client.recv(&mut buffer).unwrap(), 4);
        let nobody = session.udp(AddressFamily::INET);
        nobody.connect("127.0.0.1:5101").unwrap();
        nobody.send(b"ping").unwrap();
        assert_eq!(nobody.recv(&mut buffer).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
    assert_eq!(held.len(), 2, "only the first packet of a flow is held, not its answer");
    assert_eq!(held[0].payload_len, 4);
}
