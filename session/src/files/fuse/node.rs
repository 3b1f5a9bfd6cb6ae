//! One served file.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU32, Ordering},
};

use bytes::Bytes;
use mirrord_protocol::agent::v1::{FileClose, FileOpen, FileRead, Stat, file_reply, file_request::Op};

use crate::{
    files::{Errno, RemoteFiles, ask},
    limits::FILE_CHUNK,
};

/// An open file of the target.
pub(super) struct Node {
    path: Bytes,
    stat: Stat,
    opens: AtomicU32,
    handle: Mutex<u64>,
    /// The piece that was read last. The kernel asks for 128 KiB at a time, the agent gives a mebibyte; who asks next waits here for
    /// the same piece.
    piece: tokio::sync::Mutex<Option<Piece>>,
}

struct Piece {
    offset: u64,
    data: Bytes,
}

impl Node {
    pub(super) fn new(path: Bytes, handle: u64, stat: Stat) -> Self {
        let piece = tokio::sync::Mutex::new(None);
        Self { path, stat, opens: AtomicU32::new(0), handle: Mutex::new(handle), piece }
    }

    pub(super) const fn stat(&self) -> &Stat {
        &self.stat
    }

    pub(super) fn opened(&self) {
        self.opens.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a release; true for the last.
    pub(super) fn released(&self) -> bool {
        self.opens.fetch_sub(1, Ordering::Relaxed) == 1
    }

    /// At most `size` bytes; fewer only at the end of the file.
    pub(super) async fn read(
        &self,
        remote: &dyn RemoteFiles,
        offset: u64,
        size: u32,
    ) -> Result<Bytes, Errno> {
        let mut piece = self.piece.lock().await;
        let mut collected = Vec::new();
        let wanted = usize::try_from(size).unwrap_or(0);
        while collected.len() < wanted {
            let at = offset + u64::try_from(collected.len()).unwrap_or(0);
            if piece.as_ref().is_none_or(|piece| !piece.holds(at)) {
                let data = self.fetch(remote, at).await?;
                *piece = Some(Piece { offset: at, data });
            }
            let part = piece.as_ref().map(|piece| piece.from(at)).unwrap_or_default();
            if part.is_empty() {
                break;
            }
            let part = part.slice(..part.len().min(wanted - collected.len()));
            if collected.is_empty() && part.len() == wanted {
                return Ok(part);
            }
            collected.extend_from_slice(&part);
        }
        Ok(collected.into())
    }

    async fn fetch(&self, remote: &dyn RemoteFiles, offset: u64) -> Result<Bytes, Errno> {
        match self.fetch_once(remote, offset).await {
            // The link to the agent has been renewed, which closed the handle.
            Err(Errno(libc::EBADF)) => {
                self.reopen(remote).await?;
                self.fetch_once(remote, offset).await
            }
            result => result,
        }
    }

    async fn fetch_once(&self, remote: &dyn RemoteFiles, offset: u64) -> Result<Bytes, Errno> {
        let read = FileRead { handle: self.handle(), offset, length: FILE_CHUNK };
        match ask(remote, Op::Read(read)).await?.result {
            Some(file_reply::Result::Data(data)) => Ok(data),
            _ => Err(Errno(libc::EIO)),
        }
    }

    async fn reopen(&self, remote: &dyn RemoteFiles) -> Result<(), Errno> {
        let open = FileOpen { path: self.path.clone(), inline_limit: 0, no_follow: false, directory: false };
        match ask(remote, Op::Open(open)).await?.result {
            Some(file_reply::Result::Opened(opened)) if !opened.inline => {
                *self.handle.lock().unwrap_or_else(PoisonError::into_inner) = opened.handle;
                Ok(())
            }
            _ => Err(Errno(libc::ESTALE)),
        }
    }

    /// Closes the target's file.
    pub(super) async fn close(&self, remote: &dyn RemoteFiles) {
        // A handle that the agent no longer has is as good as closed.
        ask(remote, Op::Close(FileClose { handle: self.handle() })).await.ok();
    }

    fn handle(&self) -> u64 {
        *self.handle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Piece {
    /// Whether the byte at this offset is in it; an empty piece is the end of the file.
    fn holds(&self, offset: u64) -> bool {
        let length = u64::try_from(self.data.len()).unwrap_or(0);
        offset >= self.offset && offset - self.offset < length
    }

    fn from(&self, offset: u64) -> Bytes {
        let start = usize::try_from(offset.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        if start >= self.data.len() { Bytes::new() } else { self.data.slice(start..) }
    }
}
