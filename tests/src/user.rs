//! Who runs the program: the suite runs as root and drops to an ordinary user for half of its tests.

use std::{fmt, os::unix::process::CommandExt, process::Command};

/// A user of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// Whoever runs the tests, if that is root.
    Root,
    /// A user without any privilege.
    Ordinary,
}

/// A uid and gid that no account of a fresh machine has.
const ORDINARY: u32 = 64_123;

impl User {
    /// Both when the suite runs as root, else only the one there is.
    #[must_use]
    pub fn all() -> &'static [Self] {
        if rustix::process::geteuid().is_root() { &[Self::Root, Self::Ordinary] } else { &[Self::Ordinary] }
    }

    /// uid of the user's processes.
    #[must_use]
    pub fn uid(self) -> u32 {
        match self {
            Self::Root => 0,
            Self::Ordinary if rustix::process::geteuid().is_root() => ORDINARY,
            Self::Ordinary => rustix::process::geteuid().as_raw(),
        }
    }

    /// Makes `command` run as this user.
    pub fn apply(self, command: &mut Command) {
        if self == Self::Ordinary && rustix::process::geteuid().is_root() {
            command.uid(ORDINARY).gid(ORDINARY);
        }
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "root",
            Self::Ordinary => "ordinary user",
        })
    }
}
