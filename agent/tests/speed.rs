//! Measurements, not run by default: `cargo test --release -p mirrord-agent --test speed -- --ignored --nocapture --test-threads 1`.
//! `MIRRORD_AGENT_BIN` names another executable than the one built with the test, for example the embedded one.
#![allow(
    clippy::allow_attributes,
    clippy::cast_precision_loss,
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
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use mirrord_protocol::agent::v1::{
    self as wire, DialUp, FileRequest, MirrorRequest, Mode, dial, dial_down, dial_up, file_request::Op,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;

use crate::support::{
    TARGET_IP,
    agent::{Agent, Client, LIMIT, Subscriptions},
    app::ECHO,
    in_node,
    target::Target,
};

#[test]
fn target_role() {
    support::target::role();
}

const TIME: Duration = Duration::from_secs(2);

#[test]
#[ignore = "a measurement"]
fn round_trip_of_a_stat() {
    in_node("round_trip_of_a_stat", async || {
        let target = Target::start();
        let agent = Agent::start(target.pid());
        let mut client = agent.client().await;
        let (requests_tx, requests_rx) = mpsc::channel(64);
        let mut replies = client.files(ReceiverStream::new(requests_rx)).await.unwrap().into_inner();
        for (name, op) in [
            ("stat", Op::Stat(wire::FileStat { path: "/data/small".into(), follow: true })),
            ("stat of nothing", Op::Stat(wire::FileStat { path: "/nothing".into(), follow: true })),
            (
                "open inline",
                Op::Open(wire::FileOpen {
                    path: "/data/small".into(),
                    inline_limit: 1 << 20,
                    ..Default::default()
                }),
            ),
            ("statfs (blocking thread)", Op::StatFs(wire::FileStatFs { path: "/data".into() })),
        ] {
            let mut times = Vec::new();
            for id in 0..20_000 {
                let start = Instant::now();
                requests_tx.send(FileRequest { id, op: Some(op.clone()) }).await.unwrap();
                replies.message().await.unwrap().unwrap();
                times.push(start.elapsed());
            }
            times.sort();
            println!("{name}: p50 {:?}, p99 {:?}", times[times.len() / 2], times[times.len() * 99 / 100]);
        }
    });
}

async fn dialled(
    client: &mut Client,
    peer: SocketAddr,
) -> (mpsc::Sender<DialUp>, tonic::Streaming<wire::DialDown>) {
    let (up_tx, up_rx) = mpsc::channel(4);
    let ip = match peer.ip() {
        std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
        std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let to = dial::To::Tcp(wire::Address { ip: ip.into(), port: peer.port().into() });
    let first = dial_up::Kind::Dial(wire::Dial { to: Some(to), timeout_ms: 1000, hand_over: false });
    up_tx.send(DialUp { kind: Some(first) }).await.unwrap();
    let mut down = client.dial(ReceiverStream::new(up_rx)).await.unwrap().into_inner();
    down.message().await.unwrap().unwrap();
    (up_tx, down)
}

#[test]
#[ignore = "a measurement"]
fn throughput_of_one_dialled_connection() {
    in_node("throughput_of_one_dialled_connection", async || {
        let target = Target::start();
        let agent = Agent::start(target.pid());
        let mut client = agent.client().await;
        let listener = TcpListener::bind("10.244.0.1:0").await.unwrap();
        let peer = listener.local_addr().unwrap();

        let (up_tx, mut down) = dialled(&mut client, peer).await;
        let (mut socket, _) = listener.accept().await.unwrap();
        let sending = tokio::task::spawn(async move {
            let chunk = vec![7; 256 << 10];
            while socket.write_all(&chunk).await.is_ok() {}
        });
        let (start, mut bytes, mut messages) = (Instant::now(), 0, 0);
        while start.elapsed() < TIME {
            if let Some(dial_down::Kind::Data(data)) = down.message().await.unwrap().unwrap().kind {
                bytes += data.len();
                messages += 1;
            }
        }
        println!("from the target: {:.0} MB/s, {} bytes a message", rate(bytes, start), bytes / messages);
        // Both: the call goes on as long as one half of it is held.
        drop((up_tx, down));
        sending.await.unwrap();

        let (up_tx, _down) = dialled(&mut client, peer).await;
        let (mut socket, _) = listener.accept().await.unwrap();
        let sending = tokio::task::spawn(async move {
            let chunk = Bytes::from(vec![7; 256 << 10]);
            while up_tx.send(DialUp { kind: Some(dial_up::Kind::Data(chunk.clone())) }).await.is_ok() {}
        });
        let (start, mut bytes) = (Instant::now(), 0);
        let mut buffer = vec![0; 1 << 20];
        while start.elapsed() < TIME {
            bytes += socket.read(&mut buffer).await.unwrap();
        }
        println!("to the target: {:.0} MB/s", rate(bytes, start));
        sending.abort();
    });
}

#[test]
#[ignore = "a measurement"]
fn dials_for_a_second() {
    in_node("dials_for_a_second", async || {
        let target = Target::start();
        let agent = Agent::start(target.pid());
        let mut client = agent.client().await;
        let listener = TcpListener::bind("10.244.0.1:0").await.unwrap();
        let peer = listener.local_addr().unwrap();
        let mut times = Vec::new();
        for _ in 0..2000 {
            let start = Instant::now();
            let connection = dialled(&mut client, peer).await;
            times.push(start.elapsed());
            drop((connection, listener.accept().await.unwrap()));
        }
        times.sort();
        println!("dial to result: p50 {:?}, p99 {:?}", times[times.len() / 2], times[times.len() * 99 / 100]);
    });
}

/// Small requests to the target's echo on some connections; how many in [`TIME`].
fn requests(connections: usize) -> usize {
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..connections)
        .map(|_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut socket = TcpStream::connect((TARGET_IP, ECHO)).unwrap();
                socket.set_nodelay(true).unwrap();
                socket.set_read_timeout(Some(LIMIT)).unwrap();
                let (mut count, mut buffer) = (0, [0; 100]);
                while !stop.load(Ordering::Relaxed) {
                    socket.write_all(&[1; 100]).unwrap();
                    socket.read_exact(&mut buffer).unwrap();
                    count += 1;
                }
                count
            })
        })
        .collect();
    std::thread::sleep(TIME);
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().map(|client| client.join().unwrap()).sum()
}

