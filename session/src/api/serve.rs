//! Accepts viewers on the session's socket, this user's only, and counts them.

use std::{convert::Infallible, future::Future, io, os::unix::net::UnixListener as StdListener, pin::pin};

use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use mirrord_protocol::session::v1::session_server::SessionServer;
use rustix::process::geteuid;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service;

use super::Api;
use crate::limits::{ACCEPT_RETRY, VIEWER_LINGER, VIEWER_STOP, VIEWER_STREAMS};

/// A running server.
#[derive(Debug)]
pub(crate) struct Served {
    viewers: watch::Sender<Viewers>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Connections of viewers.
#[derive(Clone, Copy, Debug, Default)]
struct Viewers {
    open: usize,
    /// The starter of the session is the first; it has connected before the host runs, but may not have been accepted yet.
    any: bool,
}

/// What hyper spawns streams with: tasks that the server's end waits for.
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

/// Serves `api` on a socket that listens already.
///
/// # Errors
/// When the socket cannot be used by the runtime.
pub(crate) fn serve(api: Api, listener: StdListener) -> io::Result<Served> {
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let served = Served {
        viewers: watch::Sender::new(Viewers::default()),
        stop: CancellationToken::new(),
        tasks: TaskTracker::new(),
    };
    served.tasks.spawn(accept(
        SessionServer::new(api),
        listener,
        served.viewers.clone(),
        served.stop.clone(),
        served.tasks.clone(),
    ));
    Ok(served)
}

impl Served {
    /// Waits until the last viewer has gone, at most [`VIEWER_LINGER`], and ends. A session that fails at once waits for its first
    /// viewer as well: nobody else would learn why.
    pub(crate) async fn finish(self) {
        let mut viewers = self.viewers.subscribe();
        let gone = viewers.wait_for(|viewers| viewers.any && viewers.open == 0);
        if timeout(VIEWER_LINGER, gone).await.is_err() {
            tracing::info!(
                "a viewer stays on after the end of the session, or none has come; the server ends"
            );
        }
        self.stop.cancel();
        self.tasks.close();
        if timeout(VIEWER_STOP, self.tasks.wait()).await.is_err() {
            tracing::info!("a viewer's stream did not end; it ends with the process");
        }
    }
}

async fn accept(
    service: SessionServer<Api>,
    listener: UnixListener,
    viewers: watch::Sender<Viewers>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) if is_ours(&stream) => {
                viewers.send_modify(|viewers| *viewers = Viewers { open: viewers.open + 1, any: true });
                let connection = connection(service.clone(), stream, stop.clone(), tasks.clone());
                let viewers = viewers.clone();
                tasks.spawn(async move {
                    connection.await;
                    viewers.send_modify(|viewers| viewers.open = viewers.open.saturating_sub(1));
                });
            }
            Ok(_) => tracing::warn!("refused a connection of another user"),
            Err(error) => {
                // Out of descriptors, most likely: others must end first.
                tracing::warn!(%error, "a viewer could not be accepted");
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn connection(
    service: SessionServer<Api>,
    stream: UnixStream,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let mut server = http2::Builder::new(Executor(tasks));
    server.timer(TokioTimer::new()).max_concurrent_streams(VIEWER_STREAMS);
    let service = hyper::service::service_fn(move |request| {
        let mut service = service.clone();
        async move { Ok::<_, Infallible>(service.call(request).await.unwrap_or_else(|never| match never {})) }
    });
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
    let served = tokio::select! {
        biased;
        served = connection.as_mut() => served,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a viewer's connection broke");
    }
}

/// The socket's mode keeps others out; this also holds when somebody has changed it. Root can do everything anyway.
fn is_ours(stream: &UnixStream) -> bool {
    let own = geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}
