//! Which attachment of the layer a session uses: what was asked for, what this machine allows, and why.

use mirrord_netns::probe;
use serde::{Deserialize, Serialize};

/// What was asked for with `--layer` or the key `layer`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    /// The best that this machine allows.
    #[default]
    Auto,
    /// Trapped system calls.
    Syscall,
    /// A library in each program.
    Libc,
}

impl Choice {
    /// The words that [`Choice::parse`] takes.
    pub const WORDS: &'static str = "auto, syscall or libc";

    /// The choice that a word names.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "auto" => Some(Self::Auto),
            "syscall" => Some(Self::Syscall),
            "libc" => Some(Self::Libc),
            _ => None,
        }
    }
}

/// How the layer is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// Trapped system calls.
    Syscall,
    /// A library in each program.
    Libc {
        /// Programs that cannot load it are put under a filter, as system calls can be trapped here.
        filters: bool,
    },
}

/// An attachment with its reason, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How.
    pub attachment: Attachment,
    /// Why so.
    pub reason: String,
    /// The better one was wanted and is refused here.
    pub fallback: bool,
}

impl Plan {
    /// The attachment's name, as events and listings show it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self.attachment {
            Attachment::Syscall => "syscall",
            Attachment::Libc { .. } => "libc",
        }
    }
}

/// Decides by what this machine allows for one process with another; forks, and takes some milliseconds.
#[must_use]
pub fn plan(choice: Choice) -> Plan {
    let refused: Vec<String> = probe::trapping()
        .into_iter()
        .filter_map(|probe| probe.result.err().map(|why| format!("{}: {why}", probe.name)))
        .collect();
    decide(choice, &refused.join("; "))
}

/// `refused`: why system calls cannot be trapped; empty when they can.
fn decide(choice: Choice, refused: &str) -> Plan {
    let filters = refused.is_empty();
    let libc = Attachment::Libc { filters };
    let (attachment, reason) = match (choice, filters) {
        (Choice::Auto, true) => (
            Attachment::Syscall,
            "seccomp user notification works on this machine: every binary is covered".to_owned(),
        ),
        (Choice::Auto, false) => {
            (libc, format!("system calls cannot be trapped here ({refused}): dynamically linked programs are covered"))
        }
        (Choice::Syscall, _) => (Attachment::Syscall, "asked for with --layer syscall".to_owned()),
        (Choice::Libc, true) => (
            libc,
            "asked for with --layer libc; programs that cannot load the library are put under the syscall attachment"
                .to_owned(),
        ),
        (Choice::Libc, false) => (libc, "asked for with --layer libc".to_owned()),
    };
    Plan { attachment, reason, fallback: choice == Choice::Auto && !filters }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_syscall_attachment_is_the_default_where_it_works() {
        let plan = decide(Choice::Auto, "");
        assert_eq!((plan.attachment, plan.name()), (Attachment::Syscall, "syscall"));
        let plan = decide(Choice::Auto, "seccomp-listener: refused");
        assert_eq!(plan.attachment, Attachment::Libc { filters: false });
        assert!(plan.fallback);
        assert!(plan.reason.contains("seccomp-listener: refused"), "{}", plan.reason);
    }

    #[test]
    fn what_was_asked_for_holds() {
        assert_eq!(decide(Choice::Syscall, "x: y").attachment, Attachment::Syscall);
        assert_eq!(decide(Choice::Libc, "").attachment, Attachment::Libc { filters: true });
        assert_eq!(decide(Choice::Libc, "x: y").attachment, Attachment::Libc { filters: false });
    }

    #[test]
    fn words_name_choices() {
        for word in Choice::WORDS.split([',', ' ']).filter(|word| !["", "or"].contains(word)) {
            assert!(Choice::parse(word).is_some(), "{word}");
        }
        assert_eq!(Choice::parse("Libc"), None);
    }
}
