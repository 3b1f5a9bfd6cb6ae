//! The same data path on a kernel that holds no packets: everything works but the results of connect(2), and UDP beside DNS.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
};

use mirrord_protocol::session::v1::{self as wire, connection::Stage};
use mirrord_session::{config::Mode, testing::fake_agent::Destination};

use crate::world::{V4, World, wait_for};

fn echo(stream: &mut TcpStream) {
    stream.write_all(b"hello").unwrap();
    let mut reply = [0; 5];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"hello");
}

pub(crate) fn outgoing() {
    let world = World::unheld(|_| {});
    assert_eq!(world.warnings().len(), 1, "it is said once: {:?}", world.warnings());
    assert!(world.warnings()[0].contains("cannot hold packets"));
    for to in ["203.0.113.9:1", "[2001:db8::9]:1"] {
        let to: SocketAddr = to.parse().unwrap();
        let mut stream = world.programs.connect(to).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), to);
        echo(&mut stream);
    }
    assert_eq!(world.agent.script.dialled().len(), 2);
    // The result comes after the connect: as a reset, never as an answer.
    let refused: SocketAddr = "203.0.113.9:2".parse().unwrap();
    world.agent.script.tcp(refused, Destination::Errno(libc::ECONNREFUSED));
    let result = world.programs.connect(refused).and_then(|mut stream| stream.read(&mut [0; 1]));
    assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let failed = wait_for("the event", || {
        world.connections().into_iter().find(|(_, detail)| detail.stage() == Stage::Failed)
    });
    assert_eq!((failed.0.error.as_str(), failed.1.port), ("ECONNREFUSED", 2));
    names(&world);
    loopback(&world);
}

/// Questions reach the target's name server over UDP; other datagrams are refused.
fn names(world: &World) {
    world.agent.script.name("shop.test", &["203.0.113.77".parse().unwrap()]);
    let question = b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04shop\x04test\x00\x00\x01\x00\x01";
    let server: SocketAddr = "10.96.0.10:53".parse().unwrap();
    let resolver = world.programs.udp(server);
    resolver.connect(server).unwrap();
    resolver.send(question).unwrap();
    let mut reply = [0; 512];
    let length = resolver.recv(&mut reply).unwrap();
    assert!(reply[..length].ends_with(&[203, 0, 113, 77]), "{:?}", &reply[..length]);
    assert_eq!(world.agent.script.questions(), ["shop.test"]);
    let other: SocketAddr = "203.0.113.9:7".parse().unwrap();
    let socket = world.programs.udp(other);
    socket.connect(other).unwrap();
    socket.send(b"x").unwrap();
    assert_eq!(socket.recv(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

/// Listeners of the session are reached by loopback and by the target's own address; what else loopback has is not there.
fn loopback(world: &World) {
    let dialled = world.agent.script.dialled().len();
    let listener = world.programs.listen("0.0.0.0:8080");
    for to in ["127.0.0.1:8080", &format!("{V4}:8080")] {
        let mut stream = world.programs.connect(to.parse().unwrap()).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        accepted.write_all(b"inside").unwrap();
        drop(accepted);
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        assert_eq!(said, "inside", "{to}");
    }
    let nothing = world.programs.connect("127.0.0.1:15020".parse().unwrap());
    assert_eq!(nothing.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(world.agent.script.dialled().len(), dialled);
}

/// What arrives does not need the queue.
pub(crate) fn incoming() {
    let world = World::unheld(|config| {
        config.incoming.ports =
            vec![mirrord_session::config::PortSpec { remote: 80, local: 8080, mode: Mode::Steal }];
    });
    let listener = world.programs.listen("0.0.0.0:8080");
    wait_for("a parked stream", || (world.agent.script.parked() > 0).then_some(()));
    let client: SocketAddr = "198.51.100.1:4444".parse().unwrap();
    let stolen = world.run(world.agent.script.steal(client, SocketAddr::new(V4.parse().unwrap(), 80)));
    let (_, peer) = listener.accept().unwrap();
    assert_eq!(peer, client);
    drop(stolen);
    let log = wait_for("it is closed", || {
        world.connections().into_iter().find(|(_, detail)| detail.stage() == Stage::Closed)
    });
    assert_eq!(log.1.direction(), wire::Direction::Incoming);
}
