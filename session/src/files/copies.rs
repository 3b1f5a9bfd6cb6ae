//! Copies of small remote files as sealed memfds, and the identity that they give to a file.
//!
//! Programs compare what stat(2) says of a path with what fstat(2) says of the descriptor they opened (cp, tail, installers). So the
//! memfd is made, empty, when a file is first asked about; its device and inode are what stat(2) answers; open(2) fills it and hands
//! out read-only descriptors on it. A file that has changed in the target gets a new one.

use std::{
    collections::{HashMap, hash_map::Entry},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::FileExt as _,
    },
    sync::{Mutex, MutexGuard, PoisonError},
};

use mirrord_protocol::agent::v1::Stat;
use rustix::fs::{CWD, Gid, MemfdFlags, Mode, OFlags, SealFlags, Timespec, Timestamps, Uid};

use super::Errno;
use crate::limits::{KEPT_COPIES, KEPT_COPY_BYTES, MEMFD_BYTES};

/// The copies of a session.
#[derive(Debug, Default)]
pub(super) struct Copies {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    copies: HashMap<(u64, u64), Copy>,
    bytes: u64,
    clock: u64,
}

/// One version of one remote file.
#[derive(Debug)]
struct Copy {
    version: Version,
    file: OwnedFd,
    identity: (u64, u64),
    filled: bool,
    /// When it was last used, in uses.
    used: u64,
}

/// What changes when a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    size: u64,
    mode: u32,
    modified: (i64, u32),
    changed: (i64, u32),
}

impl Version {
    const fn of(stat: &Stat) -> Self {
        Self {
            size: stat.size,
            mode: stat.mode,
            modified: (stat.mtime_s, stat.mtime_ns),
            changed: (stat.ctime_s, stat.ctime_ns),
        }
    }
}

impl Copies {
    /// The stat of a file with the identity of its copy.
    pub(super) fn identified(&self, stat: &Stat) -> Result<Stat, Errno> {
        let mut kept = self.lock();
        let identity = kept.of(stat)?.identity;
        kept.shrink();
        Ok(with_identity(stat, identity))
    }

    /// A read-only descriptor on the copy of a file with this content, and the file's stat as the descriptor shows it.
    pub(super) fn descriptor(
        &self,
        path: &[u8],
        stat: &Stat,
        content: &[u8],
    ) -> Result<(OwnedFd, Stat), Errno> {
        let size = u64::try_from(content.len()).unwrap_or(u64::MAX);
        if size != stat.size {
            // It changed between its stat and its read, or is made as it is read (procfs): such a copy is good for this once.
            let file = make(path_name(path))?;
            fill(&file, content, stat)?;
            return Ok((reopen(&file, stat)?, with_identity(stat, identity(&file)?)));
        }
        let mut kept = self.lock();
        let copy = kept.of(stat)?;
        let new_bytes = if copy.filled { 0 } else { size };
        if !copy.filled {
            fill(&copy.file, content, stat)?;
            copy.filled = true;
        }
        let opened = (reopen(&copy.file, stat)?, with_identity(stat, copy.identity));
        kept.bytes += new_bytes;
        kept.shrink();
        Ok(opened)
    }

    /// The file to copy a larger one into, with its identity; it is not filled yet or, `true`, it is.
    pub(super) fn spool(&self, stat: &Stat) -> Result<(OwnedFd, Stat, bool), Errno> {
        let mut kept = self.lock();
        let copy = kept.of(stat)?;
        let spool = (copy.file.try_clone()?, with_identity(stat, copy.identity), copy.filled);
        kept.shrink();
        Ok(spool)
    }

