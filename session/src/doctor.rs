//! What this machine allows: the kernel's features one by one, and which attachment follows from them.

use mirrord_netns::probe;
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

/// Probes without which the syscall attachment cannot work; the others only make something better.
const NEEDED: [&str; 4] = ["network namespace", "nft owner table", "nat redirect", "seccomp notification"];

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
    let probes: Vec<Finding> = probe::all()
        .into_iter()
        .map(|probe| Finding {
            name: probe.name.to_owned(),
            works: probe.result.is_ok(),
            detail: probe.result.unwrap_or_else(|why| why),
            hint: probe.hint.to_owned(),
        })
        .collect();
    let missing: Vec<&str> = probes
        .iter()
        .filter(|probe| !probe.works && NEEDED.contains(&probe.name.as_str()))
        .map(|probe| probe.name.as_str())
        .collect();
    let usable = missing.is_empty();
    let reason = if usable {
        "system calls can be trapped and a session netns can be made: every binary works, static ones included".to_owned()
    } else {
        format!("the syscall attachment needs what is missing here: {}", missing.join(", "))
    };
    Report { attachment: if usable { "syscall" } else { "none" }, reason, usable, probes }
}
