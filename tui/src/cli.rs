//! The command line: what there is and how it is called. One file per command below.

mod cluster;
mod config;
mod doctor;
mod exec;
mod local;
mod ls;
mod sessions;
mod texts;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::{
    demo::{self, DemoArgs, Service},
    failure::{Hinted, OWN_FAILURE},
    output::print,
    ui::{self, Start},
};

/// Run a local process in the context of a pod and see everything it does.
///
/// The process receives the target's incoming traffic (a copy, or the real thing), its connections and DNS lookups leave from the
/// target, and it reads the target's files and environment. Nothing is installed anywhere and nothing stays behind.
#[derive(Debug, Parser)]
#[command(name = "mirrord-tui", version, propagate_version = true, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    targets: TargetsArgs,
    /// Without one: the terminal UI with the targets of this machine and of the cluster.
    #[command(subcommand)]
    command: Option<Command>,
}

/// Which targets the terminal UI lists at first.
#[derive(Debug, Default, Args)]
struct TargetsArgs {
    #[command(flatten)]
    cluster: cluster::ClusterArgs,
    /// Targets of all namespaces of the cluster; needs the right to list pods in all.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// See it work: a small shop in local pods, background traffic, and a local version of one service.
    Demo(DemoArgs),
    /// One service of the demo's shop.
    #[command(hide = true)]
    DemoService {
        /// Which one.
        service: Service,
    },
    /// Show a running session in the terminal UI.
    Attach {
        /// Session, or the beginning of its id.
        id: String,
    },
    /// Show a recording in the terminal UI.
    Open {
        /// What `--record` or the key W has written.
        recording: std::path::PathBuf,
    },
    /// Run a command in the context of a target.
    Exec(Box<exec::ExecArgs>),
    /// Pods made of namespaces on this machine, without root and without any other program.
    #[command(subcommand)]
    Local(local::LocalCommand),
    /// List the targets of this machine and of the cluster.
    Ls(ls::LsArgs),
    /// List the sessions of this user.
    Sessions(sessions::SessionsArgs),
    /// Switch a port of a running session between mirror and steal.
    Mode(sessions::ModeArgs),
    /// End a session and everything it started or changed.
    Stop(sessions::StopArgs),
    /// Say what this machine and a target allow, what is missing and how to get it.
    Doctor(doctor::DoctorArgs),
    /// Check a configuration file and show what it means.
    VerifyConfig(config::VerifyArgs),
    /// Print the JSON schema of configuration files.
    Schema,
    /// Print the settings of the terminal UI with their defaults.
    GenConfig,
    /// Print the completions of a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page.
    Man,
}

impl Cli {
    /// Runs the command; the result is the exit code of the program.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let Some(command) = self.command else { return without_command(&self.targets) };
        match command {
            Command::Demo(args) => demo::run(&args),
            Command::DemoService { service } => demo::serve(service),
            Command::Attach { id } => show(&Start::Session(id)),
            Command::Open { recording } => show(&Start::Recording(recording.display().to_string())),
            Command::Exec(args) => exec::run(*args),
            Command::Local(command) => local::run(command),
            Command::Ls(args) => ls::run(&args),
            Command::Sessions(args) => sessions::list(&args),
            Command::Mode(args) => sessions::mode(&args),
            Command::Stop(args) => sessions::stop(&args),
            Command::Doctor(args) => doctor::run(&args),
            Command::VerifyConfig(args) => config::verify(&args),
            Command::Schema => config::schema(),
            Command::GenConfig => texts::settings(),
            Command::Completions { shell } => texts::completions(shell),
            Command::Man => texts::manual(),
        }
    }
}

/// The terminal UI; where it cannot be drawn, what the program can do.
fn without_command(targets: &TargetsArgs) -> Result<ExitCode> {
    if ui::has_terminal() {
        let (cluster, all_namespaces) = (targets.cluster.config(), targets.all_namespaces);
        return ui::run(&Start::Targets { cluster, all_namespaces });
    }
    print(&Cli::command().render_help().to_string())?;
    Ok(ExitCode::from(2))
}

fn show(start: &Start) -> Result<ExitCode> {
    if ui::has_terminal() {
        return ui::run(start);
    }
    Err(Hinted {
        text: "there is no terminal to draw on".to_owned(),
        hint: "run it in a terminal, or use `mirrord-tui sessions` and `exec --output jsonl`".to_owned(),
        code: OWN_FAILURE,
    }
    .into())
}
