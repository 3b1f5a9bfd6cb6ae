//! Outgoing TCP: results of connect(2), streams, rules.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use mirrord_protocol::session::v1::{self as wire, connection::Stage};
use mirrord_session::{
    config::{AddressRule, HostRule, OutgoingFilter},
    testing::fake_agent::Destination,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{AddressFamily, SocketType, connect, sockopt},
};

use crate::world::{LIMIT, V4, World, host_listener, readable, wait_for};

const DELAY: Duration = Duration::from_millis(30);

/// How a program connects.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Blocking,
    NonBlocking,
    /// An IPv6 socket to a v4-mapped address.
    Mapped,
}

fn try_connect(world: &World, to: SocketAddr, way: Way) -> Result<OwnedFd, Errno> {
    let socket = match way {
        Way::Mapped => world.programs.socket(AddressFamily::INET6, SocketType::STREAM),
        _ => world.programs.tcp(to),
    };
    let to = match (way, to) {
        (Way::Mapped, SocketAddr::V4(to)) => (to.ip().to_ipv6_mapped(), to.port()).into(),
        _ => to,
    };
    if way != Way::NonBlocking {
        return connect(&socket, &to).map(|()| socket);
    }
    rustix::io::ioctl_fionbio(&socket, true)?;
    assert_eq!(connect(&socket, &to), Err(Errno::INPROGRESS));
    let mut fds = [PollFd::new(&socket, PollFlags::OUT)];
    assert_eq!(poll(&mut fds, Some(&LIMIT.try_into().unwrap())).unwrap(), 1, "no result of connect");
    sockopt::socket_error(&socket).unwrap().map(|()| socket)
}

pub(crate) fn connect_results() {
    let world = World::start();
    let results = [
        (1, None),
        (2, Some(Errno::CONNREFUSED)),
        (3, Some(Errno::HOSTUNREACH)),
        (4, Some(Errno::NETUNREACH)),
    ];
    for (to, ways) in [
        ("203.0.113.9", &[Way::Blocking, Way::NonBlocking, Way::Mapped][..]),
        ("2001:db8::9", &[Way::Blocking, Way::NonBlocking]),
    ] {
        for (port, errno) in results {
            let to = SocketAddr::new(to.parse().unwrap(), port);
            let result = errno.map_or(Destination::Echo, |errno| Destination::Errno(errno.raw_os_error()));
            world.agent.script.tcp(to, Destination::After(DELAY, Box::new(result)));
            for way in ways {
                let start = Instant::now();
                let got = try_connect(&world, to, *way);
                let took = start.elapsed();
                assert_eq!(got.as_ref().err().copied(), errno, "{to} {way:?}");
                assert!(took >= DELAY && took < LIMIT / 10, "{to} {way:?}: {took:?}");
                if let Ok(socket) = got {
                    rustix::io::ioctl_fionbio(&socket, false).unwrap();
                    let mut stream = TcpStream::from(socket);
                    assert_eq!(stream.peer_addr().unwrap().ip().to_canonical(), to.ip());
                    stream.write_all(b"hello").unwrap();
                    let mut reply = [0; 5];
                    stream.read_exact(&mut reply).unwrap();
                    assert_eq!(&reply, b"hello");
                }
            }
        }
    }
    let failed: Vec<_> =
        world.connections().into_iter().filter(|(_, detail)| detail.stage() == Stage::Failed).collect();
    assert_eq!(failed.len(), 15);
    assert!(failed.iter().all(|(event, _)| event.error.starts_with('E') && event.latency_ns > 20_000_000));
    let closed = wait_for("five closed connections", || {
        let all = world.connections();
        let closed: Vec<_> = all.into_iter().filter(|(_, detail)| detail.stage() == Stage::Closed).collect();
        (closed.len() == 5).then_some(closed)
    });
    for (event, detail) in closed {
        assert_eq!((detail.bytes_in, detail.bytes_out, event.bytes), (5, 5, 10));
        assert_eq!(event.decision.unwrap().r#where(), wire::Where::Remote);
    }
}

/// A program that has no patience gets its own kernel's ETIMEDOUT; the destination is dialled once.
pub(crate) fn connect_times_out() {
    let world = World::start();
    let to: SocketAddr = "203.0.113.9:7".parse().unwrap();
    world.agent.script.tcp(to, Destination::Errno(libc::ETIMEDOUT));
    let socket = socket2::Socket::from(world.programs.tcp(to));
    let once: u32 = 1;
    rustix_syncnt(&socket, once);
    let start = Instant::now();
    let error = socket.connect(&to.into()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT));
    assert!(start.elapsed() > Duration::from_millis(900), "{:?}", start.elapsed());
    assert_eq!(world.agent.script.dialled(), [to], "a SYN that is sent again is not dialled again");
}

/// TCP_SYNCNT has no safe wrapper; the user timeout has, and ends a connect the same way.
fn rustix_syncnt(socket: &socket2::Socket, count: u32) {
    socket.set_tcp_user_timeout(Some(Duration::from_secs(count.into()))).unwrap();
}

