//! What happens with each held first packet: the one place where flows of the session are decided.
//!
//! ```text
//! queue -> loopback or own address with a listener of the session? -> Local
//!       -> port 53 of a name server -> resolver
//!       -> rules -> remote: agent dials | local: host dials -> Redirect | Refused | Unreachable | (timed out) never answered
//! ```
//! One task per held flow, so that a slow destination holds nobody else up.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use mirrord_netns::{Flow, Transport, nfqueue::Packet, nft::Verdict};
use tokio::{
    io::unix::AsyncFd,
    time::{sleep, sleep_until},
};

use super::{
    attempt::{self, Attempt},
    connection_log::errno_name,
    prepared::{FarEnd, Prepared, Ready},
    shared::SharedRef,
    udp::UdpRelays,
};
use crate::limits::{HELD_CHECK, QUEUE_RETRY, SILENT_FLOWS, UNREACHABLE_DELAY};

/// Decides for the flows of one session.
#[derive(Clone)]
pub(super) struct Verdicts {
    pub(super) shared: SharedRef,
    pub(super) prepared: Arc<Prepared>,
    pub(super) udp: UdpRelays,
    flows: Arc<Mutex<Flows>>,
}

/// What is remembered about TCP flows.
#[derive(Default)]
struct Flows {
    /// A decision is on its way.
    held: HashSet<(SocketAddr, SocketAddr)>,
    /// The dial timed out; the program's own timer shall find out. Bounded by [`SILENT_FLOWS`].
    silent: HashMap<(SocketAddr, SocketAddr), Instant>,
}

impl Verdicts {
    pub(super) fn new(shared: SharedRef, prepared: Arc<Prepared>, udp: UdpRelays) -> Self {
        Self { shared, prepared, udp, flows: Arc::default() }
    }

    /// Takes packets from the queue until the session ends.
    pub(super) async fn run(self) {
        let mut packets = Vec::new();
        loop {
            let shared = self.shared.clone();
            let Some(queue) = shared.netns.queue() else { return };
            let mut ready = match queue.readable().await {
                Ok(ready) => ready,
                Err(error) => {
                    shared.events.warn(
                        format!("the packet queue broke: {error}"),
                        "connections of the command hang; restart the session",
                    );
                    return;
                }
            };
            match ready.get_inner().recv(&mut packets) {
                Ok(0) => ready.clear_ready(),
                Ok(_) => {
                    for packet in packets.drain(..) {
                        self.begin(packet);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "reading the packet queue failed");
                    sleep(QUEUE_RETRY).await;
                }
            }
        }
    }

    /// Decides at once what needs nobody else, and starts a task for the rest.
    fn begin(&self, packet: Packet) {
        let Flow { transport, src, dst } = packet.flow;
        let netns = &self.shared.netns;
        if netns.is_own(dst.ip()) && netns.has_listener(transport, dst, src) {
            return self.answer(packet.id, Answer::Pass(Verdict::Local));
        }
        let this = self.clone();
        match transport {
            Transport::Udp => self.shared.tasks.intake(async move {
                let answer = match this.udp.admit(src, dst).await {
                    Ok(port) => Answer::Pass(Verdict::Redirect(port)),
                    Err(errno) => refusal(errno),
                };
                this.answer_later(packet.id, answer).await;
            }),
            Transport::Tcp if self.shared.nameservers.is_resolver(dst) => {
                let connection = self.shared.connection_id();
                self.prepared.insert(src, dst, Ready { far: FarEnd::Resolver, log: None, connection });
                self.answer(packet.id, Answer::Pass(Verdict::Redirect(netns.relay_port())));
            }
            Transport::Tcp => {
                let mut flows = self.lock();
                // A SYN that is sent again says nothing new; the answer to the first one counts.
                if flows.silent.contains_key(&(src, dst)) || !flows.held.insert((src, dst)) {
                    drop(flows);
                    return self.answer(packet.id, Answer::Drop);
                }
                drop(flows);
                self.shared.tasks.intake(async move { this.connect(packet).await });
            }
        }
    }

