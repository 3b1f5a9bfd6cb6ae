//! The rules of the session netns: hold the first packet of every flow, and do what its verdict's mark says.
//!
//! ```text
//! chain hold  filter output -150   mark not ours, tcp syn        -> queue
//!                                  mark not ours, udp, ct new    -> queue
//! chain deny  filter output -149   syn refused -> tcp reset; udp refused -> port unreachable
//!                                  host unreachable, no route
//! chain ping  filter input     0   echo-request to others than loopback and own addresses -> drop
//! chain out   nat    output -100   mark not ours or local -> accept; tcp, udp -> redirect to :mark
//! ```
//! `deny` is a chain of its own because a verdict with a mark goes on with the next base chain, not with the next rule.

use std::{net::IpAddr, os::fd::OwnedFd};

use super::{
    LOCAL_MARK, MARK_MASK, MARK_OURS, NftError, QueueForm, Verdict,
    batch::{Batch, ChainType, Compare, Header, Hook, Meta, Rule, Unreachable},
};
use crate::{
    netlink::{Netlink, NetlinkError},
    packet::Transport,
};

const TABLE: &str = "mirrord-session";
const HOLD: &str = "hold";
const DENY: &str = "deny";
const OUT: &str = "out";
/// On the way in, where a drop is silent; on the way out ping would be told EPERM.
const PING: &str = "ping";
/// NF_CT_STATE_BIT(IP_CT_NEW).
const STATE_NEW: u32 = 8;
const DNS: u16 = 53;

/// The rules of the session netns.
#[derive(Debug)]
pub struct SessionTable {
    /// Keeps the table: it goes when this socket is closed.
    owner: Netlink,
    form: QueueForm,
}

impl SessionTable {
    /// Installs the rules that hold TCP SYNs and new UDP flows in queue `queue`. `socket`: AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER,
    /// made in the namespace. Bind the queue first: packets of a queue without a reader are dropped.
    ///
    /// # Errors
    /// [`NftError::NoQueue`] when the kernel cannot hold packets, [`NftError::Kernel`] for all else.
    pub fn install(socket: OwnedFd, queue: u16) -> Result<Self, NftError> {
        let owner = Netlink::from_socket(socket);
        for form in [QueueForm::Native, QueueForm::Compat] {
            match held(form, queue).commit(&owner) {
                Ok(()) => return Ok(Self { owner, form }),
                Err(source) if is_missing(&source) => {}
                Err(source) => return Err(NftError::Kernel { operation: "install the session's", source }),
            }
        }
        Err(NftError::NoQueue)
    }

    /// The fallback without a queue: TCP to any but loopback addresses goes to `tcp_relay`, UDP port 53 to `dns_relay`; other UDP
    /// is refused. connect(2) then succeeds before the target has answered.
    ///
    /// # Errors
    /// [`NftError::Kernel`].
    pub fn install_redirect_only(socket: OwnedFd, tcp_relay: u16, dns_relay: u16) -> Result<Self, NftError> {
        let owner = Netlink::from_socket(socket);
        redirected(tcp_relay, dns_relay)
            .commit(&owner)
            .map_err(|source| NftError::Kernel { operation: "install the session's redirecting", source })?;
        Ok(Self { owner, form: QueueForm::None })
    }

    /// Lets the namespace answer pings to these addresses; those to all others but loopback are dropped.
    ///
    /// # Errors
    /// [`NftError::Kernel`].
    pub fn answer_pings(&self, own: &[IpAddr]) -> Result<(), NftError> {
        let rules = own.iter().map(|ip| ping_to(*ip).accept());
        let batch = rules.fold(Batch::new(TABLE), |batch, rule| batch.first_rule(PING, &rule));
        batch
            .commit(&self.owner)
            .map_err(|source| NftError::Kernel { operation: "extend the session's", source })
    }

    /// Which form of the queue the kernel has.
    #[must_use]
    pub fn form(&self) -> QueueForm {
        self.form
    }
}

/// The kernel does not know an expression.
fn is_missing(error: &NetlinkError) -> bool {
    matches!(error.errno(), Some(libc::ENOENT | libc::EOPNOTSUPP))
}

