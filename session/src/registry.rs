//! The running sessions of this user: one folder each, `sessions/ID` in the runtime folder.
//!
//! ```text
//! lock        locked as long as the session host lives; taken by the starter and inherited by the host, so never free in between
//! host.sock   session.proto, mode 0600; bound by the starter, so that a viewer can connect before the host runs
//! spec.json   what the session shall be
//! host.log    the host's log, JSON lines
//! ```
//! The host removes its folder at its end. One whose lock is free was left by a host that was killed; whoever lists removes it.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use hyper_util::rt::TokioIo;
use mirrord_protocol::session::v1::session_client::SessionClient;
use rustix::fs::{FlockOperation, flock};
use thiserror::Error;
use tokio::{net::UnixStream, time::timeout};
use tonic::transport::{Channel, Endpoint};

use crate::{
    limits::{SESSION_CONNECT, SESSION_START},
    paths::{self, PathsError},
    spec::SessionSpec,
};

/// Names of what lies in a session's folder.
pub(crate) const LOCK_FILE: &str = "lock";
pub(crate) const SOCKET_FILE: &str = "host.sock";
pub(crate) const SPEC_FILE: &str = "spec.json";
pub(crate) const LOG_FILE: &str = "host.log";

/// Why a session was not found or reached.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// There is no private folder.
    #[error("the folder of the sessions cannot be used")]
    Paths(#[from] PathsError),
    /// The folder cannot be read.
    #[error("the sessions in {} cannot be listed", path.display())]
    List {
        /// Which folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No session has this id.
    #[error("there is no session `{0}`")]
    Unknown(String),
    /// Several sessions have an id that begins so.
    #[error("`{prefix}` is the beginning of several sessions: {}", ids.join(", "))]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// What it may mean.
        ids: Vec<String>,
    },
    /// Its host does not answer.
    #[error("session {id} does not answer")]
    Connect {
        /// Which session.
        id: String,
        /// What the transport said.
        source: tonic::transport::Error,
    },
    /// What it was started with cannot be read.
    #[error("what session {id} was started with cannot be read")]
    Spec {
        /// Which session.
        id: String,
        /// What the system said.
        source: io::Error,
    },
    /// Its host does not answer in time.
    #[error("session {id} does not answer within {} s", SESSION_CONNECT.as_secs())]
    Slow {
        /// Which session.
        id: String,
    },
}

impl RegistryError {
    /// What the user can do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Paths(error) => error.hint(),
            Self::List { .. } => {
                "check the permissions of that folder, or set XDG_RUNTIME_DIR to another one"
            }
            Self::Unknown(_) => "`mirrord-tui sessions` lists them",
            Self::Ambiguous { .. } => "give more letters of the id",
            Self::Connect { .. } | Self::Slow { .. } | Self::Spec { .. } => {
                "it may be ending just now; `mirrord-tui sessions` tells"
            }
        }
    }
}

/// The folder that holds the folders of all sessions.
pub(crate) fn sessions_dir() -> Result<PathBuf, PathsError> {
    let dir = paths::runtime_dir()?.join("sessions");
    paths::private_dir(&dir)?;
    Ok(dir)
}

/// Ids of the sessions whose host lives, in order. Removes what killed hosts have left.
///
/// # Errors
/// [`RegistryError::Paths`], [`RegistryError::List`].
pub fn list() -> Result<Vec<String>, RegistryError> {
    list_in(&sessions_dir()?)
}

fn list_in(dir: &Path) -> Result<Vec<String>, RegistryError> {
    let error = |source| RegistryError::List { path: dir.to_owned(), source };
    let mut ids = Vec::new();
    for entry in fs::read_dir(dir).map_err(error)? {
        let entry = entry.map_err(error)?;
        let Ok(id) = entry.file_name().into_string() else { continue };
        match life(&entry.path()) {
            Life::Lives => ids.push(id),
            Life::Stale => {
                tracing::info!(id, "removing what a killed session host has left");
                if let Err(error) = fs::remove_dir_all(entry.path()) {
                    tracing::warn!(id, %error, "a stale session cannot be removed");
                }
            }
            Life::Unknown => {}
        }
    }
    ids.sort_unstable();
    Ok(ids)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Lives,
    Stale,
    /// Just being made, or just gone.
    Unknown,
}

