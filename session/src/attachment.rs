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
        /// Their sockets come from a session netns; false: addresses are rewritten.
        netns: bool,
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

    /// The same where no session netns can be made: system calls that are trapped would have no sockets to hand out.
    #[must_use]
    pub fn without_netns(self, why: &str) -> Self {
        let filters = match self.attachment {
            Attachment::Syscall => true,
            Attachment::Libc { filters, .. } => filters,
        };
        let reason = match self.attachment {
            Attachment::Syscall => String::new(),
            Attachment::Libc { .. } => format!("{}; ", self.reason),
        };
        Self {
            attachment: Attachment::Libc { filters, netns: false },
            reason: format!(
                "{reason}no network namespace can be made here ({why}): the addresses of dynamically linked programs are rewritten"
            ),
            fallback: true,
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
    let libc = Attachment::Libc { filters, netns: true };
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
        assert_eq!(plan.attachment, Attachment::Libc { filters: false, netns: true });
        assert!(plan.fallback);
        assert!(plan.reason.contains("seccomp-listener: refused"), "{}", plan.reason);
    }

    #[test]
    fn what_was_asked_for_holds() {
        assert_eq!(decide(Choice::Syscall, "x: y").attachment, Attachment::Syscall);
        assert_eq!(decide(Choice::Libc, "").attachment, Attachment::Libc { filters: true, netns: true });
        assert_eq!(decide(Choice::Libc, "x: y").attachment, Attachment::Libc { filters: false, netns: true });
    }

    #[test]
    fn without_a_netns_addresses_are_rewritten() {
        let plan = decide(Choice::Auto, "").without_netns("EPERM");
        assert_eq!(plan.attachment, Attachment::Libc { filters: true, netns: false });
        assert!(plan.fallback && plan.reason.contains("EPERM"), "{}", plan.reason);
        let plan = decide(Choice::Auto, "seccomp-listener: refused").without_netns("EPERM");
        assert_eq!(plan.attachment, Attachment::Libc { filters: false, netns: false });
        assert!(plan.reason.contains("refused") && plan.reason.contains("EPERM"), "{}", plan.reason);
    }

    #[test]
    fn words_name_choices() {
        for word in Choice::WORDS.split([',', ' ']).filter(|word| !["", "or"].contains(word)) {
            assert!(Choice::parse(word).is_some(), "{word}");
        }
        assert_eq!(Choice::parse("Libc"), None);
    }
}