fn held(form: QueueForm, queue: u16) -> Batch<'static> {
    let enqueue = |rule: Rule| match form {
        QueueForm::Compat => rule.queue_compat(queue),
        QueueForm::Native | QueueForm::None => rule.queue_native(queue),
    };
    let batch = Batch::new(TABLE)
        .owned_table()
        .chain(HOLD, ChainType::Filter, Hook::Output, -150)
        .chain(DENY, ChainType::Filter, Hook::Output, -149)
        .chain(OUT, ChainType::Nat, Hook::Output, -100)
        .rule(HOLD, &enqueue(unmarked().tcp_syn()))
        .rule(HOLD, &enqueue(unmarked().transport(Transport::Udp).conntrack_state(STATE_NEW, Compare::Equal)))
        .rule(DENY, &marked(Verdict::Refused).tcp_syn().reject_reset())
        .rule(DENY, &marked(Verdict::Refused).transport(Transport::Udp).reject_unreachable(Unreachable::Port))
        .rule(DENY, &marked(Verdict::HostUnreachable).reject_unreachable(Unreachable::Host))
        .rule(DENY, &marked(Verdict::NetUnreachable).reject_unreachable(Unreachable::Route));
    let to_mark = |transport| Rule::new().transport(transport).meta(Meta::Mark).redirect_to_register();
    without_pings(batch)
        .rule(OUT, &unmarked().accept())
        .rule(OUT, &marked(Verdict::Local).accept())
        .rule(OUT, &to_mark(Transport::Tcp))
        .rule(OUT, &to_mark(Transport::Udp))
}

fn redirected(tcp_relay: u16, dns_relay: u16) -> Batch<'static> {
    let batch = Batch::new(TABLE)
        .owned_table()
        // On the way in: a packet that is rejected on its way out makes send(2) fail with EPERM.
        .chain(DENY, ChainType::Filter, Hook::Input, 0)
        .chain(OUT, ChainType::Nat, Hook::Output, -100)
        .rule(OUT, &mark(LOCAL_MARK).accept())
        .rule(OUT, &Rule::new().on_loopback_v4(Compare::Equal).accept())
        .rule(OUT, &Rule::new().on_loopback_v6(Compare::Equal).accept())
        .rule(OUT, &Rule::new().tcp_syn().redirect(tcp_relay))
        .rule(OUT, &Rule::new().transport(Transport::Udp).destination_port(DNS).redirect(dns_relay));
    // Without a verdict there is no relay of its own for each destination.
    let other_udp = |rule: Rule| {
        rule.transport(Transport::Udp)
            .payload(Header::Transport, 2, 2)
            .compare(Compare::NotEqual, &DNS.to_be_bytes())
            .conntrack_state(STATE_NEW, Compare::Equal)
            .reject_unreachable(Unreachable::Port)
    };
    let batch = batch
        .rule(DENY, &mark(LOCAL_MARK).accept())
        .rule(DENY, &other_udp(Rule::new().on_loopback_v4(Compare::NotEqual)))
        .rule(DENY, &other_udp(Rule::new().on_loopback_v6(Compare::NotEqual)));
    without_pings(batch)
}

/// Every address is local here, so the namespace itself would answer pings to all the world.
fn without_pings(batch: Batch<'_>) -> Batch<'_> {
    batch
        .chain(PING, ChainType::Filter, Hook::Input, 0)
        .rule(PING, &Rule::new().on_loopback_v4(Compare::NotEqual).echo_request_v4().drop())
        .rule(PING, &Rule::new().on_loopback_v6(Compare::NotEqual).echo_request_v6().drop())
}

fn ping_to(ip: IpAddr) -> Rule {
    let destination = |rule: Rule, offset, bytes: &[u8]| {
        let len = u32::try_from(bytes.len()).unwrap_or(0);
        rule.payload(Header::Network, offset, len).compare(Compare::Equal, bytes)
    };
    match ip {
        IpAddr::V4(ip) => destination(Rule::new().family_v4(), 16, &ip.octets()).echo_request_v4(),
        IpAddr::V6(ip) => destination(Rule::new().family_v6(), 24, &ip.octets()).echo_request_v6(),
    }
}

/// Packets that carry no mark of ours, whatever else their program has set.
fn unmarked() -> Rule {
    Rule::new()
        .meta(Meta::Mark)
        .mask(&MARK_MASK.to_ne_bytes())
        .compare(Compare::NotEqual, &MARK_OURS.to_ne_bytes())
}

fn marked(verdict: Verdict) -> Rule {
    mark(verdict.mark())
}

fn mark(value: u32) -> Rule {
    Rule::new().meta(Meta::Mark).compare(Compare::Equal, &value.to_ne_bytes())
}
