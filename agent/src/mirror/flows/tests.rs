//! Connections from hand-made packets: what is told to the client, and what is not.

use std::collections::HashSet;

use mirrord_protocol::agent::v1::MirrorItem;
use tokio_stream::StreamExt;

use super::*;
use crate::{
    limits::MIRROR_QUEUE,
    mirror::queue::{MirrorQueue, MirrorReader},
};

const CLIENT: &str = "10.244.0.1:40000";
const SERVER: &str = "10.244.0.5:80";
const NOW: u64 = 1_000_000_000_000;

#[derive(Default)]
struct Known {
    foreign: HashSet<SocketAddr>,
    gone: HashSet<SocketAddr>,
}

impl Judge for Known {
    fn is_foreign(&mut self, client: SocketAddr, _: SocketAddr) -> bool {
        self.foreign.contains(&client)
    }

    fn is_gone(&mut self, client: SocketAddr, _: SocketAddr) -> bool {
        self.gone.contains(&client)
    }
}

struct Bench {
    flows: Flows,
    known: Known,
    out: Producer,
    reader: MirrorReader,
    time_ns: u64,
}

impl Bench {
    fn new(ports: &[(u16, Until)]) -> Self {
        let queue = MirrorQueue::default();
        let mut flows = Flows::default();
        flows.set_ports(ports.iter().copied().collect());
        let reader = queue.attach();
        Self { flows, known: Known::default(), out: Producer::new(queue), reader, time_ns: NOW }
    }

    fn client(&mut self, flags: TcpFlags, seq: u32, ack: u32, payload: &[u8]) {
        self.packet(CLIENT, SERVER, false, false, flags, (seq, ack), payload);
    }

    fn server(&mut self, flags: TcpFlags, seq: u32, ack: u32, payload: &[u8]) {
        self.packet(SERVER, CLIENT, true, false, flags, (seq, ack), payload);
    }

    #[expect(clippy::too_many_arguments, reason = "a packet has that many fields")]
    fn packet(
        &mut self,
        src: &str,
        dst: &str,
        outgoing: bool,
        loopback: bool,
        flags: TcpFlags,
        (seq, ack): (u32, u32),
        payload: &[u8],
    ) {
        self.time_ns += 1;
        let packet = Packet {
            time_ns: self.time_ns,
            outgoing,
            loopback,
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            tcp: TcpHeader { seq, ack, flags, window: 1000 },
            payload,
            payload_len: payload.len(),
        };
        self.flows.packet(&packet, &mut self.known, &mut self.out);
    }

    fn handshake(&mut self) {
        self.client(SYN, 100, 0, b"");
        self.server(SYN_ACK, 500, 101, b"");
        self.client(ACK, 101, 501, b"");
    }

    /// What was told since the last call, in short.
    async fn told(&mut self) -> Vec<String> {
        self.out.flush();
        let mut told = Vec::new();
        while let Ok(Some(Ok(batch))) =
            tokio::time::timeout(Duration::from_millis(1), self.reader.next()).await
        {
            told.extend(batch.items.iter().map(short));
        }
        // As at the end of every block: learns how much room there is again.
        self.out.flush();
        told
    }

    fn sweep(&mut self, now_ns: u64) {
        self.flows.sweep(now_ns, &mut self.known, &mut self.out);
    }

    fn counters(&self) -> Counters {
        self.flows.counters()[&80]
    }
}

const SYN: TcpFlags = TcpFlags::SYN;
const ACK: TcpFlags = TcpFlags::ACK;
const SYN_ACK: TcpFlags = TcpFlags(0x12);
const FIN_ACK: TcpFlags = TcpFlags(0x11);
const RST_ACK: TcpFlags = TcpFlags(0x14);

fn short(item: &MirrorItem) -> String {
    let text = |data: &[u8]| String::from_utf8_lossy(data).into_owned();
    let side = |from_server| if from_server { "server" } else { "client" };
    let what = match item.kind.as_ref().unwrap() {
        Kind::Opened(opened) => {
            format!("open {}{}", opened.port, if opened.mid_stream { " mid" } else { "" })
        }
        Kind::FromClient(data) => format!("client {}", text(data)),
        Kind::FromServer(data) => format!("server {}", text(data)),
        Kind::Gap(gap) if gap.unknown_length => format!("{} gap unknown", side(gap.from_server)),
        Kind::Gap(gap) => format!("{} gap {}", side(gap.from_server), gap.bytes),
        Kind::Closed(closed) => {
            format!("{} {}", side(closed.from_server), if closed.reset { "reset" } else { "end" })
        }
    };
    format!("{}: {what}", item.connection)
}

