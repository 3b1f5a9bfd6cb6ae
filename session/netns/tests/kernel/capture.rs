//! Capture sees every byte of both directions once.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Instant,
};

use mirrord_netns::{
    capture::{Capture, CaptureOptions},
    packet::{self, TcpFlags},
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
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    bytes: usize,
    outgoing: bool,
    finished: bool,
}

/// Reads until `flows` directions have ended.
fn read(capture: &mut Capture, flows: usize) -> HashMap<(SocketAddr, SocketAddr), Seen> {
    let mut seen: HashMap<(SocketAddr, SocketAddr), Seen> = HashMap::new();
    let deadline = Instant::now() + LIMIT;
    while seen.values().filter(|seen| seen.finished).count() < flows {
        assert!(Instant::now() < deadline, "packets are missing: {seen:?}");
        capture.wait(LIMIT).unwrap();
        while let Some(frames) = capture.next_block(|frame| {
            let parsed = packet::parse(frame.ip).unwrap();
            let tcp = parsed.tcp.unwrap();
            assert_eq!(parsed.payload.len(), parsed.payload_len, "nothing is cut off");
            assert_eq!(frame.wire_len, frame.ip.len());
            assert!(frame.time_ns > 1_600_000_000_000_000_000, "nanoseconds since the epoch");
            let flow = seen.entry((parsed.flow.src, parsed.flow.dst)).or_default();
            flow.bytes += parsed.payload_len;
            flow.outgoing = frame.outgoing;
            flow.finished |= tcp.flags.contains(TcpFlags::FIN);
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
        assert_eq!(seen.len(), 2);
        let incoming = Seen { bytes: REQUEST, outgoing: false, finished: true };
        let outgoing = Seen { bytes: RESPONSE, outgoing: true, finished: true };
        assert_eq!(seen[&(client, server)], incoming);
        assert_eq!(seen[&(server, client)], outgoing);
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
    assert_eq!(seen[&(client, server)].bytes, REQUEST);
    assert_eq!(seen[&(server, client)].bytes, RESPONSE);
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
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen.keys().all(|(src, dst)| *src == client || *dst == client));
    capture.set_ports(&[PORT, OTHER]).unwrap();
    exchange(&first, connect(POD[0], PORT).unwrap());
    exchange(&second, connect(POD[0], OTHER).unwrap());
    assert_eq!(read(&mut capture, 4).len(), 4);
}
