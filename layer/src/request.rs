//! A trapped path call as a value: which path, and what the program wants to know or have.

use std::io;

use crate::{filter::PathCall, limits::PATH_BYTES, sys::memory, trapped::Trapped};

/// What a path call asks for, with the addresses where the answer belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// A descriptor; flags of open(2).
    Open { flags: u32 },
    /// struct stat at this address.
    Stat { buffer: u64 },
    /// struct statx at this address.
    Statx { buffer: u64 },
    /// Nothing but the result; mode of access(2).
    Access { mode: u32 },
    /// The target of a link, at most `size` bytes at this address.
    Link { buffer: u64, size: u64 },
    /// struct statfs at this address.
    Statfs { buffer: u64 },
    /// An extended attribute.
    Attribute,
    /// The names of all extended attributes.
    AttributeList,
}

/// A path call.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Name of the system call, for people.
    pub(crate) operation: &'static str,
    /// Descriptor that a relative path starts at, or AT_FDCWD.
    pub(crate) directory: i32,
    /// As the program wrote it.
    pub(crate) path: Vec<u8>,
    /// A symbolic link at the end is followed.
    pub(crate) follow: bool,
    pub(crate) want: Want,
}

impl Want {
    /// Whether the call would change something or asks for the right to.
    pub(crate) const fn writes(self) -> bool {
        match self {
            Self::Open { flags } => {
                let access = flags & libc::O_ACCMODE.unsigned_abs();
                let changing = libc::O_CREAT.unsigned_abs() | libc::O_TRUNC.unsigned_abs() | TEMPORARY_FILE;
                access != libc::O_RDONLY.unsigned_abs() || flags & changing != 0
            }
            Self::Access { mode } => mode & libc::W_OK.unsigned_abs() != 0,
            _ => false,
        }
    }

    /// Whether a writing call makes its own file, whatever the target has there: it creates and replaces or only appends.
    pub(crate) const fn makes_its_own(self) -> bool {
        match self {
            Self::Open { flags } => {
                let new = libc::O_TRUNC.unsigned_abs()
                    | libc::O_EXCL.unsigned_abs()
                    | libc::O_APPEND.unsigned_abs();
                let creates = flags & libc::O_CREAT.unsigned_abs() != 0 && flags & new != 0;
                creates || flags & TEMPORARY_FILE != 0
            }
            _ => false,
        }
    }
}

/// The bit of O_TMPFILE beside O_DIRECTORY (`__O_TMPFILE` of asm-generic/fcntl.h).
const TEMPORARY_FILE: u32 = 0o20_000_000;

/// Offset of `resolve` in struct open_how, and a bit of it (linux/openat2.h).
const OPEN_HOW_RESOLVE: u64 = 16;
const RESOLVE_IN_ROOT: u64 = 0x10;