    /// Dials the destination of a held SYN and answers as the dial went.
    async fn connect(self, packet: Packet) {
        let Flow { src, dst, .. } = packet.flow;
        let entry = HeldFlow { flows: self.flows.clone(), key: (src, dst) };
        let Attempt { connection, mut log, place } = Attempt::begin(&self.shared, dst);
        let dial = attempt::dial(&self.shared, place, dst);
        // A result counts even when the program gives up in the same moment: the relay then finds out.
        let attempt = async {
            tokio::select! {
                biased;
                result = dial => Some(result),
                () = self.given_up(&packet.flow) => None,
            }
        };
        // The dial is polled first, so that looking for the program's socket takes place while the agent works.
        let (result, socket) =
            tokio::join!(attempt, async { self.shared.netns.socket_of(Transport::Tcp, src, dst) });
        log.owned_by(self.shared.owners.of(socket));
        match result {
            None => {
                log.failed("the program gave up");
                self.answer(packet.id, Answer::Drop);
            }
            Some(Ok((far, local))) => {
                log.connected(local);
                self.prepared.insert(src, dst, Ready { far, log: Some(log), connection });
                self.answer(packet.id, Answer::Pass(Verdict::Redirect(self.shared.netns.relay_port())));
            }
            Some(Err(errno)) => {
                log.failed(&errno_name(errno));
                let answer = refusal(errno);
                if answer == Answer::Drop {
                    self.remember_silent((src, dst));
                }
                self.answer_later(packet.id, answer).await;
            }
        }
        drop(entry);
    }

    /// Waits until the program has closed the socket whose SYN is held.
    async fn given_up(&self, flow: &Flow) {
        loop {
            sleep(HELD_CHECK).await;
            if !self.shared.netns.still_connecting(flow) {
                return;
            }
        }
    }

    fn remember_silent(&self, key: (SocketAddr, SocketAddr)) {
        let mut flows = self.lock();
        if flows.silent.len() >= SILENT_FLOWS
            && let Some(oldest) = flows.silent.iter().min_by_key(|(_, since)| **since).map(|(key, _)| *key)
        {
            flows.silent.remove(&oldest);
        }
        flows.silent.insert(key, Instant::now());
    }

    /// Forgets silent flows whose program has given up, so that the ports can be used anew.
    pub(super) fn sweep(&self) {
        let silent: Vec<_> = self.lock().silent.keys().copied().collect();
        for (src, dst) in silent {
            if !self.shared.netns.still_connecting(&Flow { transport: Transport::Tcp, src, dst }) {
                self.lock().silent.remove(&(src, dst));
            }
        }
    }

    async fn answer_later(&self, id: u32, answer: Answer) {
        if matches!(answer, Answer::Pass(Verdict::HostUnreachable | Verdict::NetUnreachable)) {
            sleep_until(tokio::time::Instant::now() + UNREACHABLE_DELAY).await;
        }
        self.answer(id, answer);
    }

    fn answer(&self, id: u32, answer: Answer) {
        let Some(queue) = self.shared.netns.queue().map(AsyncFd::get_ref) else { return };
        let result = match answer {
            Answer::Pass(verdict) => queue.verdict(id, verdict),
            Answer::Drop => queue.drop(id),
        };
        if let Err(error) = result {
            tracing::warn!(%error, id, "a verdict could not be given");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Flows> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets a held flow when its decision is made or its task dropped.
struct HeldFlow {
    flows: Arc<Mutex<Flows>>,
    key: (SocketAddr, SocketAddr),
}

impl Drop for HeldFlow {
    fn drop(&mut self) {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner).held.remove(&self.key);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Pass(Verdict),
    /// Never answered: the kernel has no way to say ETIMEDOUT but its own timer.
    Drop,
}

/// How a failed dial is told to the program.
const fn refusal(errno: i32) -> Answer {
    match errno {
        libc::ECONNREFUSED | libc::ECONNRESET => Answer::Pass(Verdict::Refused),
        libc::ENETUNREACH | libc::ENETDOWN | libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL => {
            Answer::Pass(Verdict::NetUnreachable)
        }
        libc::ETIMEDOUT => Answer::Drop,
        _ => Answer::Pass(Verdict::HostUnreachable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_errno_of_a_dial_has_its_own_answer() {
        assert_eq!(refusal(libc::ECONNREFUSED), Answer::Pass(Verdict::Refused));
        assert_eq!(refusal(libc::EHOSTUNREACH), Answer::Pass(Verdict::HostUnreachable));
        assert_eq!(refusal(libc::ENETUNREACH), Answer::Pass(Verdict::NetUnreachable));
        assert_eq!(refusal(libc::ETIMEDOUT), Answer::Drop);
        assert_eq!(refusal(libc::EPERM), Answer::Pass(Verdict::HostUnreachable));
    }
}
