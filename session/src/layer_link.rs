//! The host's end of the link to the layer's supervisor.
//!
//! [`LayerTask`] reads the link: path calls go to [`Files`] and are answered from here, everything else goes to the driver as it
//! came. [`LayerLink`] is the handle for what the host wants from the supervisor.
//!
//! ```text
//! supervisor --FileCall--> LayerTask --> Files --> agent
//!            <-FileAnswer-           <--
//!            --all others--> driver (LayerMessages)
//! ```

use std::{
    collections::HashMap,
    io::{self, Read},
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use command_fds::{CommandFdExt, FdMapping};
use mirrord_layer::{
    link::{Link, LinkError},
    supervisor::{HOLDER_DESCRIPTOR, HOST_DESCRIPTOR},
};
use mirrord_protocol::layer::v1::{
    FileCall, FromLayer, Launch, Resolve, Resolved, SignalTree, SocketAnswer, Started, ToLayer, UnixAnswer,
    file_call, from_layer, to_layer,
};
use thiserror::Error;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};

use crate::{
    async_fd,
    files::Files,
    limits::{HOSTS_FILE, LAYER_CALLS, LAYER_MESSAGES, STEP_TIMEOUT},
    network::{NetworkHandle, SocketOwners},
};

/// Handle on the supervisor. Clones share it.
#[derive(Clone, Debug)]
pub struct LayerLink {
    shared: Arc<Shared>,
}

/// Reads the link until its end.
#[derive(Debug)]
pub struct LayerTask {
    shared: Arc<Shared>,
    files: Files,
    /// Who looks names up and does what programs ask about their sockets; `None`: both stay local.
    network: Option<NetworkHandle>,
    owners: SocketOwners,
    /// supervisor --everything but path calls--> driver
    messages_tx: mpsc::Sender<FromLayer>,
}

/// Why the link has ended.
#[derive(Debug)]
pub enum LayerEnd {
    /// The supervisor has ended, which it also does when nothing of the process tree is left.
    Closed,
    /// The driver no longer takes messages.
    Abandoned,
    /// The link broke.
    Failed(LayerError),
}

