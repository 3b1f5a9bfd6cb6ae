//! UDP of the session.

use std::net::{SocketAddr, UdpSocket};

use mirrord_session::{
    config::{AddressRule, HostRule, OutgoingFilter},
    testing::fake_agent::Destination,
};

use crate::world::{World, wait_for};

pub(crate) fn unconnected() {
    let world = World::start();
    for (at, destinations) in [
        ("0.0.0.0:0", ["203.0.113.1:9000", "203.0.113.2:9000", "203.0.113.1:9001"]),
        ("[::]:0", ["[2001:db8::1]:9000", "[2001:db8::2]:9000", "[2001:db8::1]:9001"]),
    ] {
        let socket = world.programs.udp(at.parse().unwrap());
        let mut buffer = [0; 2000];
        for round in 0..3_u8 {
            for to in destinations {
                let to: SocketAddr = to.parse().unwrap();
                let message = format!("{round} {to}");
                socket.send_to(message.as_bytes(), to).unwrap();
                let (length, from) = socket.recv_from(&mut buffer).unwrap();
                assert_eq!((&buffer[..length], from), (message.as_bytes(), to));
            }
        }
    }
    assert_eq!(world.connections().len(), 6, "one flow per destination");
}

pub(crate) fn connected() {
    let world = World::start();
    for to in ["203.0.113.1:9000", "[2001:db8::1]:9000"] {
        let to: SocketAddr = to.parse().unwrap();
        // Two programs with the same destination get their own answers.
        let sockets = [world.programs.udp(to), world.programs.udp(to)];
        for socket in &sockets {
            socket.connect(to).unwrap();
            assert_eq!(socket.peer_addr().unwrap(), to);
        }
        let mut buffer = [0; 70_000];
        for size in [0, 1, 1400, 60_000] {
            for (number, socket) in (1..).zip(&sockets) {
                socket.send(&vec![number; size]).unwrap();
            }
            for (number, socket) in (1..).zip(&sockets) {
                let length = socket.recv(&mut buffer).unwrap();
                assert_eq!(length, size);
                assert!(buffer[..length].iter().all(|byte| *byte == number));
            }
        }
    }
}

pub(crate) fn refused() {
    let world = World::start();
    for to in ["203.0.113.1:9", "[2001:db8::1]:9"] {
        let to: SocketAddr = to.parse().unwrap();
        world.agent.script.udp(to, Destination::Errno(libc::ECONNREFUSED));
        let socket = world.programs.udp(to);
        socket.connect(to).unwrap();
        socket.send(b"anybody?").unwrap();
        let error = socket.recv(&mut [0; 8]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED), "{to}");
    }
}

pub(crate) fn local_rule() {
    let rule = AddressRule {
        text: "udp://127.0.0.1".to_owned(),
        transport: None,
        host: HostRule::Subnet([127, 0, 0, 1].into(), 32),
        port: 0,
    };
    let world = World::with(|config| config.outgoing.filter = OutgoingFilter::Local(vec![rule]));
    let host = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = host.local_addr().unwrap();
    let socket = world.programs.udp(to);
    socket.connect(to).unwrap();
    socket.send(b"ping").unwrap();
    let mut buffer = [0; 8];
    let (length, from) = host.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"ping");
    host.send_to(b"pong", from).unwrap();
    assert_eq!(socket.recv(&mut buffer).unwrap(), 4);
    // Nobody there: the host's kernel says so, and the program hears it.
    drop(host);
    socket.send(b"ping").unwrap();
    assert_eq!(socket.recv(&mut buffer).unwrap_err().raw_os_error(), Some(libc::ECONNREFUSED));
}

pub(crate) fn loopback_stays_inside() {
    let world = World::start();
    let inside = world.programs.udp("127.0.0.1:0".parse().unwrap());
    let at: SocketAddr = "127.0.0.1:5353".parse().unwrap();
    rustix::net::bind(&inside, &at).unwrap();
    let socket = world.programs.udp(at);
    socket.send_to(b"hello", at).unwrap();
    let (_, from) = inside.recv_from(&mut [0; 8]).unwrap();
    inside.send_to(b"hello", from).unwrap();
    socket.recv(&mut [0; 8]).unwrap();
    assert!(world.connections().is_empty());
    // Else the target's loopback.
    let elsewhere: SocketAddr = "127.0.0.1:5354".parse().unwrap();
    socket.send_to(b"sidecar", elsewhere).unwrap();
    assert_eq!(socket.recv_from(&mut [0; 8]).unwrap(), (7, elsewhere));
    wait_for("the flow's event", || (world.connections().len() == 1).then_some(()));
}
