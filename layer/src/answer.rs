//! The answers of path calls as the bytes that the kernel would have written: struct stat, statx and statfs.

use mirrord_protocol::agent::v1::{Stat, StatFs};

/// STATX_BASIC_STATS of linux/stat.h.
const STATX_BASIC_STATS: u32 = 0x7ff;
/// Size of struct statx.
const STATX_BYTES: usize = 256;
/// Size of struct statfs on 64-bit machines.
const STATFS_BYTES: usize = 120;

/// Appends numbers in native byte order.
struct Writer(Vec<u8>);

impl Writer {
    fn new(size: usize) -> Self {
        Self(Vec::with_capacity(size))
    }
    fn u16(&mut self, value: u16) -> &mut Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }
    fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }
    fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }
    fn i64(&mut self, value: i64) -> &mut Self {
        self.u64(value.cast_unsigned())
    }
    /// Seconds and nanoseconds of struct timespec.
    fn time(&mut self, seconds: i64, nanoseconds: u32) -> &mut Self {
        self.i64(seconds).u64(nanoseconds.into())
    }
    /// struct statx_timestamp.
    fn statx_time(&mut self, seconds: i64, nanoseconds: u32) -> &mut Self {
        self.i64(seconds).u32(nanoseconds).u32(0)
    }
    fn fill(mut self, size: usize) -> Vec<u8> {
        self.0.resize(size, 0);
        self.0
    }
}

/// struct stat of asm/stat.h.
#[cfg(target_arch = "x86_64")]
pub(crate) fn stat(stat: &Stat) -> Vec<u8> {
    const SIZE: usize = 144;
    let mut writer = Writer::new(SIZE);
    writer.u64(stat.dev).u64(stat.ino).u64(stat.nlink).u32(stat.mode).u32(stat.uid).u32(stat.gid).u32(0);
    writer.u64(stat.rdev).u64(stat.size).u64(stat.blksize.into()).u64(stat.blocks);
    times(&mut writer, stat);
    writer.fill(SIZE)
}

/// struct stat of asm-generic/stat.h.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn stat(stat: &Stat) -> Vec<u8> {
    const SIZE: usize = 128;
    let mut writer = Writer::new(SIZE);
    let links = u32::try_from(stat.nlink).unwrap_or(u32::MAX);
    writer.u64(stat.dev).u64(stat.ino).u32(stat.mode).u32(links).u32(stat.uid).u32(stat.gid);
    writer.u64(stat.rdev).u64(0).u64(stat.size).u32(stat.blksize).u32(0).u64(stat.blocks);
    times(&mut writer, stat);
    writer.fill(SIZE)
}

fn times(writer: &mut Writer, stat: &Stat) {
    writer
        .time(stat.atime_s, stat.atime_ns)
        .time(stat.mtime_s, stat.mtime_ns)
        .time(stat.ctime_s, stat.ctime_ns);
}

/// struct statx of linux/stat.h.
pub(crate) fn statx(stat: &Stat) -> Vec<u8> {
    let mut writer = Writer::new(STATX_BYTES);
    writer.u32(STATX_BASIC_STATS).u32(stat.blksize).u64(0);
    writer.u32(u32::try_from(stat.nlink).unwrap_or(u32::MAX)).u32(stat.uid).u32(stat.gid);
    writer.u16(u16::try_from(stat.mode & 0xffff).unwrap_or(0)).u16(0);
    writer.u64(stat.ino).u64(stat.size).u64(stat.blocks).u64(0);
    writer.statx_time(stat.atime_s, stat.atime_ns).statx_time(0, 0);
    writer.statx_time(stat.ctime_s, stat.ctime_ns).statx_time(stat.mtime_s, stat.mtime_ns);
    writer.u32(major(stat.rdev)).u32(minor(stat.rdev)).u32(major(stat.dev)).u32(minor(stat.dev));
    writer.fill(STATX_BYTES)
}

