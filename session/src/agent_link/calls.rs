//! Many small calls over one long-lived stream: each request carries an id, replies come in any order.
//!
//! The stream is opened by the first call and again by the first one after it broke. A call that is dropped or times out is
//! forgotten; its late reply is thrown away.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mirrord_protocol::agent::v1 as wire;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Response, Status, Streaming};

use super::{LinkError, connect::Client};
use crate::limits::{AGENT_CALLS, STREAM_MESSAGES};

/// A request that travels on a stream of its kind.
pub(super) trait Multiplexed: Send + Sized + 'static {
    /// What answers it.
    type Reply: Send + 'static;
    /// Name of the call for messages.
    const CALL: &'static str;

    /// The id that the reply repeats.
    fn reply_id(reply: &Self::Reply) -> u64;
    /// Opens the stream.
    fn open(
        client: &mut Client,
        requests: ReceiverStream<Self>,
    ) -> impl Future<Output = Result<Response<Streaming<Self::Reply>>, Status>> + Send;
}

impl Multiplexed for wire::FileRequest {
    type Reply = wire::FileReply;
    const CALL: &'static str = "Files";

    fn reply_id(reply: &Self::Reply) -> u64 {
        reply.id
    }

    fn open(
        client: &mut Client,
        requests: ReceiverStream<Self>,
    ) -> impl Future<Output = Result<Response<Streaming<Self::Reply>>, Status>> + Send {
        client.files(requests)
    }
}

impl Multiplexed for wire::DnsRequest {
    type Reply = wire::DnsReply;
    const CALL: &'static str = "Dns";

    fn reply_id(reply: &Self::Reply) -> u64 {
        reply.id
    }

    fn open(
        client: &mut Client,
        requests: ReceiverStream<Self>,
    ) -> impl Future<Output = Result<Response<Streaming<Self::Reply>>, Status>> + Send {
        client.dns(requests)
    }
}

/// The calls of one kind.
pub(super) struct Calls<R: Multiplexed> {
    client: Client,
    tasks: TaskTracker,
    cancel: CancellationToken,
    state: Arc<Mutex<State<R>>>,
}

struct State<R: Multiplexed> {
    next_id: u64,
    /// callers --requests--> the open stream; `None` when there is none.
    requests_tx: Option<mpsc::Sender<R>>,
    waiting: HashMap<u64, oneshot::Sender<R::Reply>>,
}

impl<R: Multiplexed> Calls<R> {
    pub(super) fn new(client: Client, tasks: TaskTracker, cancel: CancellationToken) -> Self {
        let state = State { next_id: 1, requests_tx: None, waiting: HashMap::new() };
        Self { client, tasks, cancel, state: Arc::new(Mutex::new(state)) }
    }

    /// Sends the request that `build` makes of its id and waits for the reply.
    pub(super) async fn call(
        &self,
        after: Duration,
        build: impl FnOnce(u64) -> R,
    ) -> Result<R::Reply, LinkError> {
        if self.cancel.is_cancelled() {
            return Err(LinkError::Closed);
        }
        let (id, requests_tx, reply_rx) = self.register()?;
        // Forgets the call when this future is dropped or fails.
        let _entry = Entry { id, state: &self.state };
        let exchange = async {
            requests_tx.send(build(id)).await.map_err(|_| LinkError::Broken { call: R::CALL })?;
            reply_rx.await.map_err(|_| LinkError::Broken { call: R::CALL })
        };
        timeout(after, exchange).await.unwrap_or(Err(LinkError::Timeout { call: R::CALL, after }))
    }

    /// Takes an id and a place for the reply; opens the stream when there is none.
    #[expect(clippy::type_complexity, reason = "three values that exist for the length of one call")]
    fn register(&self) -> Result<(u64, mpsc::Sender<R>, oneshot::Receiver<R::Reply>), LinkError> {
        let mut state = lock(&self.state);
        if state.waiting.len() >= AGENT_CALLS {
            return Err(LinkError::Busy { call: R::CALL, limit: AGENT_CALLS });
        }
        let requests_tx = match &state.requests_tx {
            Some(requests_tx) if !requests_tx.is_closed() => requests_tx.clone(),
            _ => self.start(&mut state),
        };
        let id = state.next_id;
        state.next_id += 1;
        let (reply_tx, reply_rx) = oneshot::channel();
        state.waiting.insert(id, reply_tx);
        Ok((id, requests_tx, reply_rx))
    }

    fn start(&self, state: &mut State<R>) -> mpsc::Sender<R> {
        let (requests_tx, requests_rx) = mpsc::channel(STREAM_MESSAGES);
        state.requests_tx = Some(requests_tx.clone());
        let (client, shared, cancel) = (self.client.clone(), self.state.clone(), self.cancel.clone());
        self.tasks.spawn(async move {
            // Shutting down comes first; what is in flight then fails at once.
            let end = tokio::select! {
                biased;
                () = cancel.cancelled() => Ok(()),
                end = deliver::<R>(client, requests_rx, &shared) => end,
            };
            if let Err(error) = end {
                tracing::debug!(call = R::CALL, %error, "stream to the agent ended");
            }
            let mut state = lock(&shared);
            state.requests_tx = None;
            // Dropping the senders fails every waiting call.
            state.waiting.clear();
        });
        requests_tx
    }
}

/// Hands replies to the callers until the stream ends.
async fn deliver<R: Multiplexed>(
    mut client: Client,
    requests_rx: mpsc::Receiver<R>,
    state: &Mutex<State<R>>,
) -> Result<(), Status> {
    let mut replies = R::open(&mut client, ReceiverStream::new(requests_rx)).await?.into_inner();
    while let Some(reply) = replies.message().await? {
        let waiting = lock(state).waiting.remove(&R::reply_id(&reply));
        // A caller that has gone away is no longer listening; its reply has nobody to go to.
        drop(waiting.map(|reply_tx| reply_tx.send(reply)));
    }
    Ok(())
}

struct Entry<'a, R: Multiplexed> {
    id: u64,
    state: &'a Mutex<State<R>>,
}

impl<R: Multiplexed> Drop for Entry<'_, R> {
    fn drop(&mut self) {
        lock(self.state).waiting.remove(&self.id);
    }
}

fn lock<R: Multiplexed>(state: &Mutex<State<R>>) -> MutexGuard<'_, State<R>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
