//! `local`: pods made of namespaces on this machine.

use std::{
    env,
    ffi::OsString,
    fs, io,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, ExitCode},
    time::SystemTime,
};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use mirrord_session::local::{self, LocalPod, PodFile, Publish, StartSpec};

use super::ls::Form;
use crate::output::{print, table};

/// Commands of `local`.
#[derive(Debug, Subcommand)]
pub(crate) enum LocalCommand {
    /// Start a pod; it goes on when the shell that started it ends.
    Start(Box<StartArgs>),
    /// List the pods.
    Ls {
        /// How to print.
        #[arg(short, long, value_enum, default_value_t = Form::Table)]
        output: Form,
    },
    /// Stop pods; nothing of them stays.
    Stop {
        /// Their names.
        #[arg(required_unless_present = "all")]
        names: Vec<String>,
        /// All pods of this user.
        #[arg(long, conflicts_with = "names")]
        all: bool,
    },
    /// Print what a pod's command has printed.
    Logs {
        /// Its name.
        name: String,
    },
    /// Run a command inside of a pod.
    Exec {
        /// Its name.
        name: String,
        /// The command and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Run a command on the pods' node, where it reaches all of them.
    NodeExec {
        /// The command and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
}

/// Arguments of `local start`.
#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// Name of the pod: a DNS label, and how other pods find it.
    name: String,
    /// A port of this machine's loopback that leads to a port of the pod.
    #[arg(long, value_name = "HOST:POD")]
    publish: Vec<Publish>,
    /// A variable of the pod's command.
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<OsString>,
    /// The pod's files are those below this folder.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Hostname of the pod; its name when not given.
    #[arg(long)]
    hostname: Option<String>,
    /// A file that only the pod has, with this content or (@) that of a file here.
    #[arg(long = "file", value_name = "PATH=CONTENT|@FILE", value_parser = pod_file)]
    files: Vec<PodFile>,
    /// Working directory in the pod; this one when not given, with --root the pod's `/`.
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// The command and its arguments, as the pod sees them.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// Runs one of the commands.
pub(crate) fn run(command: LocalCommand) -> Result<ExitCode> {
    match command {
        LocalCommand::Start(args) => start(*args),
        LocalCommand::Ls { output } => list(output),
        LocalCommand::Stop { all: true, .. } => {
            let stopped = local::stop_all()?;
            print(&format!("{stopped} pods stopped\n"))?;
            Ok(ExitCode::SUCCESS)
        }
        LocalCommand::Stop { names, .. } => {
            names.iter().try_for_each(|name| local::stop(name))?;
            Ok(ExitCode::SUCCESS)
        }
        LocalCommand::Logs { name } => {
            let path = local::log_path(&name)?;
            let mut log = fs::File::open(&path).with_context(|| format!("read {}", path.display()))?;
            match io::copy(&mut log, &mut io::stdout().lock()) {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    Err(error).context("print the log")
                }
                _ => Ok(ExitCode::SUCCESS),
            }
        }
        LocalCommand::Exec { name, command } => become_command(local::exec_command(&name, &command)?),
        LocalCommand::NodeExec { command } => become_command(local::node_exec_command(&command)?),
    }
}

fn start(args: StartArgs) -> Result<ExitCode> {
    let mut spec = StartSpec::new(args.name, args.command);
    spec.publish = args.publish;
    spec.env = args.env.iter().map(|text| local::spec::parse_variable(text)).collect::<Result<_, _>>()?;
    spec.root = args.root;
    spec.hostname = args.hostname;
    spec.files = args.files;
    spec.cwd = match (args.cwd, &spec.root) {
        (None, None) => Some(env::current_dir().context("find the working directory")?),
        (cwd, _) => cwd,
    };
    let pod = local::start(&spec)?;
    print(&format!("local/{} runs, pid {}, {}\n", pod.name, pod.pid, pod.ip))?;
    for port in &pod.ports_published {
        print(&format!("127.0.0.1:{} leads to its port {}\n", port.host, port.pod))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn list(form: Form) -> Result<ExitCode> {
    let pods = local::list()?;
    match form {
        Form::Json => print(&format!(
            "{}\n",
            serde_json::to_string_pretty(&pods.iter().map(json).collect::<Vec<_>>())?
        ))?,
        Form::Table if pods.is_empty() => {
            print("no local pods; `mirrord-tui local start NAME -- CMD` makes one\n")?
        }
        Form::Table => {
            let header = ["NAME", "STATE", "PID", "IP", "PUBLISHED", "COMMAND"].map(str::to_owned).to_vec();
            let rows = pods.iter().map(|pod| {
                vec![
                    pod.name.clone(),
                    pod.state.to_string(),
                    pod.pid.to_string(),
                    pod.ip.to_string(),
                    published(pod).join(","),
                    words(&pod.command).join(" "),
                ]
            });
            print(&table(&std::iter::once(header).chain(rows).collect::<Vec<_>>()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn json(pod: &LocalPod) -> serde_json::Value {
    let started = pod.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    serde_json::json!({
        "name": pod.name, "state": pod.state.to_string(), "pid": pod.pid, "init_pid": pod.init_pid, "ip": pod.ip, "ipv6": pod.ipv6,
        "published": published(pod), "command": words(&pod.command), "started_ms": started.as_millis(),
    })
}

fn published(pod: &LocalPod) -> Vec<String> {
    pod.ports_published.iter().map(|port| format!("{}:{}", port.host, port.pod)).collect()
}

fn words(command: &[OsString]) -> Vec<String> {
    command.iter().map(|word| word.to_string_lossy().into_owned()).collect()
}

/// Takes this process's place, so that terminal, signals and exit code are the command's.
fn become_command(mut command: Command) -> Result<ExitCode> {
    Err(command.exec()).context("start the command in the pod")
}

/// `PATH=CONTENT` or `PATH=@FILE`.
fn pod_file(text: &str) -> Result<PodFile, String> {
    let (path, content) = text.split_once('=').ok_or("write PATH=CONTENT or PATH=@FILE")?;
    let content = match content.strip_prefix('@') {
        None => content.as_bytes().to_vec(),
        Some(file) => fs::read(file).map_err(|error| format!("cannot read {file}: {error}"))?,
    };
    Ok(PodFile { path: path.into(), content })
}
