//! How the agent is reached: the endpoint, the two HTTP/2 connections, the token on every call and the first call.
//!
//! Small calls and bulk data have a connection each, so that a file lookup never waits behind a gigabyte.

use std::{fmt, io, path::PathBuf, pin::Pin, sync::Arc};

use hyper_util::rt::TokioIo;
use mirrord_protocol::{
    AGENT_PROTOCOL, AGENT_PROTOCOL_OLDEST, TOKEN_METADATA,
    agent::v1::{self as wire, agent_client::AgentClient},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Uri},
};

use super::{HandedSockets, LinkError, within};
use crate::limits::{
    AGENT_CALL_TIMEOUT, AGENT_CONNECTION_WINDOW, AGENT_FRAME, AGENT_KEEP_ALIVE, AGENT_KEEP_ALIVE_TIMEOUT,
    AGENT_MESSAGE, AGENT_STREAM_WINDOW,
};

/// A byte stream to the agent.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// Opens one more byte stream to the agent, e.g. a port-forward.
pub type Connector =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = io::Result<Box<dyn Transport>>> + Send>> + Send + Sync>;

/// Where the agent listens.
#[derive(Clone)]
pub enum Endpoint {
    /// A unix socket on this machine.
    Unix(PathBuf),
    /// The same, of a child of ours that hands connected sockets over.
    Child(PathBuf, Arc<HandedSockets>),
    /// Whatever the function opens; the text is for messages.
    Connector(String, Connector),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) | Self::Child(path, _) => path.display().fmt(f),
            Self::Connector(name, _) => name.fmt(f),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

impl Endpoint {
    /// Where the agent hands sockets over, if it does.
    pub(super) fn handed(&self) -> Option<Arc<HandedSockets>> {
        match self {
            Self::Child(_, handed) => Some(Arc::clone(handed)),
            Self::Unix(_) | Self::Connector(..) => None,
        }
    }

    async fn open(self) -> io::Result<Box<dyn Transport>> {
        match self {
            Self::Unix(path) | Self::Child(path, _) => Ok(Box::new(UnixStream::connect(path).await?)),
            Self::Connector(_, connector) => connector().await,
        }
    }
}

/// The generated client with the token on every call.
pub(super) type Client = AgentClient<InterceptedService<Channel, Token>>;

/// Puts the token on every call.
#[derive(Clone)]
pub(super) struct Token(MetadataValue<Ascii>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(TOKEN_METADATA, self.0.clone());
        Ok(request)
    }
}

/// The two connections to the agent.
#[derive(Clone)]
pub(super) struct Channels {
    /// Hello, env, files, DNS, subscriptions.
    pub(super) control: Client,
    /// Connections, datagrams, mirror.
    pub(super) bulk: Client,
}

impl Channels {
    pub(super) async fn connect(endpoint: Endpoint, token: &str) -> Result<Self, LinkError> {
        let mut token = MetadataValue::try_from(token).map_err(|_| LinkError::Token)?;
        token.set_sensitive(true);
        let control = channel(&endpoint).await?;
        let bulk = channel(&endpoint).await?;
        let client = |channel| {
            AgentClient::with_interceptor(channel, Token(token.clone()))
                .max_decoding_message_size(AGENT_MESSAGE)
                .max_encoding_message_size(AGENT_MESSAGE)
        };
        Ok(Self { control: client(control), bulk: client(bulk) })
    }

    /// Says hello and checks the version.
    pub(super) async fn hello(&self) -> Result<wire::HelloReply, LinkError> {
        let request = wire::HelloRequest {
            protocol_version: AGENT_PROTOCOL,
            client_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let mut client = self.control.clone();
        let reply = within("Hello", AGENT_CALL_TIMEOUT, client.hello(request)).await?.into_inner();
        if (AGENT_PROTOCOL_OLDEST..=AGENT_PROTOCOL).contains(&reply.protocol_version) {
            Ok(reply)
        } else {
            Err(LinkError::Version {
                agent: reply.protocol_version,
                oldest: AGENT_PROTOCOL_OLDEST,
                newest: AGENT_PROTOCOL,
            })
        }
    }
}

/// One HTTP/2 connection that reconnects by itself after the first success.
async fn channel(endpoint: &Endpoint) -> Result<Channel, LinkError> {
    let open = endpoint.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let open = open.clone();
        async move { open.open().await.map(TokioIo::new) }
    });
    tonic::transport::Endpoint::from_static("http://agent")
        .initial_stream_window_size(AGENT_STREAM_WINDOW)
        .initial_connection_window_size(AGENT_CONNECTION_WINDOW)
        .max_frame_size(AGENT_FRAME)
        .http2_keep_alive_interval(AGENT_KEEP_ALIVE)
        .keep_alive_timeout(AGENT_KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_timeout(AGENT_CALL_TIMEOUT)
        .connect_with_connector(connector)
        .await
        .map_err(|source| LinkError::Connect { endpoint: endpoint.to_string(), source })
}
