//! A target played by a folder: `/remote/X` is `FOLDER/X`.

use std::{
    collections::HashMap,
    fs::{self, File},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{DirEntryExt, FileExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use mirrord_protocol::agent::v1::{
    DirEntries, DirEntry, FileOpen, FileReply, OpenedFile, Stat, StatFs, file_reply::Result as Outcome,
    file_request::Op,
};
use mirrord_session::{
    agent_link::LinkError,
    files::{RemoteFiles, ReplyFuture},
};

pub(crate) struct Target {
    folder: PathBuf,
    handles: Mutex<HashMap<u64, Handle>>,
    next: AtomicU64,
    /// Every call fails as if the link were broken.
    pub(crate) broken: AtomicBool,
    /// Instead of the folder, a directory of this many entries at `/remote/many`.
    pub(crate) many: AtomicU64,
}

enum Handle {
    File(File),
    Directory(Vec<DirEntry>),
    Many,
}

impl Target {
    pub(crate) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            handles: Mutex::default(),
            next: AtomicU64::new(1),
            broken: AtomicBool::new(false),
            many: AtomicU64::new(0),
        }
    }

    pub(crate) fn open_handles(&self) -> usize {
        self.handles.lock().unwrap().len()
    }

    /// As when the link is renewed: the agent has closed everything.
    pub(crate) fn forget_handles(&self) {
        self.handles.lock().unwrap().clear();
    }

    fn path(&self, path: &[u8]) -> PathBuf {
        let below = match path.strip_prefix(b"/remote") {
            Some(b"/many") => b"",
            Some(below) => below.strip_prefix(b"/").unwrap_or_default(),
            None => b"not a path of ours",
        };
        self.folder.join(std::ffi::OsStr::from_bytes(below))
    }

    fn perform(&self, op: &Op) -> std::io::Result<FileReply> {
        let done = |stat, result| FileReply { stat, result, ..FileReply::default() };
        let mut handles = self.handles.lock().unwrap();
        let bad = || std::io::Error::from_raw_os_error(libc::EBADF);
        Ok(match op {
            Op::Stat(request) => {
                let path = self.path(&request.path);
                let metadata = if request.follow { fs::metadata(path)? } else { fs::symlink_metadata(path)? };
                done(Some(stat(&metadata)), None)
            }
            Op::Open(request) => {
                let (metadata, opened, handle) = self.open(request)?;
                let mut opened = opened;
                if let Some(handle) = handle {
                    opened.handle = self.next.fetch_add(1, Ordering::Relaxed);
                    handles.insert(opened.handle, handle);
                }
                done(Some(metadata), Some(Outcome::Opened(opened)))
            }
            Op::Read(request) => {
                let Some(Handle::File(file)) = handles.get(&request.handle) else { return Err(bad()) };
                let mut data = vec![0; usize::try_from(request.length).unwrap()];
                let count = file.read_at(&mut data, request.offset)?;
                data.truncate(count);
                done(None, Some(Outcome::Data(data.into())))
            }
            Op::Close(request) => {
                handles.remove(&request.handle).ok_or_else(bad)?;
                done(None, None)
            }
            Op::Readlink(request) => {
                let link = fs::read_link(self.path(&request.path))?;
                done(None, Some(Outcome::Link(link.into_os_string().into_vec().into())))
            }
            Op::ReadDir(request) => {
                let number = |value: u64| usize::try_from(value).unwrap();
                let (first, limit) = (number(request.offset), number(request.limit.into()));
                let all = match handles.get(&request.handle) {
                    Some(Handle::Directory(entries)) => entries.len(),
                    Some(Handle::Many) => number(self.many.load(Ordering::Relaxed)),
                    _ => return Err(bad()),
                };
                let entries: Vec<_> = (first..all.min(first + limit))
                    .map(|index| match handles.get(&request.handle) {
                        Some(Handle::Directory(entries)) => entries[index].clone(),
                        _ => DirEntry { name: format!("entry-{index:07}").into(), ino: 1, kind: 8 },
                    })
                    .collect();
                let end = first + entries.len() >= all;
                done(None, Some(Outcome::Entries(DirEntries { entries, end })))
            }
            Op::StatFs(_) => done(
                None,
                Some(Outcome::StatFs(StatFs {
                    kind: 0x1234,
                    bsize: 4096,
                    namelen: 255,
                    ..StatFs::default()
                })),
            ),
        })
    }

    fn open(&self, request: &FileOpen) -> std::io::Result<(Stat, OpenedFile, Option<Handle>)> {
        if request.path.as_ref() == b"/remote/many" {
            let folder = stat(&fs::metadata(&self.folder)?);
            return Ok((folder, OpenedFile::default(), Some(Handle::Many)));
        }
        let path = self.path(&request.path);
        let flags = if request.no_follow { libc::O_NOFOLLOW } else { 0 };
        if fs::metadata(&path).is_ok_and(|metadata| metadata.file_type().is_fifo()) {
            return Err(std::io::Error::from_raw_os_error(libc::ENXIO));
        }
        let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(&path)?;
        let metadata = stat(&file.metadata()?);
        if metadata.mode & libc::S_IFMT == libc::S_IFDIR {
            return Ok((metadata, OpenedFile::default(), Some(Handle::Directory(list(&path)?))));
        }
        if request.directory {
            return Err(std::io::Error::from_raw_os_error(libc::ENOTDIR));
        }
        if metadata.size <= request.inline_limit.into() {
            let content = fs::read(&path)?.into();
            return Ok((metadata, OpenedFile { inline: true, content, ..OpenedFile::default() }, None));
        }
        Ok((metadata, OpenedFile::default(), Some(Handle::File(file))))
    }
}

impl RemoteFiles for Target {
    fn file(&self, op: Op) -> ReplyFuture<'_> {
        let reply = if self.broken.load(Ordering::Relaxed) {
            Err(LinkError::Broken { call: "Files" })
        } else {
            Ok(self.perform(&op).unwrap_or_else(|error| FileReply {
                errno: error.raw_os_error().unwrap_or(libc::EIO).unsigned_abs(),
                ..FileReply::default()
            }))
        };
        Box::pin(async move { reply })
    }
}

fn list(path: &Path) -> std::io::Result<Vec<DirEntry>> {
    let entries = fs::read_dir(path)?.map(|entry| {
        let entry = entry?;
        let kind = entry.file_type()?;
        let kind = match () {
            () if kind.is_dir() => 4,
            () if kind.is_symlink() => 10,
            () if kind.is_fifo() => 1,
            () if kind.is_socket() => 12,
            () => 8,
        };
        Ok(DirEntry { name: entry.file_name().into_vec().into(), ino: entry.ino(), kind })
    });
    entries.collect()
}

fn stat(metadata: &fs::Metadata) -> Stat {
    let nanoseconds = |value: i64| value.try_into().unwrap();
    Stat {
        dev: metadata.dev(),
        ino: metadata.ino(),
        mode: metadata.mode(),
        nlink: metadata.nlink(),
        uid: metadata.uid(),
        gid: metadata.gid(),
        rdev: metadata.rdev(),
        size: metadata.size(),
        blksize: metadata.blksize().try_into().unwrap(),
        blocks: metadata.blocks(),
        atime_s: metadata.atime(),
        atime_ns: nanoseconds(metadata.atime_nsec()),
        mtime_s: metadata.mtime(),
        mtime_ns: nanoseconds(metadata.mtime_nsec()),
        ctime_s: metadata.ctime(),
        ctime_ns: nanoseconds(metadata.ctime_nsec()),
    }
}
