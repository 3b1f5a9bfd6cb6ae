//! Mirrored connections.

use std::{
    io::{ErrorKind, Read, Write},
    net::SocketAddr,
};

use mirrord_protocol::{
    agent::v1::{self as agent, mirror_item::Kind},
    session::v1::connection::Stage,
};
use mirrord_session::{agent_link::wire_address, config::Mode};

use crate::world::{World, wait_for};

fn item(connection: u64, time_ns: u64, kind: Kind) -> agent::MirrorItem {
    agent::MirrorItem { connection, time_ns, kind: Some(kind) }
}

fn opened(connection: u64, mid_stream: bool) -> agent::MirrorItem {
    let client: SocketAddr = ([203, 0, 113, 7], 40000 + u16::try_from(connection).unwrap()).into();
    let server: SocketAddr = ([10, 99, 0, 5], 80).into();
    let opened = agent::MirrorOpened {
        port: 80,
        client: Some(wire_address(client)),
        server: Some(wire_address(server)),
        mid_stream,
    };
    item(connection, 1, Kind::Opened(opened))
}

fn closed(connection: u64, from_server: bool, reset: bool) -> agent::MirrorItem {
    item(connection, 99, Kind::Closed(agent::MirrorClosed { reset, from_server }))
}

fn mirror(world: &World, items: Vec<agent::MirrorItem>) {
    wait_for("the mirror stream", || world.agent.script.mirrors().then_some(()));
    assert!(world.run(world.agent.script.mirror(items)));
}

pub(crate) fn delivers() {
    let world = World::with_port(80, 8080, Mode::Mirror);
    let listener = world.programs.listen("0.0.0.0:8080");
    mirror(
        &world,
        vec![
            opened(1, false),
            item(1, 10, Kind::FromClient("GET / ".into())),
            item(1, 20, Kind::FromClient("HTTP/1.1\r\n\r\n".into())),
            item(1, 30, Kind::FromServer("HTTP/1.1 204 No\r\n\r\n".into())),
        ],
    );
    let (mut stream, peer) = listener.accept().unwrap();
    assert_eq!(peer, "203.0.113.7:40001".parse().unwrap());
    let mut request = [0; 18];
    stream.read_exact(&mut request).unwrap();
    assert_eq!(&request, b"GET / HTTP/1.1\r\n\r\n");
    // Whatever the local process says goes nowhere, and never blocks it.
    stream.write_all(&vec![b'x'; 8 << 20]).unwrap();
    mirror(&world, vec![closed(1, true, false), closed(1, false, false)]);
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    let (event, detail) = wait_for("the end", || {
        world.connections().into_iter().find(|(_, detail)| detail.stage() == Stage::Closed)
    });
    assert_eq!((detail.bytes_in, detail.bytes_out, detail.gaps, detail.reset), (18, 19, 0, false));
    assert!(event.error.is_empty());
    let seen = wait_for("the tap's end", || world.taps.all().into_iter().find(|seen| seen.closed));
    assert_eq!(
        (seen.client.as_slice(), seen.server.as_slice()),
        (&request[..], &b"HTTP/1.1 204 No\r\n\r\n"[..])
    );
    assert_eq!(seen.last_ns, 99, "times are those of the packets");
    wait_for("the counter", || (world.handle.ports().borrow()[0].delivered == 1).then_some(()));
    // A client's reset is one here, too.
    mirror(&world, vec![opened(2, false), item(2, 10, Kind::FromClient("x".into()))]);
    let (mut stream, _) = listener.accept().unwrap();
    stream.read_exact(&mut [0; 1]).unwrap();
    mirror(&world, vec![closed(2, false, true)]);
    assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

pub(crate) fn gap_ends_delivery() {
    let world = World::with_port(80, 80, Mode::Mirror);
    let listener = world.programs.listen("0.0.0.0:80");
    let gap = agent::MirrorGap { from_server: false, bytes: 1234, unknown_length: false };
    mirror(
        &world,
        vec![
            opened(1, false),
            item(1, 10, Kind::FromClient("before".into())),
            item(1, 20, Kind::Gap(gap)),
            item(1, 30, Kind::FromClient("after".into())),
        ],
    );
    let (mut stream, _) = listener.accept().unwrap();
    let mut got = Vec::new();
    assert_eq!(stream.read_to_end(&mut got).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(b"before".starts_with(&got), "nothing after a gap is delivered");
    mirror(&world, vec![closed(1, true, true)]);
    let (_, detail) = wait_for("the end", || {
        world.connections().into_iter().find(|(_, detail)| detail.stage() == Stage::Closed)
    });
    assert_eq!((detail.gaps, detail.gap_bytes, detail.bytes_in), (1, 1234, 11));
    assert!(world.warnings()[0].contains("1234 bytes"), "{:?}", world.warnings());
    let seen = &world.taps.all()[0];
    assert_eq!((seen.gaps, seen.client.as_slice()), (1, &b"beforeafter"[..]));
}

/// A process that does not read loses its own copies and nobody else's.
pub(crate) fn deaf_process() {
    let world = World::with_port(80, 80, Mode::Mirror);
    let listener = world.programs.listen("0.0.0.0:80");
    mirror(&world, vec![opened(1, false)]);
    let (_deaf, _) = listener.accept().unwrap();
    let chunk = bytes::Bytes::from(vec![7; 256 << 10]);
    for _ in 0..200 {
        mirror(&world, vec![item(1, 10, Kind::FromClient(chunk.clone()))]);
    }
    mirror(&world, vec![opened(2, false), item(2, 10, Kind::FromClient("hello".into()))]);
    let (mut stream, _) = listener.accept().unwrap();
    let mut got = [0; 5];
    stream.read_exact(&mut got).unwrap();
    let warning = wait_for("the warning", || world.warnings().into_iter().next());
    assert!(warning.contains("does not read"), "{warning}");
    mirror(&world, vec![closed(1, false, true)]);
    let (_, detail) = wait_for("the end", || {
        world.connections().into_iter().find(|(_, detail)| detail.stage() == Stage::Closed)
    });
    assert_eq!((detail.gaps, detail.bytes_in), (1, 200 * (256 << 10)));
}

pub(crate) fn without_listener() {
    let world = World::with_port(80, 80, Mode::Mirror);
    mirror(
        &world,
        vec![
            opened(1, false),
            item(1, 10, Kind::FromClient("GET".into())),
            item(1, 20, Kind::FromServer("200".into())),
            closed(1, true, false),
            closed(1, false, false),
        ],
    );
    let seen = wait_for("the tap's end", || world.taps.all().into_iter().find(|seen| seen.closed));
    assert_eq!((seen.client.as_slice(), seen.server.as_slice()), (&b"GET"[..], &b"200"[..]));
    // From the middle: read, but not delivered.
    let listener = world.programs.listen("0.0.0.0:80");
    mirror(
        &world,
        vec![opened(2, true), item(2, 10, Kind::FromClient("rest".into())), closed(2, false, true)],
    );
    wait_for("the second tap's end", || {
        world.taps.all().into_iter().nth(1).filter(|seen| seen.closed && seen.context.mid_stream)
    });
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}
