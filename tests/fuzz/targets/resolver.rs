//! The name server of the local pods: any query, by datagram and by stream. Its answers are read with the session host's reader.
#![no_main]
#![expect(dead_code, reason = "the session's module is taken whole; it is not part of what the crate offers")]

#[path = "../../../session/src/local/dns.rs"]
mod dns;

use std::net::IpAddr;

use dns::{Host, Transport, Zone, answer};
use libfuzzer_sys::fuzz_target;
use mirrord_session::network::dns_message::reply;

struct Pods;

impl Zone for Pods {
    fn by_name(&self, name: &str) -> Option<Host> {
        let web = Host { ip: [10, 244, 0, 2].into(), ipv6: "fd00:244::2".parse().ok(), ports: (1..=40).collect() };
        (name == "web").then_some(web)
    }
    fn by_address(&self, address: IpAddr) -> Option<String> {
        (address == IpAddr::from([10, 244, 0, 2])).then(|| "web".to_owned())
    }
}

fuzz_target!(|data: &[u8]| {
    for transport in [Transport::Udp, Transport::Tcp] {
        if let Some(answer) = answer(data, &Pods, transport) {
            assert_eq!(answer.get(..2), data.get(..2), "an answer has the query's id");
            assert!(answer.len() <= usize::from(u16::MAX));
            drop(reply(&answer));
        }
    }
});
