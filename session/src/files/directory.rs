//! A directory of the target as a directory descriptor: a file system in memory, attached nowhere, with the target's names and types.
//!
//! getdents64(2) on the descriptor is plain kernel code. Relative calls on it are trapped and answered from the target, so the
//! entries need no content: all files of one type are hard links to one inode, which makes 100 000 names cost some 20 MiB. The
//! list is what the directory held when it was opened. The file system lives as long as a descriptor on it.

use std::{
    ffi::{OsStr, OsString},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

use mirrord_protocol::agent::v1::{DirEntry, FileReadDir, Stat, file_reply, file_request::Op};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::{Errno, Inner, copies::seal_attributes};
use crate::limits::{DIRECTORY_CHUNK, DIRECTORY_ENTRIES};

/// A descriptor on a directory that lists what the open directory `handle` of the target lists.
pub(super) async fn make(inner: &Inner, handle: u64, stat: &Stat) -> Result<OwnedFd, Errno> {
    let (mount, sealed) = match inner.helper.directory().await {
        Ok(mount) => (mount, false),
        Err(refused) => (inner.scratch.make().map_err(|_| refused)?, true),
    };
    let mut skeleton = Skeleton { mount, templates: Vec::new() };
    let mut offset = 0;
    loop {
        let request = FileReadDir { path: bytes::Bytes::new(), offset, limit: DIRECTORY_CHUNK, handle };
        let reply = inner.ask(Op::ReadDir(request)).await?;
        let Some(file_reply::Result::Entries(listed)) = reply.result else { return Err(Errno(libc::EIO)) };
        offset += u64::try_from(listed.entries.len()).unwrap_or(u64::MAX);
        if offset > DIRECTORY_ENTRIES {
            return Err(Errno(libc::EOVERFLOW));
        }
        let last = listed.end || listed.entries.is_empty();
        let filled =
            tokio::task::spawn_blocking(move || skeleton.add(&listed.entries).map(|()| skeleton)).await;
        skeleton = filled.map_err(|_| Errno(libc::EIO))??;
        if last {
            break;
        }
    }
    let opened = rustix::fs::openat(
        &skeleton.mount,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    if sealed {
        // Its owner must be able to remove it.
        let mode = stat.mode | Mode::RWXU.as_raw_mode();
        seal_attributes(&opened, &Stat { mode, ..*stat })?;
    } else {
        seal_attributes(&opened, stat)?;
        inner.helper.seal(skeleton.mount).await?;
    }
    Ok(opened)
}

struct Skeleton {
    /// A file system, or a folder.
    mount: OwnedFd,
    /// By type, the first entry, which the others are links to.
    templates: Vec<(FileType, OsString)>,
}

impl Skeleton {
    fn add(&mut self, entries: &[DirEntry]) -> Result<(), Errno> {
        for entry in entries {
            let name = OsStr::from_bytes(&entry.name);
            // No file system lists such names; a broken agent shall not make us leave the folder.
            if name.is_empty()
                || entry.name.contains(&b'/')
                || entry.name.as_ref() == b"."
                || entry.name.as_ref() == b".."
            {
                continue;
            }
            match self.add_one(name, file_type(entry.kind)) {
                // The directory changed while it was read, and a name came twice.
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn add_one(&mut self, name: &OsStr, kind: FileType) -> rustix::io::Result<()> {
        let mount = self.mount.as_fd();
        if kind == FileType::Directory {
            return rustix::fs::mkdirat(mount, name, Mode::RWXU);
        }
        if let Some((_, template)) = self.templates.iter().find(|(known, _)| *known == kind) {
            return rustix::fs::linkat(mount, template, mount, name, AtFlags::empty());
        }
        match kind {
            FileType::Symlink => rustix::fs::symlinkat("remote", mount, name)?,
            // Devices cannot be made without privileges, and nobody opens this one.
            FileType::CharacterDevice | FileType::BlockDevice => {
                rustix::fs::mknodat(mount, name, FileType::RegularFile, Mode::RUSR, 0)?;
            }
            kind => rustix::fs::mknodat(mount, name, kind, Mode::RUSR, 0)?,
        }
        self.templates.push((kind, name.to_owned()));
        Ok(())
    }
}

/// From d_type of getdents64(2).
const fn file_type(kind: u32) -> FileType {
    match kind {
        1 => FileType::Fifo,
        2 => FileType::CharacterDevice,
        4 => FileType::Directory,
        6 => FileType::BlockDevice,
        10 => FileType::Symlink,
        12 => FileType::Socket,
        _ => FileType::RegularFile,
    }
}
