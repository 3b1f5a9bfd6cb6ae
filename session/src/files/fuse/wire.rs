//! The part of the kernel's FUSE protocol that a read-only server of single files needs (linux/fuse.h, version 7.31).

use std::{io::IoSlice, os::fd::OwnedFd};

use bytes::Bytes;
use mirrord_protocol::agent::v1::Stat;

/// Buffer for one request; the kernel wants 8 KiB at least, and requests of a read-only server are small.
pub(super) const REQUEST_BYTES: usize = 64 << 10;
const HEADER_IN: usize = 40;
const HEADER_OUT: usize = 16;
const VERSION: (u32, u32) = (7, 31);
/// FUSE_ASYNC_READ and FUSE_MAX_PAGES.
const FEATURES: u32 = 1 | 1 << 22;
/// 1 MiB per read.
const MAX_PAGES: u16 = 256;
/// FOPEN_KEEP_CACHE: a node is one version of a file.
const KEEP_CACHE: u32 = 2;
/// Seconds for which the kernel need not ask again: a node never changes.
const VALID: u64 = 3600;

/// What the kernel asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Init {
        readahead: u32,
    },
    Lookup {
        number: u64,
    },
    Attributes,
    Open,
    Read {
        offset: u64,
        size: u32,
    },
    Release,
    Flush,
    Access,
    StatFs,
    /// FORGET, BATCH_FORGET, INTERRUPT, DESTROY: no reply is wanted.
    Forget,
    Other,
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) unique: u64,
    pub(super) node: u64,
    pub(super) operation: Operation,
}

impl Request {
    /// `None`: not a request.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let opcode = u32_at(bytes, 4)?;
        let (unique, node) = (u64_at(bytes, 8)?, u64_at(bytes, 16)?);
        let body = bytes.get(HEADER_IN..)?;
        let operation = match opcode {
            1 => Operation::Lookup { number: number(body).unwrap_or(0) },
            2 | 36 | 38 | 42 => Operation::Forget,
            3 => Operation::Attributes,
            14 => Operation::Open,
            15 => Operation::Read { offset: u64_at(body, 8)?, size: u32_at(body, 16)? },
            17 => Operation::StatFs,
            18 => Operation::Release,
            25 => Operation::Flush,
            26 => Operation::Init { readahead: u32_at(body, 8)? },
            34 => Operation::Access,
            _ => Operation::Other,
        };
        Some(Self { unique, node, operation })
    }
}

/// A file's name, which is its number.
fn number(body: &[u8]) -> Option<u64> {
    let name = body.split(|byte| *byte == 0).next()?;
    std::str::from_utf8(name).ok()?.parse().ok()
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().map(|chunk| u32::from_ne_bytes(*chunk))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes.get(offset..)?.first_chunk().map(|chunk| u64::from_ne_bytes(*chunk))
}

/// One reply without its header.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    error: i32,
    body: Bytes,
}

/// Appends numbers in native byte order.
#[derive(Default)]
struct Body(Vec<u8>);

impl Body {
    fn u16s(mut self, values: impl IntoIterator<Item = u16>) -> Self {
        values.into_iter().for_each(|value| self.0.extend_from_slice(&value.to_ne_bytes()));
        self
    }
    fn u32s(mut self, values: impl IntoIterator<Item = u32>) -> Self {
        values.into_iter().for_each(|value| self.0.extend_from_slice(&value.to_ne_bytes()));
        self
    }
    fn u64s(mut self, values: impl IntoIterator<Item = u64>) -> Self {
        values.into_iter().for_each(|value| self.0.extend_from_slice(&value.to_ne_bytes()));
        self
    }
    /// struct fuse_attr. The owner is always us: the file system knows no other user.
    fn attributes(self, ino: u64, stat: &Stat) -> Self {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let times = [stat.atime_s, stat.mtime_s, stat.ctime_s].map(i64::cast_unsigned);
        let links = u32::try_from(stat.nlink).unwrap_or(u32::MAX);
        self.u64s([ino, stat.size, stat.blocks])
            .u64s(times)
            .u32s([stat.atime_ns, stat.mtime_ns, stat.ctime_ns])
            .u32s([stat.mode, links, uid, gid, 0, stat.blksize, 0])
    }
    fn reply(self) -> Reply {
        Reply { error: 0, body: self.0.into() }
    }
}

impl Reply {
    /// struct fuse_init_out.
    pub(super) fn init(readahead: u32) -> Self {
        Body::default()
            .u32s([VERSION.0, VERSION.1, readahead, FEATURES])
            .u16s([16, 12])
            .u32s([4096, 1])
            .u16s([MAX_PAGES, 0])
            .u32s([0; 8])
            .reply()
    }

    /// struct fuse_entry_out.
    pub(super) fn entry(number: u64, stat: &Stat) -> Self {
        Body::default().u64s([number, 0, VALID, VALID]).u32s([0, 0]).attributes(stat.ino, stat).reply()
    }

    /// struct fuse_attr_out.
    pub(super) fn attributes(ino: u64, stat: &Stat) -> Self {
        Body::default().u64s([VALID]).u32s([0, 0]).attributes(ino, stat).reply()
    }

    /// struct fuse_open_out.
    pub(super) fn opened() -> Self {
        Body::default().u64s([0]).u32s([KEEP_CACHE, 0]).reply()
    }

    /// struct fuse_statfs_out: an empty file system.
    pub(super) fn stat_fs() -> Self {
        Body::default().u64s([0; 5]).u32s([4096, 255, 4096]).u32s([0; 7]).reply()
    }

    pub(super) const fn data(body: Bytes) -> Self {
        Self { error: 0, body }
    }

    pub(super) const fn empty() -> Self {
        Self { error: 0, body: Bytes::new() }
    }

    /// `errno` as errno.h has it.
    pub(super) const fn error(errno: i32) -> Self {
        Self { error: -errno.abs(), body: Bytes::new() }
    }

    /// Sends the reply; the kernel takes it in one write.
    pub(super) fn write_to(&self, device: &OwnedFd, unique: u64) -> rustix::io::Result<usize> {
        let length = u32::try_from(HEADER_OUT + self.body.len()).map_err(|_| rustix::io::Errno::MSGSIZE)?;
        let header = Body::default().u32s([length, self.error.cast_unsigned()]).u64s([unique]);
        rustix::io::writev(device, &[IoSlice::new(&header.0), IoSlice::new(&self.body)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_have_the_sizes_of_the_kernels_structures() {
        let stat = Stat::default();
        for (reply, size) in [
            (Reply::init(0), 64),
            (Reply::entry(2, &stat), 128),
            (Reply::attributes(2, &stat), 104),
            (Reply::opened(), 16),
            (Reply::stat_fs(), 80),
        ] {
            assert_eq!(reply.body.len(), size);
        }
    }

    #[test]
    fn requests_are_parsed_and_short_ones_refused() {
        let mut bytes = Body::default().u32s([0, 1]).u64s([7, 1, 0, 0]).0;
        assert_eq!(bytes.len(), HEADER_IN);
        bytes.extend_from_slice(b"42\0");
        let request = Request { unique: 7, node: 1, operation: Operation::Lookup { number: 42 } };
        assert_eq!(Request::parse(&bytes), Some(request));
        for length in 0..HEADER_IN {
            assert_eq!(Request::parse(&bytes[..length]), None);
        }
        bytes[4] = 15;
        assert_eq!(Request::parse(&bytes), None);
    }
}