/// Reads the call's arguments. Nothing is trusted beyond this point but that the caller may have changed it since.
///
/// # Errors
/// As [`memory::read_string`].
pub(crate) fn read(call: PathCall, trapped: &Trapped) -> io::Result<Request> {
    let [a0, a1, a2, a3, a4, _] = trapped.arguments;
    let string = |address| match &trapped.sent {
        Some(sent) => Ok(sent.path.clone()),
        None => memory::read_string(trapped.tid, address, PATH_BYTES),
    };
    let at = |operation, address, follow, want| {
        string(address).map(|path| Request { operation, directory: libc::AT_FDCWD, path, follow, want })
    };
    let below = |operation, follow, want| {
        string(a1).map(|path| Request { operation, directory: int(a0), path, follow, want })
    };
    let no_follow = |flags: u64| uint(flags) & libc::AT_SYMLINK_NOFOLLOW.unsigned_abs() != 0;
    let open = |flags: u32| (flags & libc::O_NOFOLLOW.unsigned_abs() == 0, Want::Open { flags });
    match call {
        PathCall::Open => {
            let (follow, want) = open(uint(a1));
            at("open", a0, follow, want)
        }
        PathCall::Creat => {
            let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
            at("creat", a0, true, Want::Open { flags: flags.unsigned_abs() })
        }
        PathCall::OpenAt => {
            let (follow, want) = open(uint(a2));
            below("openat", follow, want)
        }
        PathCall::OpenAt2 => {
            let (follow, want) = open(uint(memory::read_word(trapped.tid, a2)?));
            let resolve = memory::read_word(trapped.tid, a2.wrapping_add(OPEN_HOW_RESOLVE))?;
            let mut request = below("openat2", follow, want)?;
            if resolve & RESOLVE_IN_ROOT != 0 {
                // The directory is the root: an absolute path starts there as well.
                let start = request.path.iter().position(|byte| *byte != b'/').unwrap_or(request.path.len());
                request.path.drain(..start);
            }
            Ok(request)
        }
        PathCall::Stat => at("stat", a0, true, Want::Stat { buffer: a1 }),
        PathCall::Lstat => at("lstat", a0, false, Want::Stat { buffer: a1 }),
        PathCall::NewFstatAt => below("fstatat", !no_follow(a3), Want::Stat { buffer: a2 }),
        PathCall::Statx => below("statx", !no_follow(a2), Want::Statx { buffer: a4 }),
        PathCall::Access => at("access", a0, true, Want::Access { mode: uint(a1) }),
        PathCall::FaccessAt => below("faccessat", true, Want::Access { mode: uint(a2) }),
        PathCall::FaccessAt2 => below("faccessat2", !no_follow(a3), Want::Access { mode: uint(a2) }),
        PathCall::Readlink => at("readlink", a0, false, Want::Link { buffer: a1, size: a2 }),
        PathCall::ReadlinkAt => below("readlinkat", false, Want::Link { buffer: a2, size: a3 }),
        PathCall::Statfs => at("statfs", a0, true, Want::Statfs { buffer: a1 }),
        PathCall::GetXattr => at("getxattr", a0, true, Want::Attribute),
        PathCall::LgetXattr => at("lgetxattr", a0, false, Want::Attribute),
        PathCall::ListXattr => at("listxattr", a0, true, Want::AttributeList),
        PathCall::LlistXattr => at("llistxattr", a0, false, Want::AttributeList),
    }
}

/// The low half of an argument, as the kernel reads an `unsigned int`.
pub(crate) fn uint(argument: u64) -> u32 {
    u32::try_from(argument & u64::from(u32::MAX)).unwrap_or(0)
}

/// The low half of an argument, as the kernel reads an `int`.
pub(crate) fn int(argument: u64) -> i32 {
    uint(argument).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(flags: i32) -> Want {
        Want::Open { flags: flags.unsigned_abs() }
    }

    #[test]
    fn writing_opens_are_told_from_reading_ones() {
        for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_CREAT, libc::O_TRUNC, libc::O_TMPFILE] {
            assert!(open(flags).writes(), "{flags:o}");
        }
        for flags in
            [0, libc::O_CLOEXEC, libc::O_DIRECTORY, libc::O_PATH, libc::O_NONBLOCK | libc::O_NOFOLLOW]
        {
            assert!(!open(flags).writes(), "{flags:o}");
        }
        assert!(Want::Access { mode: libc::W_OK.unsigned_abs() }.writes());
        assert!(!Want::Access { mode: libc::R_OK.unsigned_abs() }.writes());
    }

    #[test]
    fn only_opens_that_create_and_need_no_content_make_their_own_file() {
        assert!(!open(libc::O_RDWR).makes_its_own());
        assert!(!open(libc::O_RDWR | libc::O_CREAT).makes_its_own());
        assert!(!open(libc::O_WRONLY | libc::O_APPEND).makes_its_own());
        assert!(open(libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC).makes_its_own());
        assert!(open(libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND).makes_its_own());
        assert!(open(libc::O_RDWR | libc::O_TMPFILE).makes_its_own());
    }

    #[test]
    fn arguments_are_read_as_the_kernel_does() {
        assert_eq!(int(0xffff_ffff_ffff_ff9c), libc::AT_FDCWD);
        assert_eq!(int(0x0000_0000_ffff_ff9c), libc::AT_FDCWD);
        assert_eq!(uint(0x1_0000_0001), 1);
    }
}
