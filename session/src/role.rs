//! The hidden processes of the program. The one executable starts itself again in these roles; `main` asks [`Role::from_args`]
//! before it parses anything.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

use crate::{host, local};

/// What this process is when it is not the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// `__host DIR`: the session host.
    Host(OsString),
    /// `__supervisor`: parent of the command; answers its trapped system calls.
    Supervisor,
    /// `__netns`: holds the session netns and makes sockets in it.
    Netns,
    /// `__mounts`: makes file systems that are attached nowhere, for remote directories and large files.
    Mounts,
    /// `__node DIR`: holds the node namespace of local pods and their resolver.
    Node(OsString),
    /// `__pod DIR`: brings up one local pod and is its parent.
    Pod(OsString),
    /// `__init DIR`: process 1 of a local pod.
    Init(OsString),
    /// `__trap PATH ARGUMENTS`: puts a program that cannot load the library under a filter, and becomes it.
    Trap(Vec<OsString>),
    /// `__enter pod|node PID CMD...`: runs a command within a local pod or on its node.
    Enter(Vec<OsString>),
}

impl Role {
    /// The role that the arguments name, if they do.
    #[must_use]
    pub fn from_args(mut args: impl Iterator<Item = OsString>) -> Option<Self> {
        let role = args.nth(1)?;
        match role.to_str()? {
            "__host" => Some(Self::Host(args.next()?)),
            "__supervisor" => Some(Self::Supervisor),
            "__netns" => Some(Self::Netns),
            "__mounts" => Some(Self::Mounts),
            "__node" => Some(Self::Node(args.next()?)),
            "__pod" => Some(Self::Pod(args.next()?)),
            "__init" => Some(Self::Init(args.next()?)),
            "__trap" => Some(Self::Trap(args.collect())),
            "__enter" => Some(Self::Enter(args.collect())),
            _ => None,
        }
    }

    /// Runs the role to its end and returns the exit code of the process.
    #[must_use]
    pub fn run(self) -> u8 {
        match self {
            Self::Host(dir) => host::run(Path::new(&dir)),
            Self::Netns => host::run_holder(),
            Self::Node(dir) => local::run_node(Path::new(&dir)),
            Self::Pod(dir) => local::run_pod(Path::new(&dir)),
            Self::Init(dir) => local::run_init(Path::new(&dir)),
            Self::Enter(args) => local::run_enter(&args),
            Self::Trap(args) => mirrord_layer::trap::run(args),
            Self::Supervisor => mirrord_layer::supervisor::run_inherited().code(),
            Self::Mounts => mirrord_layer::mounts::run_inherited().map_or(70, |()| 0),
        }
    }
}

/// The program to start in a role: this one, or, for tests that call the library, the one that `MIRRORD_TUI_BIN` names.
///
/// # Errors
/// When the system does not say which program this is.
pub fn program() -> io::Result<PathBuf> {
    std::env::var_os("MIRRORD_TUI_BIN").map_or_else(std::env::current_exe, |path| Ok(PathBuf::from(path)))
}