/// A destination that takes long: the held program waits as long as the dial does.
pub(crate) fn connect_long_held() {
    let world = World::start();
    let to: SocketAddr = "203.0.113.9:7".parse().unwrap();
    let delay = Duration::from_secs(12);
    world.agent.script.tcp(to, Destination::After(delay, Box::new(Destination::Echo)));
    let start = Instant::now();
    let result = world.programs.connect(to);
    assert!(result.is_ok(), "{result:?} after {:?}", start.elapsed());
    assert!(start.elapsed() >= delay);
    assert_eq!(world.agent.script.dialled().len(), 1);
}

pub(crate) fn connect_given_up() {
    let world = World::start();
    let to: SocketAddr = "203.0.113.9:7".parse().unwrap();
    world.agent.script.tcp(to, Destination::Silent);
    let socket = world.programs.tcp(to);
    rustix::io::ioctl_fionbio(&socket, true).unwrap();
    assert_eq!(connect(&socket, &to), Err(Errno::INPROGRESS));
    wait_for("the dial", || (world.agent.script.dialled() == [to]).then_some(()));
    assert_eq!(world.agent.script.cancelled(), 0);
    drop(socket);
    wait_for("the dial is cancelled", || (world.agent.script.cancelled() == 1).then_some(()));
    let (event, detail) = wait_for("the event", || {
        world.connections().into_iter().find(|(_, detail)| detail.stage() == Stage::Failed)
    });
    assert_eq!(event.error, "the program gave up");
    assert_eq!(detail.port, 7);
}

pub(crate) fn connect_many_at_once() {
    const COUNT: u16 = 150;
    let world = World::start();
    for port in 1..=COUNT {
        let result = if port % 3 == 0 { Destination::Errno(libc::ECONNREFUSED) } else { Destination::Echo };
        let after = Destination::After(Duration::from_millis(300), Box::new(result));
        world.agent.script.tcp(([203, 0, 113, 9], port).into(), after);
    }
    let start = Instant::now();
    std::thread::scope(|scope| {
        for port in 1..=COUNT {
            let world = &world;
            scope.spawn(move || {
                let result = world.programs.connect(([203, 0, 113, 9], port).into());
                match result {
                    Ok(mut stream) => {
                        assert!(port % 3 != 0);
                        stream.write_all(&port.to_be_bytes()).unwrap();
                        let mut reply = [0; 2];
                        stream.read_exact(&mut reply).unwrap();
                        assert_eq!(reply, port.to_be_bytes());
                    }
                    Err(error) => assert_eq!((error.kind(), port % 3), (ErrorKind::ConnectionRefused, 0)),
                }
            });
        }
    });
    assert!(start.elapsed() < Duration::from_secs(3), "one after the other: {:?}", start.elapsed());
}

pub(crate) fn one_port_two_destinations() {
    let world = World::start();
    let near: SocketAddr = format!("{V4}:45000").parse().unwrap();
    let mut streams: Vec<TcpStream> = ["203.0.113.9:80", "198.51.100.7:80"]
        .into_iter()
        .map(|to| {
            let to: SocketAddr = to.parse().unwrap();
            world.agent.script.tcp(to, Destination::Say(to.to_string().into_bytes()));
            let socket = world.programs.tcp(to);
            sockopt::set_socket_reuseaddr(&socket, true).unwrap();
            sockopt::set_socket_reuseport(&socket, true).unwrap();
            rustix::net::bind(&socket, &near).unwrap();
            connect(&socket, &to).unwrap();
            TcpStream::from(socket)
        })
        .collect();
    for stream in &mut streams {
        let mut said = String::new();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.read_to_string(&mut said).unwrap();
        assert_eq!(said, stream.peer_addr().unwrap().to_string());
        assert_eq!(stream.local_addr().unwrap(), near);
    }
}

pub(crate) fn half_close() {
    let world = World::start();
    let mut stream = world.programs.connect("203.0.113.9:7".parse().unwrap()).unwrap();
    stream.write_all(b"all of it").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    assert_eq!(reply, b"all of it");
    // The other end first: it has said all and reads on.
    let to: SocketAddr = "203.0.113.9:8".parse().unwrap();
    world.agent.script.tcp(to, Destination::Say(b"bye".to_vec()));
    let mut stream = world.programs.connect(to).unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    assert_eq!(reply, b"bye");
    stream.write_all(b"still writing").unwrap();
    drop(stream);
    let closed = wait_for("both are closed in order", || {
        let all = world.connections();
        all.iter().all(|(_, detail)| detail.stage() == Stage::Closed).then_some(all)
    });
    assert!(closed.iter().all(|(event, detail)| !detail.reset && event.error.is_empty()));
    assert_eq!(closed[1].1.bytes_out, 13);
    let taps = world.taps.all();
    assert!(taps.iter().all(|seen| seen.closed));
    assert_eq!((taps[1].client.as_slice(), taps[1].server.as_slice()), (&b"still writing"[..], &b"bye"[..]));
}

