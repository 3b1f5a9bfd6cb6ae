//! The link to the agent: one value that everybody in the host clones, with a method per call of `agent.proto`.
//!
//! Owns the gRPC channels, the token, the heartbeat and the long-lived streams of small calls (files, DNS). It does not know
//! what the calls are for. Every call has a deadline; a broken link fails the calls in flight and reconnects by itself.
//!
//! ```text
//! connect -> Up <-> Retrying -> Lost        (Lost is final: the host ends the session)
//! ```

mod calls;
mod connect;
mod handed;
mod heartbeat;
mod streams;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use mirrord_protocol::agent::v1 as wire;
use thiserror::Error;
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Status, Streaming};

use self::{
    calls::Calls,
    connect::{Channels, Client},
};
pub use self::{
    connect::{Connector, Endpoint, Transport},
    handed::HandedSockets,
    heartbeat::{LinkState, LinkStatus},
    streams::{
        AgentReceiver, AgentSender, Carrier, Chunk, Connected, OpenCall, Stolen, UdpAssociation, UdpEvent,
    },
};
use crate::limits::{
    AGENT_CALL_TIMEOUT, AGENT_CLOSE_GRACE, AGENT_LOST, DIAL_SLACK, FILE_CALL_TIMEOUT, STREAM_MESSAGES,
};

/// Handle on the link to one agent. Clones share it.
#[derive(Clone)]
pub struct AgentLink {
    inner: Arc<Inner>,
}

struct Inner {
    channels: Channels,
    handed: Option<Arc<HandedSockets>>,
    facts: wire::HelloReply,
    files: Calls<wire::FileRequest>,
    dns: Calls<wire::DnsRequest>,
    status: watch::Receiver<LinkStatus>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

/// Why a call to the agent gave no answer.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The agent could not be reached.
    #[error("the agent at {endpoint} cannot be reached")]
    Connect {
        /// Where it was expected.
        endpoint: String,
        /// What the transport said.
        #[source]
        source: tonic::transport::Error,
    },
    /// The token holds bytes that cannot travel in a header.
    #[error("the session's token is not printable ASCII")]
    Token,
    /// The agent speaks a version of the wire that this build does not.
    #[error(
        "the agent speaks protocol {agent}, this program {oldest} to {newest}; use agent and program of one release"
    )]
    Version {
        /// The agent's.
        agent: u32,
        /// Oldest that this build understands.
        oldest: u32,
        /// Newest that this build understands.
        newest: u32,
    },
    /// The agent refused the call or the stream broke.
    #[error("the agent failed at `{call}`")]
    Call {
        /// Name of the call.
        call: &'static str,
        /// What gRPC said.
        #[source]
        source: Box<Status>,
    },
    /// No answer before the deadline.
    #[error("the agent gave no answer to `{call}` within {} ms", after.as_millis())]
    Timeout {
        /// Name of the call.
        call: &'static str,
        /// The deadline.
        after: Duration,
    },
    /// The link broke while the call was in flight.
    #[error("the link to the agent broke during `{call}`")]
    Broken {
        /// Name of the call.
        call: &'static str,
    },
    /// Too many calls are in flight.
    #[error("{limit} calls of `{call}` are in flight, one more is refused")]
    Busy {
        /// Name of the call.
        call: &'static str,
        /// The bound.
        limit: usize,
    },
    /// The agent sent something that the protocol does not allow here.
    #[error("the agent's answer to `{call}` makes no sense: {what}")]
    Protocol {
        /// Name of the call.
        call: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The link has been closed.
    #[error("the link to the agent is closed")]
    Closed,
}

/// Why a destination could not be dialled from the target.
#[derive(Debug, Error)]
pub enum DialError {
    /// The target's kernel said so.
    #[error("the target's network answered with errno {0}")]
    Errno(i32),
    /// The agent could not be asked.
    #[error("the agent could not dial")]
    Link(#[from] LinkError),
}

impl DialError {
    /// The errno that the program shall see. A broken link looks like a host that cannot be reached.
    #[must_use]
    pub const fn errno(&self) -> i32 {
        match self {
            Self::Errno(errno) => *errno,
            Self::Link(LinkError::Timeout { .. }) => libc::ETIMEDOUT,
            Self::Link(_) => libc::EHOSTUNREACH,
        }
    }
}

impl AgentLink {
    /// Connects, checks the version and learns the facts about the target.
    ///
    /// # Errors
    /// When the agent cannot be reached within [`AGENT_CALL_TIMEOUT`], refuses the token or speaks another version.
    pub async fn connect(endpoint: Endpoint, token: &str) -> Result<Self, LinkError> {
        Self::connect_with(endpoint, token, Some(AGENT_LOST)).await
    }

