//! UDP: one relay socket for each destination, chosen by the mark of the first packet's verdict.

use std::{
    collections::HashMap,
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    sync::Mutex,
    time::Duration,
};

use mirrord_netns::{
    Flow, Transport,
    conntrack::Conntrack,
    netlink::Family,
    nfqueue::Packet,
    nft::{LOCAL_MARK, Verdict},
    sockopt,
};
use rustix::net::AddressFamily;

use crate::session::{Decision, Session, address, answering, family};

/// Relay sockets by destination.
struct Relays<'a> {
    session: &'a Session,
    sockets: Mutex<HashMap<SocketAddr, UdpSocket>>,
}

impl<'a> Relays<'a> {
    fn new(session: &'a Session) -> Self {
        Self { session, sockets: Mutex::default() }
    }

    fn port(&self, destination: SocketAddr) -> u16 {
        let mut sockets = self.sockets.lock().unwrap();
        let socket = sockets.entry(destination).or_insert_with(|| {
            let socket = self.session.udp(family(destination));
            sockopt::set_mark(&socket, LOCAL_MARK).unwrap();
            let at = if destination.is_ipv4() { "127.0.0.1" } else { "::1" };
            rustix::net::bind(&socket, &address(at, 0)).unwrap();
            socket
        });
        socket.local_addr().unwrap().port()
    }

    fn decide(&self) -> impl Fn(&Packet) -> Decision {
        |packet| (Duration::ZERO, Some(Verdict::Redirect(self.port(packet.flow.dst))))
    }

    /// Waits for a datagram of the destination's relay and sends an answer.
    fn answer(&self, destination: SocketAddr) {
        let socket = loop {
            if let Some(socket) = self.sockets.lock().unwrap().get(&destination) {
                break socket.try_clone().unwrap();
            }
            std::thread::yield_now();
        };
        let mut buffer = [0; 32];
        let (len, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], destination.to_string().as_bytes());
        socket.send_to(format!("answer of {destination}").as_bytes(), from).unwrap();
    }
}

pub(crate) fn relay_per_destination() {
    let session = Session::start();
    let (queue, _table) = session.table();
    let relays = Relays::new(&session);
    let v4 = ["10.1.2.3:53", "10.1.2.4:53", "10.1.2.3:54", "224.0.0.251:5353"];
    let v6 = ["[2001:db8::1]:53", "[2001:db8::2]:53"];
    let cases: [(AddressFamily, &[&str]); 2] = [(AddressFamily::INET, &v4), (AddressFamily::INET6, &v6)];
    let ((), held) = answering(&queue, relays.decide(), || {
        for (family, destinations) in cases {
            let program = session.udp(family);
            for round in 0..2 {
                for to in destinations {
                    let to: SocketAddr = to.parse().unwrap();
                    program.send_to(to.to_string().as_bytes(), to).unwrap();
                    relays.answer(to);
                    let mut buffer = [0; 64];
                    let (len, from) = program.recv_from(&mut buffer).unwrap();
                    assert_eq!(from, to, "round {round}: the answer comes from the destination");
                    assert_eq!(&buffer[..len], format!("answer of {to}").as_bytes());
                }
            }
        }
    });
    assert_eq!(held.len(), v4.len() + v6.len(), "only the first packet of each flow is held");
}

pub(crate) fn refused() {
    let session = Session::start();
    let (queue, _table) = session.table();
    answering(
        &queue,
        |_| (Duration::ZERO, Some(Verdict::Refused)),
        || {
            for to in ["10.1.2.3:53", "[2001:db8::1]:53"] {
                let to: SocketAddr = to.parse().unwrap();
                let program = session.udp(family(to));
                program.connect(to).unwrap();
                program.send(b"?").unwrap();
                assert_eq!(program.recv(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
            }
        },
    );
}

pub(crate) fn forgotten_flow_is_held_again() {
    let session = Session::start();
    let (queue, _table) = session.table();
    let relays = Relays::new(&session);
    let conntrack = Conntrack::from_socket(session.holder.netlink(Family::Netfilter).unwrap());
    let to = address("10.1.2.3", 53);
    let ((), held) = answering(&queue, relays.decide(), || {
        let program = session.udp(AddressFamily::INET);
        program.connect(to).unwrap();
        let flow = Flow { transport: Transport::Udp, src: program.local_addr().unwrap(), dst: to };
        assert_eq!(conntrack.lookup(&flow).unwrap(), None);
        for _ in 0..2 {
            program.send(to.to_string().as_bytes()).unwrap();
            relays.answer(to);
            program.recv(&mut [0; 64]).unwrap();
            let reply = conntrack.lookup(&flow).unwrap().unwrap();
            assert_eq!(
                (reply.dst, reply.src.port()),
                (flow.src, relays.port(to)),
                "where it is redirected to"
            );
            assert!(conntrack.delete(&flow).unwrap());
            assert!(!conntrack.delete(&flow).unwrap());
        }
    });
    assert_eq!(held.len(), 2);
}
