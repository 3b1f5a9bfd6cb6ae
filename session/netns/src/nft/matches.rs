//! What both rule sets match: protocols, ports, loopback addresses.

use super::batch::{Compare, Header, Meta, Rule};
use crate::packet::Transport;

/// NFPROTO_IPV4.
const FAMILY_V4: u8 = 2;
/// NFPROTO_IPV6.
const FAMILY_V6: u8 = 10;
/// FIN, SYN, RST and ACK.
const TCP_FLAGS: u8 = 0x17;
const TCP_SYN: u8 = 0x02;
const ICMP: u8 = 1;
const ICMP_V6: u8 = 58;
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;

impl Rule {
    pub(super) fn transport(self, transport: Transport) -> Self {
        self.protocol(transport.number())
    }

    /// The first segment of a connection. Never other segments: translating those would reset connections that are open already.
    pub(super) fn tcp_syn(self) -> Self {
        self.transport(Transport::Tcp)
            .payload(Header::Transport, 13, 1)
            .mask(&[TCP_FLAGS])
            .compare(Compare::Equal, &[TCP_SYN])
    }

    pub(super) fn destination_port(self, port: u16) -> Self {
        self.payload(Header::Transport, 2, 2).compare(Compare::Equal, &port.to_be_bytes())
    }

    pub(super) fn family_v4(self) -> Self {
        self.meta(Meta::Family).compare(Compare::Equal, &[FAMILY_V4])
    }

    pub(super) fn family_v6(self) -> Self {
        self.meta(Meta::Family).compare(Compare::Equal, &[FAMILY_V6])
    }

    pub(super) fn on_loopback_v4(self, how: Compare) -> Self {
        self.family_v4().payload(Header::Network, 16, 1).compare(how, &[127])
    }

    pub(super) fn on_loopback_v6(self, how: Compare) -> Self {
        let loopback = std::net::Ipv6Addr::LOCALHOST.octets();
        self.family_v6().payload(Header::Network, 24, 16).compare(how, &loopback)
    }

    pub(super) fn echo_request_v4(self) -> Self {
        self.protocol(ICMP).payload(Header::Transport, 0, 1).compare(Compare::Equal, &[ECHO_REQUEST])
    }

    pub(super) fn echo_request_v6(self) -> Self {
        self.protocol(ICMP_V6).payload(Header::Transport, 0, 1).compare(Compare::Equal, &[ECHO_REQUEST_V6])
    }

    fn protocol(self, number: u8) -> Self {
        self.meta(Meta::Transport).compare(Compare::Equal, &[number])
    }
}
