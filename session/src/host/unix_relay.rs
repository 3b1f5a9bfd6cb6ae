//! Unix sockets of the target: a connect(2) of the command to such a path is answered with the path of a socket of ours, and what
//! is written there is relayed to the one in the target.

use std::{
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use mirrord_protocol::{
    agent::v1::{Dial, dial},
    layer::v1::{UnixAnswer, UnixConnect},
    session::v1 as wire,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};

use crate::{
    agent_link::{AgentLink, Carrier, Chunk, Connected},
    events::Events,
    layer_link::LayerLink,
    limits::{DIAL_TIMEOUT, RELAY_CHUNK, STEP_TIMEOUT, UNIX_RELAYS},
};

/// Maker of the relays of a session; its end is theirs.
#[derive(Debug)]
pub(super) struct UnixRelays {
    dir: PathBuf,
    agent: AgentLink,
    next: u64,
    room: Arc<Semaphore>,
    relays: JoinSet<()>,
}

impl UnixRelays {
    /// Sockets lie in a folder of their own below `dir`, which is for us only.
    pub(super) fn new(dir: &Path, agent: AgentLink) -> Self {
        let room = Arc::new(Semaphore::new(UNIX_RELAYS));
        Self { dir: dir.join("unix"), agent, next: 0, room, relays: JoinSet::new() }
    }

    /// Dials the target's socket and answers the call with the result.
    pub(super) fn connect(&mut self, id: u64, call: UnixConnect, layer: LayerLink, events: Events) {
        while self.relays.try_join_next().is_some() {}
        self.next += 1;
        let path = self.dir.join(format!("{}.sock", self.next));
        let (agent, room) = (self.agent.clone(), Arc::clone(&self.room));
        self.relays.spawn(async move {
            let began = Instant::now();
            let Ok(_permit) = room.try_acquire() else {
                tell(&events, &call, libc::EAGAIN, began);
                return answer(&layer, id, libc::EAGAIN, None).await;
            };
            let dialled = match dial(&agent, &call).await {
                Ok(connected) => {
                    listen(&path).map(|listener| (connected, listener)).map_err(|error| errno(&error))
                }
                Err(errno) => Err(errno),
            };
            match dialled {
                Err(errno) => {
                    tell(&events, &call, errno, began);
                    answer(&layer, id, errno, None).await;
                }
                Ok((connected, listener)) => {
                    tell(&events, &call, 0, began);
                    answer(&layer, id, 0, Some(&path)).await;
                    let accepted = timeout(STEP_TIMEOUT, listener.accept()).await;
                    drop(listener);
                    drop(fs::remove_file(&path));
                    if let Ok(Ok((stream, _))) = accepted {
                        relay(stream, connected).await;
                    }
                }
            }
        });
    }
}

async fn dial(agent: &AgentLink, call: &UnixConnect) -> Result<Connected, i32> {
    let timeout_ms = u32::try_from(DIAL_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
    let to = Some(dial::To::Unix(call.path.clone()));
    agent.dial(Dial { timeout_ms, to, hand_over: false }).await.map_err(|error| error.errno())
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        crate::paths::private_dir(dir).map_err(io::Error::other)?;
    }
    UnixListener::bind(path)
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

async fn answer(layer: &LayerLink, id: u64, errno: i32, path: Option<&Path>) {
    let path =
        path.map(|path| bytes::Bytes::copy_from_slice(path.as_os_str().as_bytes())).unwrap_or_default();
    let answer = UnixAnswer { errno: errno.unsigned_abs(), path };
    if let Err(error) = layer.answer_unix(id, answer).await {
        tracing::info!(%error, "nobody waits for the answer any more");
    }
}

fn tell(events: &Events, call: &UnixConnect, errno: i32, began: Instant) {
    let caller = call.caller.clone().unwrap_or_default();
    let path = String::from_utf8_lossy(&call.path).into_owned();
    let error = if errno == 0 { String::new() } else { io::Error::from_raw_os_error(errno).to_string() };
    let stage = if errno == 0 { wire::connection::Stage::Open } else { wire::connection::Stage::Failed };
    events.emit(wire::Event {
        pid: caller.pid,
        tid: caller.tid,
        comm: caller.comm,
        kind: wire::Kind::Connection.into(),
        subject: path.clone(),
        decision: Some(wire::Decision { r#where: wire::Where::Remote.into(), rule: call.rule.clone() }),
        error,
        latency_ns: u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX),
        detail: Some(wire::event::Detail::ConnectionDetail(wire::Connection {
            direction: wire::Direction::Outgoing.into(),
            stage: stage.into(),
            transport: "unix".to_owned(),
            name: path,
            ..wire::Connection::default()
        })),
        ..wire::Event::default()
    });
}

/// Copies both ways until both have ended.
async fn relay(stream: UnixStream, connected: Connected) {
    let (mut read, mut write) = stream.into_split();
    // The agent hands TCP sockets over, no others.
    let Carrier::Chunks(tx, mut rx) = connected.carrier else { return };
    let up = async move {
        let mut buffer = vec![0; RELAY_CHUNK];
        loop {
            let (chunk, last) = match read.read(&mut buffer).await {
                Ok(0) => (Chunk::Shutdown, true),
                Ok(read) => (
                    Chunk::Data(bytes::Bytes::copy_from_slice(buffer.get(..read).unwrap_or_default())),
                    false,
                ),
                Err(_) => (Chunk::Reset, true),
            };
            // A closed stream: the other direction says why.
            if tx.send(chunk).await.is_err() || last {
                return;
            }
        }
    };
    let down = async move {
        loop {
            match rx.recv().await {
                Ok(Some(Chunk::Data(data))) => write.write_all(&data).await?,
                Ok(Some(Chunk::Shutdown) | None) => return write.shutdown().await,
                Ok(Some(Chunk::Reset)) | Err(_) => {
                    return Err(io::Error::from(io::ErrorKind::ConnectionReset));
                }
            }
        }
    };
    let ((), down) = tokio::join!(up, down);
    if let Err(error) = down {
        tracing::debug!(%error, "a unix socket's relay from the target");
    }
}
