//! The session host: the process that owns a session (role `__host DIR`).
//!
//! [`run`] is the process: it takes what the starter handed down, serves viewers, and leaves the session to the [`driver`].
//!
//! ```text
//! api ── requests, stop ──▶ driver ── orders ──▶ live (agent, network, layer, children)
//!  ▲                          │  ▲                 │
//!  └────── status, events ◀───┘  └── what happens ─┘
//! ```

mod agent;
mod bring_up;
mod desk;
mod driver;
#[cfg(test)]
pub(crate) mod fake;
mod holder;
mod live;
mod orphans;
mod process;
mod processes;
mod replay;
mod requests;
mod resolve;
mod shutdown;
mod silence;
mod status;
mod terminal;
#[cfg(test)]
mod tests;
mod unix_relay;
mod world;

use std::{
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::Path,
    sync::Arc,
};

use mirrord_protocol::session::v1 as wire;
use thiserror::Error;
use tokio::{sync::mpsc, task::JoinSet};

use self::{
    bring_up::LocalWorld,
    desk::{Desk, End},
    process::Inherited,
    status::Status,
};
pub(crate) use self::{
    desk::Stop,
    process::run_holder,
    requests::{Command, Denied, Reason, Reply},
    terminal::Terminal,
};
use crate::{
    api::{self, Api},
    config::Config,
    events::Events,
    http::HttpTaps,
    jsonl,
    limits::{COMMANDS, STOPS},
    redact,
    registry::SPEC_FILE,
    spec::SessionSpec,
    target::Target,
};

/// Exit code of a host that could not even begin.
const FAILED: u8 = 70;

