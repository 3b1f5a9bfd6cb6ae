//! Questions of the session's programs.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr},
};

use mirrord_protocol::session::v1 as wire;
use mirrord_session::{
    config::{AddressRule, HostRule, OutgoingFilter},
    network::dns_message,
};

use crate::world::{World, host_listener, readable, wait_for};

/// The target's name server, as the fake has it.
pub(crate) const SERVER: &str = "10.96.0.10:53";

pub(crate) fn query(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&[0, 1]);
    message
}

fn questions(world: &World) -> Vec<(wire::Event, wire::Dns)> {
    let events = world.events(wire::Kind::Dns).into_iter();
    events
        .filter_map(|event| match event.detail.clone() {
            Some(wire::event::Detail::Dns(dns)) => Some((event, dns)),
            _ => None,
        })
        .collect()
}

fn ask(world: &World, name: &str, kind: u16) -> dns_message::Reply {
    let server: SocketAddr = SERVER.parse().unwrap();
    let socket = world.programs.udp(server);
    socket.connect(server).unwrap();
    socket.send(&query(7, name, kind)).unwrap();
    let mut buffer = [0; 600];
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(dns_message::question(&buffer[..length]).unwrap().id, 7);
    dns_message::reply(&buffer[..length]).unwrap()
}

pub(crate) fn over_udp() {
    let world = World::start();
    let (v4, v6): (IpAddr, IpAddr) = ("10.0.0.9".parse().unwrap(), "2001:db8::9".parse().unwrap());
    world.agent.script.name("db.example", &[v4, v6]);
    assert_eq!(ask(&world, "DB.example", 1).addresses, [v4]);
    assert_eq!(ask(&world, "db.example", 28).addresses, [v6]);
    assert_eq!(ask(&world, "nobody.example", 1).rcode, 3);
    // A and AAAA at the same time from one unconnected socket, as musl and glibc do.
    let server: SocketAddr = SERVER.parse().unwrap();
    let socket = world.programs.udp(server);
    for (id, kind) in [(1, 1), (2, 28)] {
        socket.send_to(&query(id, "db.example", kind), server).unwrap();
    }
    let mut ids: Vec<u16> = (0..2)
        .map(|_| {
            let mut buffer = [0; 600];
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!(from, server);
            dns_message::question(&buffer[..length]).unwrap().id
        })
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2]);
    let seen = questions(&world);
    assert_eq!(seen.len(), 5);
    let (event, dns) = &seen[0];
    assert_eq!(
        (dns.question.as_str(), dns.record.as_str(), dns.rcode.as_str()),
        ("db.example", "A", "NOERROR")
    );
    assert_eq!((dns.answers.as_slice(), dns.server.as_str()), (&["10.0.0.9".to_owned()][..], "10.96.0.10"));
    assert_eq!(event.decision.as_ref().unwrap().r#where(), wire::Where::Remote);
    assert!(event.latency_ns > 0 && event.error.is_empty());
    assert_eq!(seen[2].0.error, "NXDOMAIN");
    // The name goes with the address from now on.
    drop(world.programs.connect((v4, 5432).into()).unwrap());
    let (event, detail) = world.connections().remove(0);
    assert_eq!((event.subject.as_str(), detail.name.as_str()), ("db.example:5432", "db.example"));
}

pub(crate) fn over_tcp() {
    let world = World::start();
    world.agent.script.name("db.example", &[[10, 0, 0, 9].into()]);
    let mut stream = world.programs.connect(SERVER.parse().unwrap()).unwrap();
    for id in [3, 4] {
        let message = query(id, "db.example", 1);
        stream.write_all(&u16::try_from(message.len()).unwrap().to_be_bytes()).unwrap();
        stream.write_all(&message).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut reply = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(dns_message::question(&reply).unwrap().id, id);
        assert_eq!(dns_message::reply(&reply).unwrap().answers, ["10.0.0.9"]);
    }
    assert!(world.agent.script.dialled().is_empty());
}

pub(crate) fn failures() {
    let world = World::start();
    world.agent.script.dns_fails(Some(libc::ECONNREFUSED));
    assert_eq!(ask(&world, "db.example", 1).rcode, 2);
    world.agent.script.dns_fails(Some(libc::ETIMEDOUT));
    let server: SocketAddr = SERVER.parse().unwrap();
    let socket = world.programs.udp(server);
    socket.send_to(&query(9, "db.example", 1), server).unwrap();
    let seen = wait_for("the timeout's event", || Some(questions(&world)).filter(|seen| seen.len() == 2));
    assert_eq!((seen[0].0.error.as_str(), seen[0].1.rcode.as_str()), ("ECONNREFUSED", "SERVFAIL"));
    assert_eq!((seen[1].0.error.as_str(), seen[1].1.rcode.as_str()), ("TIMEOUT", ""));
    assert!(
        !readable(&socket, std::time::Duration::from_millis(50)),
        "a name server that is silent stays so"
    );
    // Noise is no question and harms nobody.
    socket.send_to(b"x", server).unwrap();
    world.agent.script.dns_fails(None);
    assert_eq!(ask(&world, "db.example", 1).rcode, 3);
}

pub(crate) fn names_decide() {
    let (listener, host) = host_listener();
    let rule = AddressRule {
        text: "db.example".to_owned(),
        transport: None,
        host: HostRule::Name("db.example".to_owned()),
        port: 0,
    };
    let world = World::with(|config| config.outgoing.filter = OutgoingFilter::Local(vec![rule]));
    world.agent.script.name("db.example", &[host.ip()]);
    drop(world.programs.connect(host).unwrap());
    assert_eq!(world.agent.script.dialled(), [host], "no name is known yet");
    assert_eq!(ask(&world, "db.example", 1).addresses, [host.ip()]);
    drop(world.programs.connect(host).unwrap());
    listener.accept().unwrap();
    assert_eq!(world.agent.script.dialled().len(), 1);
}