    /// As [`Self::connect`], but the link is never given up: somebody sees to it that there is an agent again.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_for_good(endpoint: Endpoint, token: &str) -> Result<Self, LinkError> {
        Self::connect_with(endpoint, token, None).await
    }

    async fn connect_with(
        endpoint: Endpoint,
        token: &str,
        patience: Option<Duration>,
    ) -> Result<Self, LinkError> {
        let handed = endpoint.handed();
        let channels = Channels::connect(endpoint, token).await?;
        let facts = channels.hello().await?;
        let cancel = CancellationToken::new();
        let tasks = TaskTracker::new();
        let (status_tx, status) = watch::channel(LinkStatus::default());
        tasks.spawn(heartbeat::run(channels.clone(), status_tx, cancel.clone(), patience));
        if let Some(handed) = handed.clone() {
            let cancel = cancel.clone();
            tasks.spawn(async move { handed.tidy(cancel).await });
        }
        Ok(Self {
            inner: Arc::new(Inner {
                files: Calls::new(channels.control.clone(), tasks.clone(), cancel.clone()),
                dns: Calls::new(channels.control.clone(), tasks.clone(), cancel.clone()),
                channels,
                handed,
                facts,
                status,
                tasks,
                cancel,
            }),
        })
    }

    /// Facts about the target, as the agent gave them when the link came up.
    #[must_use]
    pub fn hello(&self) -> &wire::HelloReply {
        &self.inner.facts
    }

