//! A session as far as files go: supervisor, link, host's side, and a target.

use std::{
    fs::File,
    io::{Read, Seek},
    os::fd::OwnedFd,
    path::Path,
    sync::Arc,
    time::Duration,
};

use mirrord_layer::decide::{Mode, Places, default_rules};
use mirrord_protocol::{
    agent::v1::EnvEntry,
    layer::v1::{FromLayer, Launch, PathDecision, PathRule, ProcessExit, Rules, from_layer},
    session::v1 as wire,
};
use mirrord_session::{
    events::{Events, Taken},
    files::{FileOptions, Files, RemoteFiles},
    layer_link::{LayerEnd, LayerLink, LayerTask, start_supervisor},
    network::SocketOwners,
};
use tokio::{sync::mpsc, time::timeout};

/// Everything here that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(40);

pub(crate) struct World {
    pub(crate) events: Events,
    pub(crate) files: Files,
    link: LayerLink,
    messages_rx: mpsc::Receiver<FromLayer>,
    task: tokio::task::JoinHandle<LayerEnd>,
    supervisor: tokio::process::Child,
    output: File,
}

/// How a command ended, and what it wrote.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) exit: ProcessExit,
    pub(crate) output: String,
}

/// Runs a test's future as the session host runs: on several threads.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    // One thread: what the host has to answer itself, it must never wait for.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}

/// Runs one command in a session with this target.
pub(crate) async fn run(target: Arc<dyn RemoteFiles>, arguments: &[&str]) -> Ended {
    World::new(target, FileOptions::default()).await.run(arguments).await.0
}

/// As [`run`], with a shell script.
pub(crate) async fn sh(target: Arc<dyn RemoteFiles>, script: &str) -> String {
    run(target, &["sh", "-c", script]).await.output
}

impl World {
    /// The helper is this program, whatever the options say.
    pub(crate) async fn new(target: Arc<dyn RemoteFiles>, options: FileOptions) -> Self {
        let program = std::env::current_exe().unwrap();
        let (supervisor, link) = start_supervisor(&program, None).unwrap();
        let events = Events::new();
        let files = Files::new(target, events.clone(), FileOptions { helper: Some(program), ..options });
        let (link, messages_rx, task) = LayerLink::new(link, files.clone(), SocketOwners::default()).unwrap();
        let task = spawn(task);
        Self { events, files, link, messages_rx, task, supervisor, output: tempfile::tempfile().unwrap() }
    }

    pub(crate) async fn run(mut self, arguments: &[&str]) -> (Ended, Events) {
        let null = OwnedFd::from(File::open("/dev/null").unwrap());
        let output = || OwnedFd::from(self.output.try_clone().unwrap());
        let started = self.link.launch(launch(arguments), &[null, output(), output()]).await.unwrap();
        assert_eq!(started.errno, 0, "{}", started.operation);
        let exit = timeout(LIMIT, self.exit()).await.expect("the command hangs");
        let end = timeout(LIMIT, self.task).await.expect("the link hangs").unwrap();
        assert!(matches!(end, LayerEnd::Closed), "{end:?}");
        assert_eq!(self.supervisor.wait().await.unwrap().code(), Some(0));
        let mut text = Vec::new();
        self.output.rewind().unwrap();
        self.output.read_to_end(&mut text).unwrap();
        (Ended { exit, output: String::from_utf8_lossy(&text).into_owned() }, self.events)
    }

    async fn exit(&mut self) -> ProcessExit {
        let mut exit = None;
        while let Some(message) = self.messages_rx.recv().await {
            match message.kind {
                Some(from_layer::Kind::Exit(ended)) if ended.command => exit = Some(ended),
                Some(from_layer::Kind::TreeEmpty(_)) => break,
                _ => {}
            }
        }
        exit.expect("the command's exit")
    }
}

#[expect(clippy::disallowed_methods, reason = "a test waits for its own task")]
fn spawn(task: LayerTask) -> tokio::task::JoinHandle<LayerEnd> {
    tokio::spawn(task.run())
}

/// `/remote` and the name service are the target's, the rest is local.
fn launch(arguments: &[&str]) -> Launch {
    let rule = |pattern: &str| PathRule {
        pattern: pattern.to_owned(),
        decision: PathDecision::Remote.into(),
        name: "test".to_owned(),
        read_only: true,
        replacement: String::new(),
    };
    let root = Path::new("/");
    let places = Places { home: root, cwd: root, executable: root, temporary: root };
    let own = [rule("^/remote(/|$)"), rule("^/etc/nsswitch\\.conf$")];
    let local = default_rules(Mode::Read, &places);
    let local = local.into_iter().filter(|rule| rule.decision() == PathDecision::Local);
    let entry = |name: &'static str, value: &'static str| EnvEntry { name: name.into(), value: value.into() };
    Launch {
        arguments: arguments.iter().map(|argument| argument.as_bytes().to_vec().into()).collect(),
        environment: vec![entry("PATH", "/usr/bin:/bin"), entry("LC_ALL", "C.UTF-8")],
        cwd: "/".into(),
        rules: Some(Rules {
            files: true,
            paths: own.into_iter().chain(local).collect(),
            otherwise: PathDecision::Local.into(),
            ..Rules::default()
        }),
        ..Launch::default()
    }
}

/// All events of one kind.
pub(crate) fn events_of(events: &Events, kind: wire::Kind) -> Vec<Arc<wire::Event>> {
    let mut reader = events.subscribe(0, &[kind]);
    let mut all = Vec::new();
    while let Taken::Some(batch) = reader.take(1000) {
        all.extend(batch.events);
    }
    all
}
