//! Subscriptions, publishing and the end.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use mirrord_protocol::{agent::v1 as agent, session::v1 as wire};
use mirrord_session::{config::Mode, network::NetworkError};

use crate::world::{World, wait_for};

fn wait_mode(world: &World, port: u16, mode: Option<agent::Mode>) {
    let modes = world.agent.script.modes();
    wait_for(&format!("port {port} is {mode:?}"), || {
        (modes.borrow().get(&port).copied() == mode).then_some(())
    });
}

fn facts(world: &World) -> wire::Port {
    world.handle.ports().borrow().first().cloned().expect("a port")
}

pub(crate) fn toggle() {
    let world = World::with_port(80, 8080, Mode::Mirror);
    wait_mode(&world, 80, Some(agent::Mode::Mirror));
    // Stealing waits for the local process.
    let port = world.run(world.handle.set_mode(80, Mode::Steal)).unwrap();
    assert_eq!(
        (port.mode(), port.waiting.as_str()),
        (wire::Mode::Off, "waiting for the local process to listen on 8080")
    );
    wait_mode(&world, 80, Some(agent::Mode::Off));
    let listener = world.programs.listen("0.0.0.0:8080");
    let cookie = mirrord_netns::sockopt::cookie(&listener).unwrap();
    world.run(world.handle.listening([0, 0, 0, 0].into(), 8080, cookie, 4711));
    wait_mode(&world, 80, Some(agent::Mode::Steal));
    wait_for("the facts", || {
        let port = facts(&world);
        (port.mode() == wire::Mode::Steal && port.local_listens && port.waiting.is_empty()).then_some(())
    });
    assert_eq!(world.handle.listeners().borrow()[0].pid, 4711);
    // It goes: the target serves again, without anybody telling us.
    drop(listener);
    wait_mode(&world, 80, Some(agent::Mode::Off));
    // What the agent refuses changes nothing.
    world.run(world.handle.set_mode(80, Mode::Mirror)).unwrap();
    let _listener = world.programs.listen("0.0.0.0:8080");
    wait_for("the scan finds it", || facts(&world).local_listens.then_some(()));
    world.agent.script.refuse_mode(agent::Mode::Steal, "no NET_ADMIN");
    let refused = world.run(world.handle.set_mode(80, Mode::Steal)).unwrap_err();
    assert_eq!(refused.to_string(), "the agent cannot steal port 80: no NET_ADMIN");
    assert_eq!(facts(&world).mode(), wire::Mode::Mirror);
    wait_mode(&world, 80, Some(agent::Mode::Mirror));
    assert!(matches!(world.run(world.handle.set_mode(81, Mode::Off)), Err(NetworkError::UnknownPort(81))));
    // Counters of the agent come through.
    let status =
        agent::PortStatus { port: 80, packets: 5, target_listens: true, ..agent::PortStatus::default() };
    assert!(world.run(world.agent.script.status(status)));
    wait_for("the counters", || (facts(&world).packets == 5).then_some(()));
    assert!(world.events(wire::Kind::Port).len() >= 5);
    // What the agent says about itself: a warning is an event, an end is for the host.
    use agent::agent_notice::Kind;
    assert!(world.run(world.agent.script.notice(Kind::Warning, "the ring was too small")));
    wait_for("the warning", || world.warnings().contains(&"the ring was too small".to_owned()).then_some(()));
    assert_eq!(*world.handle.agent_ending().borrow(), None);
    assert!(world.run(world.agent.script.notice(Kind::TargetEnded, "the target has ended")));
    let said = wait_for("the end", || world.handle.agent_ending().borrow().clone());
    assert_eq!((said.target_ended, said.text.as_str()), (true, "the target has ended"));
    assert!(world.run(world.agent.script.notice(Kind::Ending, "by a signal")));
    wait_for("another reason", || {
        world.handle.agent_ending().borrow().clone().filter(|said| !said.target_ended)
    });
}

pub(crate) fn by_listening() {
    let world = World::with(|config| {
        config.incoming.port_mapping.insert(8080, 80);
        config.incoming.ignore_ports.push(9229);
        config.incoming.ignore_localhost = true;
    });
    let listeners =
        ["0.0.0.0:8080", "[::]:8443", "0.0.0.0:9229", "127.0.0.1:7000"].map(|at| world.programs.listen(at));
    wait_mode(&world, 80, Some(agent::Mode::Mirror));
    wait_mode(&world, 8443, Some(agent::Mode::Mirror));
    wait_for("four listeners", || (world.handle.listeners().borrow().len() == 4).then_some(()));
    let modes = world.agent.script.modes();
    assert_eq!(modes.borrow().keys().copied().collect::<Vec<_>>(), [80, 8443]);
    drop(listeners);
    wait_mode(&world, 80, None);
    wait_mode(&world, 8443, None);
    wait_for("no port", || world.handle.ports().borrow().is_empty().then_some(()));
}

