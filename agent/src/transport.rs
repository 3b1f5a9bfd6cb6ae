//! The agent's listener: HTTP/2 connections, the token on every call, and how many clients are there.
//!
//! hyper is used directly: tonic's own server does not let the send buffer of a stream be set, and it brings a router.

use std::{
    convert::Infallible,
    io,
    pin::pin,
    sync::{Arc, OnceLock},
};

use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use mirrord_protocol::{TOKEN_METADATA, agent::v1::agent_server::AgentServer};
use rustix::fs::Mode;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
    time::sleep,
};
use tokio_util::task::TaskTracker;
use tonic::{
    Status,
    body::Body,
    codegen::{Service, http},
};

use crate::{
    args::Listen,
    life::{ClientGuard, Life},
    limits::{
        ACCEPT_RETRY, CONNECTION_WINDOW, CONNECTIONS, FRAME, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, RESETS,
        SEND_BUFFER, STREAM_WINDOW, STREAMS,
    },
    server::AgentService,
    token::TokenHash,
};

/// Why there is nothing to listen on.
#[derive(Debug, Error)]
pub(crate) enum ListenError {
    #[error("cannot listen on {}", path.display())]
    Unix { path: std::path::PathBuf, source: io::Error },
    #[error("cannot listen on {address}")]
    Tcp { address: std::net::SocketAddr, source: io::Error },
}

/// A bound listener, still outside the runtime: it is made before the agent joins any namespace.
#[derive(Debug)]
pub(crate) enum Bound {
    Unix(std::os::unix::net::UnixListener),
    Tcp(std::net::TcpListener),
}

impl Bound {
    /// Binds where the command line says; a unix socket is for its owner only.
    pub(crate) fn bind(listen: &Listen) -> Result<Self, ListenError> {
        match listen {
            Listen::Unix(path) => {
                // Mode 0600 from the first moment. The agent makes no other file, so this may stay.
                rustix::process::umask(Mode::XUSR | Mode::RWXG | Mode::RWXO);
                std::os::unix::net::UnixListener::bind(path)
                    .and_then(|listener| {
                        listener.set_nonblocking(true)?;
                        Ok(Self::Unix(listener))
                    })
                    .map_err(|source| ListenError::Unix { path: path.clone(), source })
            }
            Listen::Tcp(address) => std::net::TcpListener::bind(address)
                .and_then(|listener| {
                    listener.set_nonblocking(true)?;
                    Ok(Self::Tcp(listener))
                })
                .map_err(|source| ListenError::Tcp { address: *address, source }),
        }
    }
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Listener {
    fn new(bound: Bound) -> io::Result<Self> {
        Ok(match bound {
            Bound::Unix(listener) => Self::Unix(UnixListener::from_std(listener)?),
            Bound::Tcp(listener) => Self::Tcp(TcpListener::from_std(listener)?),
        })
    }

    /// Over TCP a network may be cut without a word; then pings find out.
    fn needs_pings(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Self::Unix(listener) => Ok(Box::new(listener.accept().await?.0)),
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
        }
    }
}

/// The server and what its connections share.
#[derive(Clone)]
pub(crate) struct Transport {
    service: AgentServer<AgentService>,
    token: TokenHash,
    life: Life,
    tasks: TaskTracker,
}

/// What hyper spawns streams with: tasks that the agent's end waits for.
#[derive(Clone)]
struct Executor(TaskTracker);

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

impl Transport {
    pub(crate) fn new(
        service: AgentServer<AgentService>,
        token: TokenHash,
        life: Life,
        tasks: TaskTracker,
    ) -> Self {
        Self { service, token, life, tasks }
    }

    /// Serves until the agent ends.
    pub(crate) async fn serve(self, bound: Bound) -> io::Result<()> {
        let listener = Listener::new(bound)?;
        let pings = listener.needs_pings();
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let ending = self.life.ending().clone();
        loop {
            // The end outranks new clients; a full house makes them wait in the listener's queue.
            let permit = tokio::select! {
                biased;
                () = ending.cancelled() => return Ok(()),
                permit = Arc::clone(&room).acquire_owned() => permit.map_err(io::Error::other)?,
            };
            let accepted = tokio::select! {
                biased;
                () = ending.cancelled() => return Ok(()),
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok(stream) => {
                    let connection = self.clone().connection(stream, pings);
                    self.tasks.spawn(async move {
                        connection.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a client could not be accepted");
                    sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    async fn connection(self, stream: Box<dyn Stream>, pings: bool) {
        let ending = self.life.ending().clone();
        // Set by the first call with the right token: who cannot show it does not keep the agent alive.
        let client: Arc<OnceLock<ClientGuard>> = Arc::default();
        let mut server = http2::Builder::new(Executor(self.tasks.clone()));
        server
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .max_send_buf_size(SEND_BUFFER)
            .max_concurrent_streams(STREAMS)
            // A program may give up connects faster than we accept their calls; that is no attack of somebody with the token.
            .max_pending_accept_reset_streams(RESETS)
            .max_local_error_reset_streams(RESETS)
            .keep_alive_interval(pings.then_some(KEEPALIVE_INTERVAL))
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        let service = service_fn(|request| self.clone().call(request, &client));
        let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
        let served = tokio::select! {
            biased;
            served = connection.as_mut() => served,
            () = ending.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, "a client's connection broke");
        }
    }

    fn call(
        self,
        request: http::Request<Incoming>,
        client: &Arc<OnceLock<ClientGuard>>,
    ) -> impl Future<Output = Result<http::Response<Body>, Infallible>> + Send + use<> {
        let shown =
            request.headers().get(TOKEN_METADATA).map(http::HeaderValue::as_bytes).unwrap_or_default();
        let allowed = self.token.admits(shown);
        let mut service = self.service;
        if allowed {
            client.get_or_init(|| self.life.client());
        }
        async move {
            if allowed {
                service.call(request).await
            } else {
                Ok(Status::unauthenticated("the session's token is missing or wrong").into_http())
            }
        }
    }
}
