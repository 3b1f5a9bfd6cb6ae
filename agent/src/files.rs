//! The target's files: every path is resolved below the target's root, so neither `..` nor a symlink nor a magic link leads out.
//!
//! The functions here do one operation each, blocking. [`session`] decides which of them run on the spot and which on a blocking
//! thread, and owns the open handles.

pub(crate) mod directory;
pub(crate) mod mounts;
pub(crate) mod quick;
pub(crate) mod session;

use std::{
    ffi::CStr,
    fs::File,
    io::{self, Read},
    os::{fd::AsFd, fd::AsRawFd, fd::OwnedFd, unix::fs::FileExt},
};

use bytes::Bytes;
use mirrord_protocol::agent::v1::{self as wire, file_reply::Result as Outcome};
use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags, fstatfs, openat2, readlinkat, statx,
    },
    io::Errno,
    path::Arg,
};

use self::directory::Directory;
use crate::limits::{FILE_INLINE, FILE_READ, OPEN_TRIES};

/// How paths are resolved: as if the target's root were ours, and never through /proc/*/fd, /proc/*/root and their like.
const RESOLVE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// What an operation gives back besides the file's attributes.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// Attributes of what the path led to.
    pub(crate) stat: Option<wire::Stat>,
    /// The result of its own kind.
    pub(crate) outcome: Option<Outcome>,
    /// Something that stays open; its number is filled in by the owner of the handles.
    pub(crate) handle: Option<Handle>,
}

/// An open file or folder of a client.
#[derive(Clone, Debug)]
pub(crate) enum Handle {
    File(std::sync::Arc<File>),
    Directory(std::sync::Arc<std::sync::Mutex<Directory>>),
}

/// The root folder of the target.
#[derive(Debug)]
pub(crate) struct Root(OwnedFd);

impl Root {
    /// `folder`: an O_PATH descriptor of /proc/PID/root.
    pub(crate) fn new(folder: OwnedFd) -> Self {
        Self(folder)
    }

