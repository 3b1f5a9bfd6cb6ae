//! What leaves from the target: TCP, unix streams, UDP and DNS, with the results that the target's own kernel gives.
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
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::Bytes;
use mirrord_protocol::agent::v1::{
    self as wire, Dial, DialDown, DialUp, DnsReply, DnsRequest, UdpDown, UdpOpen, UdpUp, dial, dial_down,
    dial_up, udp_down, udp_up,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
    sync::mpsc,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::support::{
    NODE_IP, NODE_IP6, TARGET_IP, TARGET_IP6,
    agent::{Agent, Client, LIMIT},
    app, in_node,
    target::Target,
};

#[test]
fn target_role() {
    support::target::role();
}

fn wire_address(address: SocketAddr) -> wire::Address {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    wire::Address { ip: ip.into(), port: address.port().into() }
}

fn socket_address(address: Option<wire::Address>) -> SocketAddr {
    let address = address.unwrap();
    let ip = <[u8; 4]>::try_from(&*address.ip)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(&*address.ip).map(IpAddr::from))
        .unwrap();
    SocketAddr::new(ip, address.port.try_into().unwrap())
}

struct Dialled {
    up_tx: mpsc::Sender<DialUp>,
    down: Streaming<DialDown>,
    result: wire::DialResult,
}

impl Dialled {
    async fn to(client: &mut Client, to: dial::To, limit: Duration) -> Self {
        let (up_tx, up_rx) = mpsc::channel(4);
        let timeout_ms = limit.as_millis().try_into().unwrap();
        let first = dial_up::Kind::Dial(Dial { to: Some(to), timeout_ms, hand_over: false });
        up_tx.send(DialUp { kind: Some(first) }).await.unwrap();
        let mut down = client.dial(ReceiverStream::new(up_rx)).await.unwrap().into_inner();
        let first = timeout(LIMIT, down.message()).await.unwrap().unwrap().unwrap();
        let Some(dial_down::Kind::Result(result)) = first.kind else { panic!("{first:?}") };
        Self { up_tx, down, result }
    }

    async fn tcp(client: &mut Client, address: &str) -> Self {
        Self::to(client, dial::To::Tcp(wire_address(address.parse().unwrap())), LIMIT).await
    }

    fn errno(&self) -> i32 {
        self.result.errno.cast_signed()
    }

    async fn send(&self, kind: dial_up::Kind) {
        self.up_tx.send(DialUp { kind: Some(kind) }).await.unwrap();
    }

    async fn next(&mut self) -> Option<dial_down::Kind> {
        timeout(LIMIT, self.down.message()).await.unwrap().unwrap().map(|message| message.kind.unwrap())
    }

    /// All data up to the end of the peer's half.
    async fn read_to_end(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match self.next().await {
                Some(dial_down::Kind::Data(data)) => all.extend_from_slice(&data),
                Some(dial_down::Kind::Shutdown(_)) => return all,
                other => panic!("{other:?} after {} bytes", all.len()),
            }
        }
    }
}

#[test]
fn tcp_with_the_targets_own_results() {
    in_node("tcp_with_the_targets_own_results", async || {
        let target = Target::start();
        let agent = Agent::start(target.pid());
        let mut client = agent.client().await;
        for node in [NODE_IP.to_owned(), format!("[{NODE_IP6}]")] {
            let listener = TcpListener::bind(format!("{node}:0")).await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let mut dialled = Dialled::tcp(&mut client, &address).await;
            assert_eq!(dialled.errno(), 0);
            let (mut socket, peer) = listener.accept().await.unwrap();
            assert!([TARGET_IP, TARGET_IP6].contains(&peer.ip().to_string().as_str()), "{peer}");
            assert_eq!(socket_address(dialled.result.local.clone()), peer);
            assert_eq!(socket_address(dialled.result.peer.clone()).to_string(), address);
            dialled.send(dial_up::Kind::Data("hello".into())).await;
            dialled.send(dial_up::Kind::Shutdown(wire::Shutdown {})).await;
            let mut heard = String::new();
            socket.read_to_string(&mut heard).await.unwrap();
            socket.write_all(b"late answer").await.unwrap();
            drop(socket);
            assert_eq!((heard.as_str(), &*dialled.read_to_end().await), ("hello", &b"late answer"[..]));
            assert!(dialled.next().await.is_none(), "both halves have ended");
        }
        // A closed port, no route, an address that nobody has, and nonsense.
        assert_eq!(Dialled::tcp(&mut client, "10.244.0.1:1").await.errno(), libc::ECONNREFUSED);
        assert_eq!(Dialled::tcp(&mut client, "192.0.2.1:80").await.errno(), libc::ENETUNREACH);
        assert_eq!(Dialled::tcp(&mut client, "10.244.0.77:80").await.errno(), libc::EHOSTUNREACH);
        let nonsense = dial::To::Tcp(wire::Address { ip: Bytes::from_static(b"abc"), port: 1 });
        assert_eq!(Dialled::to(&mut client, nonsense, LIMIT).await.errno(), libc::EINVAL);
    });
}

