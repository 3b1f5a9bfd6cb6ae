//! A line of a recording: what can be read can be written, and reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mirrord_session::jsonl::{Line, decode, encode};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(Line::Event(event)) = decode(text) {
        let written = encode(&event);
        let Ok(Line::Event(again)) = decode(&written) else { panic!("not an event any more: {written}") };
        assert_eq!(encode(&again), written);
    }
});
