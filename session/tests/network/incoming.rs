//! Stolen connections.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr},
};

use mirrord_protocol::session::v1::{self as wire, connection::Stage};
use mirrord_session::{agent_link::Chunk, config::Mode, testing::fake_agent::StolenClient};

use crate::world::{V4, V6, World, wait_for};

fn steal(world: &World, client: &str, server: &str) -> StolenClient {
    let (client, server): (SocketAddr, SocketAddr) = (client.parse().unwrap(), server.parse().unwrap());
    wait_for("a parked stream", || (world.agent.script.parked() > 0).then_some(()));
    world.run(world.agent.script.steal(client, server)).expect("a parked stream")
}

pub(crate) fn shows_the_client() {
    let world = World::with_port(80, 8080, Mode::Steal);
    let listener = world.programs.listen("[::]:8080");
    for (client, server) in [
        ("203.0.113.7:40000".to_owned(), format!("{V4}:80")),
        ("[2001:db8::7]:40000".to_owned(), format!("[{V6}]:80")),
        // The client's port is one on which the process listens.
        ("203.0.113.8:8080".to_owned(), format!("{V4}:80")),
    ] {
        let mut stolen = steal(&world, &client, &server);
        let (mut stream, peer) = listener.accept().unwrap();
        assert_eq!((peer.ip().to_canonical(), peer.port()), {
            let client: SocketAddr = client.parse().unwrap();
            (client.ip(), client.port())
        });
        let local: SocketAddr = server.parse().unwrap();
        assert_eq!(stream.local_addr().unwrap().ip().to_canonical(), local.ip());
        world.run(stolen.send("GET / HTTP/1.1\r\n\r\n"));
        let mut request = [0; 18];
        stream.read_exact(&mut request).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        assert_eq!(world.run(stolen.recv()), Some(Chunk::Data("HTTP/1.1 200 OK\r\n\r\n".into())));
        world.run(stolen.shut_down());
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(world.run(stolen.recv()), Some(Chunk::Shutdown));
    }
    // Sixteen at once: more than are parked.
    let many: Vec<StolenClient> =
        (0..16).map(|port| steal(&world, &format!("203.0.113.9:{}", 41000 + port), "10.99.0.5:80")).collect();
    for _ in &many {
        listener.accept().unwrap();
    }
    drop(many);
    let port = wait_for("the counters", || {
        let ports = world.handle.ports();
        let port = ports.borrow().first().cloned();
        port.filter(|port| port.delivered == 19)
    });
    assert_eq!((port.local, port.refused), (8080, 0));
    let seen = world.taps.all();
    assert_eq!(seen[0].client, b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(seen[0].server, b"HTTP/1.1 200 OK\r\n\r\n");
    assert_eq!((seen[0].context.port, seen[0].context.mode), (80, wire::Mode::Steal));
}

pub(crate) fn ends() {
    let world = World::with_port(80, 80, Mode::Steal);
    let listener = world.programs.listen("0.0.0.0:80");
    // The client resets.
    let stolen = steal(&world, "203.0.113.7:40000", "10.99.0.5:80");
    let (mut stream, _) = listener.accept().unwrap();
    world.run(stolen.reset());
    assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    // The process resets.
    let mut stolen = steal(&world, "203.0.113.7:40001", "10.99.0.5:80");
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(b"x").unwrap();
    assert_eq!(world.run(stolen.recv()), Some(Chunk::Data("x".into())));
    mirrord_netns::sockopt::reset_on_close(&stream).unwrap();
    drop(stream);
    assert_eq!(world.run(stolen.recv()), Some(Chunk::Reset));
    drop(stolen);
    // The process answers and closes; what it said arrives first.
    let mut stolen = steal(&world, "203.0.113.7:40002", "10.99.0.5:80");
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(&vec![b'x'; 3 << 20]).unwrap();
    drop(stream);
    assert_eq!(world.run(stolen.recv_all()).map(|all| all.len()), Some(3 << 20));
    world.run(stolen.shut_down());
    drop(stolen);
    let closed = wait_for("all are closed", || {
        let all = world.connections();
        all.iter().all(|(_, detail)| detail.stage() == Stage::Closed).then_some(all)
    });
    assert_eq!(closed.iter().map(|(_, detail)| detail.reset).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(closed[2].1.bytes_out, 3 << 20);
}

pub(crate) fn refused() {
    let world = World::with_port(80, 80, Mode::Steal);
    for _ in 0..2 {
        let mut stolen = steal(&world, "203.0.113.7:40000", "10.99.0.5:80");
        assert_eq!(world.run(stolen.recv()), Some(Chunk::Reset));
    }
    let failed = wait_for("the events", || {
        let all = world.connections();
        (all.iter().filter(|(_, detail)| detail.stage() == Stage::Failed).count() == 2).then_some(all)
    });
    assert_eq!(failed[0].0.error, "ECONNREFUSED");
    assert_eq!(world.warnings().len(), 1, "said once: {:?}", world.warnings());
    let refused = wait_for("the counter", || {
        world.handle.ports().borrow().first().map(|port| port.refused).filter(|refused| *refused == 2)
    });
    assert_eq!(refused, 2);
}

pub(crate) fn loopback_listener() {
    let world = World::with_port(80, 9000, Mode::Steal);
    let listener = world.programs.listen("127.0.0.1:9000");
    let _stolen = steal(&world, "203.0.113.7:40000", "10.99.0.5:80");
    let (_, peer) = listener.accept().unwrap();
    assert_eq!(peer, "203.0.113.7:40000".parse().unwrap());
    drop(listener);
    let listener = world.programs.listen("[::1]:9000");
    let _stolen = steal(&world, "203.0.113.7:40000", "10.99.0.5:80");
    let (_, peer) = listener.accept().unwrap();
    assert_eq!(peer, "[::1]:40000".parse().unwrap());
}