    /// Opens a path for looking at: no permission but search is needed, and nothing happens to a device or a FIFO.
    pub(crate) fn look(&self, path: impl Arg + Copy, follow: bool) -> io::Result<OwnedFd> {
        for _ in 1..OPEN_TRIES {
            match self.resolve(path, follow, RESOLVE) {
                // A rename raced with `..`; openat2(2) asks to try again.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
        self.resolve(path, follow, RESOLVE)
    }

    /// [`Root::look`] without waiting for a disk or a network: `WouldBlock` when the kernel does not have the path in its cache.
    pub(crate) fn look_cached(&self, path: impl Arg, follow: bool) -> io::Result<OwnedFd> {
        self.resolve(path, follow, RESOLVE | ResolveFlags::CACHED)
    }

    fn resolve(&self, path: impl Arg, follow: bool, resolve: ResolveFlags) -> io::Result<OwnedFd> {
        let follow = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
        Ok(openat2(&self.0, path, OFlags::PATH | OFlags::CLOEXEC | follow, Mode::empty(), resolve)?)
    }

    /// Content of a small regular file, at most `limit` bytes of it.
    pub(crate) fn read(&self, path: &CStr, limit: usize) -> io::Result<Vec<u8>> {
        let looked = self.look(path, true)?;
        if FileType::from_raw_mode(attributes(&looked)?.stx_mode.into()) != FileType::RegularFile {
            return Err(Errno::INVAL.into());
        }
        let mut content = Vec::new();
        reopen(&looked)?.take(u64::try_from(limit).unwrap_or(u64::MAX)).read_to_end(&mut content)?;
        Ok(content)
    }

    /// stat(2) and lstat(2).
    pub(crate) fn stat(&self, request: &wire::FileStat) -> io::Result<Answer> {
        let looked = self.look(&*request.path, request.follow)?;
        Ok(Answer { stat: Some(stat(&attributes(&looked)?)), ..Answer::default() })
    }

    /// readlink(2).
    pub(crate) fn readlink(&self, request: &wire::FileReadlink) -> io::Result<Answer> {
        read_link(&self.look(&*request.path, false)?)
    }

    /// statfs(2).
    pub(crate) fn stat_fs(&self, request: &wire::FileStatFs) -> io::Result<Answer> {
        let looked = self.look(&*request.path, true)?;
        let found = fstatfs(&looked)?;
        // The fields are signed or unsigned depending on the architecture; all of them are bit patterns of the kernel.
        #[expect(clippy::cast_sign_loss, reason = "the kernel's magic numbers and sizes are not negative")]
        let stat_fs = wire::StatFs {
            kind: found.f_type as u64,
            bsize: found.f_bsize as u64,
            blocks: found.f_blocks,
            bfree: found.f_bfree,
            bavail: found.f_bavail,
            files: found.f_files,
            ffree: found.f_ffree,
            namelen: found.f_namelen as u64,
            frsize: found.f_frsize as u64,
            flags: found.f_flags as u64,
        };
        Ok(Answer { outcome: Some(Outcome::StatFs(stat_fs)), ..Answer::default() })
    }

    /// A listing by path: opens, skips, reads, closes.
    pub(crate) fn read_dir(&self, request: &wire::FileReadDir) -> io::Result<Answer> {
        let looked = self.look(&*request.path, true)?;
        Directory::open(reopen(&looked)?)?.list(request.offset, request.limit)
    }

    /// open(2) for reading.
    pub(crate) fn open(&self, request: &wire::FileOpen) -> io::Result<Answer> {
        let looked = self.look(&*request.path, !request.no_follow)?;
        let found = attributes(&looked)?;
        open_looked(&looked, &found, request)
    }
}

/// The rest of [`Root::open`] when the path has been resolved. Devices, FIFOs and sockets are refused with ENXIO: opening one may
/// block or change something.
pub(crate) fn open_looked(looked: &OwnedFd, found: &Statx, request: &wire::FileOpen) -> io::Result<Answer> {
    let stat = Some(stat(found));
    let (opened, handle) = match FileType::from_raw_mode(found.stx_mode.into()) {
        FileType::Directory => {
            let directory = Directory::open(reopen(looked)?)?;
            let handle = Handle::Directory(std::sync::Arc::new(std::sync::Mutex::new(directory)));
            (wire::OpenedFile::default(), Some(handle))
        }
        _ if request.directory => return Err(Errno::NOTDIR.into()),
        FileType::RegularFile => {
            let file = reopen(looked)?;
            match inline_content(&file, found.stx_size, request.inline_limit)? {
                Some(content) => (wire::OpenedFile { handle: 0, inline: true, content }, None),
                None => (wire::OpenedFile::default(), Some(Handle::File(std::sync::Arc::new(file)))),
            }
        }
        FileType::Symlink => return Err(Errno::LOOP.into()),
        _ => return Err(Errno::NXIO.into()),
    };
    Ok(Answer { stat, outcome: Some(Outcome::Opened(opened)), handle })
}

/// readlink(2) of what a path led to.
pub(crate) fn read_link(looked: &OwnedFd) -> io::Result<Answer> {
    // An empty path means the descriptor itself; of anything but a symlink the kernel then says ENOENT and not EINVAL.
    let link = readlinkat(looked, c"", Vec::new()).map_err(|errno| match errno {
        Errno::NOENT => Errno::INVAL,
        errno => errno,
    })?;
    Ok(Answer { outcome: Some(Outcome::Link(link.into_bytes().into())), ..Answer::default() })
}

/// pread(2): as much as was asked for and is there, at most [`FILE_READ`].
pub(crate) fn read_at(file: &File, request: &wire::FileRead) -> io::Result<Answer> {
    let length = usize::try_from(request.length).unwrap_or(FILE_READ).min(FILE_READ);
    let mut data = vec![0; length];
    let mut filled = 0;
    while let Some(rest) = data.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let at = request.offset.saturating_add(u64::try_from(filled).unwrap_or(u64::MAX));
        match file.read_at(rest, at) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // What came before the error is delivered; the next read reports it.
            Err(_) if filled > 0 => break,
            Err(error) => return Err(error),
        }
    }
    data.truncate(filled);
    Ok(Answer { outcome: Some(Outcome::Data(data.into())), ..Answer::default() })
}

/// The whole content when it is not longer than the limit. Files of /proc say size 0 whatever they hold, so it is read to its end.
fn inline_content(file: &File, size: u64, limit: u32) -> io::Result<Option<Bytes>> {
    let limit = usize::try_from(limit).unwrap_or(FILE_INLINE).min(FILE_INLINE);
    let Some(size) = usize::try_from(size).ok().filter(|size| *size <= limit) else { return Ok(None) };
    let mut content = Vec::with_capacity(size + 1);
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    (&mut &*file).take(most).read_to_end(&mut content)?;
    Ok((content.len() <= limit).then(|| content.into()))
}

/// Opens for reading what was only looked at. The path is not resolved again, so it is the same file.
pub(crate) fn reopen(looked: &OwnedFd) -> io::Result<File> {
    let path = format!("/proc/self/fd/{}", looked.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

/// Attributes of an open file.
pub(crate) fn attributes(file: impl AsFd) -> io::Result<Statx> {
    Ok(statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?)
}

/// Attributes as they go over the wire.
pub(crate) fn stat(found: &Statx) -> wire::Stat {
    wire::Stat {
        dev: rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor),
        ino: found.stx_ino,
        mode: found.stx_mode.into(),
        nlink: found.stx_nlink.into(),
        uid: found.stx_uid,
        gid: found.stx_gid,
        rdev: rustix::fs::makedev(found.stx_rdev_major, found.stx_rdev_minor),
        size: found.stx_size,
        blksize: found.stx_blksize,
        blocks: found.stx_blocks,
        atime_s: found.stx_atime.tv_sec,
        atime_ns: found.stx_atime.tv_nsec,
        mtime_s: found.stx_mtime.tv_sec,
        mtime_ns: found.stx_mtime.tv_nsec,
        ctime_s: found.stx_ctime.tv_sec,
        ctime_ns: found.stx_ctime.tv_nsec,
    }
}

#[cfg(test)]
mod tests;
