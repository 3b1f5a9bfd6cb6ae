//! Large files where FUSE is not available: a copy in an unlinked temporary file, which is gone with its last descriptor.

use std::os::{fd::OwnedFd, unix::fs::FileExt as _};

use mirrord_protocol::agent::v1::{FileRead, Stat, file_reply, file_request::Op};
use rustix::fs::{Mode, OFlags};

use super::{
    Errno, Inner,
    copies::{reopen, seal_attributes},
};
use crate::limits::{FILE_CHUNK, SPOOL_BYTES};

/// An unlinked file in the directory of temporary files.
pub(super) fn make() -> Result<OwnedFd, Errno> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(rustix::fs::open(std::env::temp_dir(), flags, Mode::RUSR | Mode::WUSR)?)
}

/// Copies an open file of the target; the descriptor reads the copy.
pub(super) async fn copy(
    inner: &Inner,
    path: &[u8],
    handle: u64,
    stat: &Stat,
) -> Result<(OwnedFd, Stat), Errno> {
    if stat.size > SPOOL_BYTES {
        let (size, limit) = (stat.size >> 20, SPOOL_BYTES >> 20);
        inner.events.warn(
            format!("{} has {size} MiB and cannot be opened.", String::from_utf8_lossy(path)),
            format!("Files above {limit} MiB need FUSE: make /dev/fuse accessible, or name the path in feature.fs.local."),
        );
        return Err(Errno(libc::EFBIG));
    }
    let (file, identified, filled) = inner.copies.spool(stat)?;
    if !filled {
        // Two programs may copy at the same time: each writes the same bytes to the same places.
        copy_content(inner, handle, file.try_clone()?).await?;
        seal_attributes(&file, stat)?;
        inner.copies.spooled(stat);
    }
    Ok((reopen(&file, stat)?, identified))
}

async fn copy_content(inner: &Inner, handle: u64, file: OwnedFd) -> Result<(), Errno> {
    let mut file = std::fs::File::from(file);
    let mut offset = 0;
    while offset <= SPOOL_BYTES {
        let reply = inner.ask(Op::Read(FileRead { handle, offset, length: FILE_CHUNK })).await?;
        let Some(file_reply::Result::Data(data)) = reply.result else { return Err(Errno(libc::EIO)) };
        if data.is_empty() {
            return Ok(());
        }
        let (at, length) = (offset, u64::try_from(data.len()).unwrap_or(u64::MAX));
        let written = tokio::task::spawn_blocking(move || file.write_all_at(&data, at).map(|()| file)).await;
        file = written.map_err(|_| Errno(libc::EIO))??;
        offset += length;
    }
    // It has grown while it was copied.
    Err(Errno(libc::EFBIG))
}