/// What goes wrong with the supervisor.
#[derive(Debug, Error)]
pub enum LayerError {
    /// It could not be started.
    #[error("the layer's supervisor could not be started")]
    Start(#[source] io::Error),
    /// The link failed.
    #[error("the link to the layer's supervisor failed")]
    Link(#[source] LinkError),
    /// The supervisor ended before it answered.
    #[error("the layer's supervisor ended before it answered to `{call}`")]
    Ended {
        /// What it was asked.
        call: &'static str,
    },
    /// No answer before the deadline.
    #[error("the layer's supervisor gave no answer to `{call}` within {} s", STEP_TIMEOUT.as_secs())]
    Timeout {
        /// What it was asked.
        call: &'static str,
    },
}

#[derive(Debug)]
struct Shared {
    link: AsyncFd<Link>,
    next: AtomicU64,
    launches: Mutex<HashMap<u64, oneshot::Sender<Started>>>,
}

/// Starts the supervisor process: `program` in the role `__supervisor`, with `holder` as its endpoint of the holder of the session
/// netns. Returns the process and the link to it.
///
/// # Errors
/// When no process can be started.
pub fn start_supervisor(
    program: &Path,
    holder: Option<OwnedFd>,
) -> Result<(tokio::process::Child, OwnedFd), LayerError> {
    let (ours, theirs) = Link::pair().map_err(LayerError::Start)?;
    let holder = holder.map(|parent_fd| FdMapping { parent_fd, child_fd: HOLDER_DESCRIPTOR });
    let host = FdMapping { parent_fd: theirs.into(), child_fd: HOST_DESCRIPTOR };
    let mut command = Command::new(program);
    command.arg("__supervisor").current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
    command
        .fd_mappings([host].into_iter().chain(holder).collect())
        .map_err(|error| LayerError::Start(io::Error::other(error)))?;
    let child = tokio::process::Command::from(command).spawn().map_err(LayerError::Start)?;
    Ok((child, ours.into()))
}

impl LayerLink {
    /// Takes the host's end of the link. Returns the handle, what the supervisor says beside path calls (in order; the first is
    /// `Ready`), and the task that must run for either to work.
    ///
    /// # Errors
    /// When the runtime cannot poll the link.
    pub fn new(
        link: OwnedFd,
        files: Files,
        owners: SocketOwners,
    ) -> io::Result<(Self, mpsc::Receiver<FromLayer>, LayerTask)> {
        let link = async_fd::watch_link(Link::from(link))?;
        let shared = Arc::new(Shared { link, next: AtomicU64::new(1), launches: Mutex::default() });
        let (messages_tx, messages_rx) = mpsc::channel(LAYER_MESSAGES);
        Ok((
            Self { shared: Arc::clone(&shared) },
            messages_rx,
            LayerTask { shared, files, network: None, owners, messages_tx },
        ))
    }

    /// Starts the command. The answer's `errno` is not 0 when it could not be executed; nothing is left of it then.
    ///
    /// # Errors
    /// When the supervisor gives no answer within [`STEP_TIMEOUT`] or is gone.
    pub async fn launch(&self, launch: Launch, standard: &[OwnedFd; 3]) -> Result<Started, LayerError> {
        const CALL: &str = "launch";
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (started_tx, started_rx) = oneshot::channel();
        self.shared.launches().insert(id, started_tx);
        let standard: Vec<_> = standard.iter().map(AsFd::as_fd).collect();
        let exchange = async {
            self.shared.send(&message(id, to_layer::Kind::Launch(launch)), &standard).await?;
            started_rx.await.map_err(|_| LayerError::Ended { call: CALL })
        };
        let answer = timeout(STEP_TIMEOUT, exchange).await.unwrap_or(Err(LayerError::Timeout { call: CALL }));
        self.shared.launches().remove(&id);
        answer
    }

    /// Sends a signal to the command, or to it and all its descendants.
    ///
    /// # Errors
    /// When the supervisor is gone.
    pub async fn signal_tree(&self, signal: u32, whole_tree: bool) -> Result<(), LayerError> {
        self.shared.send(&message(0, to_layer::Kind::Signal(SignalTree { signal, whole_tree })), &[]).await
    }

    /// Answers a `UnixConnect`, whose id this is.
    ///
    /// # Errors
    /// When the supervisor is gone.
    pub async fn answer_unix(&self, id: u64, answer: UnixAnswer) -> Result<(), LayerError> {
        self.shared.send(&message(id, to_layer::Kind::UnixConnect(answer)), &[]).await
    }
}

impl LayerTask {
    /// Lets the network answer what the library asks for: names, and addresses of sockets.
    #[must_use]
    pub fn with_network(self, network: NetworkHandle) -> Self {
        Self { network: Some(network), ..self }
    }

    /// Reads and answers until the supervisor ends. Path calls that are still in flight then are dropped.
    pub async fn run(self) -> LayerEnd {
        let mut calls = JoinSet::new();
        let mut scratch = Vec::new();
        loop {
            // Answers that are done are forgotten first, so that the set holds only what is in flight.
            while calls.try_join_next().is_some() {}
            let received = self.shared.link.async_io(Interest::READABLE, |link| {
                match link.receive::<FromLayer>(&mut scratch) {
                    Err(error) if error.would_block() => Err(io::Error::from(io::ErrorKind::WouldBlock)),
                    result => Ok(result),
                }
            });
            let (message, descriptors) = match received.await {
                Ok(Ok(received)) => received,
                Ok(Err(LinkError::Closed)) => return LayerEnd::Closed,
                Ok(Err(error)) => return LayerEnd::Failed(LayerError::Link(error)),
                Err(error) => return LayerEnd::Failed(LayerError::Link(LinkError::Socket(error))),
            };
            match message.kind {
                Some(from_layer::Kind::File(call)) => {
                    // Each call blocks a thread of the command, so the set is bounded by those; the limit is for broken peers.
                    if calls.len() >= LAYER_CALLS {
                        calls.join_next().await;
                    }
                    let (shared, files) = (Arc::clone(&self.shared), self.files.clone());
                    calls.spawn(async move {
                        let (answer, descriptor) = files.call(call).await;
                        let answer = self::message(message.id, to_layer::Kind::File(answer));
                        let descriptor = descriptor.as_ref().map(AsFd::as_fd);
                        // A supervisor that is gone needs no answer; the loop sees its end.
                        shared.send(&answer, descriptor.as_slice()).await.ok();
                    });
                }
                Some(from_layer::Kind::Resolve(question)) => {
                    if calls.len() >= LAYER_CALLS {
                        calls.join_next().await;
                    }
                    let (shared, files, names) =
                        (Arc::clone(&self.shared), self.files.clone(), self.network.clone());
                    calls.spawn(async move {
                        let answer = resolve(&files, names, question).await;
                        let answer = self::message(message.id, to_layer::Kind::Resolved(answer));
                        shared.send(&answer, &[]).await.ok();
                    });
                }
                Some(from_layer::Kind::SocketCall(call)) => {
                    if calls.len() >= LAYER_CALLS {
                        calls.join_next().await;
                    }
                    let (shared, network) = (Arc::clone(&self.shared), self.network.clone());
                    calls.spawn(async move {
                        let socket = descriptors.into_iter().next();
                        let answer = match network {
                            Some(network) => network.socket_call(call, socket).await,
                            None => SocketAnswer { go_on: true, ..SocketAnswer::default() },
                        };
                        let answer = self::message(message.id, to_layer::Kind::SocketCall(answer));
                        shared.send(&answer, &[]).await.ok();
                    });
                }
                Some(from_layer::Kind::Started(started))
                    if self.shared.launches().contains_key(&message.id) =>
                {
                    let waiting = self.shared.launches().remove(&message.id);
                    // Who asked may have given up.
                    drop(waiting.map(|started_tx| started_tx.send(started)));
                }
                Some(from_layer::Kind::FileReport(report)) => self.files.report(report),
                Some(from_layer::Kind::SocketMade(made)) => self.owners.made(&made),
                _ => {
                    if self.messages_tx.send(message).await.is_err() {
                        return LayerEnd::Abandoned;
                    }
                }
            }
        }
    }
}

/// The addresses of a name, or the name of an address: from the target's /etc/hosts, which is read like any other file of the program, else from DNS.
async fn resolve(files: &Files, names: Option<NetworkHandle>, question: Resolve) -> Resolved {
    let failed = || Resolved { error: libc::EAI_AGAIN, ..Resolved::default() };
    let Some(names) = names else { return failed() };
    let call = FileCall {
        caller: question.caller,
        operation: "getaddrinfo".to_owned(),
        path: "/etc/hosts".into(),
        follow: true,
        want: file_call::Want::Descriptor.into(),
        rule: "names of the target".to_owned(),
        ..FileCall::default()
    };
    let (_, descriptor) = files.call(call).await;
    let hosts = descriptor.map(read_text).unwrap_or_default();
    if let Some(ip) = address_of(&question.address) {
        return match names.reverse_lookup(&hosts, ip).await {
            Ok(name) => Resolved { name: name.into(), ..Resolved::default() },
            Err(error) => Resolved { error, ..Resolved::default() },
        };
    }
    match names.lookup(&hosts, &question.name, question.family).await {
        Ok(addresses) => {
            let bytes = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => ip.octets().to_vec().into(),
                IpAddr::V6(ip) => ip.octets().to_vec().into(),
            };
            let addresses = addresses.into_iter().map(bytes).collect();
            Resolved { addresses, ..Resolved::default() }
        }
        Err(error) => Resolved { error, ..Resolved::default() },
    }
}

/// An address of 4 or 16 bytes.
fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// What a memfd holds; files that are not small are no list of hosts.
fn read_text(descriptor: OwnedFd) -> String {
    let mut text = Vec::new();
    // Cut off or not readable: names then come from DNS alone.
    drop(std::fs::File::from(descriptor).take(HOSTS_FILE).read_to_end(&mut text));
    String::from_utf8_lossy(&text).into_owned()
}

impl Shared {
    async fn send(&self, message: &ToLayer, descriptors: &[BorrowedFd<'_>]) -> Result<(), LayerError> {
        let sent = self.link.async_io(Interest::WRITABLE, |link| match link.send(message, descriptors) {
            Err(error) if error.would_block() => Err(io::Error::from(io::ErrorKind::WouldBlock)),
            result => Ok(result),
        });
        let sent = sent.await.map_err(|error| LayerError::Link(LinkError::Socket(error)))?;
        sent.map_err(LayerError::Link)
    }

    fn launches(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Started>>> {
        self.launches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn message(id: u64, kind: to_layer::Kind) -> ToLayer {
    ToLayer { id, kind: Some(kind) }
}
