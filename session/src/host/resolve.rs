//! Finds the process of a target on this machine.

use std::{fs, io, path::Path};

use super::world::Failure;
use crate::{local, target::Target};

/// A target that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Its process, as this machine sees it.
    pub(super) pid: u32,
}

/// Finds the process of a target; blocks for a millisecond or so.
pub(super) fn find(target: &Target) -> Result<Found, Failure> {
    match target {
        Target::Local(name) => match local::find(name) {
            Ok(pod) => Ok(Found { pid: pod.pid }),
            Err(error) => {
                let hint =
                    error.hint().unwrap_or_else(|| "`mirrord-tui local ls` lists the local pods".to_owned());
                Err(Failure::caused(&error, hint))
            }
        },
        Target::Pid(pid) => {
            if Path::new("/proc").join(pid.to_string()).exists() {
                Ok(Found { pid: *pid })
            } else {
                Err(Failure::new(
                    format!("there is no process {pid}"),
                    "`ps -e` lists the processes of this machine",
                ))
            }
        }
        Target::Container(id) => find_container(id, Path::new("/proc")),
        Target::Cluster { .. } => {
            Err(Failure::new(format!("`{target}` is in a cluster, and not a process of this machine"), ""))
        }
    }
}

/// The first process of the container whose id is or begins with `id`: the runtime's name for its cgroup holds the whole id.
fn find_container(id: &str, proc: &Path) -> Result<Found, Failure> {
    const SHORTEST: usize = 6;
    let id = id.to_ascii_lowercase();
    if id.len() < SHORTEST || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Failure::new(
            format!("`{id}` is not the id of a container"),
            format!("give at least its first {SHORTEST} digits, as `docker ps` or `crictl ps` shows them"),
        ));
    }
    let mut found: Option<(u32, String)> = None;
    for pid in pids(proc).map_err(|error| Failure::caused(&error, "is /proc mounted?"))? {
        let Ok(groups) = fs::read_to_string(proc.join(pid.to_string()).join("cgroup")) else { continue };
        let Some(whole) = container_ids(&groups).find(|whole| whole.starts_with(&id)) else { continue };
        match &found {
            Some((_, other)) if *other != whole => {
                return Err(Failure::new(
                    format!("`{id}` is the beginning of several container ids"),
                    "give more of its digits",
                ));
            }
            Some((first, _)) if *first < pid => {}
            _ => found = Some((pid, whole.to_owned())),
        }
    }
    found.map(|(pid, _)| Found { pid }).ok_or_else(|| {
        Failure::new(
            format!("no process of a container `{id}` runs on this machine"),
            "`docker ps` or `crictl ps` lists the containers; other users' processes may be hidden from you (hidepid)",
        )
    })
}

fn pids(proc: &Path) -> io::Result<Vec<u32>> {
    let entries = fs::read_dir(proc)?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// All runs of 64 hexadecimal digits.
fn container_ids(groups: &str) -> impl Iterator<Item = &str> {
    const WHOLE: usize = 64;
    groups.split(|letter: char| !letter.is_ascii_hexdigit()).filter(|run| run.len() == WHOLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_found_by_the_beginning_of_its_id() {
        let proc = tempfile::tempdir().unwrap();
        let (a, b) = ("ab".repeat(32), format!("ac{}", "0".repeat(62)));
        for (pid, group) in [
            (7, format!("0::/system.slice/docker-{a}.scope\n")),
            (3, format!("12:pids:/kubepods/burstable/pod1/{a}\n0::/x\n")),
            (5, format!("0::/kubepods.slice/cri-containerd-{b}.scope\n")),
            (9, "0::/user.slice\n".to_owned()),
        ] {
            fs::create_dir(proc.path().join(pid.to_string())).unwrap();
            fs::write(proc.path().join(pid.to_string()).join("cgroup"), group).unwrap();
        }
        fs::create_dir(proc.path().join("sys")).unwrap();
        assert_eq!(find_container("ababab", proc.path()).unwrap().pid, 3);
        assert_eq!(find_container(&b, proc.path()).unwrap().pid, 5);
        for (id, text) in [("ffffff", "no process"), ("abc", "not the id"), ("zzzzzz", "not the id")] {
            assert!(find_container(id, proc.path()).unwrap_err().text.contains(text), "{id}");
        }
    }

    #[test]
    fn what_is_not_there_is_said_with_a_hint() {
        assert_eq!(find(&Target::Pid(std::process::id())).unwrap().pid, std::process::id());
        let failure = find(&Target::Pid(u32::MAX)).unwrap_err();
        assert!(failure.text.contains("there is no process") && !failure.hint.is_empty());
        assert!(find(&"pod/api".parse().unwrap()).is_err());
    }
}
