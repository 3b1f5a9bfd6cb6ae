//! `exec`: flags to a session spec, then the viewer that owns the session.

use std::{
    ffi::OsString,
    fs::File,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use mirrord_session::{
    attachment::Choice,
    config::{self, FileMode, Flags, Mode, Resolved},
    spec::SessionSpec,
    target::Target,
};

use super::cluster::ClusterArgs;
use crate::{
    failure::{Hinted, OWN_FAILURE},
    ui,
    viewer::{self, Output},
};

/// Arguments of `exec`.
#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// What the command runs in the context of: local/NAME, pid/N or container/ID on this machine; pod/NAME, deployment/NAME,
    /// statefulset/.., daemonset/.., replicaset/.., job/.., cronjob/.., service/.., rollout/.. or label/KEY=VALUE in a cluster, with
    /// /container/NAME behind it for a certain container.
    #[arg(short, long, env = "MIRRORD_TUI_TARGET")]
    target: Option<Target>,
    /// All pods of the target in a cluster, and not the best one alone: each gets an agent, the traffic of all comes here, and pods that
    /// come later join. Files, names and outgoing connections go through one of them.
    #[arg(long)]
    all_pods: bool,
    /// Take the traffic of the ports over; the target does not see it.
    #[arg(long, conflicts_with = "mirror")]
    steal: bool,
    /// Get a copy of the traffic of the ports; the target goes on as before. The default.
    #[arg(long)]
    mirror: bool,
    /// Subscribe this port of the target, for a local process that listens on LOCAL (default: the same port).
    /// Without it, every port that the command listens on is subscribed.
    #[arg(short, long = "port", value_name = "REMOTE[:LOCAL]", value_parser = port_pair)]
    ports: Vec<(u16, u16)>,
    /// Configuration file; mirrord's files work as they are.
    #[arg(short = 'f', long, env = "MIRRORD_TUI_CONFIG")]
    config_file: Option<PathBuf>,
    /// What is shown while the command runs; default: the UI on a terminal, else text.
    #[arg(long, value_enum)]
    output: Option<OutputKind>,
    /// Write the output there and not to stderr.
    #[arg(long, value_name = "FILE")]
    events_to: Option<PathBuf>,
    /// Keep all events in this file.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// How the layer is attached to the command; default: auto.
    #[arg(long, value_enum)]
    layer: Option<Attachment>,
    /// Where files come from when no pattern of the configuration says it.
    #[arg(long, value_enum)]
    fs_mode: Option<FsMode>,
    /// Set a variable for the command, after the target's.
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = assignment)]
    env: Vec<(String, String)>,
    /// Leave the target's environment out.
    #[arg(long)]
    no_env: bool,
    /// Outgoing connections leave from this machine.
    #[arg(long)]
    no_outgoing: bool,
    /// Names are resolved on this machine.
    #[arg(long)]
    no_remote_dns: bool,
    /// Do not publish the command's listeners on this machine's loopback.
    #[arg(long)]
    no_publish: bool,
    /// Show file operations, too; twice: local ones as well.
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OutputKind {
    /// The terminal UI; the command gets a terminal in it.
    Tui,
    /// One line per event and a summary at the end.
    Text,
    /// One JSON object per event.
    Jsonl,
    /// Failures only.
    Silent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Attachment {
    /// The best that this machine allows.
    Auto,
    /// Trap system calls: works for every binary, Linux 5.14 or newer.
    Syscall,
    /// Load a library into each dynamically linked program, for machines that refuse the other.
    Libc,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FsMode {
    /// Read from the target, write here.
    Read,
    /// All local.
    Local,
    /// Local but for what belongs to the target (names, certificates).
    Localwithoverrides,
}

/// Runs the command to its end; the exit code is its own.
pub(crate) fn run(args: ExecArgs) -> Result<ExitCode> {
    refuse_nesting()?;
    let resolved = resolve(&args)?;
    let target = resolved.target.clone().ok_or_else(|| Hinted {
        text: "no target is named".to_owned(),
        hint: "name one with -t, for example -t local/NAME; `mirrord-tui ls` lists them".to_owned(),
        code: OWN_FAILURE,
    })?;
    let mut spec = SessionSpec::for_caller(target, resolved.config, args.command.clone())
        .context("find the working directory of the command")?;
    spec.record = args.record.map(std::path::absolute).transpose().context("find the folder of --record")?;
    spec.all_pods = resolved.all_pods;
    spec.cluster = resolved.cluster;
    spec.agent = resolved.agent;
    spec.report_local_files = args.verbose > 1;
    spec.equal_command = equal_command();
    let to = args
        .events_to
        .map(|path| File::create(&path).with_context(|| format!("create {}", path.display())))
        .transpose()?;
    // Where events go to a file, the terminal is left to the command.
    let shows_ui = ui::has_terminal() && to.is_none();
    let output = match args.output.unwrap_or(if shows_ui { OutputKind::Tui } else { OutputKind::Text }) {
        OutputKind::Tui if shows_ui => return ui::run_session(spec, false, &resolved.warnings),
        OutputKind::Tui => {
            return Err(Hinted {
                text: "there is no terminal to draw on".to_owned(),
                hint: "leave --output tui out, or take --events-to away".to_owned(),
                code: OWN_FAILURE,
            }
            .into());
        }
        OutputKind::Text => Output::text(to, args.verbose > 0),
        OutputKind::Jsonl => Output::jsonl(to),
        OutputKind::Silent => Output::silent(),
    };
    viewer::own(&spec, output, &resolved.warnings)
}

fn resolve(args: &ExecArgs) -> Result<Resolved> {
    let flags = Flags {
        target: args.target.clone(),
        all_pods: args.all_pods,
        mode: if args.steal { Some(Mode::Steal) } else { args.mirror.then_some(Mode::Mirror) },
        ports: args.ports.clone(),
        file_mode: args.fs_mode.map(|mode| match mode {
            FsMode::Read => FileMode::Read,
            FsMode::Local => FileMode::Local,
            FsMode::Localwithoverrides => FileMode::LocalWithOverrides,
        }),
        layer: args.layer.map(|layer| match layer {
            Attachment::Auto => Choice::Auto,
            Attachment::Syscall => Choice::Syscall,
            Attachment::Libc => Choice::Libc,
        }),
        no_outgoing: args.no_outgoing,
        no_remote_dns: args.no_remote_dns,
        no_env: args.no_env,
        no_publish: args.no_publish,
        env: args.env.clone(),
        cluster: args.cluster.config(),
    };
    resolve_config(&flags, args.config_file.as_deref())
}

/// Flags over the file, if there is one.
pub(crate) fn resolve_config(flags: &Flags, file: Option<&Path>) -> Result<Resolved> {
    let Some(path) = file else {
        return Ok(config::resolve(config::file::FileConfig::default(), flags, Path::new("."))?);
    };
    let file = config::load(path, |name| std::env::var(name).ok())?;
    let base = path.parent().unwrap_or_else(|| Path::new("."));
    config::resolve(file, flags, base).with_context(|| path.display().to_string())
}

/// A session inside a session would trap its own helper processes.
fn refuse_nesting() -> Result<()> {
    let Ok(id) = std::env::var(mirrord_session::env::SESSION_VARIABLE) else { return Ok(()) };
    Err(Hinted {
        text: format!("this shell already runs inside session {id}"),
        hint: "start the second session from a shell outside of the first".to_owned(),
        code: OWN_FAILURE,
    }
    .into())
}

/// The command line as a shell would take it again.
fn equal_command() -> String {
    let quoted = std::env::args().skip(1).map(|argument| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
        if !argument.is_empty() && argument.chars().all(plain) {
            argument
        } else {
            format!("'{}'", argument.replace('\'', r"'\''"))
        }
    });
    std::iter::once("mirrord-tui".to_owned()).chain(quoted).collect::<Vec<_>>().join(" ")
}

/// `REMOTE[:LOCAL]`.
pub(crate) fn port_pair(text: &str) -> Result<(u16, u16), String> {
    let port = |text: &str| {
        text.parse::<u16>()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| format!("`{text}` is not a port, 1 to 65535"))
    };
    match text.split_once(':') {
        Some((remote, local)) => Ok((port(remote)?, port(local)?)),
        None => port(text).map(|port| (port, port)),
    }
}

/// `NAME=VALUE`.
fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}
