//! Starts a session host: the part that runs in whoever wants a session (command line, UI).
//!
//! The folder, its lock and the listening socket are made here and inherited by the host, so the session can be listed and
//! connected to from the first moment, and a host that dies at once is seen as a closed connection.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{DirBuilderExt, OpenOptionsExt},
            net::UnixListener,
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use command_fds::{CommandFdExt, FdMapping};
use mirrord_protocol::session::v1::session_client::SessionClient;
use rustix::{
    fs::{FlockOperation, Mode, chmod, flock},
    pipe::{PipeFlags, pipe_with},
};
use thiserror::Error;
use tokio::{net::UnixStream, process::Child};
use tonic::transport::Channel;

use crate::{
    limits::HOST_ALLOCATOR,
    paths::PathsError,
    registry::{self, LOCK_FILE, RegistryError, SOCKET_FILE, SPEC_FILE},
    role,
    spec::SessionSpec,
};

/// A session that has been started; it comes up while the caller watches it.
#[derive(Debug)]
pub struct Started {
    /// Its id.
    pub id: String,
    /// Its folder.
    pub dir: PathBuf,
    /// Connection to its host.
    pub client: SessionClient<Channel>,
    /// The host's process.
    pub child: Child,
    /// As long as this is open an owned session has its owner; the system closes it with the process.
    pub owner: Option<OwnedFd>,
}

/// Why a session host could not be started.
#[derive(Debug, Error)]
pub enum StartError {
    /// There is no folder for it.
    #[error("the folder of the sessions cannot be used")]
    Paths(#[from] PathsError),
    /// A file of the session could not be made.
    #[error("{what} {} cannot be made", path.display())]
    Prepare {
        /// What.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The process could not be started.
    #[error("the session host cannot be started")]
    Spawn(#[source] io::Error),
    /// The host does not answer.
    #[error("the session host does not answer")]
    Connect(#[source] RegistryError),
}

impl StartError {
    /// What the user can do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Paths(error) => error.hint(),
            Self::Prepare { .. } => {
                "check that there is space and that the folder is yours, or set XDG_RUNTIME_DIR to another one"
            }
            Self::Spawn(_) => "check the limit of processes (ulimit -u)",
            Self::Connect(_) => "`mirrord-tui doctor` tells what this machine allows",
        }
    }
}

/// Descriptors of the host beside its standard ones.
pub(crate) const LISTENER_FD: i32 = 3;
pub(crate) const OWNER_FD: i32 = 4;
pub(crate) const LOCK_FD: i32 = 5;

/// Starts a session host for `spec`. It inherits the standard descriptors for the command, unless the command gets a terminal of the
/// host's.
///
/// # Errors
/// [`StartError`]; nothing is left behind then.
pub async fn start_session(spec: &SessionSpec) -> Result<Started, StartError> {
    let dir = registry::sessions_dir()?.join(&spec.id);
    DirBuilder::new().mode(0o700).create(&dir).map_err(prepare("the folder", &dir))?;
    let started = start_in(spec, &dir).await;
    if started.is_err() {
        // The host removes it in all other cases.
        drop(std::fs::remove_dir_all(&dir));
    }
    started
}

async fn start_in(spec: &SessionSpec, dir: &Path) -> Result<Started, StartError> {
    let lock_path = dir.join(LOCK_FILE);
    let lock = locked(&lock_path).map_err(prepare("the lock", &lock_path))?;
    let socket_path = dir.join(SOCKET_FILE);
    let listener = UnixListener::bind(&socket_path).map_err(prepare("the socket", &socket_path))?;
    chmod(&socket_path, Mode::RUSR | Mode::WUSR)
        .map_err(|error| prepare("the socket", &socket_path)(error.into()))?;
    write_spec(spec, &dir.join(SPEC_FILE))?;
    let mut descriptors = vec![(listener.into(), LISTENER_FD), (lock.into(), LOCK_FD)];
    let owner = if spec.owned {
        let (host_end, owner) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|error| StartError::Spawn(error.into()))?;
        descriptors.push((host_end, OWNER_FD));
        Some(owner)
    } else {
        None
    };
    // Connected before there is a host: one that fails at once says why, and its socket is gone by the time it could be looked for.
    let early = UnixStream::connect(&socket_path).await.map_err(prepare("a connection to", &socket_path))?;
    let mut child = spawn(dir, spec.terminal.is_none(), descriptors).map_err(StartError::Spawn)?;
    match registry::connect_through(&spec.id, &socket_path, Some(early)).await {
        Ok(client) => Ok(Started { id: spec.id.clone(), dir: dir.to_owned(), client, child, owner }),
        Err(error) => {
            drop(child.start_kill());
            drop(child.wait().await);
            Err(StartError::Connect(error))
        }
    }
}

/// Makes a locked file. It has its name only once it is locked: whoever lists the sessions meanwhile takes one with a free lock for
/// what a killed host has left, and removes it.
fn locked(path: &Path) -> io::Result<File> {
    let unnamed = path.with_extension("new");
    let lock = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unnamed)?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    std::fs::rename(&unnamed, path)?;
    Ok(lock)
}

fn spawn(dir: &Path, own_stdio: bool, descriptors: Vec<(OwnedFd, i32)>) -> io::Result<Child> {
    let mut command = Command::new(role::program()?);
    command.arg("__host").arg(dir);
    if !own_stdio {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    }
    if std::env::var_os("GLIBC_TUNABLES").is_none() {
        command.env("GLIBC_TUNABLES", HOST_ALLOCATOR);
    }
    // The terminal's signals are for the command; a group of its own keeps them from the host.
    command.process_group(0);
    let mappings = descriptors.into_iter().map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd });
    command.fd_mappings(mappings.collect()).map_err(io::Error::other)?;
    tokio::process::Command::from(command).spawn()
}

fn write_spec(spec: &SessionSpec, path: &Path) -> Result<(), StartError> {
    let json = serde_json::to_vec(spec).map_err(|error| prepare("the specification", path)(error.into()))?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(&json)).map_err(prepare("the specification", path))
}

fn prepare(what: &'static str, path: &Path) -> impl Fn(io::Error) -> StartError {
    move |source| StartError::Prepare { what, path: path.to_owned(), source }
}
