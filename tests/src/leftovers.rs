//! What a world has left behind: processes that know its folder, mounts, files, and rules in this network namespace.

use std::{fmt, fs, path::Path};

use crate::User;

/// What is global on the machine and must be the same afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    mounts: usize,
    links: Vec<String>,
}

impl Snapshot {
    pub(crate) fn take() -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").map_or(0, |text| text.lines().count());
        let mut links: Vec<String> = fs::read_dir("/sys/class/net")
            .map(|entries| {
                entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
            })
            .unwrap_or_default();
        links.sort();
        Self { mounts, links }
    }
}

/// Everything that is left, as text.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    lines: Vec<String>,
}

impl Leftovers {
    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

impl fmt::Display for Leftovers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("\n"))
    }
}

/// Looks for anything of the world at `folder`.
pub(crate) fn of(folder: &Path, user: User, before: &Snapshot) -> Leftovers {
    let mut left = Leftovers::default();
    let needle = folder.to_string_lossy().into_owned();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        if pid == std::process::id() {
            continue;
        }
        // Every process of a world has its folder in its environment or arguments: the world's runtime folder is unique.
        let of_world = ["environ", "cmdline"].iter().any(|file| {
            fs::read(entry.path().join(file))
                .is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(&needle))
        });
        let zombie = fs::read_to_string(entry.path().join("stat")).is_ok_and(|stat| stat.contains(") Z "));
        if of_world && !zombie {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            left.lines.push(format!(
                "process {pid} of {user}: {}",
                String::from_utf8_lossy(&command).replace('\0', " ")
            ));
        }
    }
    files_below(&folder.join("run"), &mut left);
    let now = Snapshot::take();
    if now.links != before.links {
        left.lines.push(format!("network interfaces {:?}, before {:?}", now.links, before.links));
    }
    if now.mounts != before.mounts {
        left.lines.push(format!("{} mounts, before {}", now.mounts, before.mounts));
    }
    left
}

fn files_below(folder: &Path, left: &mut Leftovers) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files_below(&path, left);
        } else {
            left.lines.push(format!("file {}", path.display()));
        }
    }
}