pub(crate) fn stream_whole() {
    const SIZE: usize = 32 << 20;
    let world = World::start();
    let mut stream = world.programs.connect("[2001:db8::9]:7".parse().unwrap()).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let piece = |at: usize| u8::try_from((at / 7 + at / 251) % 256).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let data: Vec<u8> = (0..SIZE).map(piece).collect();
            writer.write_all(&data).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut data = Vec::new();
        stream.read_to_end(&mut data).unwrap();
        assert_eq!(data.len(), SIZE);
        assert!(data.iter().enumerate().all(|(at, byte)| *byte == piece(at)));
    });
}

pub(crate) fn resets() {
    let world = World::start();
    let to: SocketAddr = "203.0.113.9:8".parse().unwrap();
    world.agent.script.tcp(to, Destination::Reset);
    let mut stream = world.programs.connect(to).unwrap();
    stream.write_all(b"x").unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    // The program's own reset reaches the agent as one.
    let stream = world.programs.connect("203.0.113.9:9".parse().unwrap()).unwrap();
    mirrord_netns::sockopt::reset_on_close(&stream).unwrap();
    drop(stream);
    wait_for("both are reset", || {
        let all = world.connections();
        (all.iter().filter(|(_, detail)| detail.reset && detail.stage() == Stage::Closed).count() == 2)
            .then_some(())
    });
}

pub(crate) fn deaf_peer() {
    let world = World::start();
    let to: SocketAddr = "203.0.113.9:8".parse().unwrap();
    world.agent.script.tcp(to, Destination::Deaf);
    let deaf = world.programs.connect(to).unwrap();
    deaf.set_nonblocking(true).unwrap();
    // Fills everything on the way: the buffers are bounded.
    let chunk = vec![7; 1 << 20];
    let mut sent = 0;
    let mut writer = &deaf;
    let deadline = Instant::now() + LIMIT;
    let mut full_since = Instant::now();
    while full_since.elapsed() < Duration::from_millis(300) {
        assert!(Instant::now() < deadline && sent < 64 << 20, "{sent} bytes are queued for a deaf peer");
        match writer.write(&chunk) {
            Ok(count) => {
                sent += count;
                full_since = Instant::now();
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
    let mut other = world.programs.connect("203.0.113.9:7".parse().unwrap()).unwrap();
    other.write_all(b"hello").unwrap();
    let mut reply = [0; 5];
    other.read_exact(&mut reply).unwrap();
}

pub(crate) fn local_rule() {
    let (listener, host) = host_listener();
    let rule = AddressRule {
        text: "127.0.0.0/8".to_owned(),
        transport: None,
        host: HostRule::Subnet([127, 0, 0, 0].into(), 8),
        port: 0,
    };
    let world = World::with(|config| config.outgoing.filter = OutgoingFilter::Local(vec![rule]));
    let mut stream = world.programs.connect(host).unwrap();
    let (mut far, _) = listener.accept().unwrap();
    far.write_all(b"from the host").unwrap();
    drop(far);
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(said, "from the host");
    drop((stream, listener));
    let refused = world.programs.connect(host).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert!(world.agent.script.dialled().is_empty());
    let decisions: Vec<_> =
        world.connections().into_iter().map(|(event, _)| event.decision.unwrap()).collect();
    assert!(decisions.iter().all(|decision| decision.r#where() == wire::Where::Local));
    assert_eq!(decisions[0].rule, "feature.network.outgoing.filter.local[0] 127.0.0.0/8");
}

pub(crate) fn loopback() {
    let world = World::start();
    // Inside first, by every name that the namespace has for itself.
    for at in ["127.0.0.1:8080", "[::1]:8081", "0.0.0.0:8082"] {
        let listener = world.programs.listen(at);
        let mut to = listener.local_addr().unwrap();
        if to.ip().is_unspecified() {
            to.set_ip(V4.parse().unwrap());
        }
        let stream = world.programs.connect(to).unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer, stream.local_addr().unwrap());
    }
    assert!(world.agent.script.dialled().is_empty());
    // Else the target's loopback, and its own address.
    for to in ["127.0.0.1:15020", "[::1]:15020", "10.99.0.5:15020"] {
        let to: SocketAddr = to.parse().unwrap();
        world.agent.script.tcp(to, Destination::Say(b"sidecar".to_vec()));
        let mut said = String::new();
        world.programs.connect(to).unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said, "sidecar");
    }
    assert_eq!(world.agent.script.dialled().len(), 3);
    drop(world);
    let world = World::with(|config| config.outgoing.ignore_localhost = true);
    let (listener, host) = host_listener();
    let stream = world.programs.connect(host).unwrap();
    assert!(readable(&listener, LIMIT));
    drop(stream);
    assert!(world.agent.script.dialled().is_empty());
}