/// Why a host could not begin; later failures are told to viewers.
#[derive(Debug, Error)]
enum HostError {
    #[error("the session's log cannot be written")]
    Log(#[source] std::io::Error),
    #[error("the session's specification cannot be read")]
    ReadSpec(#[source] std::io::Error),
    #[error("the session's specification makes no sense")]
    ParseSpec(#[source] serde_json::Error),
    #[error("the descriptor {0} was not handed down")]
    Descriptor(i32),
    #[error("the runtime cannot be started")]
    Runtime(#[source] std::io::Error),
    #[error("the command's standard descriptors cannot be taken over")]
    Standard(#[source] std::io::Error),
    #[error("viewers cannot be served")]
    Serve(#[source] std::io::Error),
    #[error("the owner cannot be watched")]
    Owner(#[source] std::io::Error),
    #[error("there is no terminal for the command")]
    Terminal(#[source] std::io::Error),
}

/// Process of a target on this machine; else why there is none, and what to do about it.
pub(crate) fn find_local(target: &Target) -> Result<u32, (String, String)> {
    resolve::find(target).map(|found| found.pid).map_err(|failure| (failure.text, failure.hint))
}

/// Runs the session whose folder this is, to its end.
pub(crate) fn run(dir: &Path) -> u8 {
    match host(dir) {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the session host cannot begin");
            // Viewers see a closed connection; the folder must not stay.
            drop(std::fs::remove_dir_all(dir));
            FAILED
        }
    }
}

fn host(dir: &Path) -> Result<(), HostError> {
    // Before anything is opened: a number that was not handed down would be somebody else's by then.
    let inherited = Inherited::take()?;
    process::log_to(dir).map_err(HostError::Log)?;
    // Read before the runtime's signal handlers change it.
    let ignored_signals = process::ignored_signals();
    orphans::adopt();
    let spec = std::fs::read(dir.join(SPEC_FILE)).map_err(HostError::ReadSpec)?;
    let spec: SessionSpec = serde_json::from_slice(&spec).map_err(HostError::ParseSpec)?;
    let stdio = process::take_standard().map_err(HostError::Standard)?;
    let runtime = process::runtime().map_err(HostError::Runtime)?;
    let ended = runtime.block_on(session(dir, Arc::new(spec), inherited, stdio, ignored_signals));
    runtime.shutdown_timeout(crate::limits::RUNTIME_STOP);
    ended
}

/// Serves viewers and drives the session; returns when the last viewer has gone, or shortly after the session's end.
async fn session(
    dir: &Path,
    spec: Arc<SessionSpec>,
    inherited: Inherited,
    stdio: [OwnedFd; 3],
    ignored_signals: u64,
) -> Result<(), HostError> {
    let Inherited { listener, owner, lock } = inherited;
    let events = Events::new();
    let status = Status::new(info(&spec), events.clone());
    let (commands_tx, commands_rx) = mpsc::channel(COMMANDS);
    let (stop_tx, stop_rx) = mpsc::channel(STOPS);
    let mut tasks = JoinSet::new();
    let (terminal, stdio) = match spec.terminal {
        None => (None, stdio),
        Some((columns, rows)) => {
            let (terminal, end) = Terminal::open(columns, rows).map_err(HostError::Terminal)?;
            tasks.spawn(terminal.clone().pump());
            let copy = || end.try_clone().map_err(HostError::Terminal);
            let ends = [copy()?, copy()?, end];
            (Some(terminal), ends)
        }
    };
    let api = Api {
        info: status.watch(),
        events: events.clone(),
        commands_tx,
        stop_tx: stop_tx.clone(),
        terminal: terminal.clone(),
    };
    let served = api::serve(api, UnixListener::from(listener)).map_err(HostError::Serve)?;
    if let Some(owner) = owner {
        tasks.spawn(process::watch_owner(owner, stop_tx.clone()).map_err(HostError::Owner)?);
    }
    tasks.spawn(process::watch_signals(stop_tx));
    let taps = HttpTaps::new(events.clone());
    let desk = Desk {
        status,
        events: events.clone(),
        taps: taps.clone(),
        commands_rx,
        stop_rx,
        command: process::arguments(&spec),
        header: header(&spec),
        record: spec.record.clone(),
        recorder: None,
        dir: dir.to_owned(),
    };
    let world = LocalWorld { spec, dir: dir.to_owned(), events, taps, stdio, ignored_signals };
    let end = Box::pin(driver::run(world, desk)).await;
    match &end {
        End::Done => tracing::info!("the session has ended"),
        End::Stopped(stop) => tracing::info!(?stop, "the session was stopped"),
        End::Failed(failure) => tracing::warn!(text = failure.text, "the session has failed"),
    }
    if let Some(terminal) = terminal {
        terminal.end();
    }
    // The folder is gone: nobody can find this session any more, so its lock says nothing.
    drop(lock);
    served.finish().await;
    tasks.shutdown().await;
    Ok(())
}

/// What is known of a session before it begins.
fn info(spec: &SessionSpec) -> wire::SessionInfo {
    wire::SessionInfo {
        id: spec.id.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        target: spec.target.to_string(),
        command: redact::arguments(&process::arguments(spec)),
        host_pid: std::process::id(),
        has_terminal: spec.terminal.is_some(),
        config_json: config_json(&spec.config),
        equal_command: spec.equal_command.clone(),
        cwd: spec.cwd.as_os_str().as_encoded_bytes().to_vec().into(),
        ..wire::SessionInfo::default()
    }
}

/// The effective configuration without secrets.
fn config_json(config: &Config) -> String {
    let mut config = config.clone();
    for (name, value) in &mut config.env.overrides {
        *value = redact::variable(name, value).into_owned();
    }
    serde_json::to_string(&config).unwrap_or_default()
}

/// First line of a recording of this session.
fn header(spec: &SessionSpec) -> jsonl::Header {
    let command = redact::arguments(&process::arguments(spec));
    jsonl::Header {
        recording: jsonl::VERSION,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        session: spec.id.clone(),
        target: spec.target.to_string(),
        command: command.iter().map(|argument| String::from_utf8_lossy(argument).into_owned()).collect(),
        started_ms: status::now_ms(),
    }
}
