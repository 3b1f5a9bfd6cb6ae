//! What a session shall be: written by whoever starts it as `spec.json` in the session's folder, read once by the host.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{config::Config, target::Target};

/// Everything that the session host needs to know at its start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionSpec {
    /// Short id, also the name of the session's folder.
    pub id: String,
    /// What is impersonated.
    pub target: Target,
    /// Effective configuration.
    pub config: Config,
    /// The command and its arguments; never empty.
    pub command: Vec<OsString>,
    /// Working directory of the command.
    pub cwd: PathBuf,
    /// Environment of the caller, before the target's is merged in.
    pub environment: BTreeMap<OsString, OsString>,
    /// Process group that the command joins, so that the user's terminal signals reach it; `None`: one of its own.
    pub process_group: Option<u32>,
    /// Run the command in a terminal of the host's (terminal UI); `None`: with the host's standard descriptors.
    pub terminal: Option<(u16, u16)>,
    /// The session ends when its starter does (text mode); otherwise it goes on without viewers.
    pub owned: bool,
    /// Record to this file from the start.
    pub record: Option<PathBuf>,
    /// Local path calls become events, too.
    pub report_local_files: bool,
    /// The command line that starts an equal session.
    pub equal_command: String,
}
