//! What the driver drives, as traits: the real parts of a session stand behind them, and fakes in tests.

use std::{future::Future, io, net::SocketAddr, pin::Pin};

use mirrord_protocol::{layer::v1 as layer, session::v1 as wire};
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;

use crate::{agent_link::LinkStatus, config::Mode, network::AgentEnding};

/// A future that owns what it needs.
pub(crate) type Owned<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Brings a session up.
pub(crate) trait World: Send + 'static {
    type Parts: Parts;

    /// Goes through the steps of bring-up, each with a deadline, and names them in `progress`. When it fails or `cancel` fires, what
    /// was made is undone before it returns.
    fn bring_up(
        self,
        progress: watch::Sender<Progress>,
        cancel: CancellationToken,
    ) -> impl Future<Output = Result<Up<Self::Parts>, Failure>> + Send;
}

/// How far bring-up has come, and what it has learned on the way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// The step that is being done.
    pub(crate) step: String,
    /// Where in a cluster the target is.
    pub(crate) place: String,
    /// Who else counts on the target's ports.
    pub(crate) sharing: Vec<String>,
}

/// A session that is up: everything but the command runs.
#[derive(Debug)]
pub(crate) struct Up<P> {
    pub(crate) parts: P,
    pub(crate) inputs: Inputs,
    /// How the layer is attached to the command, and why so.
    pub(crate) attachment: (String, String),
}

/// What the parts tell the driver.
#[derive(Debug)]
pub(crate) struct Inputs {
    /// layer --what happens in the process tree--> driver; closed when the supervisor is gone
    pub(crate) layer_rx: mpsc::Receiver<LayerEvent>,
    /// agent link --state--> driver
    pub(crate) agent_rx: watch::Receiver<LinkStatus>,
    /// network --why the agent is about to end--> driver
    pub(crate) ending_rx: watch::Receiver<Option<AgentEnding>>,
    /// network --facts of ports--> driver
    pub(crate) ports_rx: watch::Receiver<Vec<wire::Port>>,
    /// network --listening sockets--> driver
    pub(crate) listeners_rx: watch::Receiver<Vec<wire::Listener>>,
    /// agents --names of their pods--> driver
    pub(crate) pods_rx: watch::Receiver<Vec<String>>,
    /// an agent or holder of ours --has ended, and how--> driver
    pub(crate) ended_rx: mpsc::Receiver<Ended>,
}

/// Something that the session cannot be without has ended by itself.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ended {
    Agent(String),
    Holder,
    /// The target, and it will not come back.
    Target(Failure),
}

/// The parts of a session that is up.
pub(crate) trait Parts: Send + 'static {
    /// Starts the command; its start or failure comes as a [`LayerEvent`].
    fn launch(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Sends a signal to the command, or to all of its tree.
    fn signal(&mut self, signal: i32, whole_tree: bool);

    /// Changes the mode of a port; the error is one sentence.
    fn set_mode(&self, port: u16, mode: Mode) -> Owned<Result<wire::Port, String>>;

    /// Connects to the local process as if `client` did.
    fn connect_local(&self, client: SocketAddr, local_port: u16) -> Owned<io::Result<TcpStream>>;

    /// Starts the agent again after it was killed; a failure says that the target is gone or cannot have one.
    fn restart_agent(&mut self) -> Owned<Result<(), Failure>>;

    /// Whether a target that has ended is started again by somebody, so that [`Self::restart_agent`] finds it.
    fn target_may_return(&self) -> bool {
        false
    }

    /// Gives all ports back to the target.
    fn release(&mut self) -> impl Future<Output = ()> + Send;

    /// Lets open streams drain and ends the data path.
    fn drain(&mut self) -> impl Future<Output = ()> + Send;

    /// Ends the agent and waits for it.
    fn stop_agent(&mut self) -> impl Future<Output = ()> + Send;

    /// Ends supervisor and holder and waits for them.
    fn stop_helpers(&mut self) -> impl Future<Output = ()> + Send;
}

/// What the layer reports of the process tree.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum LayerEvent {
    /// The command has been executed.
    Started {
        pid: u32,
    },
    /// It could not be: which system call failed, and how.
    NotStarted {
        errno: i32,
        operation: String,
    },
    Spawned {
        pid: u32,
        parent: u32,
    },
    Exec(layer::ProcessExec),
    /// `command`: it was the command itself.
    Exit {
        pid: u32,
        exit: Option<wire::Exit>,
        command: bool,
    },
    /// Nothing of the tree is left.
    TreeEmpty,
    /// One sentence and what to do.
    Notice {
        text: String,
        hint: String,
    },
}

/// Why a session could not be, in the user's words.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Failure {
    pub(crate) text: String,
    pub(crate) hint: String,
    /// The exit that the command line shall end with, when it is not the usual one.
    pub(crate) exit: Option<wire::Exit>,
    /// Asked for, and no failure at all.
    pub(crate) cancelled: bool,
}

impl Failure {
    pub(crate) fn new(text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { text: text.into(), hint: hint.into(), ..Self::default() }
    }

    /// The text of an error with its causes.
    pub(crate) fn caused(error: &dyn std::error::Error, hint: impl Into<String>) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let said = error.to_string();
            if !text.contains(&said) {
                text.push_str(": ");
                text.push_str(&said);
            }
            cause = error.source();
        }
        Self::new(text, hint)
    }

    /// The exit codes of a shell: 127 not found, 126 not executable.
    pub(crate) fn not_started(command: &[bytes::Bytes], errno: i32, operation: &str) -> Self {
        let name = command.first().map(|name| String::from_utf8_lossy(name).into_owned()).unwrap_or_default();
        let (why, hint, code) = match errno {
            libc::ENOENT => (
                "it was not found".to_owned(),
                "check the spelling and PATH; a script needs its interpreter, too",
                127,
            ),
            libc::EACCES => (
                "it may not be executed".to_owned(),
                "check its permissions (chmod +x), and that its file system is not mounted noexec",
                126,
            ),
            libc::ENOEXEC => (
                "it is not a program of this machine".to_owned(),
                "a script needs a first line such as #!/bin/sh",
                126,
            ),
            libc::E2BIG => (
                "its environment and arguments are too large".to_owned(),
                "take less from the target: env.include or env.exclude in the configuration",
                126,
            ),
            errno => (
                format!("{operation}: {}", io::Error::from_raw_os_error(errno)),
                "`mirrord-tui doctor` tells what this machine allows",
                126,
            ),
        };
        let exit = wire::Exit { code, error: why.clone(), ..wire::Exit::default() };
        Self { exit: Some(exit), ..Self::new(format!("`{name}` cannot be started: {why}"), hint) }
    }

    pub(crate) fn cancelled() -> Self {
        Self { cancelled: true, ..Self::new("the session was stopped while it came up", "") }
    }
}