pub(crate) fn survive_a_broken_link() {
    let mut world = World::with_port(80, 80, Mode::Mirror);
    wait_mode(&world, 80, Some(agent::Mode::Mirror));
    wait_for("all streams are parked", || (world.agent.script.parked() == 8).then_some(()));
    world.agent.cut();
    wait_for("the driver sees it", || (facts(&world).waiting == "waiting for the agent").then_some(()));
    world.run(async { world.agent.listen() }).unwrap();
    wait_mode(&world, 80, Some(agent::Mode::Mirror));
    wait_for("the facts", || facts(&world).waiting.is_empty().then_some(()));
    // New connections work as before, in both directions.
    wait_for("a parked stream", || (world.agent.script.parked() > 8).then_some(()));
    let mut stream = world.programs.connect("203.0.113.9:7".parse().unwrap()).unwrap();
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0; 1]).unwrap();
}

/// A port of the machine's loopback that is free in both families, most likely still a moment later.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

pub(crate) fn publish() {
    let world = World::with(|config| config.incoming.publish = true);
    let port = free_port();
    let listener = world.programs.listen(&format!("0.0.0.0:{port}"));
    let published = wait_for("it is published", || {
        world.handle.listeners().borrow().first().cloned().filter(|listener| listener.published_port != 0)
    });
    assert_eq!(published.published_port, u32::from(port));
    for host in [SocketAddr::from(([127, 0, 0, 1], port)), SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port))]
    {
        let mut client = TcpStream::connect(host).unwrap();
        client.write_all(b"ping").unwrap();
        let (mut stream, peer) = listener.accept().unwrap();
        if host.is_ipv4() {
            assert_eq!(peer, client.local_addr().unwrap());
        }
        stream.read_exact(&mut [0; 4]).unwrap();
        stream.write_all(b"pong").unwrap();
        drop(stream);
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "pong");
    }
    let seen = wait_for("the taps", || Some(world.taps.all()).filter(|all| all.len() == 2));
    assert_eq!(seen[0].context.direction, wire::Direction::Local);
    // The same port is taken on the host: said with its reason.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_port = taken.local_addr().unwrap().port();
    let other = world.programs.listen(&format!("0.0.0.0:{taken_port}"));
    let reason = wait_for("the reason", || {
        let listeners = world.handle.listeners();
        let all = listeners.borrow();
        all.iter().map(|listener| listener.unpublished_reason.clone()).find(|reason| !reason.is_empty())
    });
    assert_eq!(reason, format!("port {taken_port} of this machine is in use"));
    // It goes with the listener.
    drop((listener, other));
    wait_for("it is unpublished", || {
        let refused = TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.kind());
        (refused.err() == Some(ErrorKind::ConnectionRefused)).then_some(())
    });
    wait_for("no listener", || world.handle.listeners().borrow().is_empty().then_some(()));
}

pub(crate) fn shutdown_leaves_nothing() {
    let mut world = World::with(|config| config.incoming.publish = true);
    let port = free_port();
    let _listener = world.programs.listen(&format!("0.0.0.0:{port}"));
    wait_for("it is published", || {
        world.handle.listeners().borrow().first().filter(|listener| listener.published_port != 0).map(drop)
    });
    // One connection that never ends, one flow that is held, one datagram flow.
    let mut open = world.programs.connect("203.0.113.9:7".parse().unwrap()).unwrap();
    let silent: SocketAddr = "203.0.113.9:8".parse().unwrap();
    world.agent.script.tcp(silent, mirrord_session::testing::fake_agent::Destination::Silent);
    let held = world.programs.tcp(silent);
    rustix::io::ioctl_fionbio(&held, true).unwrap();
    rustix::net::connect(&held, &silent).unwrap_err();
    wait_for("the dial", || (world.agent.script.dialled().len() == 2).then_some(()));
    let socket = world.programs.udp("203.0.113.9:9".parse().unwrap());
    socket.send_to(b"x", "203.0.113.9:9").unwrap();
    socket.recv(&mut [0; 8]).unwrap();
    let took = world.shut_down();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "still published");
    assert!(!matches!(open.read(&mut [0; 1]), Ok(1..)));
    let pending: Vec<_> =
        world.events(wire::Kind::Connection).into_iter().filter(|event| event.pending).collect();
    assert!(pending.is_empty(), "{pending:?}");
    wait_for("no stream is left at the agent", || (!world.agent.script.mirrors()).then_some(()));
}
