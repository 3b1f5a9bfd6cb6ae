//! The terminal UI: a client of session hosts that holds no truth of its own, so that it can be closed and opened again.
//!
//! ```text
//! terminal ─keys─▶ run ─Msg─▶ update(&mut Model) ─▶ Effects ─▶ io and client (a thread of their own) ─Msg─▶ run
//!                   └─ at most one picture per frame, and only when something has changed: view(&Model)
//! ```

#[cfg(test)]
mod bench;
mod client;
mod clipboard;
mod config;
mod editor;
mod export;
#[cfg(test)]
mod fake;
mod filter;
mod fuzzy;
mod io;
mod keys;
mod layout;
mod limits;
mod model;
#[cfg(test)]
mod readme;
mod run;
mod services;
mod terminal;
mod text;
mod theme;
mod tone;
mod update;
mod view;

use std::{
    io::{IsTerminal, stderr, stdin, stdout},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, Result};
use crossterm::event::EventStream;
use mirrord_session::{cluster::ClusterConfig, spec::SessionSpec, starter};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
};

pub(crate) use self::config::sample as sample_config;
use self::{
    config::Options,
    io::Io,
    model::{Model, Screen, notices::Level},
    run::{Exit, Inputs, Screen as _},
    services::Machine,
    terminal::Terminal,
};
use crate::failure::{Hinted, OWN_FAILURE};

/// What the UI shows first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Those of this machine, and of this cluster; `all_namespaces` or the configured one.
    Targets { cluster: ClusterConfig, all_namespaces: bool },
    /// A running session, by the beginning of its id.
    Session(String),
    /// The same, but it ends with the window.
    Owned(String),
    /// A recording, by its path.
    Recording(String),
}

/// Whether there is a terminal that the UI can be drawn on.
pub(crate) fn has_terminal() -> bool {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    stdin().is_terminal() && stdout().is_terminal() && !dumb
}

/// The keys with their help, by context: for the manual and the readme.
pub(crate) fn key_table() -> Vec<(&'static str, Vec<(String, &'static str)>)> {
    let mut table: Vec<(&str, Vec<_>)> = Vec::new();
    for binding in keys::BINDINGS.iter().filter(|binding| !binding.keys.is_empty()) {
        let row = (binding.keys.join(" "), binding.help);
        match table.iter_mut().find(|(title, _)| *title == binding.context.title()) {
            Some((_, rows)) => rows.push(row),
            None => table.push((binding.context.title(), vec![row])),
        }
    }
    table
}

/// Starts a session whose command has its terminal in the UI, and shows it. An owned session ends with the window.
pub(crate) fn run_session(mut spec: SessionSpec, owned: bool, warnings: &[String]) -> Result<ExitCode> {
    let (columns, rows) = crossterm::terminal::size().unwrap_or((80, 24));
    spec.terminal =
        Some((columns.max(limits::CHILD_COLUMNS), rows.saturating_sub(7).max(limits::CHILD_ROWS)));
    spec.process_group = None;
    spec.owned = owned;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let started = runtime.block_on(starter::start_session(&spec)).map_err(|error| Hinted {
        text: services::chain(&error),
        hint: error.hint().to_owned(),
        code: OWN_FAILURE,
    })?;
    let start = if owned { Start::Owned(started.id.clone()) } else { Start::Session(started.id.clone()) };
    let code = run_with(&start, warnings)?;
    if owned {
        // Its host takes everything down when its owner has gone; what comes after must not run into that.
        drop(started.owner);
        let mut host = started.child;
        drop(runtime.block_on(async { tokio::time::timeout(limits::SLOW_CALL, host.wait()).await }));
    }
    Ok(code)
}

/// Runs the UI until the user leaves it.
pub(crate) fn run(start: &Start) -> Result<ExitCode> {
    run_with(start, &[])
}

