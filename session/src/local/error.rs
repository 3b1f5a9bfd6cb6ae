//! Why something with a local pod did not work, with what to do about it and the exit code that a shell would give.

use std::{fs, io, path::Path};

use thiserror::Error;

use super::{
    spec::SpecError,
    wire::{Failure, WireError},
};
use crate::paths::PathsError;

/// Why something with a local pod did not work.
#[derive(Debug, Error)]
pub enum LocalError {
    /// There is no private folder.
    #[error(transparent)]
    Paths(#[from] PathsError),
    /// The specification is wrong.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A port of this machine is not to be had.
    #[error("cannot listen on 127.0.0.1:{port}")]
    Listen {
        /// Which port.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// No pod of this name.
    #[error("there is no local pod `{name}`")]
    Unknown {
        /// The name that was asked for.
        name: String,
        /// Names that look like it, or all when there are few.
        near: Vec<String>,
    },
    /// The pod has ended.
    #[error("the local pod `{name}` does not run: {state}")]
    Ended {
        /// Its name.
        name: String,
        /// How it ended.
        state: super::PodState,
    },
    /// A pod of this name runs.
    #[error("a local pod `{name}` runs already")]
    Taken {
        /// Its name.
        name: String,
    },
    /// No address is left.
    #[error("there are as many local pods as there are addresses")]
    Full,
    /// There is no such program in the pod.
    #[error("there is no program `{command}` in the pod")]
    NotFound {
        /// What was to be run.
        command: String,
    },
    /// The program cannot be executed.
    #[error("`{command}` cannot be executed: {reason}")]
    NotExecutable {
        /// What was to be run.
        command: String,
        /// What the system said.
        reason: String,
    },
    /// The machine does not give us namespaces.
    #[error("this machine refuses {what}: {reason}")]
    Namespaces {
        /// Which namespaces.
        what: String,
        /// What the system said.
        reason: String,
    },
    /// A step of bring-up failed.
    #[error("the pod did not come up, {step}: {reason}")]
    Setup {
        /// What was done.
        step: String,
        /// What the system said.
        reason: String,
    },
    /// A connection to a port of a pod failed.
    #[error("cannot connect to port {port} of the local pod `{name}`")]
    Dial {
        /// The pod.
        name: String,
        /// The port.
        port: u16,
        /// What connect(2) said.
        source: io::Error,
    },
    /// The node could not be started.
    #[error("cannot start the node of the local pods")]
    Node(#[source] io::Error),
    /// The node does not answer as it should.
    #[error("the node of the local pods does not answer")]
    Wire(#[from] WireError),
    /// A file of a pod cannot be read or removed.
    #[error("cannot {what} {path}")]
    File {
        /// Done what.
        what: &'static str,
        /// With which file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

impl LocalError {
    /// What the user can do about it, when there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Paths(error) => Some(error.hint().to_owned()),
            Self::Listen { port, source } => Some(match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    format!("ports below 1024 need root: --publish {}:POD", port.saturating_add(8000))
                }
                _ => "choose another port with --publish HOST:POD; 0 takes any free one".to_owned(),
            }),
            Self::Unknown { near, .. } if near.is_empty() => {
                Some("start one: mirrord-tui local start NAME -- COMMAND".to_owned())
            }
            Self::Unknown { near, .. } => Some(format!("those that exist: {}", near.join(", "))),
            Self::Ended { name, .. } => {
                Some(format!("see `mirrord-tui local logs {name}`; start it again under the same name"))
            }
            Self::Taken { name } => {
                Some(format!("choose another name, or stop it: mirrord-tui local stop {name}"))
            }
            Self::Full => Some("stop some: mirrord-tui local stop NAME".to_owned()),
            Self::NotFound { .. } => {
                Some("give a path in the pod, or put its folder on --env PATH=...".to_owned())
            }
            Self::Namespaces { .. } => Some(namespaces_hint(Path::new("/proc/sys"))),
            Self::Node(_) | Self::Wire(_) => {
                Some("mirrord-tui doctor says what this machine allows".to_owned())
            }
            _ => None,
        }
    }

    /// A shell's exit code for a command that is missing (127) or cannot be executed (126); other errors have none.
    #[must_use]
    pub const fn exit_code(&self) -> Option<u8> {
        match self {
            Self::NotFound { .. } => Some(127),
            Self::NotExecutable { .. } => Some(126),
            _ => None,
        }
    }

    /// What the node refused, said about the pod that was asked for.
    pub(super) fn refused(name: &str, failure: Failure) -> Self {
        let name = name.to_owned();
        match failure {
            Failure::Unknown => Self::Unknown { name, near: Vec::new() },
            Failure::Taken => Self::Taken { name },
            Failure::Full => Self::Full,
            Failure::NotFound { command } => Self::NotFound { command },
            Failure::NotExecutable { command, reason } => Self::NotExecutable { command, reason },
            Failure::Namespaces { what, reason } => Self::Namespaces { what, reason },
            Failure::Setup { step, reason } => Self::Setup { step, reason },
        }
    }
}

/// Which switch of the machine forbids user namespaces, as far as it tells.
fn namespaces_hint(sys: &Path) -> String {
    let value = |name: &str| fs::read_to_string(sys.join(name)).ok().map(|text| text.trim().to_owned());
    let switch = |name: &str, bad: &str| value(name).is_some_and(|value| value == bad);
    if switch("user/max_user_namespaces", "0") {
        "as root: sysctl user.max_user_namespaces=10000".to_owned()
    } else if switch("kernel/unprivileged_userns_clone", "0") {
        "as root: sysctl kernel.unprivileged_userns_clone=1".to_owned()
    } else if switch("kernel/apparmor_restrict_unprivileged_userns", "1") {
        "as root: sysctl kernel.apparmor_restrict_unprivileged_userns=0, or give this program an AppArmor profile with `userns,`"
            .to_owned()
    } else {
        "a container needs a seccomp profile that allows unshare and mount (docker: --security-opt seccomp=unconfined)"
            .to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_switch_that_is_off_is_named() {
        let sys = tempfile::tempdir().unwrap();
        fs::create_dir_all(sys.path().join("kernel")).unwrap();
        assert!(namespaces_hint(sys.path()).contains("seccomp"));
        fs::write(sys.path().join("kernel/apparmor_restrict_unprivileged_userns"), "1\n").unwrap();
        assert!(namespaces_hint(sys.path()).contains("apparmor"));
        fs::write(sys.path().join("kernel/unprivileged_userns_clone"), "0\n").unwrap();
        assert!(namespaces_hint(sys.path()).contains("unprivileged_userns_clone=1"));
    }

    #[test]
    fn a_missing_command_gives_the_code_of_a_shell() {
        assert_eq!(
            LocalError::refused("a", Failure::NotFound { command: "x".into() }).exit_code(),
            Some(127)
        );
        let refused = Failure::NotExecutable { command: "x".into(), reason: "no".into() };
        assert_eq!(LocalError::refused("a", refused).exit_code(), Some(126));
    }
}