fn life(dir: &Path) -> Life {
    match File::open(dir.join(LOCK_FILE)) {
        Ok(lock) => match flock(&lock, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Life::Stale,
            Err(_) => Life::Lives,
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound && age(dir) > SESSION_START => Life::Stale,
        Err(_) => Life::Unknown,
    }
}

/// How long ago something was changed in the folder; 0 when it is gone.
fn age(dir: &Path) -> Duration {
    let changed = fs::metadata(dir).and_then(|found| found.modified()).ok();
    changed.and_then(|changed| SystemTime::now().duration_since(changed).ok()).unwrap_or_default()
}

/// Connects to the session whose id is or begins with `id`.
///
/// # Errors
/// [`RegistryError`].
pub async fn connect(id: &str) -> Result<SessionClient<Channel>, RegistryError> {
    let dir = sessions_dir()?;
    let id = resolve(id, list_in(&dir)?)?;
    let path = dir.join(&id).join(SOCKET_FILE);
    connect_socket(&id, &path).await
}

/// What the session whose id is or begins with `id` was started with. It can be read as long as the session lives.
///
/// # Errors
/// [`RegistryError`].
pub fn spec(id: &str) -> Result<SessionSpec, RegistryError> {
    let dir = sessions_dir()?;
    let id = resolve(id, list_in(&dir)?)?;
    let path = dir.join(&id).join(SPEC_FILE);
    let read = || serde_json::from_slice(&fs::read(&path)?).map_err(io::Error::from);
    read().map_err(|source| RegistryError::Spec { id, source })
}

/// The one id that is meant by the beginning of one.
fn resolve(prefix: &str, ids: Vec<String>) -> Result<String, RegistryError> {
    if ids.iter().any(|id| id == prefix) {
        return Ok(prefix.to_owned());
    }
    let mut found: Vec<String> =
        ids.into_iter().filter(|id| !prefix.is_empty() && id.starts_with(prefix)).collect();
    match found.len() {
        1 => Ok(found.swap_remove(0)),
        0 => Err(RegistryError::Unknown(prefix.to_owned())),
        _ => Err(RegistryError::Ambiguous { prefix: prefix.to_owned(), ids: found }),
    }
}

pub(crate) async fn connect_socket(id: &str, path: &Path) -> Result<SessionClient<Channel>, RegistryError> {
    connect_through(id, path, None).await
}

/// As [`connect_socket`], at first through a connection that is there already.
pub(crate) async fn connect_through(
    id: &str,
    path: &Path,
    mut early: Option<UnixStream>,
) -> Result<SessionClient<Channel>, RegistryError> {
    let path = path.to_owned();
    let connector = tower::service_fn(move |_| {
        let (path, early) = (path.clone(), early.take());
        async move {
            match early {
                Some(stream) => Ok(stream),
                None => UnixStream::connect(path).await,
            }
            .map(TokioIo::new)
        }
    });
    // The name is for the Host header only.
    let endpoint = Endpoint::from_static("http://session.local");
    match timeout(SESSION_CONNECT, endpoint.connect_with_connector(connector)).await {
        Ok(Ok(channel)) => Ok(SessionClient::new(channel)),
        Ok(Err(source)) => Err(RegistryError::Connect { id: id.to_owned(), source }),
        Err(_) => Err(RegistryError::Slow { id: id.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_host_left_is_removed_and_the_living_stay() {
        let base = tempfile::tempdir().unwrap();
        for id in ["lives", "stale", "young"] {
            fs::create_dir(base.path().join(id)).unwrap();
        }
        let lock = File::create(base.path().join("lives").join(LOCK_FILE)).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        File::create(base.path().join("stale").join(LOCK_FILE)).unwrap();
        assert_eq!(list_in(base.path()).unwrap(), ["lives"]);
        assert!(!base.path().join("stale").exists());
        assert!(base.path().join("young").exists(), "its starter may not have come to the lock yet");
        drop(lock);
        assert!(list_in(base.path()).unwrap().is_empty());
        assert!(!base.path().join("lives").exists());
    }

    #[test]
    fn an_id_may_be_shortened_as_long_as_it_is_clear() {
        let ids = || vec!["abc".to_owned(), "abd".to_owned(), "ab".to_owned(), "x1".to_owned()];
        assert_eq!(resolve("x", ids()).unwrap(), "x1");
        assert_eq!(resolve("ab", ids()).unwrap(), "ab");
        assert!(matches!(resolve("a", ids()), Err(RegistryError::Ambiguous { ids, .. }) if ids.len() == 3));
        assert!(matches!(resolve("q", ids()), Err(RegistryError::Unknown(_))));
        assert!(matches!(resolve("", vec!["a".to_owned()]), Err(RegistryError::Unknown(_))));
    }
}
