//! The event of one connection: emitted when it begins, changed when it is known how it went.

use std::{net::SocketAddr, time::Instant};

use mirrord_protocol::session::v1::{self as wire, connection::Stage};

use super::{
    outgoing_rules::{Place, Route},
    owners::Owner,
};
use crate::events::Events;

/// The event of a connection that is open. Dropping it says that the session ended before the connection did.
pub(super) struct ConnectionLog {
    events: Events,
    seq: u64,
    started: Instant,
    owner: Owner,
    done: bool,
}

/// What is known at the end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    /// From the peer.
    pub(super) bytes_in: u64,
    /// To the peer.
    pub(super) bytes_out: u64,
    pub(super) reset: bool,
    pub(super) gaps: u64,
    pub(super) gap_bytes: u64,
}

impl ConnectionLog {
    /// Emits the event as pending.
    pub(super) fn open(
        events: &Events,
        connection: u64,
        subject: String,
        decision: wire::Decision,
        detail: wire::Connection,
    ) -> Self {
        let event = wire::Event {
            kind: wire::Kind::Connection.into(),
            subject,
            decision: Some(decision),
            connection,
            pending: true,
            detail: Some(wire::event::Detail::ConnectionDetail(wire::Connection {
                stage: Stage::Open.into(),
                ..detail
            })),
            ..wire::Event::default()
        };
        Self {
            events: events.clone(),
            seq: events.emit(event),
            started: Instant::now(),
            owner: Owner::default(),
            done: false,
        }
    }

    /// Whose socket it is; shown from the next change on.
    pub(super) const fn owned_by(&mut self, owner: Owner) {
        self.owner = owner;
    }

    pub(super) const fn owner(&self) -> Owner {
        self.owner
    }

    /// The connection stands; the time until now is its latency.
    pub(super) fn connected(&self, local: Option<SocketAddr>) {
        let latency = nanos(self.started);
        self.change(|event, detail| {
            event.latency_ns = latency;
            detail.local = local.map(address);
        });
    }

    /// It never stood.
    pub(super) fn failed(mut self, error: &str) {
        self.done = true;
        let latency = nanos(self.started);
        self.change(|event, detail| {
            event.pending = false;
            event.latency_ns = latency;
            error.clone_into(&mut event.error);
            detail.stage = Stage::Failed.into();
            detail.duration_ns = latency;
        });
    }

    /// It is over.
    pub(super) fn closed(mut self, totals: Totals, error: Option<String>) {
        self.finish(totals, error.unwrap_or_default());
    }

    fn finish(&mut self, totals: Totals, error: String) {
        self.done = true;
        let duration = nanos(self.started);
        self.change(|event, detail| {
            event.pending = false;
            event.bytes = totals.bytes_in + totals.bytes_out;
            event.error = error;
            detail.stage = Stage::Closed.into();
            detail.bytes_in = totals.bytes_in;
            detail.bytes_out = totals.bytes_out;
            detail.reset = totals.reset;
            detail.gaps = totals.gaps;
            detail.gap_bytes = totals.gap_bytes;
            detail.duration_ns = duration;
        });
    }

    fn change(&self, change: impl FnOnce(&mut wire::Event, &mut wire::Connection)) {
        self.events.update(self.seq, |event| {
            self.owner.mark(event);
            if let Some(wire::event::Detail::ConnectionDetail(mut detail)) = event.detail.take() {
                change(event, &mut detail);
                event.detail = Some(wire::event::Detail::ConnectionDetail(detail));
            }
        });
    }
}

impl Drop for ConnectionLog {
    fn drop(&mut self) {
        if !self.done {
            self.finish(Totals::default(), "the session ended".to_owned());
        }
    }
}

/// A decision for an event.
pub(super) fn decision(route: &Route) -> wire::Decision {
    let place = match route.place {
        Place::Local => wire::Where::Local,
        Place::Remote => wire::Where::Remote,
    };
    wire::Decision { r#where: place.into(), rule: route.rule.clone() }
}

/// An address for an event.
pub(super) fn address(address: SocketAddr) -> wire::Address {
    let wire = crate::agent_link::wire_address(address);
    wire::Address { ip: wire.ip, port: wire.port }
}

/// The name of an errno as a program's manual has it; the number for rare ones.
pub(super) fn errno_name(errno: i32) -> String {
    let name = match errno {
        libc::ECONNREFUSED => "ECONNREFUSED",
        libc::EHOSTUNREACH => "EHOSTUNREACH",
        libc::ENETUNREACH => "ENETUNREACH",
        libc::ETIMEDOUT => "ETIMEDOUT",
        libc::ECONNRESET => "ECONNRESET",
        libc::EACCES => "EACCES",
        libc::EPERM => "EPERM",
        libc::EADDRNOTAVAIL => "EADDRNOTAVAIL",
        libc::EAFNOSUPPORT => "EAFNOSUPPORT",
        libc::EINVAL => "EINVAL",
        libc::EIO => "EIO",
        other => return format!("errno {other}"),
    };
    name.to_owned()
}

fn nanos(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
