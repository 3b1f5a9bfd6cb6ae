//! Finds the first process of a container by the container's id.
//!
//! The name that a runtime gives a container's cgroup holds the whole id, whatever else the path looks like: with version 1 and 2,
//! with both drivers of the kubelet, and also from a private cgroup namespace (`0::/../../cri-containerd-ID.scope`).

use std::{fs, io, path::Path};

use thiserror::Error;

/// Why no process was found.
#[derive(Debug, Error)]
pub(crate) enum ContainerError {
    #[error("cannot list the processes of this machine")]
    List(#[source] io::Error),
    #[error(
        "no process of container {id} is to be seen among {seen}; the agent needs the process ids of the node (hostPID) or of the container"
    )]
    NotFound { id: String, seen: usize },
}

/// The process of the container that was started first: its environment is the container's. `proc` is /proc.
pub(crate) fn first_process(id: &str, proc: &Path) -> Result<u32, ContainerError> {
    let mut seen = 0;
    let mut first: Option<(u64, u32)> = None;
    for entry in fs::read_dir(proc).map_err(ContainerError::List)?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        seen += 1;
        // A process that ends meanwhile is not the one.
        let Ok(cgroups) = fs::read_to_string(entry.path().join("cgroup")) else { continue };
        if !cgroups.contains(id) {
            continue;
        }
        let Some(started) =
            fs::read_to_string(entry.path().join("stat")).ok().and_then(|stat| started(&stat))
        else {
            continue;
        };
        if first.is_none_or(|found| (started, pid) < found) {
            first = Some((started, pid));
        }
    }
    first.map(|(_, pid)| pid).ok_or_else(|| ContainerError::NotFound { id: id.to_owned(), seen })
}

/// Start time in clock ticks, field 22 of /proc/PID/stat. The name of the program, field 2, may hold spaces and parentheses.
fn started(stat: &str) -> Option<u64> {
    const AFTER_NAME: usize = 22 - 3;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(AFTER_NAME)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_process_of_the_container_is_found() {
        let proc = tempfile::tempdir().unwrap();
        let (a, b, c) = ("ab".repeat(32), "cd".repeat(32), "ef".repeat(32));
        for (pid, started, cgroup) in [
            (7, 100, format!("0::/../../kubepods-podA/cri-containerd-{a}.scope\n")),
            // Process ids have wrapped around: the child's is lower.
            (3, 900, format!("0::/../../kubepods-podA/cri-containerd-{a}.scope\n")),
            (5, 100, format!("12:pids:/kubepods/burstable/pod1/{b}\n0::/\n")),
            (9, 50, "0::/\n".to_owned()),
        ] {
            let folder = proc.path().join(pid.to_string());
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("cgroup"), cgroup).unwrap();
            let stat = format!("{pid} (a ) name) S {}{started} 0 0", "0 ".repeat(18));
            fs::write(folder.join("stat"), stat).unwrap();
        }
        fs::create_dir(proc.path().join("sys")).unwrap();
        assert_eq!(first_process(&a, proc.path()).unwrap(), 7);
        assert_eq!(first_process(&b, proc.path()).unwrap(), 5);
        let missing = first_process(&c, proc.path()).unwrap_err();
        assert!(matches!(missing, ContainerError::NotFound { seen: 4, .. }), "{missing}");
    }

    #[test]
    fn the_start_of_a_real_process_is_read() {
        assert!(started(&fs::read_to_string("/proc/self/stat").unwrap()).unwrap() > 0);
    }
}