#[test]
fn a_silent_peer_and_resets() {
    in_node("a_silent_peer_and_resets", async || {
        let target = Target::start();
        let agent = Agent::start(target.pid());
        let mut client = agent.client().await;
        // A listener that accepts nothing and has no room: SYNs are dropped.
        let full = TcpListener::bind(format!("{NODE_IP}:0")).await.unwrap();
        let address = full.local_addr().unwrap();
        rustix::net::listen(&full, 0).unwrap();
        let mut filling = Vec::new();
        loop {
            let attempt =
                Dialled::to(&mut client, dial::To::Tcp(wire_address(address)), Duration::from_millis(300));
            let start = Instant::now();
            let dialled = attempt.await;
            if dialled.errno() != 0 {
                assert_eq!(dialled.errno(), libc::ETIMEDOUT);
                assert!(start.elapsed() >= Duration::from_millis(300));
                break;
            }
            filling.push(dialled);
            assert!(filling.len() < 10, "the queue does not fill");
        }

        let listener = TcpListener::bind(format!("{NODE_IP}:0")).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut dialled = Dialled::tcp(&mut client, &address).await;
        let (socket, _) = listener.accept().await.unwrap();
        mirrord_netns::sockopt::reset_on_close(&socket).unwrap();
        drop(socket);
        assert!(matches!(dialled.next().await, Some(dial_down::Kind::Reset(_))));

        for dropped in [false, true] {
            let dialled = Dialled::tcp(&mut client, &address).await;
            let (mut socket, _) = listener.accept().await.unwrap();
            if dropped {
                drop(dialled);
            } else {
                dialled.send(dial_up::Kind::Reset(wire::Reset {})).await;
            }
            let error = timeout(LIMIT, socket.read(&mut [0; 1])).await.unwrap().unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
    });
}

#[test]
fn megabytes_in_both_directions_at_once() {
    in_node("megabytes_in_both_directions_at_once", async || {
        let target = Target::start();
        let agent = Agent::start(target.pid());
        let mut client = agent.client().await;
        // The target's own echo, over its loopback.
        let mut dialled = Dialled::tcp(&mut client, &format!("{TARGET_IP}:{}", app::ECHO)).await;
        let content: Vec<u8> = (0..20_000_000_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let (up_tx, sent) = (dialled.up_tx.clone(), content.clone());
        let sender = tokio::task::spawn(async move {
            for chunk in sent.chunks(100_000) {
                let kind = dial_up::Kind::Data(Bytes::copy_from_slice(chunk));
                up_tx.send(DialUp { kind: Some(kind) }).await.unwrap();
            }
            up_tx.send(DialUp { kind: Some(dial_up::Kind::Shutdown(wire::Shutdown {})) }).await.unwrap();
        });
        assert!(dialled.read_to_end().await == content);
        sender.await.unwrap();
    });
}

#[test]
fn unix_sockets_below_the_targets_root() {
    in_node("unix_sockets_below_the_targets_root", async || {
        let target = Target::start();
        let agent = Agent::start(target.pid());
        let mut client = agent.client().await;
        let mut dialled = Dialled::to(&mut client, dial::To::Unix(app::SOCKET.into()), LIMIT).await;
        assert_eq!(dialled.errno(), 0);
        dialled.send(dial_up::Kind::Data("through a file".into())).await;
        dialled.send(dial_up::Kind::Shutdown(wire::Shutdown {})).await;
        assert_eq!(dialled.read_to_end().await, b"through a file");
        for (path, errno) in [
            ("/run/nothing", libc::ENOENT),
            ("/data/small", libc::ECONNREFUSED),
            ("/../../../../../run/dbus/system_bus_socket", libc::ENOENT),
            ("\0nobody", libc::ECONNREFUSED),
        ] {
            let dialled = Dialled::to(&mut client, dial::To::Unix(path.into()), LIMIT).await;
            assert_eq!(dialled.errno(), errno, "{path:?}");
        }
    });
}

struct Udp {
    up_tx: mpsc::Sender<UdpUp>,
    down: Streaming<UdpDown>,
    result: wire::DialResult,
}

impl Udp {
    async fn open(client: &mut Client, peer: &str, local_port: u32) -> Self {
        let (up_tx, up_rx) = mpsc::channel(4);
        let open = UdpOpen { peer: Some(wire_address(peer.parse().unwrap())), local_port };
        up_tx.send(UdpUp { kind: Some(udp_up::Kind::Open(open)) }).await.unwrap();
        let mut down = client.udp(ReceiverStream::new(up_rx)).await.unwrap().into_inner();
        let first = timeout(LIMIT, down.message()).await.unwrap().unwrap().unwrap();
        let Some(udp_down::Kind::Opened(result)) = first.kind else { panic!("{first:?}") };
        Self { up_tx, down, result }
    }

    async fn exchange(&mut self, datagram: &[u8]) -> udp_down::Kind {
        let kind = udp_up::Kind::Datagram(Bytes::copy_from_slice(datagram));
        self.up_tx.send(UdpUp { kind: Some(kind) }).await.unwrap();
        timeout(LIMIT, self.down.message()).await.unwrap().unwrap().unwrap().kind.unwrap()
    }
}

#[test]
fn udp_keeps_datagrams_whole() {
    in_node("udp_keeps_datagrams_whole", async || {
        let target = Target::start();
        let agent = Agent::start(target.pid());
        let mut client = agent.client().await;
        let mut udp = Udp::open(&mut client, &format!("{TARGET_IP}:{}", app::ECHO), 0).await;
        assert_eq!(udp.result.errno, 0);
        for datagram in [&b""[..], b"small", &[7; 60_000]] {
            assert_eq!(
                udp.exchange(datagram).await,
                udp_down::Kind::Datagram(Bytes::copy_from_slice(datagram))
            );
        }
        let mut refused = Udp::open(&mut client, "10.244.0.1:1", 0).await;
        assert_eq!(refused.exchange(b"x").await, udp_down::Kind::Errno(libc::ECONNREFUSED.cast_unsigned()));
        let unreachable = Udp::open(&mut client, "192.0.2.1:1", 0).await;
        assert_eq!(unreachable.result.errno.cast_signed(), libc::ENETUNREACH);

        let wished = Udp::open(&mut client, "10.244.0.1:9", 5353).await;
        assert_eq!(socket_address(wished.result.local.clone()).port(), 5353);
        let taken = Udp::open(&mut client, "10.244.0.1:9", 5353).await;
        assert_eq!(taken.result.errno, 0);
        assert_ne!(socket_address(taken.result.local.clone()).port(), 5353, "another one instead");
    });
}

/// `name.` with type A as a question with this id.
fn question(id: u16) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend_from_slice(b"\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04name\x00\x00\x01\x00\x01");
    message
}

fn answer(question: &[u8]) -> Vec<u8> {
    let mut message = question.to_vec();
    message[2] |= 0x80;
    message
}

async fn ask(client: &mut Client, requests: Vec<DnsRequest>) -> Vec<DnsReply> {
    let count = requests.len();
    let (up_tx, up_rx) = mpsc::channel(count);
    for request in requests {
        up_tx.send(request).await.unwrap();
    }
    let mut down = client.dns(ReceiverStream::new(up_rx)).await.unwrap().into_inner();
    let mut replies = Vec::new();
    while replies.len() < count {
        replies.push(timeout(LIMIT, down.message()).await.unwrap().unwrap().unwrap());
    }
    replies.sort_by_key(|reply| reply.id);
    replies
}

#[test]
fn dns_over_udp_and_tcp() {
    in_node("dns_over_udp_and_tcp", async || {
        let target = Target::start();
        let agent = Agent::start(target.pid());
        let mut client = agent.client().await;
        let server = UdpSocket::bind(format!("{NODE_IP}:53")).await.unwrap();
        let listener = TcpListener::bind(format!("{NODE_IP}:53")).await.unwrap();
        tokio::task::spawn(async move {
            let (mut buffer, mut ignored) = ([0; 512], false);
            while let Ok((length, peer)) = server.recv_from(&mut buffer).await {
                let asked = &buffer[..length];
                match asked[1] {
                    // The first one of this id is lost on the way; a wrong answer comes before the right one.
                    2 if !ignored => ignored = true,
                    3 => {}
                    _ => {
                        server.send_to(&answer(&question(999)), peer).await.unwrap();
                        server.send_to(&answer(asked), peer).await.unwrap();
                    }
                }
            }
        });
        tokio::task::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut asked = vec![0; socket.read_u16().await.unwrap().into()];
                socket.read_exact(&mut asked).await.unwrap();
                socket.write_u16(asked.len().try_into().unwrap()).await.unwrap();
                socket.write_all(&answer(&asked)).await.unwrap();
            }
        });
        let request = |id: u16, tcp, timeout_ms, nameserver: &str| DnsRequest {
            id: id.into(),
            nameserver: nameserver.to_owned(),
            message: question(id).into(),
            tcp,
            timeout_ms,
        };
        let replies = ask(
            &mut client,
            vec![
                request(1, false, 5000, ""),
                request(2, false, 5000, ""),
                request(3, false, 300, ""),
                request(4, true, 5000, ""),
                request(5, false, 5000, NODE_IP),
                request(6, false, 5000, TARGET_IP),
                request(7, false, 5000, "no address"),
            ],
        )
        .await;
        let errnos: Vec<_> = replies.iter().map(|reply| reply.errno.cast_signed()).collect();
        assert_eq!(errnos, [0, 0, libc::ETIMEDOUT, 0, 0, libc::ECONNREFUSED, libc::EINVAL]);
        for reply in replies.iter().filter(|reply| reply.errno == 0) {
            assert_eq!(reply.message, answer(&question(reply.id.try_into().unwrap())));
        }
    });
}