#[tokio::test(start_paused = true)]
async fn a_connection_from_open_to_end() {
    let mut bench = Bench::new(&[(80, None)]);
    bench.handshake();
    bench.client(ACK, 101, 501, b"GET");
    bench.server(ACK, 501, 104, b"200 ");
    bench.server(ACK, 501, 104, b"200 ");
    bench.server(FIN_ACK, 505, 104, b"OK");
    bench.client(FIN_ACK, 104, 508, b"");
    bench.server(ACK, 508, 105, b"");
    let expected =
        ["1: open 80", "1: client GET", "1: server 200 ", "1: server OK", "1: server end", "1: client end"];
    assert_eq!(bench.told().await, expected);
    let expected = Counters { packets: 9, bytes: 13, syns: 1, ..Counters::default() };
    assert_eq!(bench.counters(), expected);
    bench.server(ACK, 505, 104, b"OK");
    assert!(bench.told().await.is_empty(), "a late repetition opens nothing");
}

#[tokio::test(start_paused = true)]
async fn refused_and_reset_connections() {
    let mut bench = Bench::new(&[(80, None)]);
    bench.client(SYN, 100, 0, b"");
    bench.server(RST_ACK, 0, 101, b"");
    assert!(bench.told().await.is_empty());
    bench.handshake();
    bench.client(RST_ACK, 101, 501, b"");
    assert_eq!(bench.told().await, ["1: open 80", "1: client reset"]);
    bench.client(SYN, 9000, 0, b"");
    bench.server(SYN_ACK, 1, 9001, b"");
    assert_eq!(bench.told().await, ["2: open 80"]);
    bench.client(SYN, 20_000, 0, b"");
    bench.server(SYN_ACK, 1, 20_001, b"");
    assert_eq!(bench.told().await, ["2: client reset", "3: open 80"], "the same addresses again");
    assert_eq!(bench.counters().open, 1);
}