/// struct statfs of asm-generic/statfs.h.
pub(crate) fn statfs(statfs: &StatFs) -> Vec<u8> {
    let mut writer = Writer::new(STATFS_BYTES);
    writer.u64(statfs.kind).u64(statfs.bsize).u64(statfs.blocks).u64(statfs.bfree).u64(statfs.bavail);
    writer.u64(statfs.files).u64(statfs.ffree).u64(0);
    writer.u64(statfs.namelen).u64(statfs.frsize).u64(statfs.flags);
    writer.fill(STATFS_BYTES)
}

fn major(device: u64) -> u32 {
    let number = ((device >> 8) & 0xfff) | ((device >> 32) & !0xfff);
    u32::try_from(number & u64::from(u32::MAX)).unwrap_or(0)
}

fn minor(device: u64) -> u32 {
    let number = (device & 0xff) | ((device >> 12) & !0xff);
    u32::try_from(number & u64::from(u32::MAX)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    /// The same file seen by the standard library.
    fn sample() -> Stat {
        let file = std::fs::metadata("/proc/self/exe").unwrap();
        let time = |value: i64| u32::try_from(value).unwrap();
        Stat {
            dev: file.dev(),
            ino: file.ino(),
            mode: file.mode(),
            nlink: file.nlink(),
            uid: file.uid(),
            gid: file.gid(),
            rdev: file.rdev(),
            size: file.size(),
            blksize: u32::try_from(file.blksize()).unwrap(),
            blocks: file.blocks(),
            atime_s: file.atime(),
            atime_ns: time(file.atime_nsec()),
            mtime_s: file.mtime(),
            mtime_ns: time(file.mtime_nsec()),
            ctime_s: file.ctime(),
            ctime_ns: time(file.ctime_nsec()),
        }
    }

    fn number<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
        bytes[offset..offset + N].try_into().unwrap()
    }

    #[test]
    fn stat_has_the_layout_of_the_c_library() {
        let sample = sample();
        let bytes = stat(&sample);
        assert_eq!(bytes.len(), size_of::<libc::stat>());
        let at = |offset| u64::from_ne_bytes(number(&bytes, offset));
        assert_eq!(at(std::mem::offset_of!(libc::stat, st_ino)), sample.ino);
        assert_eq!(at(std::mem::offset_of!(libc::stat, st_size)), sample.size);
        assert_eq!(at(std::mem::offset_of!(libc::stat, st_mtime)), sample.mtime_s.cast_unsigned());
        assert_eq!(at(std::mem::offset_of!(libc::stat, st_ctime_nsec)), u64::from(sample.ctime_ns));
        let mode = u32::from_ne_bytes(number(&bytes, std::mem::offset_of!(libc::stat, st_mode)));
        assert_eq!(mode, sample.mode);
    }

    #[test]
    fn statx_has_the_layout_of_the_c_library() {
        let sample = sample();
        let bytes = statx(&sample);
        assert_eq!(bytes.len(), size_of::<libc::statx>());
        let size = u64::from_ne_bytes(number(&bytes, std::mem::offset_of!(libc::statx, stx_size)));
        assert_eq!(size, sample.size);
        let mtime = i64::from_ne_bytes(number(&bytes, std::mem::offset_of!(libc::statx, stx_mtime)));
        assert_eq!(mtime, sample.mtime_s);
        let mode = u16::from_ne_bytes(number(&bytes, std::mem::offset_of!(libc::statx, stx_mode)));
        assert_eq!(u32::from(mode), sample.mode);
        let major_at = std::mem::offset_of!(libc::statx, stx_dev_major);
        assert_eq!(u32::from_ne_bytes(number(&bytes, major_at)), rustix::fs::major(sample.dev));
        assert_eq!(u32::from_ne_bytes(number(&bytes, major_at + 4)), rustix::fs::minor(sample.dev));
    }

    #[test]
    fn statfs_has_the_layout_of_the_c_library() {
        let bytes = statfs(&StatFs { namelen: 255, flags: 1, blocks: 9, ..StatFs::default() });
        assert_eq!(bytes.len(), size_of::<libc::statfs>());
        assert_eq!(u64::from_ne_bytes(number(&bytes, std::mem::offset_of!(libc::statfs, f_blocks))), 9);
        assert_eq!(u64::from_ne_bytes(number(&bytes, std::mem::offset_of!(libc::statfs, f_namelen))), 255);
    }
}
