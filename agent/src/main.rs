//! The agent: one static executable that runs beside one target and serves one session (agent.proto).
//!
//! It listens where it was started, reads the target's files through /proc, works in the target's network through one thread that
//! has joined it, and ends by itself. Everything that it changes in the target's network belongs to it and ends with it.

mod address;
mod args;
mod container;
mod dns;
mod env;
mod files;
mod hand_over;
mod life;
mod limits;
mod mirror;
mod network;
mod outgoing;
mod relay;
mod server;
mod steal;
mod subscriptions;
mod target;
mod token;
mod transport;
mod udp;

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, Result};
use mirrord_protocol::agent::v1::agent_server::AgentServer;
use rustix::process::DumpableBehavior;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing_subscriber::EnvFilter;

use crate::{
    args::{Args, Subject, USAGE},
    hand_over::HandOver,
    life::{Life, Signals, Stdin},
    limits::{BLOCKING_THREADS, MESSAGE, SHUTDOWN_GRACE, WORKERS},
    network::TargetNetwork,
    server::AgentService,
    target::Target,
    transport::{Bound, Transport},
};

/// What tells the starter, on standard output, that clients may connect.
const READY: &[u8] = b"ready\n";

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .json()
        .with_writer(io::stderr)
        .with_env_filter(
            EnvFilter::try_from_env("MIRRORD_AGENT_LOG").unwrap_or_else(|_| EnvFilter::new("info")),
        )
        .init();
    // A panic ends the connection or the operation in which it happened, and is a line of the log like any other.
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "a part of the agent panicked")));
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the agent cannot run");
            ExitCode::FAILURE
        }
    }
}

/// What must happen while there is one thread: the listener, the user namespace.
fn start() -> Result<()> {
    let args = Args::parse(std::env::args_os().skip(1)).context(USAGE)?;
    rustix::thread::set_name(c"mirrord-agent").context("cannot set the name of the process")?;
    // Others of the same user could read what passes through otherwise.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .context("cannot hide the memory of the process")?;
    let bound = Bound::bind(&args.listen)?;
    let pid = match &args.subject {
        Subject::Pid(pid) => *pid,
        Subject::Container(id) => container::first_process(id, Path::new("/proc"))?,
    };
    target::join_user_namespace(pid)?;
    let target = Arc::new(Target::open(pid)?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("agent")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(run(&args, bound, target));
    // A file operation may hang in a broken file system; the process does not wait for it.
    runtime.shutdown_background();
    result
}

async fn run(args: &Args, bound: Bound, target: Arc<Target>) -> Result<()> {
    let life = Life::new();
    let tasks = TaskTracker::new();
    let network = TargetNetwork::start(&target).map_err(|error| {
        tracing::warn!(error = format!("{:#}", anyhow::Error::from(error)), "no network");
        "the agent may not enter the target's network; it needs CAP_SYS_ADMIN and CAP_SYS_PTRACE there"
            .to_owned()
    });
    let hand_over = if args.hand_over {
        HandOver::to_starter().context("cannot hand sockets over through standard input")?
    } else {
        HandOver::default()
    };
    let own_port = network::is_own(&target).then(|| args.listen.port()).flatten();
    let (held, client) = (Arc::clone(&target), &args.client);
    let service = AgentService::new(held, network, hand_over, life.clone(), tasks.clone(), client, own_port);
    let server =
        AgentServer::new(service).max_decoding_message_size(MESSAGE).max_encoding_message_size(MESSAGE);
    let transport = Transport::new(server, args.token, life.clone(), tasks.clone());
    let signals = Signals::install().context("cannot wait for signals")?;
    say_ready();
    tracing::info!(pid = target.pid(), version = env!("CARGO_PKG_VERSION"), "the agent is ready");
    let watched = life.watch(signals, &target, args.idle_timeout, Stdin::of(args));
    let (served, watched) = tokio::join!(transport.serve(bound), async {
        let watched = watched.await;
        // Also when watching failed: then nobody would end the server any more.
        life.ending().cancel();
        watched
    });
    tasks.close();
    if timeout(SHUTDOWN_GRACE, tasks.wait()).await.is_err() {
        tracing::warn!(tasks = tasks.len(), "some calls did not end in time and are cut off");
    }
    served.context("the listener broke")?;
    watched.context("cannot watch the target and the starter")
}

/// Clients may connect since the listener was bound; this says that nothing can go wrong any more.
fn say_ready() {
    if let Err(error) = io::stdout().write_all(READY).and_then(|()| io::stdout().flush()) {
        tracing::debug!(%error, "nobody waits for the ready sign");
    }
}
