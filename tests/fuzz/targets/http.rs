//! A tap beside a connection: bytes of both sides in any pieces, gaps, an end. It must neither fail nor keep a request pending.
#![no_main]

use std::net::SocketAddr;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use mirrord_protocol::session::v1 as wire;
use mirrord_session::{
    events::{Events, Taken},
    http::HttpTaps,
    network::{Tap, TapContext},
};

#[derive(Arbitrary, Debug)]
enum Say<'data> {
    Client(&'data [u8]),
    Server(&'data [u8]),
    Gap(bool, Option<u64>),
}

fuzz_target!(|input: (bool, bool, Vec<Say<'_>>)| {
    let (mid_stream, reset, says) = input;
    let events = Events::new();
    let mut tap = HttpTaps::new(events.clone()).tap(TapContext {
        direction: wire::Direction::Incoming,
        mode: wire::Mode::Mirror,
        port: 80,
        peer: SocketAddr::from(([10, 1, 0, 7], 40_001)),
        connection: 9,
        mid_stream,
    });
    for (time_ns, say) in (1..).zip(says) {
        match say {
            Say::Client(bytes) => tap.client(time_ns, bytes),
            Say::Server(bytes) => tap.server(time_ns, bytes),
            Say::Gap(from_server, bytes) => tap.gap(time_ns, from_server, bytes),
        }
    }
    tap.closed(u64::MAX / 2, reset);
    if let Taken::Some(batch) = events.subscribe(0, &[]).take(usize::MAX) {
        assert!(batch.events.iter().all(|event| !event.pending), "a request waits for ever");
    }
});
