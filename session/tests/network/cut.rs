//! A link to the agent that breaks and comes back: what was open ends at once and in order, what is new works again.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use mirrord_protocol::session::v1::{self as wire, connection::Stage};
use mirrord_session::{config::Mode, testing::fake_agent::StolenClient};

use crate::world::{V4, World, wait_for};

fn echo(stream: &mut TcpStream) {
    stream.write_all(b"hello").unwrap();
    let mut reply = [0; 5];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"hello");
}

fn steal(world: &World, port: u16) -> StolenClient {
    let client = SocketAddr::from(([198, 51, 100, 1], port));
    wait_for("a connection is taken", || {
        world.run(world.agent.script.steal(client, SocketAddr::new(V4.parse().unwrap(), 80)))
    })
}

pub(crate) fn open_streams_end() {
    let mut world = World::with_port(80, 8080, Mode::Steal);
    let listener = world.programs.listen("0.0.0.0:8080");
    let to: SocketAddr = "203.0.113.9:7".parse().unwrap();
    let mut outgoing = world.programs.connect(to).unwrap();
    echo(&mut outgoing);
    let client = steal(&world, 4001);
    let (mut stolen, _) = listener.accept().unwrap();
    stolen.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert!(world.run(client.send("half a request")));
    stolen.read_exact(&mut [0; 14]).unwrap();

    world.agent.cut();
    for (name, stream) in [("outgoing", &mut outgoing), ("stolen", &mut stolen)] {
        let error = stream.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{name}: it is no end of the data: {error}");
    }
    let closed = wait_for("both events say how it ended", || {
        let all = world.connections();
        all.iter().all(|(_, detail)| detail.stage() == Stage::Closed).then_some(all)
    });
    assert_eq!(closed.len(), 2);
    for (event, detail) in closed {
        assert!(detail.reset && !event.pending && !event.error.is_empty(), "{event:?}");
    }
    // While the agent is away a connect fails in words that a program knows, and soon.
    let start = Instant::now();
    let error = world.programs.connect(to).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::HostUnreachable);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());

    world.run(async { world.agent.listen() }).unwrap();
    let mut again = wait_for("connections work again", || world.programs.connect(to).ok());
    echo(&mut again);
    let client = steal(&world, 4002);
    let (mut stolen, peer) = listener.accept().unwrap();
    assert_eq!(peer.port(), 4002);
    assert!(world.run(client.send("x")));
    stolen.read_exact(&mut [0; 1]).unwrap();
    assert!(world.events(wire::Kind::Connection).iter().any(|event| event.pending), "the new ones are open");
}
