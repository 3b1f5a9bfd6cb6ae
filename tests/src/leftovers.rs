//! What a world has left behind: processes that know its folder, mounts, files, and interfaces of this machine.

use std::{collections::BTreeSet, fmt, fs, path::Path};

use crate::User;

/// Set in every pod of a world to its folder, so that a process that outlives its pod is known by its environment.
pub(crate) const MARK: &str = "MIRRORD_TEST_WORLD";

/// What is global on the machine and must be the same afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    links: BTreeSet<String>,
}

impl Snapshot {
    pub(crate) fn take() -> Self {
        let links = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
        Self { links: links.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect() }
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
    for (pid, command) in processes(folder) {
        left.lines.push(format!("process {pid} of {user}: {command}"));
    }
    files_below(&folder.join("run"), &mut left);
    let needle = folder.to_string_lossy();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    left.lines
        .extend(mounts.lines().filter(|line| line.contains(&*needle)).map(|line| format!("mount {line}")));
    let links = Snapshot::take().links;
    left.lines.extend(links.difference(&before.links).map(|link| format!("network interface {link}")));
    left
}

/// Processes of the world: those that have its folder in their environment, arguments, working directory or open files.
pub(crate) fn processes(folder: &Path) -> Vec<(u32, String)> {
    let needle = folder.to_string_lossy();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        if pid == std::process::id() {
            continue;
        }
        let path = entry.path();
        let written = ["environ", "cmdline"].iter().any(|file| {
            fs::read(path.join(file)).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(&*needle))
        });
        let linked = || {
            let open =
                fs::read_dir(path.join("fd")).into_iter().flatten().flatten().map(|entry| entry.path());
            std::iter::once(path.join("cwd"))
                .chain(open)
                .any(|link| fs::read_link(link).is_ok_and(|to| to.to_string_lossy().contains(&*needle)))
        };
        if (written || linked()) && !is_zombie(&path) && !is_tester(&path) {
            let command = fs::read(path.join("cmdline")).unwrap_or_default();
            found.push((pid, String::from_utf8_lossy(&command).replace('\0', " ")));
        }
    }
    found
}

fn is_zombie(process: &Path) -> bool {
    fs::read_to_string(process.join("stat"))
        .is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
}

/// A child of another thread of this test run between fork and exec has everything of ours open for a moment.
fn is_tester(process: &Path) -> bool {
    let own = fs::read_link("/proc/self/exe").ok();
    own.is_some() && fs::read_link(process.join("exe")).ok() == own
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
