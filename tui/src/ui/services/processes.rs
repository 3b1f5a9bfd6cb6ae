//! Processes of this user that listen on a TCP port, in this network namespace or another.
//!
//! To read the listeners of a namespace the kernel walks its whole table of connections, which takes milliseconds. So everything is
//! looked at only when processes have come or gone, and now and then; while nothing changes, a look costs one reading of `/proc`.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    path::{Path, PathBuf},
    time::Instant,
};

use crate::ui::{limits, model::targets::TargetRow, text, tone::Tone};

/// What was found at the last look.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pids: BTreeSet<u32>,
    /// When processes last came or went, and when all of them were looked at.
    changed: Option<Instant>,
    looked: Option<Instant>,
    rows: Vec<TargetRow>,
    /// Ports that are listened on in the namespace of a pod, by its first process.
    pods: HashMap<u32, Ports>,
}

#[derive(Debug)]
struct Ports {
    first: Instant,
    looked: Instant,
    ports: Vec<u16>,
}

/// Port and inode of listeners by network namespace.
type Namespaces = HashMap<PathBuf, Vec<(u16, u64)>>;

impl Scan {
    /// The processes that listen.
    pub(super) fn rows(&mut self, now: Instant) -> Vec<TargetRow> {
        let pids: BTreeSet<u32> = pids().collect();
        if pids != self.pids {
            self.pids = pids;
            self.changed = Some(now);
        }
        if due(now, self.changed, self.looked) {
            self.looked = Some(now);
            let mut namespaces = Namespaces::new();
            let own = std::process::id();
            let others = self.pids.iter().filter(|pid| **pid != own);
            self.rows = others.filter_map(|pid| process_row(*pid, &mut namespaces)).collect();
        }
        self.rows.clone()
    }

    /// Ports that something listens on in the network namespace of a process.
    pub(super) fn listening(&mut self, pid: u32, now: Instant) -> Vec<u16> {
        // Those of pods that are gone; a pod that is asked for comes back.
        self.pods.retain(|_, ports| now.duration_since(ports.looked) < 2 * limits::SCAN);
        let known = self.pods.get(&pid);
        if due(now, known.map(|ports| ports.first), known.map(|ports| ports.looked)) {
            let listeners = tcp_listeners(Path::new(&format!("/proc/{pid}")));
            let ports = distinct(listeners.into_iter().map(|(port, _)| port).collect());
            let first = known.map_or(now, |ports| ports.first);
            self.pods.insert(pid, Ports { first, looked: now, ports });
        }
        self.pods.get(&pid).map(|ports| ports.ports.clone()).unwrap_or_default()
    }
}

/// Whether to look again: soon after a change and for some seconds, since what has just begun will listen soon; else now and then.
fn due(now: Instant, changed: Option<Instant>, looked: Option<Instant>) -> bool {
    let unsettled = changed.is_some_and(|changed| now.duration_since(changed) < limits::SETTLE);
    let pause = if unsettled { limits::SCAN_SOON } else { limits::SCAN };
    looked.is_none_or(|looked| now.duration_since(looked) >= pause)
}

fn pids() -> impl Iterator<Item = u32> {
    let folders = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    folders.filter_map(|folder| folder.file_name().to_str()?.parse().ok())
}

fn process_row(pid: u32, namespaces: &mut Namespaces) -> Option<TargetRow> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    // Only one's own processes show their descriptors; what listens is among them.
    let sockets = sockets(&proc).filter(|sockets| !sockets.is_empty())?;
    let namespace = std::fs::read_link(proc.join("ns/net")).ok()?;
    let listeners = namespaces.entry(namespace).or_insert_with(|| tcp_listeners(&proc));
    let own = listeners.iter().filter(|(_, inode)| sockets.contains(inode));
    let ports: Vec<u16> = own.map(|(port, _)| *port).collect();
    if ports.is_empty() {
        return None;
    }
    let line = std::fs::read(proc.join("cmdline")).ok()?;
    let words: Vec<_> =
        line.split(|byte| *byte == 0).filter(|word| !word.is_empty()).map(text::one_line).collect();
    // The program's own helpers are no targets.
    if words.get(1).is_some_and(|word| word.starts_with("__")) {
        return None;
    }
    let name = std::fs::read_to_string(proc.join("comm")).ok()?.trim().to_owned();
    Some(TargetRow {
        reference: format!("pid/{pid}"),
        kind: "pid".to_owned(),
        name,
        place: "this machine".to_owned(),
        status: "running".to_owned(),
        tone: Tone::Good,
        ports: distinct(ports),
        command: text::shell(&words),
        ..TargetRow::default()
    })
}

/// Inodes of the sockets that a process has open.
fn sockets(proc: &Path) -> Option<HashSet<u64>> {
    let descriptors = std::fs::read_dir(proc.join("fd")).ok()?;
    let link = |entry: std::fs::DirEntry| std::fs::read_link(entry.path()).ok();
    let links = descriptors.flatten().filter_map(link);
    Some(
        links
            .filter_map(|link| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok())
            .collect(),
    )
}

fn distinct(mut ports: Vec<u16>) -> Vec<u16> {
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// Port and inode of each listening TCP socket, from `/proc/PID/net/tcp` (proc_pid_net(5)).
fn tcp_listeners(proc: &Path) -> Vec<(u16, u64)> {
    const LISTEN: &str = "0A";
    let parse = |line: &str| {
        let mut fields = line.split_whitespace();
        let port = u16::from_str_radix(fields.nth(1)?.rsplit_once(':')?.1, 16).ok()?;
        (fields.nth(1)? == LISTEN).then_some(())?;
        Some((port, fields.nth(5)?.parse().ok()?))
    };
    ["net/tcp", "net/tcp6"]
        .iter()
        .filter_map(|name| std::fs::read_to_string(proc.join(name)).ok())
        .flat_map(|text| text.lines().skip(1).filter_map(parse).collect::<Vec<_>>())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_of_this_process_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let pid = std::process::id();
        let row = process_row(pid, &mut Namespaces::new()).unwrap();
        assert!(row.ports.contains(&port) && row.reference == format!("pid/{pid}"), "{row:?}");
        assert!(Scan::default().listening(pid, Instant::now()).contains(&port));
    }

    #[test]
    fn while_nothing_changes_little_is_looked_at() {
        let begin = Instant::now();
        let looks = |changed, looked| due(begin + limits::SETTLE, changed, looked);
        assert!(looks(None, None), "the first time");
        assert!(looks(Some(begin + limits::LISTING), Some(begin + limits::LISTING)), "soon after a change");
        assert!(!looks(Some(begin), Some(begin)), "it has settled");
        assert!(due(begin + limits::SCAN, Some(begin), Some(begin)), "now and then");
    }
}