    /// A copy that was taken out by [`Copies::spool`] is complete.
    pub(super) fn spooled(&self, stat: &Stat) {
        let mut kept = self.lock();
        if let Some(copy) = kept.copies.get_mut(&(stat.dev, stat.ino))
            && copy.version == Version::of(stat)
        {
            copy.filled = true;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// The copy of this version of the file; a new, empty one when there is none.
    fn of(&mut self, stat: &Stat) -> Result<&mut Copy, Errno> {
        self.clock += 1;
        let (clock, key, version) = (self.clock, (stat.dev, stat.ino), Version::of(stat));
        if self.copies.get(&key).is_some_and(|copy| copy.version != version) {
            self.remove(key);
        }
        let copy = match self.copies.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(free) => {
                let file = if stat.size > MEMFD_BYTES { super::spool::make()? } else { make("remote file")? };
                free.insert(Copy { version, identity: identity(&file)?, file, filled: false, used: clock })
            }
        };
        copy.used = clock;
        Ok(copy)
    }

    fn remove(&mut self, key: (u64, u64)) {
        if let Some(copy) = self.copies.remove(&key)
            && copy.filled
            && copy.version.size <= MEMFD_BYTES
        {
            self.bytes = self.bytes.saturating_sub(copy.version.size);
        }
    }

    /// Lets go of what was not used for longest. Descriptors that are handed out keep their own copy alive.
    fn shrink(&mut self) {
        while self.copies.len() > KEPT_COPIES || self.bytes > KEPT_COPY_BYTES {
            let oldest = self.copies.iter().min_by_key(|(_, copy)| copy.used).map(|(key, _)| *key);
            let Some(oldest) = oldest else { return };
            self.remove(oldest);
        }
    }
}

const fn with_identity(stat: &Stat, (dev, ino): (u64, u64)) -> Stat {
    Stat { dev, ino, ..*stat }
}

fn identity(file: &OwnedFd) -> Result<(u64, u64), Errno> {
    let stat = rustix::fs::fstat(file)?;
    Ok((stat.st_dev, stat.st_ino))
}

fn make(name: &str) -> Result<OwnedFd, Errno> {
    Ok(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?)
}

/// The last part of a path as name of a memfd, which is shown in /proc/PID/maps and takes at most 249 bytes.
fn path_name(path: &[u8]) -> &str {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    std::str::from_utf8(name).ok().filter(|name| name.len() < 200).unwrap_or("remote file")
}

fn fill(file: &OwnedFd, content: &[u8], stat: &Stat) -> Result<(), Errno> {
    std::fs::File::from(file.try_clone()?).write_all_at(content, 0)?;
    seal_attributes(file, stat)?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    Ok(rustix::fs::fcntl_add_seals(file, seals)?)
}

/// Gives the copy the attributes of the file; the owner only where we may.
pub(super) fn seal_attributes(file: &OwnedFd, stat: &Stat) -> Result<(), Errno> {
    let time = |tv_sec, nanoseconds: u32| Timespec { tv_sec, tv_nsec: nanoseconds.into() };
    let times = Timestamps {
        last_access: time(stat.atime_s, stat.atime_ns),
        last_modification: time(stat.mtime_s, stat.mtime_ns),
    };
    if rustix::process::geteuid().is_root() {
        let owner = (Uid::from_raw(stat.uid), Gid::from_raw(stat.gid));
        // Refused in a user namespace that does not map them: the file then looks as if it were ours.
        rustix::fs::fchown(file, Some(owner.0), Some(owner.1)).ok();
    }
    rustix::fs::fchmod(file, Mode::from_raw_mode(stat.mode & 0o7777))?;
    Ok(rustix::fs::futimens(file, &times)?)
}

/// A descriptor of its own position, for reading only.
pub(super) fn reopen(file: &OwnedFd, stat: &Stat) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let open = || rustix::fs::openat(CWD, &path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    match open() {
        // The agent could read it, so the program may; our copy carries a mode that keeps its owner, us, out.
        Err(rustix::io::Errno::ACCESS) => {
            rustix::fs::fchmod(file, Mode::RUSR)?;
            let opened = open();
            rustix::fs::fchmod(file, Mode::from_raw_mode(stat.mode & 0o7777))?;
            Ok(opened?)
        }
        result => Ok(result?),
    }
}
