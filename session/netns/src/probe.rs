//! What this machine allows: asked by `doctor` and by the choice of the layer's attachment. Nothing that a probe makes stays.
//!
//! Whatever cannot be undone (namespaces, filters) happens in a child process that ends with the probe.

use std::{fs::OpenOptions, os::unix::fs::OpenOptionsExt};

mod child;
mod network;
mod process;

/// One question and its answer.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Short name: `user-namespace`, `netns`, `nft-owner`, `nfqueue`, `nft-redirect`, `conntrack`, `seccomp-listener`, `pidfd-getfd`,
    /// `process-vm-readv`, `fuse`, `capture`.
    pub name: &'static str,
    /// `Ok`: what was found; `Err`: why it does not work.
    pub result: Result<String, String>,
    /// What to do about it; empty when it works.
    pub hint: String,
}

/// What a probe found, or why it failed.
type Answer = Result<String, String>;

/// Asks everything, one after the other.
#[must_use]
pub fn all() -> Vec<Probe> {
    let mut answers = network::answers();
    answers.push((Question::SeccompListener, process::seccomp_listener()));
    answers.push((Question::PidfdGetfd, process::pidfd_getfd()));
    answers.push((Question::ProcessVmReadv, process::process_vm_readv()));
    answers.push((Question::Fuse, fuse()));
    probes(answers)
}

fn probes(answers: Vec<(Question, Answer)>) -> Vec<Probe> {
    answers
        .into_iter()
        .map(|(question, result)| {
            let hint = if result.is_ok() { String::new() } else { question.hint().to_owned() };
            Probe { name: question.name(), result, hint }
        })
        .collect()
}

/// Asks only what trapping system calls cannot do without (pidfd_getfd(2) makes a few of them exacter); a fraction of [`all`]'s time.
#[must_use]
pub fn trapping() -> Vec<Probe> {
    let answers = vec![
        (Question::SeccompListener, process::seccomp_listener()),
        (Question::ProcessVmReadv, process::process_vm_readv()),
    ];
    probes(answers)
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    UserNamespace,
    Netns,
    NftOwner,
    Nfqueue,
    NftRedirect,
    Conntrack,
    Capture,
    SeccompListener,
    PidfdGetfd,
    ProcessVmReadv,
    Fuse,
}

impl Question {
    /// Those that are answered inside new namespaces, in the order in which they are asked.
    const INSIDE: [Self; 7] = [
        Self::UserNamespace,
        Self::Netns,
        Self::NftOwner,
        Self::Nfqueue,
        Self::NftRedirect,
        Self::Conntrack,
        Self::Capture,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::UserNamespace => "user-namespace",
            Self::Netns => "netns",
            Self::NftOwner => "nft-owner",
            Self::Nfqueue => "nfqueue",
            Self::NftRedirect => "nft-redirect",
            Self::Conntrack => "conntrack",
            Self::Capture => "capture",
            Self::SeccompListener => "seccomp-listener",
            Self::PidfdGetfd => "pidfd-getfd",
            Self::ProcessVmReadv => "process-vm-readv",
            Self::Fuse => "fuse",
        }
    }

    fn hint(self) -> &'static str {
        match self {
            Self::UserNamespace => {
                "Set kernel.unprivileged_userns_clone=1 (Debian) and user.max_user_namespaces above 0; on Ubuntu 23.10 or later set \
                 kernel.apparmor_restrict_unprivileged_userns=0 or give the program an AppArmor profile with `userns`; in a container \
                 use a seccomp profile that allows unshare(2)."
            }
            Self::Netns => {
                "The kernel needs CONFIG_NET_NS; on Ubuntu 23.10 or later AppArmor takes the capabilities in a new user namespace away, \
                 see user-namespace."
            }
            Self::NftOwner => {
                "The kernel needs nf_tables and must be 5.12 or newer; load it with `modprobe nf_tables`."
            }
            Self::Nfqueue => {
                "Load nfnetlink_queue and nft_queue (or nft_compat with xt_NFQUEUE) with modprobe; without them connect(2) succeeds \
                 before the target has answered."
            }
            Self::NftRedirect => "Load nft_redir, nft_chain_nat, nft_ct and nft_reject_inet with modprobe.",
            Self::Conntrack => "Load nf_conntrack_netlink with modprobe.",
            Self::Capture => {
                "The kernel needs CONFIG_PACKET with memory-mapped rings; mirroring needs CAP_NET_RAW."
            }
            Self::SeccompListener => {
                "The syscall attachment needs Linux 5.14 and no other seccomp listener above this process; the libc attachment works \
                 without it."
            }
            Self::PidfdGetfd => {
                "Allow pidfd_getfd(2): Linux 5.6, kernel.yama.ptrace_scope below 2, and in a container CAP_SYS_PTRACE or a seccomp \
                 profile that allows it."
            }
            Self::ProcessVmReadv => {
                "Allow process_vm_readv(2) on children: kernel.yama.ptrace_scope below 2, and in a container a seccomp profile that \
                 allows it."
            }
            Self::Fuse => {
                "Load the fuse module and let your user open /dev/fuse (mode 0666 on desktop systems, --device /dev/fuse in a \
                 container); without it large remote files are copied before they are opened."
            }
        }
    }
}

fn fuse() -> Answer {
    const PATH: &str = "/dev/fuse";
    let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(PATH);
    opened
        .map(|_| format!("{PATH} can be opened"))
        .map_err(|error| format!("{PATH} cannot be opened: {error}"))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn every_question_is_answered_once_and_soon() {
        let start = Instant::now();
        let probes = all();
        assert!(start.elapsed() < Duration::from_secs(2));
        let names: std::collections::BTreeSet<_> = probes.iter().map(|probe| probe.name).collect();
        assert_eq!((names.len(), probes.len()), (11, 11));
        for probe in probes {
            assert_eq!(probe.result.is_ok(), probe.hint.is_empty(), "{probe:?}");
            assert!(!probe.result.unwrap_or_else(|reason| reason).is_empty());
        }
    }

    #[test]
    fn nothing_of_it_stays() {
        let before = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let probes = all();
        assert_eq!(std::fs::read_link("/proc/thread-self/ns/net").unwrap(), before);
        assert!(!rustix::thread::no_new_privs().unwrap(), "the filter was the child's");
        drop(probes);
    }
}