fn run_with(start: &Start, warnings: &[String]) -> Result<ExitCode> {
    let mut options = Options::load()?;
    options.utc_offset = utc_offset();
    let first = match start {
        Start::Targets { .. } => Screen::Targets,
        Start::Session(_) | Start::Owned(_) | Start::Recording(_) => Screen::Session,
    };
    let mut model = Model::new(options, first);
    model.now_ms = run::now_ms();
    model.owned = matches!(start, Start::Owned(_));
    for warning in warnings.iter().cloned().chain(model.options.warnings.clone()) {
        model.notices.add(Level::Error, warning, model.now_ms);
    }
    let begin = match start {
        Start::Session(id) | Start::Owned(id) => update::attach(&mut model, id),
        Start::Recording(path) => update::open(&mut model, path),
        Start::Targets { .. } => Vec::new(),
    };
    let machine = match start {
        Start::Targets { cluster, all_namespaces } => Machine::new(cluster.clone(), *all_namespaces),
        Start::Session(_) | Start::Owned(_) | Start::Recording(_) => {
            let context = std::env::var("MIRRORD_TUI_CONTEXT").ok();
            Machine::new(ClusterConfig { context, ..ClusterConfig::default() }, false)
        }
    };

    let (msgs_tx, msgs) = mpsc::channel(limits::MESSAGES);
    let (effects, effects_rx) = mpsc::channel(limits::EFFECTS);
    // I/O has its own thread: decoding a storm of events must not hold up a key.
    let io_thread = std::thread::Builder::new()
        .name("io".to_owned())
        .spawn(move || -> std::io::Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(Io::new(Arc::new(machine), msgs_tx).run(effects_rx));
            runtime.shutdown_timeout(limits::CLOSE);
            Ok(())
        })
        .context("start the thread that does I/O")?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let exit = runtime.block_on(async {
        let mut tasks = JoinSet::new();
        let signals = signals(&mut tasks)?;
        let mut terminal = Terminal::take(model.options.mouse).context("take the terminal")?;
        (model.columns, model.rows) = terminal.size();
        let inputs = Inputs { open: Box::new(EventStream::new), msgs, effects, signals };
        anyhow::Ok(run::run(&mut model, &mut terminal, inputs, begin).await)
    });
    terminal::restore();
    let ended = io_thread.join();
    let exit = exit?;
    if ended.is_err() || terminal::has_panicked() {
        return Ok(ExitCode::from(101));
    }
    farewell(&model);
    Ok(match exit {
        Exit::Quit => command_code(&model),
        Exit::Signal(number) => ExitCode::from(u8::try_from(128 + number).unwrap_or(u8::MAX)),
        Exit::ScreenLost => ExitCode::FAILURE,
    })
}

/// The exit code of a command that has ended while it was watched.
fn command_code(model: &Model) -> ExitCode {
    let exit = model
        .session
        .as_ref()
        .filter(|session| !session.is_recording())
        .and_then(|session| session.info.exit.as_ref());
    let code = exit
        .map_or(0, |exit| if exit.signal > 0 { 128 + i64::from(exit.signal) } else { i64::from(exit.code) });
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

/// Signals that end the program become messages, so that the terminal is given back before.
fn signals(tasks: &mut JoinSet<()>) -> Result<mpsc::Receiver<i32>> {
    // One is enough to end; more need not be kept.
    let (tx, rx) = mpsc::channel(1);
    for kind in [SignalKind::terminate(), SignalKind::hangup(), SignalKind::interrupt()] {
        let mut signal = signal(kind).context("listen to signals")?;
        let tx = tx.clone();
        tasks.spawn(async move {
            // A loop that has ended already needs no signal.
            while signal.recv().await.is_some() && tx.send(kind.as_raw_value()).await.is_ok() {}
        });
    }
    Ok(rx)
}

/// What goes on without the window, and how to come back to it.
#[expect(clippy::print_stderr, reason = "the screen has been given back; this is for the shell")]
fn farewell(model: &Model) {
    let Some(session) = model.session.as_ref().filter(|session| !session.is_recording()) else { return };
    let info = &session.info;
    if !stderr().is_terminal() || info.id.is_empty() || model.owned {
        return;
    }
    if session.lives() {
        eprintln!(
            "session {} goes on; `mirrord-tui attach {}` comes back, `mirrord-tui stop {}` ends it",
            info.id, info.id, info.id
        );
    } else if !info.equal_command.is_empty() {
        eprintln!("again with: {}", info.equal_command);
    }
    if !info.recording.is_empty() {
        eprintln!("recorded in {}; `mirrord-tui open {}` shows it", info.recording, info.recording);
    }
}

/// Seconds that local time is ahead of UTC, as date(1) says; 0 when it cannot be asked.
fn utc_offset() -> i32 {
    let output = std::process::Command::new("date").arg("+%z").output();
    let text = output.ok().and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
    parse_offset(text.trim()).unwrap_or(0)
}

/// `+0130` is 5400.
fn parse_offset(text: &str) -> Option<i32> {
    let number: i32 = text.parse().ok()?;
    Some((number / 100 * 60 + number % 100) * 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_read() {
        assert_eq!(
            [parse_offset("+0130"), parse_offset("-0800"), parse_offset("x")],
            [Some(5_400), Some(-28_800), None]
        );
    }
}
