//! Events say which process made the socket, whatever the flow is and however it ends.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use mirrord_protocol::session::v1 as wire;
use mirrord_session::{config::Mode, network::Owner, testing::fake_agent::Destination};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketType, bind, connect, listen},
};

use crate::world::{V4, World, wait_for};

/// The event of this kind with these words in its subject, once it is marked.
#[track_caller]
fn owner(world: &World, kind: wire::Kind, subject: &str) -> (u32, u32, String) {
    let event = wait_for(subject, || {
        world.events(kind).into_iter().find(|event| event.subject.contains(subject) && event.pid != 0)
    });
    (event.pid, event.tid, String::from_utf8(event.comm.to_vec()).unwrap())
}

fn program(pid: u32) -> (u32, u32, String) {
    (pid, pid + 1, format!("program-{pid}"))
}

pub(crate) fn events_name_the_process() {
    let world = World::with_port(80, 8080, Mode::Steal);
    let script = &world.agent.script;
    script.tcp("203.0.113.9:2".parse().unwrap(), Destination::Errno(libc::ECONNREFUSED));
    let tcp = |pid, family, to: &str| {
        let socket = world.programs.socket_of(pid, family, SocketType::STREAM);
        connect(&socket, &to.parse::<SocketAddr>().unwrap()).map(|()| socket)
    };
    let mut open = Vec::new();
    open.push(tcp(100, AddressFamily::INET, "203.0.113.9:1").unwrap());
    assert_eq!(tcp(110, AddressFamily::INET, "203.0.113.9:2").err(), Some(Errno::CONNREFUSED));
    open.push(tcp(120, AddressFamily::INET6, "[2001:db8::9]:3").unwrap());
    open.push(tcp(130, AddressFamily::INET6, "[::ffff:203.0.113.9]:4").unwrap());
    // Made by nobody that the layer knows.
    open.push(world.programs.connect("203.0.113.9:5".parse().unwrap()).unwrap().into());
    for (pid, subject) in [(100, ".9:1"), (110, ".9:2"), (120, "::9]:3"), (130, ".9:4")] {
        assert_eq!(owner(&world, wire::Kind::Connection, subject), program(pid), "{subject}");
    }
    let stranger = world.connections().into_iter().find(|(event, _)| event.subject.contains(".9:5")).unwrap();
    assert_eq!(stranger.0.pid, 0);
    // What reads the bytes of the connections knows it as well.
    let taps = wait_for("four taps", || Some(world.taps.all()).filter(|all| all.len() == 4));
    let strangers = taps.iter().filter(|seen| seen.context.owner == Owner::default()).count();
    assert_eq!(strangers, 1);

    datagrams(&world);
    stolen(&world);
}

/// Connected and not, and a question to a name server.
fn datagrams(world: &World) {
    let udp = |pid| {
        let socket = UdpSocket::from(world.programs.socket_of(pid, AddressFamily::INET, SocketType::DGRAM));
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    };
    let connected = udp(200);
    connected.connect("203.0.113.9:6").unwrap();
    connected.send(b"x").unwrap();
    connected.recv(&mut [0; 8]).unwrap();
    let unconnected = udp(210);
    unconnected.send_to(b"x", "203.0.113.9:7").unwrap();
    unconnected.recv(&mut [0; 8]).unwrap();
    assert_eq!(owner(world, wire::Kind::Connection, ".9:6"), program(200));
    assert_eq!(owner(world, wire::Kind::Connection, ".9:7"), program(210));
    let resolver = udp(220);
    let question = b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04shop\x04test\x00\x00\x01\x00\x01";
    resolver.send_to(question, "10.96.0.10:53").unwrap();
    resolver.recv(&mut [0; 512]).unwrap();
    assert_eq!(owner(world, wire::Kind::Dns, "shop.test"), program(220));
}

/// What arrives belongs to whoever made the listener.
fn stolen(world: &World) {
    let socket = world.programs.socket_of(300, AddressFamily::INET, SocketType::STREAM);
    bind(&socket, &SocketAddr::from(([0, 0, 0, 0], 8080))).unwrap();
    listen(&socket, 16).unwrap();
    let listener = TcpListener::from(socket);
    wait_for("a parked stream", || (world.agent.script.parked() > 0).then_some(()));
    let client: SocketAddr = "198.51.100.1:4444".parse().unwrap();
    let stealing = world.agent.script.steal(client, SocketAddr::new(V4.parse().unwrap(), 80));
    let _client = world.run(stealing).expect("a stream was parked");
    let (mut stream, peer): (TcpStream, _) = listener.accept().unwrap();
    assert_eq!(peer, client);
    stream.write_all(b"x").unwrap();
    assert_eq!(owner(world, wire::Kind::Connection, "198.51.100.1"), program(300));
    drop(_client);
    drop(stream.read(&mut [0; 1]));
}
