//! The host as a process: what it inherits, its log, its signals, its owner; and the holder of the session netns as one.

use std::{
    fs::{File, OpenOptions},
    future::Future,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    thread::available_parallelism,
};

use mirrord_layer::inherited;
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use super::{HostError, bring_up::HOLDER_CONTROL, desk::Stop};
use crate::{
    limits::HOST_THREADS,
    registry::LOG_FILE,
    spec::SessionSpec,
    starter::{LISTENER_FD, LOCK_FD, OWNER_FD},
};

/// Names a folder in which the logs of session hosts are kept.
const LOG_DIR_VARIABLE: &str = "MIRRORD_TUI_LOG_DIR";

/// What to do about an error that only the log explains.
pub(super) const KEEP_LOG: &str =
    "set MIRRORD_TUI_LOG_DIR to a folder, start the session again and see the log that is kept there";

/// What the starter has handed down beside the standard descriptors.
#[derive(Debug)]
pub(super) struct Inherited {
    pub(super) listener: OwnedFd,
    pub(super) owner: Option<OwnedFd>,
    pub(super) lock: OwnedFd,
}

impl Inherited {
    pub(super) fn take() -> Result<Self, HostError> {
        let take = |number: i32| inherited(number.unsigned_abs());
        Ok(Self {
            listener: take(LISTENER_FD).ok_or(HostError::Descriptor(LISTENER_FD))?,
            owner: take(OWNER_FD),
            lock: take(LOCK_FD).ok_or(HostError::Descriptor(LOCK_FD))?,
        })
    }
}

/// The holder of the session netns (role `__netns`). It ends with its control endpoint, which only the host has; a death signal
/// would come too early, as the kernel ties it to the thread that made the process.
pub(crate) fn run_holder() -> u8 {
    let Some(control) = inherited(HOLDER_CONTROL.unsigned_abs()) else { return super::FAILED };
    match mirrord_netns::holder::run(control) {
        Ok(()) => 0,
        // The host has been told over the endpoint.
        Err(_) => super::FAILED,
    }
}

/// Sends the log to the session's folder: the standard error is the command's.
pub(super) fn log_to(dir: &Path) -> io::Result<()> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(log_path(dir))?;
    let level = std::env::var("MIRRORD_TUI_LOG").unwrap_or_else(|_| "info".to_owned());
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = fmt::layer().json().with_writer(Arc::new(file)).with_ansi(false);
    tracing_subscriber::registry().with(filter).with(lines).try_init().map_err(io::Error::other)?;
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::force_capture();
        tracing::error!(%panic, %backtrace, "panic");
    }));
    Ok(())
}

/// In the session's folder, which is removed at the end, or where the user wants to keep it.
fn log_path(dir: &Path) -> PathBuf {
    match (std::env::var_os(LOG_DIR_VARIABLE), dir.file_name()) {
        (Some(kept), Some(id)) => {
            let mut name = id.to_owned();
            name.push(".host.log");
            Path::new(&kept).join(name)
        }
        _ => dir.join(LOG_FILE),
    }
}

/// Takes the standard descriptors for the command and leaves /dev/null in their place: a pipe must see its end when the command
/// closes it, although the host lives on.
pub(super) fn take_standard() -> io::Result<[OwnedFd; 3]> {
    let standard = [
        rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?,
        rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?,
        rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3)?,
    ];
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(standard)
}

/// Signals that the caller ignores and so does the command, bit N-1 for signal N, as in /proc/PID/status.
pub(super) fn ignored_signals() -> u64 {
    const SIGPIPE: u64 = 1 << (libc::SIGPIPE - 1);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    // Rust's runtime ignores this one in every program; the command shall not.
    ignored & !SIGPIPE
}

pub(super) fn runtime() -> io::Result<Runtime> {
    let threads = available_parallelism().map_or(2, usize::from).clamp(2, HOST_THREADS);
    Builder::new_multi_thread().worker_threads(threads).thread_name("host").enable_all().build()
}

/// Stops the session when the other end of the owner's pipe is closed.
///
/// # Errors
/// When it is not a pipe.
pub(super) fn watch_owner(
    owner: OwnedFd,
    stop_tx: mpsc::Sender<Stop>,
) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut owner = pipe::Receiver::from_owned_fd(owner)?;
    Ok(async move {
        let mut buffer = [0; 16];
        // Nobody writes there; an error means the same as the end.
        while matches!(owner.read(&mut buffer).await, Ok(read) if read > 0) {}
        tracing::info!("the owner has gone");
        // Closed: the session has ended before.
        stop_tx.send(Stop::OwnerGone).await.ok();
    })
}

/// Stops the session on SIGTERM, SIGINT and SIGHUP.
pub(super) async fn watch_signals(stop_tx: mpsc::Sender<Stop>) {
    let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
    let [Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)] = kinds.map(signal) else {
        tracing::error!("signals cannot be caught");
        return;
    };
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
        tracing::info!("a signal asks to stop");
        if stop_tx.send(Stop::Signal).await.is_err() {
            return;
        }
    }
}

/// The command line as bytes.
pub(super) fn arguments(spec: &SessionSpec) -> Vec<bytes::Bytes> {
    spec.command.iter().map(|argument| bytes::Bytes::copy_from_slice(argument.as_bytes())).collect()
}
