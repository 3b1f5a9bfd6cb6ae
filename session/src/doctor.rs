//! What this machine allows: the kernel's features one by one, and which attachment follows from them.

use mirrord_netns::probe::{self, Probe};
use serde::Serialize;

use crate::{
    cluster::preflight::{self, Verdict},
    host::find_local,
    target::Target,
};

/// The answer of `doctor`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// One per feature.
    pub probes: Vec<Finding>,
    /// The attachment that a session would use here.
    pub attachment: &'static str,
    /// Why that one.
    pub reason: String,
    /// A session can run here.
    pub usable: bool,
}

/// One feature of the machine.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What was tried.
    pub name: String,
    /// Whether it works.
    pub works: bool,
    /// What was found, or why it does not work.
    pub detail: String,
    /// What to do when it does not; empty when nothing can be done.
    pub hint: String,
}

/// Probes without which no session netns can be made.
const NETNS: [&str; 3] = ["netns", "nft-owner", "nft-redirect"];
/// Probes without which system calls cannot be trapped.
const TRAPPING: [&str; 2] = ["seccomp-listener", "process-vm-readv"];
/// The probe without which the results of connect(2) come too early.
const QUEUE: &str = "nfqueue";

/// Whether a target on this machine is there.
#[must_use]
pub fn examine_local(target: &Target) -> preflight::Report {
    let (verdict, detail, hint) = match find_local(target) {
        Ok(pid) => (Verdict::Fine, format!("runs, process {pid}"), String::new()),
        Err((text, hint)) => (Verdict::Refused, text, hint),
    };
    let finding = preflight::Finding { name: "target", verdict, detail, hint };
    preflight::Report { target: target.to_string(), findings: vec![finding] }
}

/// Tries every feature; takes less than 100 ms and leaves nothing behind.
#[must_use]
pub fn examine() -> Report {
    report(probe::all())
}

fn report(probes: Vec<Probe>) -> Report {
    let probes: Vec<Finding> = probes
        .into_iter()
        .map(|probe| Finding {
            name: probe.name.to_owned(),
            works: probe.result.is_ok(),
            detail: probe.result.unwrap_or_else(|why| why),
            hint: probe.hint,
        })
        .collect();
    let (attachment, reason) = conclude(&probes);
    Report { attachment, reason, usable: attachment != "none", probes }
}

/// The attachment that a session would use, and why.
fn conclude(probes: &[Finding]) -> (&'static str, String) {
    let missing = |needed: &[&str]| {
        let missing = probes.iter().filter(|probe| !probe.works && needed.contains(&probe.name.as_str()));
        missing.map(|probe| probe.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let (netns, trapping) = (missing(&NETNS), missing(&TRAPPING));
    if !netns.is_empty() {
        let reason = "no session netns can be made, so only dynamically linked programs work, with rewritten addresses; missing here:";
        return ("libc", format!("{reason} {netns}"));
    }
    let (attachment, mut reason) = if trapping.is_empty() {
        ("syscall", "every binary works, static ones included".to_owned())
    } else {
        let reason =
            "system calls cannot be trapped, so only dynamically linked programs work; missing here:";
        ("libc", format!("{reason} {trapping}"))
    };
    if !missing(&[QUEUE]).is_empty() {
        reason.push_str(
            "; this kernel cannot hold packets: connect(2) succeeds before the target has answered, UDP is limited to DNS, and loopback \
             stays inside the session",
        );
    }
    (attachment, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without(missing: &str) -> Report {
        let mut probes = probe::all();
        for probe in &mut probes {
            let works = probe.name != missing;
            probe.result = if works { Ok("found".to_owned()) } else { Err("not there".to_owned()) };
        }
        report(probes)
    }

    #[test]
    fn what_is_needed_is_asked_and_its_lack_is_named() {
        for (names, attachment) in [(&NETNS[..], "libc"), (&TRAPPING[..], "libc")] {
            for needed in names {
                let report = without(needed);
                assert_eq!((report.usable, report.attachment), (true, attachment), "{needed}");
                assert!(report.reason.contains(needed), "{}", report.reason);
            }
        }
        for other in ["fuse", "capture", ""] {
            assert!(without(other).usable && without(other).reason.contains("every binary works"));
        }
    }

    #[test]
    fn a_kernel_without_a_queue_is_usable_and_told_apart() {
        let report = without(QUEUE);
        assert!(report.usable && report.attachment == "syscall");
        assert!(report.reason.contains("cannot hold packets"), "{}", report.reason);
    }
}
