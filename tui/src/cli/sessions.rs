//! `sessions`, `mode` and `stop`: what a script or another terminal does with running sessions.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use mirrord_protocol::session::v1::{
    InfoRequest, Mode, SessionInfo, SetModeRequest, State, StopRequest, WatchRequest,
};
use mirrord_session::registry;
use tokio::time::timeout;

use super::ls::Form;
use crate::{
    failure::{Hinted, OWN_FAILURE},
    output::{print, table},
};

/// What a session may take to end: the command's grace, the streams' and the agent's, and room for a loaded machine.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Arguments of `sessions`.
#[derive(Debug, Args)]
pub(crate) struct SessionsArgs {
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
}

/// Arguments of `mode`.
#[derive(Debug, Args)]
pub(crate) struct ModeArgs {
    /// Session, or the beginning of its id.
    id: String,
    /// Port of the target.
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// What new connections shall do; open ones finish where they began.
    mode: ModeName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ModeName {
    /// The local process gets a copy.
    Mirror,
    /// The local process takes over.
    Steal,
    /// Neither.
    Off,
}

/// Arguments of `stop`.
#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Sessions, or the beginnings of their ids.
    #[arg(required_unless_present = "all")]
    ids: Vec<String>,
    /// All sessions of this user.
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// SIGKILL for the command, without SIGTERM first.
    #[arg(long)]
    kill: bool,
}

/// Lists sessions that answer.
pub(crate) fn list(args: &SessionsArgs) -> Result<ExitCode> {
    let infos = block_on(async {
        let mut infos = Vec::new();
        for id in registry::list()? {
            // One that does not answer is ending; the next listing shows the truth.
            if let Ok(mut client) = registry::connect(&id).await
                && let Ok(info) = client.info(InfoRequest {}).await
            {
                infos.push(info.into_inner());
            }
        }
        anyhow::Ok(infos)
    })?;
    match args.output {
        Form::Json => print(&format!(
            "{}\n",
            serde_json::to_string_pretty(&infos.iter().map(json).collect::<Vec<_>>())?
        ))?,
        Form::Table if infos.is_empty() => print("no sessions\n")?,
        Form::Table => {
            let header = ["ID", "TARGET", "STATE", "PORTS", "PID", "COMMAND"].map(str::to_owned).to_vec();
            let rows = infos.iter().map(row);
            print(&table(&std::iter::once(header).chain(rows).collect::<Vec<_>>()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Switches a port and waits for the agent's word.
pub(crate) fn mode(args: &ModeArgs) -> Result<ExitCode> {
    let mode = match args.mode {
        ModeName::Mirror => Mode::Mirror,
        ModeName::Steal => Mode::Steal,
        ModeName::Off => Mode::Off,
    };
    let port = block_on(async {
        let mut client = registry::connect(&args.id).await?;
        let request = SetModeRequest { port: args.port.into(), mode: mode.into() };
        let reply = client.set_mode(request).await.map_err(|status| Hinted {
            text: format!("port {} of session {} did not change: {}", args.port, args.id, status.message()),
            hint: "`mirrord-tui sessions` shows the ports and their modes".to_owned(),
            code: OWN_FAILURE,
        })?;
        reply.into_inner().port.context("the session host answered without the port")
    })?;
    let waiting = if port.waiting.is_empty() { String::new() } else { format!(", {}", port.waiting) };
    print(&format!("port {}: {}{waiting}\n", port.remote, mode_name(port.mode())))?;
    Ok(ExitCode::SUCCESS)
}

/// Ends sessions and waits until they are gone.
pub(crate) fn stop(args: &StopArgs) -> Result<ExitCode> {
    block_on(async {
        let ids = if args.all { registry::list()? } else { args.ids.clone() };
        for id in ids {
            if let Err(error) = end(&id, args.kill).await {
                // One of all that ended by itself in this moment is as good as stopped.
                if !args.all || registry::list()?.contains(&id) {
                    return Err(error);
                }
            }
            print(&format!("session {id} has ended\n"))?;
        }
        anyhow::Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Ends one session and waits until all of it is removed: then its host closes the stream.
async fn end(id: &str, kill: bool) -> Result<()> {
    let mut client = registry::connect(id).await?;
    let mut infos = client.watch(WatchRequest {}).await?.into_inner();
    client.stop(StopRequest { kill }).await?;
    let gone = async { while let Ok(Some(_)) = infos.message().await {} };
    timeout(STOP_LIMIT, gone).await.map_err(|_| {
        Hinted {
            text: format!("session {id} has not ended within {} s", STOP_LIMIT.as_secs()),
            hint: format!("`mirrord-tui stop --kill {id}` does not wait for its command"),
            code: OWN_FAILURE,
        }
        .into()
    })
}

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(work)
}

fn row(info: &SessionInfo) -> Vec<String> {
    let ports: Vec<_> = info
        .ports
        .iter()
        .map(|port| format!("{}→{} {}", port.remote, port.local, mode_name(port.mode())))
        .collect();
    let command: Vec<_> = info.command.iter().map(|part| String::from_utf8_lossy(part)).collect();
    vec![
        info.id.clone(),
        info.target.clone(),
        state(info.state()).to_owned(),
        ports.join(", "),
        info.command_pid.to_string(),
        command.join(" "),
    ]
}

fn json(info: &SessionInfo) -> serde_json::Value {
    let ports: Vec<_> = info
        .ports
        .iter()
        .map(|port| {
            serde_json::json!({
                "remote": port.remote, "local": port.local, "mode": mode_name(port.mode()), "waiting": port.waiting,
                "packets": port.packets, "requests": port.requests, "responses": port.responses,
                "delivered": port.delivered, "refused": port.refused, "gaps": port.gaps, "gap_bytes": port.gap_bytes,
                "local_listens": port.local_listens, "target_listens": port.target_listens, "diagnosis": port.diagnosis,
            })
        })
        .collect();
    let command: Vec<_> = info.command.iter().map(|part| String::from_utf8_lossy(part)).collect();
    serde_json::json!({
        "id": info.id, "target": info.target, "state": state(info.state()), "detail": info.detail, "pods": info.pods, "ports": ports,
        "command": command,
        "host_pid": info.host_pid, "command_pid": info.command_pid, "started_ms": info.started_ms,
        "attachment": info.attachment, "attachment_reason": info.attachment_reason,
    })
}

fn state(state: State) -> &'static str {
    match state {
        State::Connecting => "connecting",
        State::Launching => "launching",
        State::Running => "running",
        State::Draining => "draining",
        State::Ended => "ended",
        State::Failed => "failed",
        State::Unspecified => "unknown",
    }
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Mirror => "mirror",
        Mode::Steal => "steal",
        Mode::Off => "off",
        Mode::Unspecified => "?",
    }
}
