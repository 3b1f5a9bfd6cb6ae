//! Sockets, listeners, unix connections.

use std::{
    io::{Read, Write},
    os::fd::OwnedFd,
    os::unix::net::UnixListener,
    time::Duration,
};

use mirrord_protocol::layer::v1::{Launch, from_layer};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::{
    host::{Host, command, holder},
    victims::{self, KINDS},
};

fn networked(kind: &str, arguments: &[&str]) -> Launch {
    let program = victims::path("victim", kind);
    let all: Vec<&str> = [program.as_str()].into_iter().chain(arguments.iter().copied()).collect();
    let mut launch = command(&all);
    launch.rules.as_mut().unwrap().network = true;
    launch
}

pub(crate) fn kinds() {
    for kind in KINDS {
        let output =
            Host::with_holder(Some(holder(Duration::ZERO))).run(networked(kind, &["sockets"])).output;
        let lines: Vec<_> = output.lines().collect();
        assert_eq!(
            lines,
            [
                "priority 5 nonblock 0 cloexec 0",
                "priority 5 nonblock 1 cloexec 0",
                "priority 5 nonblock 0 cloexec 1",
                "priority 5 nonblock 1 cloexec 1",
                "priority 0 nonblock 0 cloexec 0",
            ],
            "{kind}"
        );
    }
}

/// Faster than the pool is filled, with a holder that takes its time.
pub(crate) fn burst() {
    for delay in [Duration::ZERO, Duration::from_millis(2)] {
        let mut host = Host::with_holder(Some(holder(delay)));
        assert_eq!(host.run(networked("dynamic", &["burst", "200"])).output, "marked 200\n");
    }
}

pub(crate) fn holder_gone() {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let mut host = Host::with_holder(Some(theirs));
    drop::<OwnedFd>(ours);
    let output = host.run(networked("static", &["sockets"])).output;
    assert_eq!(output, "ENETDOWN\nENETDOWN\nENETDOWN\nENETDOWN\npriority 0 nonblock 0 cloexec 0\n");
    // Without an endpoint nothing is trapped: the sockets are this machine's.
    let output = Host::new().run(networked("static", &["burst", "3"])).output;
    assert_eq!(output, "marked 0\n");
}

pub(crate) fn listen() {
    let mut host = Host::with_holder(Some(holder(Duration::ZERO)));
    let output = host.run(networked("dynamic", &["listen"])).output;
    let told: Vec<_> = host
        .messages
        .iter()
        .filter_map(|kind| match kind {
            from_layer::Kind::Listening(listening) => Some(listening),
            _ => None,
        })
        .collect();
    assert_eq!(told.len(), 2);
    assert_eq!(output, format!("{} 1\n", told[0].port));
    // Whose the socket is was told before that.
    let made = host.messages.iter().find_map(|kind| match kind {
        from_layer::Kind::SocketMade(made) if made.cookie == told[0].cookie => made.caller.clone(),
        _ => None,
    });
    assert_eq!(made, told[0].caller);
    assert!(made.is_some_and(|caller| caller.pid != 0 && caller.comm.as_ref() == b"victim-dynamic"));
    assert!(told[0].cookie != 0 && told[0].cookie == told[1].cookie && told[0].ip.as_ref() == [127, 0, 0, 1]);
}

pub(crate) fn unix() {
    let folder = tempfile::tempdir().unwrap();
    let relay = folder.path().join("relay");
    let listener = UnixListener::bind(&relay).unwrap();
    let serving = std::thread::spawn(move || {
        for _ in KINDS {
            let (mut stream, _) = listener.accept().unwrap();
            let mut four = [0; 4];
            stream.read_exact(&mut four).unwrap();
            assert_eq!(&four, b"ping");
            stream.write_all(b"from the relay").unwrap();
        }
    });
    for kind in KINDS {
        let mut host = Host::new();
        host.relay = Some(relay.to_str().unwrap().to_owned());
        let mut launch = networked(kind, &["unix", "/run/remote/../remote.sock"]);
        launch.rules.as_mut().unwrap().unix_streams =
            vec!["nothing".to_owned(), "^/run/remote\\.sock$".to_owned()];
        assert_eq!(host.run(launch).output, "from the relay\n", "{kind}");
        let asked = host.messages.iter().any(|message| match message {
            from_layer::Kind::UnixConnect(connect) => {
                connect.path.as_ref() == b"/run/remote.sock" && connect.rule.ends_with("unix_streams[1]")
            }
            _ => false,
        });
        assert!(asked, "{:?}", host.messages);
    }
    serving.join().unwrap();
    let mut host = Host::new();
    let mut launch = networked("static", &["unix", "/run/remote.sock"]);
    launch.rules.as_mut().unwrap().unix_streams = vec!["^/run/remote".to_owned()];
    assert!(host.run(launch).output.contains("ECONNREFUSED"));
}