#[test]
#[ignore = "a measurement"]
fn what_mirroring_costs_the_target() {
    in_node("what_mirroring_costs_the_target", async || {
        let target = Target::start();
        let agent = Agent::start(target.pid());
        let mut client = agent.client().await;
        let mut mirror = client.mirror(MirrorRequest {}).await.unwrap().into_inner();
        let reading = tokio::task::spawn(async move { while let Ok(Some(_)) = mirror.message().await {} });
        let mut subscriptions = Subscriptions::open(&mut client).await;
        for connections in [1, 10] {
            let (mut plain, mut mirrored) = (0, 0);
            for _ in 0..3 {
                subscriptions.set(ECHO, Mode::Off).await;
                plain = plain.max(tokio::task::spawn_blocking(move || requests(connections)).await.unwrap());
                subscriptions.set(ECHO, Mode::Mirror).await;
                mirrored =
                    mirrored.max(tokio::task::spawn_blocking(move || requests(connections)).await.unwrap());
            }
            let status = subscriptions.until(|status| status.mirrored_open == 0).await;
            println!(
                "{connections} connections: {} requests/s, mirrored {} ({:+.1} %), {} gaps",
                plain / 2,
                mirrored / 2,
                (mirrored as f64 / plain as f64 - 1.0) * 100.0,
                status.gaps
            );
        }
        reading.abort();
    });
}

fn rate(bytes: usize, start: Instant) -> f64 {
    bytes as f64 / start.elapsed().as_secs_f64() / 1e6
}
