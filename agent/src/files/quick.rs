//! Operations that the kernel can answer without waiting for a disk, a network or another process: they are done on the spot,
//! because handing them to another thread would cost more than they do.
//!
//! Each function returns `None` when it cannot promise that; then the blocking one in [`super`] does it.

use std::{
    fs::File,
    io::{self, IoSliceMut},
    os::fd::OwnedFd,
};

use mirrord_protocol::agent::v1::{self as wire, file_reply::Result as Outcome};
use rustix::{
    fs::{AtFlags, FileType, Statx, StatxFlags, statx},
    io::{Errno, ReadWriteFlags, preadv2},
};

use super::{Answer, Root, mounts::Mounts, read_link, reopen, stat};
use crate::limits::{FILE_INLINE, FILE_QUICK};

/// stat(2) and lstat(2).
pub(crate) fn quick_stat(
    root: &Root,
    mounts: &mut Mounts,
    request: &wire::FileStat,
) -> Option<io::Result<Answer>> {
    let looked = look(root, mounts, &request.path, request.follow)?;
    Some(looked.map(|(_, found)| Answer { stat: Some(stat(&found)), ..Answer::default() }))
}

/// readlink(2).
pub(crate) fn quick_readlink(
    root: &Root,
    mounts: &mut Mounts,
    request: &wire::FileReadlink,
) -> Option<io::Result<Answer>> {
    let looked = look(root, mounts, &request.path, false)?;
    Some(looked.and_then(|(looked, _)| read_link(&looked)))
}

/// open(2) of a small regular file whose content is wanted and lies in the page cache; and every open(2) that fails.
pub(crate) fn quick_open(
    root: &Root,
    mounts: &mut Mounts,
    request: &wire::FileOpen,
) -> Option<io::Result<Answer>> {
    let (looked, found) = match look(root, mounts, &request.path, !request.no_follow)? {
        Ok(looked) => looked,
        Err(error) => return Some(Err(error)),
    };
    let limit = usize::try_from(request.inline_limit).unwrap_or(FILE_INLINE).min(FILE_QUICK);
    let size = usize::try_from(found.stx_size).ok().filter(|size| *size > 0 && *size <= limit)?;
    let regular = FileType::from_raw_mode(found.stx_mode.into()) == FileType::RegularFile;
    if !regular || request.directory {
        return None;
    }
    let file = match reopen(&looked) {
        Ok(file) => file,
        Err(error) => return Some(Err(error)),
    };
    let mut content = cached(&file, 0, size + 1)?;
    // Longer than a moment ago, or cut short by a page that is not cached: let the blocking path find out.
    if content.len() != size {
        return None;
    }
    content.shrink_to_fit();
    let opened = wire::OpenedFile { handle: 0, inline: true, content: content.into() };
    Some(Ok(Answer { stat: Some(stat(&found)), outcome: Some(Outcome::Opened(opened)), handle: None }))
}

/// pread(2) from the page cache.
pub(crate) fn quick_read(file: &File, request: &wire::FileRead) -> Option<io::Result<Answer>> {
    let length =
        usize::try_from(request.length).ok().filter(|length| *length > 0 && *length <= FILE_QUICK)?;
    let data = cached(file, request.offset, length)?;
    // A short read may be the end of the file or the end of what is cached; only an empty one at the end is sure.
    (data.len() == length)
        .then(|| Ok(Answer { outcome: Some(Outcome::Data(data.into())), ..Answer::default() }))
}

/// Resolves from the kernel's cache of paths. Attributes are asked for without synchronising, and count only when the mount is a
/// local one, where that makes no difference.
fn look(root: &Root, mounts: &mut Mounts, path: &[u8], follow: bool) -> Option<io::Result<(OwnedFd, Statx)>> {
    let looked = match root.look_cached(path, follow) {
        Ok(looked) => looked,
        Err(error) => {
            return match Errno::from_io_error(&error) {
                // Not cached; or a kernel before 5.12, which does not know the flag.
                Some(Errno::AGAIN | Errno::INVAL) | None => None,
                Some(_) => Some(Err(error)),
            };
        }
    };
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    match statx(&looked, c"", flags, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID) {
        Ok(found) => mounts.is_local(found.stx_mnt_id).then_some(Ok((looked, found))),
        Err(_) => None,
    }
}

/// Reads what the page cache has; `None` when it has nothing there or the file system cannot say.
fn cached(file: &File, offset: u64, length: usize) -> Option<Vec<u8>> {
    let mut data = vec![0; length];
    let read = preadv2(file, &mut [IoSliceMut::new(&mut data)], offset, ReadWriteFlags::NOWAIT).ok()?;
    data.truncate(read);
    Some(data)
}
