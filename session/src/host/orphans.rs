//! What is left of the process tree when both its supervisor and the supervisor's guardian were killed: it becomes the host's, and
//! the host ends it with the session.

use std::fs;

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid};
use tokio::time::{Instant, sleep};

use crate::limits::{ORPHANS_LOOK, ORPHANS_STOP};

/// Makes this process the parent of descendants that lose theirs.
pub(super) fn adopt() {
    if let Err(error) = set_child_subreaper(Some(getpid())) {
        tracing::warn!(%error, "orphans of the session's process tree cannot be adopted");
    }
}

/// Kills and reaps every child that is left, and the children that these leave. Must come when no other child is waited for.
pub(super) async fn end() {
    let deadline = Instant::now() + ORPHANS_STOP;
    loop {
        let children = children();
        if children.is_empty() {
            return;
        }
        for pid in children {
            // Errors mean that it is gone, or that it is another user's and cannot be ended.
            if kill_process(pid, Signal::KILL).is_ok() {
                tracing::info!(pid = pid.as_raw_nonzero(), "ended what was left of the process tree");
            }
            waitpid(Some(pid), WaitOptions::NOHANG).ok();
        }
        if Instant::now() >= deadline {
            tracing::error!("processes of the tree are still there after SIGKILL");
            return;
        }
        // There is nothing to wait on: grandchildren become children at a moment that nobody tells.
        sleep(ORPHANS_LOOK).await;
    }
}

/// Children of all threads of this process.
fn children() -> Vec<Pid> {
    let Ok(threads) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    let lists =
        threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let pids: Vec<i32> = lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect();
    pids.into_iter().filter_map(Pid::from_raw).collect()
}
