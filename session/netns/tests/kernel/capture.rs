//! Capture sees every byte of both directions once.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Instant,
};

use mirrord_netns::{
    capture::{Capture, CaptureOptions, Frame},
    packet::{self, TcpFlags, TcpHeader},
};

use crate::{
    network::{NODE, POD, Pod, connect},
    session::LIMIT,
};

const PORT: u16 = 80;
const OTHER: u16 = 81;
const REQUEST: usize = 300_000;
const RESPONSE: usize = 900_000;

/// What was seen of one direction of one connection.
#[derive(Debug, Default)]
struct Seen {
    /// Sequence number of the first payload byte.
    start: Option<u32>,
    /// Which bytes were there. TCP may send some again when the machine is busy.
    there: Vec<bool>,
    /// Bytes with those that came again.
    sum: usize,
    outgoing: bool,
    finished: bool,
}

impl Seen {
    fn take(&mut self, frame: &Frame<'_>, tcp: TcpHeader, payload: &[u8]) {
        if tcp.flags.contains(TcpFlags::SYN) {
            self.start = Some(tcp.seq.wrapping_add(1));
        }
        let start = self.start.expect("the SYN comes first");
        let offset = usize::try_from(tcp.seq.wrapping_sub(start)).unwrap();
        if !payload.is_empty() {
            self.there.resize(self.there.len().max(offset + payload.len()), false);
            self.there[offset..offset + payload.len()].fill(true);
        }
        self.sum += payload.len();
        self.outgoing = frame.outgoing;
        self.finished |= tcp.flags.contains(TcpFlags::FIN);
    }

    /// All bytes were there, in this direction, and not all of them twice.
    fn check(&self, bytes: usize, outgoing: bool) {
        let missing = self.there.iter().filter(|there| !**there).count();
        assert_eq!((self.there.len(), missing, self.outgoing), (bytes, 0, outgoing));
        assert!(self.sum < bytes + bytes / 2, "{} of {bytes} bytes", self.sum);
    }
}

type Flows = HashMap<(SocketAddr, SocketAddr), Seen>;

/// Reads until `flows` directions have ended.
fn read(capture: &mut Capture, flows: usize) -> Flows {
    let mut seen = Flows::new();
    let deadline = Instant::now() + LIMIT;
    while seen.values().filter(|seen| seen.finished).count() < flows {
        assert!(Instant::now() < deadline, "packets are missing");
        capture.wait(LIMIT).unwrap();
        while let Some(frames) = capture.next_block(|frame| {
            let parsed = packet::parse(frame.ip).unwrap();
            let tcp = parsed.tcp.unwrap();
            assert_eq!(parsed.payload.len(), parsed.payload_len, "nothing is cut off");
            assert_eq!(frame.wire_len, frame.ip.len());
            assert!(frame.time_ns > 1_600_000_000_000_000_000, "nanoseconds since the epoch");
            let key = (parsed.flow.src, parsed.flow.dst);
            // The last acknowledgements of a connection that was read before may come late.
            if tcp.flags.contains(TcpFlags::SYN) || seen.contains_key(&key) {
                seen.entry(key).or_default().take(&frame, tcp, parsed.payload);
            }
        }) {
            assert_ne!(frames, 0, "a block is never empty");
        }
    }
    seen
}

/// One request and one response; returns the client's address.
fn exchange(listener: &TcpListener, client: TcpStream) -> SocketAddr {
    let address = client.local_addr().unwrap();
    let mut server = listener.accept().unwrap().0;
    let served = thread::spawn(move || {
        let mut request = Vec::new();
        server.read_to_end(&mut request).unwrap();
        server.write_all(&vec![2; RESPONSE]).unwrap();
        request.len()
    });
    let mut client = client;
    client.write_all(&vec![1; REQUEST]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut response = Vec::new();
    client.read_to_end(&mut response).unwrap();
    assert_eq!((served.join().unwrap(), response.len()), (REQUEST, RESPONSE));
    address
}

pub(crate) fn both_directions() {
    let pod = Pod::start();
    let listener = pod.listen(PORT);
    let mut capture = pod.inside(|| Capture::open(&CaptureOptions::default(), &[PORT])).unwrap();
    for (ip, _) in POD.iter().zip(NODE) {
        let client = exchange(&listener, connect(ip, PORT).unwrap());
        let server = SocketAddr::new(ip.parse().unwrap(), PORT);
        let seen = read(&mut capture, 2);
        seen[&(client, server)].check(REQUEST, false);
        seen[&(server, client)].check(RESPONSE, true);
    }
    let statistics = capture.statistics().unwrap();
    assert_eq!(statistics.drops, 0);
    assert!(statistics.packets > 10);
}

pub(crate) fn loopback_once() {
    let pod = Pod::start();
    let listener = pod.listen(PORT);
    let mut capture = pod.inside(|| Capture::open(&CaptureOptions::default(), &[PORT])).unwrap();
    let client = exchange(&listener, pod.inside(|| connect("127.0.0.1", PORT).unwrap()));
    let server = SocketAddr::from(([127, 0, 0, 1], PORT));
    let seen = read(&mut capture, 2);
    seen[&(client, server)].check(REQUEST, false);
    seen[&(server, client)].check(RESPONSE, false);
}

pub(crate) fn ports_change() {
    let pod = Pod::start();
    let (first, second) = (pod.listen(PORT), pod.listen(OTHER));
    let eth0 = pod.inside(|| mirrord_netns::rtnl::Rtnl::open().unwrap().index("eth0").unwrap());
    let options = CaptureOptions { blocks: 16, interfaces: vec![eth0] };
    let mut capture = pod.inside(|| Capture::open(&options, &[PORT])).unwrap();
    capture.set_ports(&[OTHER]).unwrap();
    exchange(&first, connect(POD[0], PORT).unwrap());
    // Another interface, which is not watched.
    exchange(&second, pod.inside(|| connect("127.0.0.1", OTHER).unwrap()));
    let client = exchange(&second, connect(POD[0], OTHER).unwrap());
    let seen = read(&mut capture, 2);
    assert!(seen.keys().all(|(src, dst)| *src == client || *dst == client));
    capture.set_ports(&[PORT, OTHER]).unwrap();
    exchange(&first, connect(POD[0], PORT).unwrap());
    exchange(&second, connect(POD[0], OTHER).unwrap());
    assert_eq!(read(&mut capture, 4).len(), 4);
}