#[tokio::test(start_paused = true)]
async fn foreign_connections_are_left_alone() {
    let mut bench = Bench::new(&[(80, None)]);
    bench.known.foreign.insert(CLIENT.parse().unwrap());
    bench.handshake();
    bench.client(ACK, 101, 501, b"GET");
    bench.server(ACK, 501, 104, b"200");
    assert!(bench.told().await.is_empty());
    assert_eq!((bench.counters().open, bench.counters().syns), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_switched_port_keeps_what_began_before() {
    // Mirrored until just after the first SYN.
    let mut bench = Bench::new(&[(80, Some(NOW + 2))]);
    bench.handshake();
    assert_eq!(bench.told().await, ["1: open 80"]);
    bench.packet("10.244.0.9:1", SERVER, false, false, SYN, (1, 0), b"");
    bench.packet(SERVER, "10.244.0.9:1", true, false, SYN_ACK, (1, 2), b"");
    bench.packet("10.244.0.8:1", SERVER, false, false, ACK, (1, 1), b"mid");
    assert!(bench.told().await.is_empty(), "later ones are not ours");
    let later = NOW + u64::try_from(MIRROR_LINGER.as_nanos()).unwrap() + 2;
    assert_eq!(bench.flows.live_ports(later).collect::<Vec<_>>(), [80]);
    bench.client(RST_ACK, 101, 501, b"");
    assert_eq!(bench.flows.live_ports(later - 1).count(), 1, "more may have begun in time");
    assert_eq!(bench.flows.live_ports(later).count(), 0, "the last connection has ended");
}

#[tokio::test(start_paused = true)]
async fn joining_in_the_middle_and_after_a_lost_syn() {
    let mut bench = Bench::new(&[(80, None)]);
    bench.client(ACK, 7000, 1, b"");
    bench.server(ACK, 1, 7000, b"half");
    bench.client(ACK, 7000, 5, b"more");
    assert_eq!(bench.told().await, ["1: open 80 mid", "1: server half", "1: client more"]);
    let other = "10.244.0.1:5";
    bench.packet(SERVER, other, true, false, SYN_ACK, (500, 101), b"");
    bench.packet(other, SERVER, false, false, ACK, (101, 501), b"GET");
    assert_eq!(bench.told().await, ["2: open 80", "2: client GET"]);
    bench.packet("10.244.0.1:6", SERVER, false, false, SYN, (100, 0), b"");
    bench.packet("10.244.0.1:6", SERVER, false, false, ACK, (101, 501), b"GET");
    bench.packet(SERVER, "10.244.0.1:6", true, false, ACK, (501, 104), b"200");
    assert_eq!(bench.told().await, ["3: open 80", "3: client GET", "3: server 200"], "a lost SYN-ACK");
}

#[tokio::test(start_paused = true)]
async fn only_the_targets_own_server_side_counts() {
    let mut bench = Bench::new(&[(80, None)]);
    // The target calls port 80 of another machine.
    bench.packet("10.244.0.5:4000", "1.1.1.1:80", true, false, SYN, (1, 0), b"");
    bench.packet("1.1.1.1:80", "10.244.0.5:4000", false, false, SYN_ACK, (1, 2), b"");
    bench.packet("10.244.0.5:4000", "1.1.1.1:80", true, false, ACK, (2, 2), b"GET");
    assert!(bench.told().await.is_empty());
    // On its loopback both directions come once, and neither is outgoing.
    let (client, server) = ("127.0.0.1:80", "127.0.0.6:80");
    bench.packet(client, server, false, true, SYN, (1, 0), b"");
    bench.packet(server, client, false, true, SYN_ACK, (1, 2), b"");
    bench.packet(client, server, false, true, ACK, (2, 2), b"GET");
    bench.packet(server, client, false, true, ACK, (2, 5), b"200");
    assert_eq!(bench.told().await, ["1: open 80", "1: client GET", "1: server 200"]);
}

#[tokio::test(start_paused = true)]
async fn lost_packets_and_a_slow_client_are_gaps_of_exact_size() {
    let mut bench = Bench::new(&[(80, None)]);
    bench.handshake();
    bench.client(ACK, 111, 501, b"after a lost packet");
    bench.server(ACK, 501, 130, b"");
    assert_eq!(bench.told().await, ["1: open 80", "1: client gap 10", "1: client after a lost packet"]);

    let chunk = vec![b'x'; 50_000];
    let mut seq = 130;
    for _ in 0..MIRROR_QUEUE / chunk.len() * 2 {
        bench.client(ACK, seq, 501, &chunk);
        seq += 50_000;
    }
    let lost = bench.counters().gap_bytes - 10;
    assert!(lost > 0 && bench.counters().gaps == 2);
    let taken = bench.told().await.len();
    assert_eq!(taken * 50_000 + usize::try_from(lost).unwrap(), MIRROR_QUEUE / chunk.len() * 2 * 50_000);
    bench.client(ACK, seq, 501, b"again");
    assert_eq!(bench.told().await, [format!("1: client gap {lost}"), "1: client again".to_owned()]);
    bench.client(FIN_ACK, seq + 5, 501, b"");
    assert_eq!(bench.told().await, ["1: client end"]);

    // A gap at the end of a quiet connection is told when there is room again.
    for _ in 0..=MIRROR_QUEUE / chunk.len() {
        bench.server(ACK, seq.wrapping_sub(130) + 501, 104, &chunk);
        seq += 50_000;
    }
    bench.told().await;
    bench.sweep(bench.time_ns);
    let told = bench.told().await;
    assert!(matches!(told.as_slice(), [gap] if gap.starts_with("1: server gap ")), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn time_cleans_up() {
    let mut bench = Bench::new(&[(80, None)]);
    bench.handshake();
    bench.client(ACK, 101, 501, b"half a");
    bench.packet("10.244.0.1:5", SERVER, false, false, SYN, (100, 0), b"");
    let second = 1_000_000_000;
    bench.sweep(NOW + 60 * second);
    assert_eq!(bench.flows.table.len(), 1, "an attempt without answer is forgotten");
    assert_eq!(bench.told().await, ["1: open 80", "1: client half a"]);
    bench.sweep(NOW + 7200 * second);
    assert!(bench.told().await.is_empty(), "quiet, but still there");
    bench.known.gone.insert(CLIENT.parse().unwrap());
    bench.sweep(NOW + 7201 * second);
    assert!(bench.told().await.is_empty(), "asked a moment ago");
    bench.sweep(NOW + 7210 * second);
    let lost = ["1: client gap unknown", "1: client end", "1: server gap unknown", "1: server end"];
    assert_eq!(bench.told().await, lost);
    bench.sweep(NOW + 7300 * second);
    assert!(bench.flows.table.is_empty());
    assert_eq!(bench.counters().open, 0);
}
