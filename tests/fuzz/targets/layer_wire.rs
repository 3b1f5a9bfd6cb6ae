//! Datagrams between the layer's supervisor and the session host, both ways.
#![no_main]

mod wire;

use libfuzzer_sys::fuzz_target;
use mirrord_protocol::layer::v1::*;

fuzz_target!(|data: &[u8]| { decode_one_of!(data; FromLayer, ToLayer) });
