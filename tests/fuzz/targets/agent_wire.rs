//! Messages between session host and agent, both ways.
#![no_main]

mod wire;

use libfuzzer_sys::fuzz_target;
use mirrord_protocol::agent::v1::*;

fuzz_target!(|data: &[u8]| {
    decode_one_of!(data;
        HelloRequest, HelloReply, EnvRequest, EnvReply, FileRequest, FileReply, DnsRequest, DnsReply, SubscriptionRequest,
        SubscriptionReply, AcceptUp, AcceptDown, MirrorRequest, MirrorBatch, DialUp, DialDown, UdpUp, UdpDown,
        ShutdownRequest, ShutdownReply)
});
