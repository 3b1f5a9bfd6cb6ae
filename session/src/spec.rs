//! What a session shall be: written by whoever starts it as `spec.json` in the session's folder, read once by the host.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    hash::{BuildHasher, Hasher, RandomState},
    io,
    path::PathBuf,
};

use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::{
    cluster::{ClusterConfig, agent_job::AgentOptions},
    config::Config,
    target::Target,
};

/// Everything that the session host needs to know at its start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionSpec {
    /// Short id, also the name of the session's folder.
    pub id: String,
    /// What is impersonated.
    pub target: Target,
    /// All pods of the target, and not the best one alone.
    #[serde(default)]
    pub all_pods: bool,
    /// Cluster and namespace of a cluster target.
    #[serde(default)]
    pub cluster: ClusterConfig,
    /// How the agent is started in a cluster.
    #[serde(default)]
    pub agent: AgentOptions,
    /// Effective configuration.
    pub config: Config,
    /// The command and its arguments; never empty.
    pub command: Vec<OsString>,
    /// Working directory of the command.
    pub cwd: PathBuf,
    /// Environment of the caller, before the target's is merged in.
    #[serde(with = "pairs")]
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

impl SessionSpec {
    /// A session for whoever calls: its working directory, environment and process group, owned, without terminal or recording.
    ///
    /// # Errors
    /// When the working directory does not exist any more.
    pub fn for_caller(target: Target, config: Config, command: Vec<OsString>) -> io::Result<Self> {
        Ok(Self {
            id: new_id(),
            target,
            all_pods: false,
            cluster: ClusterConfig::default(),
            agent: AgentOptions::default(),
            config,
            command,
            cwd: std::env::current_dir()?,
            environment: std::env::vars_os().collect(),
            process_group: own_process_group().map(|group| group.as_raw_nonzero().get().cast_unsigned()),
            terminal: None,
            owned: true,
            record: None,
            report_local_files: false,
            equal_command: String::new(),
        })
    }
}

/// The process group of this process. None if its leader is outside of this PID namespace, as that of a program may be that somebody
/// starts in a container: getpgrp(2) gives 0 then, which `rustix` does not expect, so it is read from proc_pid_stat(5).
pub(crate) fn own_process_group() -> Option<Pid> {
    let stat = std::fs::read("/proc/self/stat").ok()?;
    let after_name = stat.rsplit(|&byte| byte == b')').next()?;
    let group = std::str::from_utf8(after_name).ok()?.split_ascii_whitespace().nth(2)?;
    Pid::from_raw(group.parse().ok()?)
}

impl SessionSpec {
    /// An equal session with an id of its own. A recording goes to a file of its own, too: that of this session is not overwritten.
    #[must_use]
    pub fn again(mut self) -> Self {
        self.id = new_id();
        self.record = self.record.map(|path| {
            let mut name = path.file_stem().unwrap_or_default().to_owned();
            name.push(format!("-{}", self.id));
            if let Some(ending) = path.extension() {
                name.push(".");
                name.push(ending);
            }
            path.with_file_name(name)
        });
        self
    }
}

/// Five letters and digits that are easy to type; 2^25 of them are enough for the sessions of one user at a time.
fn new_id() -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    // The standard library seeds this hasher from the system's random numbers.
    let mut random = RandomState::new().build_hasher();
    random.write_u32(std::process::id());
    let bits = random.finish();
    (0..5)
        .filter_map(|index| LETTERS.get(usize::try_from(bits >> (index * 5) & 31).ok()?))
        .map(|letter| char::from(*letter))
        .collect()
}

/// A map as a list of pairs: keys in JSON must be text, and names of variables need not be.
pub(crate) mod pairs {
    use std::{collections::BTreeMap, ffi::OsString};

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        map: &BTreeMap<OsString, OsString>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(map)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<BTreeMap<OsString, OsString>, D::Error> {
        Vec::<(OsString, OsString)>::deserialize(from).map(|pairs| pairs.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::ffi::OsStringExt, process::Command};

    use super::*;

    #[test]
    fn an_equal_session_has_its_own_id_and_recording() {
        let mut spec =
            SessionSpec::for_caller(Target::Local("shop".to_owned()), Config::default(), Vec::new()).unwrap();
        spec.record = Some("/tmp/a.jsonl".into());
        let before = spec.id.clone();
        let again = spec.again();
        assert_ne!(again.id, before);
        assert_eq!(again.record.unwrap(), PathBuf::from(format!("/tmp/a-{}.jsonl", again.id)));
    }

    #[test]
    fn the_process_group_is_that_of_our_children() {
        let child = Command::new("cut").args(["-d", " ", "-f", "5", "/proc/self/stat"]).output().unwrap();
        let group: i32 = String::from_utf8(child.stdout).unwrap().trim().parse().unwrap();
        assert_eq!(own_process_group(), Pid::from_raw(group));
    }

    #[test]
    fn a_spec_survives_the_file_whatever_its_bytes() {
        let odd = OsString::from_vec(vec![b'x', 0xff]);
        let spec = SessionSpec {
            id: "a1".to_owned(),
            target: Target::Local("shop".to_owned()),
            all_pods: false,
            cluster: ClusterConfig::default(),
            agent: AgentOptions::default(),
            config: Config::default(),
            command: vec!["run".into(), odd.clone()],
            cwd: "/tmp".into(),
            environment: BTreeMap::from([("A".into(), odd.clone()), (odd, "b".into())]),
            process_group: Some(7),
            terminal: None,
            owned: true,
            record: None,
            report_local_files: false,
            equal_command: String::new(),
        };
        let back: SessionSpec = serde_json::from_slice(&serde_json::to_vec(&spec).unwrap()).unwrap();
        assert_eq!(back.command, spec.command);
        assert_eq!(back.environment, spec.environment);
        assert_eq!(back.config, spec.config);
    }
}
