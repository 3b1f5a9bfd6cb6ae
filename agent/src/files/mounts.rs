//! Which of the target's mounts are file systems of its own kernel: an operation there cannot wait for a network or for another
//! process, so it may be done on a thread of the runtime.

use std::{
    collections::HashSet,
    fs::File,
    io::{Read, Seek},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::target::Target;

/// Kernel file systems that wait for a local disk at most. Everything else (NFS, FUSE, autofs, ...) counts as slow.
const LOCAL: [&str; 26] = [
    "bpf",
    "btrfs",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "erofs",
    "ext2",
    "ext3",
    "ext4",
    "f2fs",
    "hugetlbfs",
    "mqueue",
    "overlay",
    "proc",
    "ramfs",
    "rootfs",
    "securityfs",
    "squashfs",
    "sysfs",
    "tmpfs",
    "tracefs",
    "xfs",
    "zfs",
];

/// The mount tables as far as they matter here, always up to date.
#[derive(Debug)]
pub(crate) struct Mounts {
    /// The target's, and our own: a process that is only chrooted has a root whose mount its own table does not show. Numbers of
    /// mounts are the same in all namespaces.
    tables: Vec<File>,
    local: HashSet<u64>,
}

impl Mounts {
    /// Nothing counts as local when no table can be read.
    pub(crate) fn of(target: &Target) -> Self {
        let tables = [target.mountinfo(), File::open("/proc/self/mountinfo")];
        let mut mounts = Self { tables: tables.into_iter().flatten().collect(), local: HashSet::new() };
        mounts.reload();
        mounts
    }

    /// Whether the mount with this number (stx_mnt_id) is a local one.
    pub(crate) fn is_local(&mut self, mount: u64) -> bool {
        if self.changed() {
            self.reload();
        }
        self.local.contains(&mount)
    }

    /// The kernel reports a changed table as POLLPRI (proc_pid_mountinfo(5)). Numbers of mounts are used again, so this is asked
    /// each time; it is one short system call.
    fn changed(&self) -> bool {
        let mut wait: Vec<_> = self.tables.iter().map(|table| PollFd::new(table, PollFlags::PRI)).collect();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut wait, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    fn reload(&mut self) {
        self.local.clear();
        for table in &mut self.tables {
            let mut text = Vec::new();
            if table.rewind().is_ok() && table.read_to_end(&mut text).is_ok() {
                self.local.extend(local_mounts(&String::from_utf8_lossy(&text)));
            }
        }
    }
}

/// Lines are `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAG...] - TYPE SOURCE OPTIONS`.
fn local_mounts(table: &str) -> HashSet<u64> {
    table
        .lines()
        .filter_map(|line| {
            let (mount, system) = line.split_once(" - ")?;
            let kind = system.split(' ').next()?;
            LOCAL.contains(&kind).then(|| mount.split(' ').next()?.parse().ok())?
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_kernel_file_systems_are_local() {
        let table = "22 1 0:20 / / rw,relatime shared:1 - overlay overlay rw\n\
                     23 22 0:21 / /data rw - nfs4 server:/x rw\n\
                     24 22 0:22 / /secret\\040s ro master:1 - tmpfs tmpfs rw\n\
                     25 22 0:23 / /f rw - fuse.sshfs x rw\nbroken line\n";
        assert_eq!(local_mounts(table), HashSet::from([22, 24]));
    }

    #[test]
    fn the_table_of_this_process_has_its_root() {
        let target = Target::open(std::process::id()).unwrap();
        let mut mounts = Mounts::of(&target);
        let found = super::super::attributes(target.root().unwrap().look(c"/proc", true).unwrap()).unwrap();
        assert!(mounts.is_local(found.stx_mnt_id));
        assert!(!mounts.is_local(u64::MAX));
    }
}
