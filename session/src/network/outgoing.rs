//! The relay listener: what a verdict redirected arrives here, finds its far end in [`Prepared`] and is relayed.

use std::{net::SocketAddr, sync::Arc};

use mirrord_netns::sockopt;
use mirrord_protocol::session::v1 as wire;
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};

use super::{
    connection_log::ConnectionLog,
    incoming::close,
    prepared::{FarEnd, Prepared, Ready},
    relay::{self, Observer, Side},
    resolver,
    shared::SharedRef,
    tap::TapContext,
    unheld,
};
use crate::limits::QUEUE_RETRY;

/// Accepts redirected connections until the session ends.
#[expect(clippy::infinite_loop, reason = "its owner drops it at the end")]
pub(super) async fn run(shared: SharedRef, prepared: Arc<Prepared>, listener: TcpListener) {
    loop {
        let (near, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accepting a redirected connection failed");
                sleep(QUEUE_RETRY).await;
                continue;
            }
        };
        let to = sockopt::original_dst(&near);
        let ready = to.as_ref().ok().and_then(|to| prepared.take(from, *to));
        match (to, ready) {
            (Ok(to), Some(ready)) => {
                let task = serve(shared.clone(), near, (from, to), ready);
                shared.tasks.open(task);
            }
            (Ok(to), None) if shared.netns.queue().is_none() && to.port() != shared.netns.relay_port() => {
                let task = unheld::connection(shared.clone(), near, (from, to));
                shared.tasks.open(task);
            }
            (to, _) => {
                // A program that connects to the relay's own port, or one whose far end was swept away.
                tracing::debug!(?to, %from, "a connection that nobody expects");
                relay::reset(near);
            }
        }
    }
}

/// Relays a connection whose far end is ready.
pub(super) async fn serve(
    shared: SharedRef,
    near: TcpStream,
    (from, to): (SocketAddr, SocketAddr),
    ready: Ready,
) {
    let Ready { far, log, connection } = ready;
    if let Err(error) = near.set_nodelay(true) {
        tracing::debug!(%error, %to, "small writes of this connection may be late");
    }
    let owner = log.as_ref().map(ConnectionLog::owner).unwrap_or_default();
    let observer = || {
        Observer::new((shared.tap)(TapContext {
            direction: wire::Direction::Outgoing,
            mode: wire::Mode::Unspecified,
            port: to.port(),
            peer: to,
            connection,
            owner,
            pod: None,
            mid_stream: false,
        }))
    };
    let (observer, end) = match far {
        FarEnd::Resolver => return resolver::serve_stream(shared, near, from, to).await,
        FarEnd::Remote(connected) => {
            let observer = observer();
            let end = relay::run(near, connected.carrier, Side::Client, &observer).await;
            (observer, end)
        }
        FarEnd::Local(far) => {
            let observer = observer();
            let end = relay::with_socket(near, far, Side::Client, &observer).await;
            (observer, end)
        }
    };
    let (to_peer, from_peer) = observer.bytes();
    if let Some(log) = log {
        close(log, from_peer, to_peer, end);
    }
}