    /// State and round-trip time of the link, now and whenever they change.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<LinkStatus> {
        self.inner.status.clone()
    }

    /// Environment of the target's process, unfiltered.
    ///
    /// # Errors
    /// When the agent cannot read it or cannot be asked.
    pub async fn env(&self) -> Result<Vec<wire::EnvEntry>, LinkError> {
        let mut client = self.control()?;
        let reply = within("Env", AGENT_CALL_TIMEOUT, client.env(wire::EnvRequest {})).await?;
        Ok(reply.into_inner().entries)
    }

    /// One remote file operation. The reply's `errno` is the target's; calls run side by side.
    ///
    /// # Errors
    /// When the agent cannot be asked; the operation may have happened nevertheless.
    pub async fn file(&self, op: wire::file_request::Op) -> Result<wire::FileReply, LinkError> {
        self.inner.files.call(FILE_CALL_TIMEOUT, |id| wire::FileRequest { id, op: Some(op) }).await
    }

    /// Sends a raw DNS message from the target's network. `request.id` is set here, `timeout_ms` 0 means a default.
    ///
    /// # Errors
    /// When the agent cannot be asked; a name server's failure is the reply's `errno`.
    pub async fn dns(&self, mut request: wire::DnsRequest) -> Result<wire::DnsReply, LinkError> {
        if request.timeout_ms == 0 {
            request.timeout_ms = millis(crate::limits::DNS_TIMEOUT);
        }
        let deadline = Duration::from_millis(request.timeout_ms.into()) + DIAL_SLACK;
        self.inner.dns.call(deadline, |id| wire::DnsRequest { id, ..request }).await
    }

    /// Dials a TCP or unix stream destination from the target. Dropping the future cancels the dial at the agent.
    ///
    /// # Errors
    /// The errno of the target's kernel, or why the agent could not be asked.
    pub async fn dial(&self, dial: wire::Dial) -> Result<Connected, DialError> {
        let deadline = Duration::from_millis(dial.timeout_ms.into()) + DIAL_SLACK;
        let client = self.bulk()?;
        timeout(deadline, streams::dial(client, dial, self.inner.handed.as_deref()))
            .await
            .unwrap_or(Err(DialError::Link(LinkError::Timeout { call: "Dial", after: deadline })))
    }

    /// Opens a UDP association from the target to one peer.
    ///
    /// # Errors
    /// The errno of the target's kernel, or why the agent could not be asked.
    pub async fn udp(&self, open: wire::UdpOpen) -> Result<UdpAssociation, DialError> {
        let client = self.bulk()?;
        timeout(AGENT_CALL_TIMEOUT, streams::udp(client, open))
            .await
            .unwrap_or(Err(DialError::Link(LinkError::Timeout { call: "Udp", after: AGENT_CALL_TIMEOUT })))
    }

    /// Parks one stream at the agent and waits, without a deadline, for the stolen connection that takes it. Keep
    /// [`crate::limits::PARKED_ACCEPTS`] of these waiting.
    ///
    /// # Errors
    /// When the agent cannot be asked or the link breaks while parked.
    pub async fn accept(&self) -> Result<Stolen, LinkError> {
        streams::accept(self.bulk()?).await
    }

    /// The copies of all mirrored connections. Only one such stream may be open.
    ///
    /// # Errors
    /// When the agent cannot be asked.
    pub async fn mirror(&self) -> Result<Streaming<wire::MirrorBatch>, LinkError> {
        let mut client = self.bulk()?;
        Ok(within("Mirror", AGENT_CALL_TIMEOUT, client.mirror(wire::MirrorRequest {})).await?.into_inner())
    }

    /// The stream of port subscriptions; when it is dropped the agent removes them all.
    ///
    /// # Errors
    /// When the agent cannot be asked.
    pub async fn subscriptions(
        &self,
    ) -> Result<(mpsc::Sender<wire::SubscriptionRequest>, Streaming<wire::SubscriptionReply>), LinkError>
    {
        let (requests_tx, requests_rx) = mpsc::channel(STREAM_MESSAGES);
        let mut client = self.control()?;
        let replies = within(
            "Subscriptions",
            AGENT_CALL_TIMEOUT,
            client.subscriptions(ReceiverStream::new(requests_rx)),
        )
        .await?;
        Ok((requests_tx, replies.into_inner()))
    }

    /// Asks the agent to remove everything and end.
    ///
    /// # Errors
    /// When it cannot be asked; it then ends by its idle timeout.
    pub async fn shutdown_agent(&self) -> Result<(), LinkError> {
        let mut client = self.control()?;
        within("Shutdown", AGENT_CALL_TIMEOUT, client.shutdown(wire::ShutdownRequest {})).await?;
        Ok(())
    }

    /// Ends the link's tasks and fails what is in flight. Later calls fail with [`LinkError::Closed`].
    pub async fn close(&self) {
        self.inner.cancel.cancel();
        self.inner.tasks.close();
        if timeout(AGENT_CLOSE_GRACE, self.inner.tasks.wait()).await.is_err() {
            tracing::warn!("tasks of the agent link did not end in time");
        }
    }

    fn control(&self) -> Result<Client, LinkError> {
        self.open_channel(&self.inner.channels.control)
    }

    fn bulk(&self) -> Result<Client, LinkError> {
        self.open_channel(&self.inner.channels.bulk)
    }

    fn open_channel(&self, client: &Client) -> Result<Client, LinkError> {
        if self.inner.cancel.is_cancelled() { Err(LinkError::Closed) } else { Ok(client.clone()) }
    }
}

impl std::fmt::Debug for AgentLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentLink").field("status", &*self.inner.status.borrow()).finish_non_exhaustive()
    }
}

/// Runs a call with a deadline and names it in the error.
async fn within<T>(
    call: &'static str,
    after: Duration,
    future: impl Future<Output = Result<T, Status>>,
) -> Result<T, LinkError> {
    match timeout(after, future).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(status)) => Err(LinkError::Call { call, source: Box::new(status) }),
        Err(_) => Err(LinkError::Timeout { call, after }),
    }
}

/// Milliseconds for the wire, at most `u32::MAX`.
pub(crate) fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// An address for the wire.
#[must_use]
pub fn wire_address(address: SocketAddr) -> wire::Address {
    let ip = match address.ip().to_canonical() {
        std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
        std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    wire::Address { ip: ip.into(), port: address.port().into() }
}

/// An address from the wire; `None` when it has neither 4 nor 16 bytes or the port is no port.
#[must_use]
pub fn socket_address(address: &wire::Address) -> Option<SocketAddr> {
    let port = u16::try_from(address.port).ok()?;
    Some(SocketAddr::new(ip_address(&address.ip)?, port))
}

/// 4 or 16 bytes as an address.
#[must_use]
pub fn ip_address(bytes: &[u8]) -> Option<std::net::IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(Into::into)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(|ip| std::net::IpAddr::from(ip).to_canonical()))
        .ok()
}
