//! Nothing of the process tree survives its session, whoever dies first.

use std::time::{Duration, Instant};

use mirrord_protocol::layer::v1::{SignalTree, from_layer, to_layer};
use rustix::process::{Pid, Signal};

use crate::{
    host::{Host, command},
    victims,
};

/// How long the end of a tree may take; it takes a few milliseconds.
const LIMIT: Duration = Duration::from_secs(10);

/// A tree of five processes that ignore SIGTERM; returns the pids of all of them, the supervisor last.
fn grown() -> (Host, Vec<i32>) {
    let mut host = Host::new();
    host.launch(command(&[&victims::path("victim", "static"), "tree"]));
    let start = Instant::now();
    while host.output() != "ready\n" {
        assert!(start.elapsed() < LIMIT, "the tree is not ready: {:?}", host.output());
        std::thread::yield_now();
    }
    let guardian = i32::try_from(host.supervisor.id()).unwrap();
    // The daemon becomes the supervisor's child when its parent has ended.
    let mut all = descendants(guardian);
    while all.len() < 5 {
        assert!(start.elapsed() < LIMIT, "{all:?}");
        all = descendants(guardian);
    }
    let supervisor = all.remove(0);
    all.push(supervisor);
    (host, all)
}

fn descendants(pid: i32) -> Vec<i32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children = threads.flat_map(|thread| {
        let list = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<i32>>()
    });
    children.flat_map(|child| [vec![child], descendants(child)].concat()).collect()
}

fn all_gone(pids: &[i32]) {
    let start = Instant::now();
    let lives = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // A zombie whose new parent is slow to reap is dead enough.
        !stat.is_empty() && !stat.contains(") Z ")
    };
    while pids.iter().any(lives) {
        let left: Vec<_> = pids.iter().filter(|pid| lives(pid)).collect();
        assert!(start.elapsed() < LIMIT, "{left:?} of {pids:?} live");
        std::thread::yield_now();
    }
}

fn kill(pid: i32, signal: Signal) {
    rustix::process::kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

pub(crate) fn supervisor_killed() {
    let (mut host, all) = grown();
    kill(*all.last().unwrap(), Signal::KILL);
    all_gone(&all);
    assert_eq!(host.supervisor.wait().unwrap().code(), Some(74));
}

pub(crate) fn host_gone() {
    let (mut host, all) = grown();
    drop(host.link.take());
    all_gone(&all);
    assert_eq!(host.supervisor.wait().unwrap().code(), Some(71));
}

pub(crate) fn guardian_terminated() {
    let (host, all) = grown();
    kill(i32::try_from(host.supervisor.id()).unwrap(), Signal::TERM);
    all_gone(&all);
}

pub(crate) fn signalled() {
    let (mut host, all) = grown();
    let signal = |signal: i32, whole_tree| {
        to_layer::Kind::Signal(SignalTree { signal: signal.unsigned_abs(), whole_tree })
    };
    // Ignored by the command, and not sent to anybody else.
    host.send(0, signal(libc::SIGTERM, false), &[]);
    host.send(0, signal(libc::SIGUSR1, true), &[]);
    let exit = host.until("exit", |kind| match kind {
        from_layer::Kind::Exit(exit) if exit.command => Some(*exit),
        _ => None,
    });
    assert_eq!(exit.signal, libc::SIGUSR1.unsigned_abs());
    host.until("empty tree", |kind| matches!(kind, from_layer::Kind::TreeEmpty(_)).then_some(()));
    all_gone(&all);
}
