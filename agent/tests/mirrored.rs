//! Mirrored connections of a real target: exact bytes, honest gaps, and each connection once, whatever mode changes are under way.
#![allow(
    clippy::allow_attributes,
    clippy::disallowed_methods,
    clippy::exit,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    dead_code,
    reason = "a test fails by panicking, and each file uses its part of the support"
)]

mod support;

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{IpAddr, Shutdown, TcpStream},
    time::Duration,
};

use bytes::Bytes;
use mirrord_protocol::agent::v1::{
    self as wire, AcceptDown, MirrorBatch, MirrorRequest, Mode, accept_down, accept_up, mirror_item,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::support::{
    TARGET_IP, TARGET_IP6,
    agent::{Agent, Client, LIMIT, Subscriptions},
    app::{ECHO, ping},
    in_node,
    target::Target,
    traffic::{Parked, connect, ip},
};

#[test]
fn target_role() {
    support::target::role();
}

/// What was told of one mirrored connection.
#[derive(Debug, Default)]
struct Copy {
    opened: Option<wire::MirrorOpened>,
    client: Vec<u8>,
    server: Vec<u8>,
    gaps: Vec<wire::MirrorGap>,
    closed: Vec<wire::MirrorClosed>,
}

struct Mirror {
    batches: Streaming<MirrorBatch>,
    copies: HashMap<u64, Copy>,
}

impl Mirror {
    async fn open(client: &mut Client) -> Self {
        let batches = client.mirror(MirrorRequest {}).await.unwrap().into_inner();
        Self { batches, copies: HashMap::new() }
    }

    /// Reads until the condition holds.
    async fn until(&mut self, condition: impl Fn(&HashMap<u64, Copy>) -> bool) {
        while !condition(&self.copies) {
            let batch = timeout(LIMIT, self.batches.message()).await;
            let Ok(batch) = batch else { panic!("no more copies; so far {:?}", self.copies) };
            for item in batch.unwrap().unwrap().items {
                assert!(item.time_ns > 1_700_000_000_000_000_000);
                let copy = self.copies.entry(item.connection).or_default();
                match item.kind.unwrap() {
                    mirror_item::Kind::Opened(opened) => copy.opened = Some(opened),
                    mirror_item::Kind::FromClient(data) => copy.client.extend_from_slice(&data),
                    mirror_item::Kind::FromServer(data) => copy.server.extend_from_slice(&data),
                    mirror_item::Kind::Gap(gap) => copy.gaps.push(gap),
                    mirror_item::Kind::Closed(closed) => copy.closed.push(closed),
                }
            }
        }
    }

    /// Reads until this many connections have ended in both directions.
    async fn until_closed(&mut self, count: usize) {
        self.until(|copies| {
            copies
                .values()
                .filter(|copy| copy.closed.len() == 2 || copy.closed.iter().any(|closed| closed.reset))
                .count()
                == count
        })
        .await;
    }
}

#[test]
fn mirrored_bytes_are_exact_in_both_directions() {
    in_node("mirrored_bytes_are_exact_in_both_directions", async || {
        let target = Target::start();
        let agent = Agent::start(target.pid());
        let mut client = agent.client().await;
        let mut mirror = Mirror::open(&mut client).await;
        let mut subscriptions = Subscriptions::open(&mut client).await;
        subscriptions.set(ECHO, Mode::Mirror).await;
        for there in [TARGET_IP, TARGET_IP6] {
            let content: Vec<u8> = (0..3_000_000_u32).map(|at| u8::try_from(at % 249).unwrap()).collect();
            let mut socket = connect(there);
            let port = socket.local_addr().unwrap().port();
            let mut writer = socket.try_clone().unwrap();
            let sent = content.clone();
            let writing = std::thread::spawn(move || {
                writer.write_all(&sent).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            let mut back = Vec::new();
            socket.read_to_end(&mut back).unwrap();
            writing.join().unwrap();
            drop(socket);
            mirror.until_closed(1).await;
            let (_, copy) = mirror.copies.drain().next().unwrap();
            let opened = copy.opened.unwrap();
            assert_eq!((opened.port, opened.mid_stream), (ECHO.into(), false));
            assert_eq!(opened.client.unwrap().port, port.into());
            assert_eq!(ip(opened.server.as_ref()), there.parse::<IpAddr>().unwrap());
            assert!(copy.gaps.is_empty(), "{:?}", copy.gaps);
            assert!(copy.client == content && copy.server == content && back == content);
        }
        let status = subscriptions.until(|status| status.syns == 2 && status.mirrored_open == 0).await;
        assert!(status.bytes >= 12_000_000 && status.packets > 100 && status.gaps == 0);
    });
}

#[test]
fn a_reset_and_a_refusal_as_the_client_saw_them() {
    in_node("a_reset_and_a_refusal_as_the_client_saw_them", async || {
        let target = Target::start();
        let agent = Agent::start(target.pid());
        let mut client = agent.client().await;
        let mut mirror = Mirror::open(&mut client).await;
        let mut subscriptions = Subscriptions::open(&mut client).await;
        subscriptions.set(ECHO, Mode::Mirror).await;
        subscriptions.set(81, Mode::Mirror).await;
        assert!(TcpStream::connect((TARGET_IP, 81)).is_err());
        let mut socket = connect(TARGET_IP);
        ping(&mut socket, "ping");
        mirrord_netns::sockopt::reset_on_close(&socket).unwrap();
        drop(socket);
        mirror.until_closed(1).await;
        let copies: Vec<_> = mirror.copies.values().collect();
        let [copy] = copies.as_slice() else { panic!("{copies:?}") };
        assert_eq!((&*copy.client, &*copy.server), (&b"ping"[..], &b"ping"[..]));
        assert!(matches!(copy.closed.as_slice(), [wire::MirrorClosed { reset: true, from_server: false }]));
    });
}

#[test]
fn a_client_that_stalls_gets_gaps_and_the_target_nothing() {
    in_node("a_client_that_stalls_gets_gaps_and_the_target_nothing", async || {
        let target = Target::start();
        let agent = Agent::start(target.pid());
        let mut client = agent.client().await;
        let mut mirror = Mirror::open(&mut client).await;
        let mut subscriptions = Subscriptions::open(&mut client).await;
        subscriptions.set(ECHO, Mode::Mirror).await;
        let mut socket = connect(TARGET_IP);
        let chunk = vec![b'x'; 1 << 20];
        // Both directions together are more than the queue and HTTP/2 hold.
        const ROUNDS: usize = 60;
        let mut back = vec![0; chunk.len()];
        for _ in 0..ROUNDS {
            let mut writer = socket.try_clone().unwrap();
            let sent = chunk.clone();
            let writing = std::thread::spawn(move || writer.write_all(&sent).unwrap());
            socket.read_exact(&mut back).unwrap();
            writing.join().unwrap();
        }
        drop(socket);
        mirror.until_closed(1).await;
        let copy = mirror.copies.values().next().unwrap();
        assert!(!copy.gaps.is_empty());
        let lost = |from_server| {
            copy.gaps.iter().filter(|gap| gap.from_server == from_server).map(|gap| gap.bytes).sum::<u64>()
        };
        assert_eq!(copy.client.len() as u64 + lost(false), (ROUNDS << 20) as u64);
        assert_eq!(copy.server.len() as u64 + lost(true), (ROUNDS << 20) as u64);
        let status = subscriptions.until(|status| status.mirrored_open == 0 && status.gaps > 0).await;
        assert_eq!(status.gap_bytes, lost(false) + lost(true));
    });
}

#[test]
fn each_connection_is_stolen_or_mirrored_and_never_both() {
    in_node("each_connection_is_stolen_or_mirrored_and_never_both", async || {
        let target = Target::start();
        let agent = Agent::start(target.pid());
        let mut client = agent.client().await;
        let mut mirror = Mirror::open(&mut client).await;
        let mut subscriptions = Subscriptions::open(&mut client).await;
        subscriptions.set(ECHO, Mode::Mirror).await;

        // The session's side: answers every stolen connection with what it heard, in capitals.
        let mut thief = client.clone();
        let answering = tokio::task::spawn(async move {
            let mut stolen = Vec::new();
            loop {
                let mut parked = Parked::new(&mut thief).await;
                let Ok(Ok(Some(AcceptDown { kind: Some(accept_down::Kind::Connection(connection)) }))) =
                    timeout(Duration::from_secs(2), parked.down.message()).await
                else {
                    return stolen;
                };
                stolen.push(connection.client.unwrap().port);
                let Some(accept_down::Kind::Data(data)) = parked.next().await else { panic!() };
                parked.send(accept_up::Kind::Data(Bytes::from(data.to_ascii_uppercase()))).await;
                parked.send(accept_up::Kind::Shutdown(wire::Shutdown {})).await;
                // Until the client's end: a call that is dropped may take what it has said along.
                while parked.next().await.is_some() {}
            }
        });
        // Clients without pause, while the mode changes under them.
        let calling = std::thread::spawn(|| {
            let mut answers = HashMap::new();
            for _ in 0..400 {
                let mut socket = connect(TARGET_IP);
                socket.write_all(b"who").unwrap();
                let mut answer = [0; 3];
                socket.read_exact(&mut answer).unwrap();
                answers.insert(u32::from(socket.local_addr().unwrap().port()), answer.to_vec());
            }
            answers
        });
        let mut steal = false;
        while !calling.is_finished() {
            steal = !steal;
            subscriptions.set(ECHO, if steal { Mode::Steal } else { Mode::Mirror }).await;
            tokio::time::sleep(Duration::from_millis(7)).await;
        }
        let answers = calling.join().unwrap();
        subscriptions.set(ECHO, Mode::Mirror).await;
        let stolen = answering.await.unwrap();
        assert_eq!(answers.len(), 400);
        let by_session = answers.values().filter(|answer| *answer == b"WHO").count();
        let by_target = answers.values().filter(|answer| *answer == b"who").count();
        assert_eq!((by_session + by_target, stolen.len()), (400, by_session));
        assert!(by_session > 0 && by_target > 0, "{by_session} {by_target}");
        mirror.until_closed(by_target).await;
        let mirrored: Vec<u32> = mirror
            .copies
            .values()
            .map(|copy| copy.opened.as_ref().unwrap().client.as_ref().unwrap().port)
            .collect();
        assert_eq!(mirrored.len(), by_target);
        for port in &mirrored {
            assert_eq!(answers[port], b"who", "mirrored and stolen");
        }
        assert!(mirror.copies.values().all(|copy| copy.client == b"who" && copy.server == b"who"));
    });
}

#[test]
fn the_agents_own_calls_are_not_mirrored() {
    in_node("the_agents_own_calls_are_not_mirrored", async || {
        let target = Target::start();
        let agent = Agent::start(target.pid());
        let mut client = agent.client().await;
        let mut mirror = Mirror::open(&mut client).await;
        let mut subscriptions = Subscriptions::open(&mut client).await;
        subscriptions.set(ECHO, Mode::Mirror).await;
        for _ in 0..20 {
            let (up_tx, up_rx) = mpsc::channel(4);
            let to = wire::Address { ip: vec![10, 244, 0, 5].into(), port: ECHO.into() };
            let dial = wire::Dial { to: Some(wire::dial::To::Tcp(to)), timeout_ms: 1000, hand_over: false };
            for kind in [
                wire::dial_up::Kind::Dial(dial),
                wire::dial_up::Kind::Data("own".into()),
                wire::dial_up::Kind::Shutdown(wire::Shutdown {}),
            ] {
                up_tx.send(wire::DialUp { kind: Some(kind) }).await.unwrap();
            }
            let mut down = client.dial(ReceiverStream::new(up_rx)).await.unwrap().into_inner();
            while timeout(LIMIT, down.message()).await.unwrap().unwrap().is_some() {}
        }
        let mut socket = connect(TARGET_IP);
        ping(&mut socket, "foreign");
        drop(socket);
        mirror.until_closed(1).await;
        assert_eq!(mirror.copies.len(), 1);
        assert_eq!(mirror.copies.values().next().unwrap().client, b"foreign");
    });
}
