//! Mirroring: a capture thread in the target's network copies what passes, and never stands in its way.
//!
//! This file is the owner's handle on that thread: which ports are mirrored, and the numbers. [`capture`] reads the ring, [`flows`]
//! knows the connections, [`reassembly`] restores the order of bytes, [`queue`] carries the items to the client.

mod capture;
mod flows;
mod queue;
mod reassembly;

use std::{
    collections::BTreeMap,
    io,
    sync::PoisonError,
    time::{SystemTime, UNIX_EPOCH},
};

use thiserror::Error;
use tokio::time::timeout;

use self::{capture::CaptureThread, flows::Until};
pub(crate) use self::{
    flows::Counters,
    queue::{MirrorQueue, MirrorReader},
};
use crate::{
    limits::CAPTURE_REPLY,
    network::{NetworkError, TargetNetwork},
};

/// Why a port is not mirrored.
#[derive(Debug, Error)]
pub(crate) enum MirrorError {
    #[error("the target's network cannot be entered")]
    Network(#[source] NetworkError),
    #[error("capture in the target's network needs CAP_NET_RAW there")]
    Capture(#[source] mirrord_netns::capture::CaptureError),
    #[error("the capture thread cannot be started")]
    Thread(#[source] io::Error),
    #[error("the capture thread gave no answer")]
    Silent,
}

/// The mirrored ports of the target.
#[derive(Debug)]
pub(crate) struct Mirror {
    network: TargetNetwork,
    queue: MirrorQueue,
    thread: Option<CaptureThread>,
    ports: BTreeMap<u16, Until>,
    /// A port has been stolen since the agent began: connections may be redirected.
    redirects: bool,
}

impl Mirror {
    pub(crate) fn new(network: TargetNetwork, queue: MirrorQueue) -> Self {
        Self { network, queue, thread: None, ports: BTreeMap::new(), redirects: false }
    }

    /// Connections may be redirected once this has returned: each new one will be asked about.
    pub(crate) async fn expect_redirects(&mut self) -> Result<(), MirrorError> {
        if std::mem::replace(&mut self.redirects, true) {
            return Ok(());
        }
        self.apply().await
    }

    /// All connections to `port` that are opened after this returns are mirrored, unless they are redirected.
    pub(crate) async fn add(&mut self, port: u16) -> Result<(), MirrorError> {
        let old = self.ports.insert(port, None);
        let changed = self.apply().await;
        if changed.is_err() {
            match old {
                Some(old) => self.ports.insert(port, old),
                None => self.ports.remove(&port),
            };
        }
        changed
    }

    /// Connections to `port` that are opened from now on are not mirrored; those that are open go on to their end.
    pub(crate) async fn end(&mut self, port: u16) -> Result<(), MirrorError> {
        match self.ports.get_mut(&port) {
            Some(until @ None) => *until = Some(now_ns()),
            Some(Some(_)) | None => return Ok(()),
        }
        self.apply().await
    }

    /// Nothing is mirrored any more.
    pub(crate) fn clear(&mut self) {
        self.ports.clear();
        self.thread = None;
    }

    /// Numbers of the ports, and whether the capture still runs. Ports without mode and connections are forgotten.
    pub(crate) async fn counters(&mut self) -> (BTreeMap<u16, Counters>, bool) {
        let Some(thread) = &self.thread else { return (BTreeMap::new(), true) };
        let counters = thread.shared().counters.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let alive = thread.is_alive();
        if !alive {
            self.thread = None;
            self.ports.clear();
        } else if self.forget_ended(&counters) && self.apply().await.is_err() {
            tracing::warn!("the capture thread could not be told of ended ports");
        }
        (counters, alive)
    }

    /// True when a port is not needed any more.
    fn forget_ended(&mut self, counters: &BTreeMap<u16, Counters>) -> bool {
        let (before, now_ns) = (self.ports.len(), now_ns());
        self.ports.retain(|port, until| {
            flows::is_live(*until, now_ns, counters.get(port).map_or(0, |counters| counters.open))
        });
        self.ports.len() != before
    }

    async fn apply(&mut self) -> Result<(), MirrorError> {
        if self.ports.is_empty() {
            self.thread = None;
            return Ok(());
        }
        let (ports, redirects) = (self.ports.clone(), self.redirects);
        match &self.thread {
            Some(thread) => {
                let applied = timeout(CAPTURE_REPLY, thread.set_ports(ports, redirects)).await;
                applied.map_err(|_| MirrorError::Silent)?
            }
            None => {
                let (queue, own) = (self.queue.clone(), self.network.own().clone());
                let started =
                    self.network.run(move || CaptureThread::start(ports, redirects, queue, own)).await;
                self.thread = Some(started.map_err(MirrorError::Network)??);
                Ok(())
            }
        }
    }
}

/// As the kernel stamps packets.
fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
