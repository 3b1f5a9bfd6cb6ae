//! Hooks of the functions that take a path and are thin over one system call. The system call without a directory descriptor is put
//! as the one with it.

use core::ffi::{c_char, c_int, c_long, c_uint, c_void};

use libc::{AT_FDCWD, mode_t, size_t, ssize_t, stat as Stat, statfs as StatFs};

use crate::{
    calls::{Outcome, result, trapped, word},
    hook::hooks,
};

hooks! {
    fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int = |path, flags, mode| opened(AT_FDCWD, path, flags, mode);
    fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int = |path, flags, mode| opened(AT_FDCWD, path, flags, mode);
    fn __open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int = |path, flags, mode| opened(AT_FDCWD, path, flags, mode);
    fn __open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int = |path, flags, mode| opened(AT_FDCWD, path, flags, mode);
    fn __open_2(path: *const c_char, flags: c_int) -> c_int = |path, flags| opened(AT_FDCWD, path, flags, 0);
    fn __open64_2(path: *const c_char, flags: c_int) -> c_int = |path, flags| opened(AT_FDCWD, path, flags, 0);
    fn openat(directory: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int = opened;
    fn openat64(directory: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int = opened;
    fn __openat_2(directory: c_int, path: *const c_char, flags: c_int) -> c_int = |directory, path, flags| opened(directory, path, flags, 0);
    fn __openat64_2(directory: c_int, path: *const c_char, flags: c_int) -> c_int = |directory, path, flags| opened(directory, path, flags, 0);
    fn creat(path: *const c_char, mode: mode_t) -> c_int, checked = |path, mode| opened(AT_FDCWD, path, CREATE, mode);
    fn creat64(path: *const c_char, mode: mode_t) -> c_int = |path, mode| opened(AT_FDCWD, path, CREATE, mode);

    fn stat(path: *const c_char, buffer: *mut Stat) -> c_int, checked = |path, buffer| status(AT_FDCWD, path, buffer, 0);
    fn stat64(path: *const c_char, buffer: *mut Stat) -> c_int = |path, buffer| status(AT_FDCWD, path, buffer, 0);
    fn lstat(path: *const c_char, buffer: *mut Stat) -> c_int, checked = |path, buffer| status(AT_FDCWD, path, buffer, NO_FOLLOW);
    fn lstat64(path: *const c_char, buffer: *mut Stat) -> c_int = |path, buffer| status(AT_FDCWD, path, buffer, NO_FOLLOW);
    fn fstatat(directory: c_int, path: *const c_char, buffer: *mut Stat, flags: c_int) -> c_int, checked = status;
    fn fstatat64(directory: c_int, path: *const c_char, buffer: *mut Stat, flags: c_int) -> c_int = status;
    fn __xstat(version: c_int, path: *const c_char, buffer: *mut Stat) -> c_int = |_, path, buffer| status(AT_FDCWD, path, buffer, 0);
    fn __xstat64(version: c_int, path: *const c_char, buffer: *mut Stat) -> c_int = |_, path, buffer| status(AT_FDCWD, path, buffer, 0);
    fn __lxstat(version: c_int, path: *const c_char, buffer: *mut Stat) -> c_int = |_, path, buffer| status(AT_FDCWD, path, buffer, NO_FOLLOW);
    fn __lxstat64(version: c_int, path: *const c_char, buffer: *mut Stat) -> c_int = |_, path, buffer| status(AT_FDCWD, path, buffer, NO_FOLLOW);
    fn __fxstatat(version: c_int, directory: c_int, path: *const c_char, buffer: *mut Stat, flags: c_int) -> c_int = |_, directory, path, buffer, flags| status(directory, path, buffer, flags);
    fn __fxstatat64(version: c_int, directory: c_int, path: *const c_char, buffer: *mut Stat, flags: c_int) -> c_int = |_, directory, path, buffer, flags| status(directory, path, buffer, flags);
    fn statx(directory: c_int, path: *const c_char, flags: c_int, mask: c_uint, buffer: *mut c_void) -> c_int = |directory, path: *const c_char, flags, mask: c_uint, buffer: *mut c_void| {
        call(libc::SYS_statx, [word(directory), path.expose_provenance(), word(flags), mask as usize, buffer.expose_provenance(), 0])
    };

    fn access(path: *const c_char, mode: c_int) -> c_int, checked = |path, mode| allowed(AT_FDCWD, path, mode, 0);
    fn eaccess(path: *const c_char, mode: c_int) -> c_int, checked = |path, mode| allowed(AT_FDCWD, path, mode, libc::AT_EACCESS);
    fn euidaccess(path: *const c_char, mode: c_int) -> c_int, checked = |path, mode| allowed(AT_FDCWD, path, mode, libc::AT_EACCESS);
    fn faccessat(directory: c_int, path: *const c_char, mode: c_int, flags: c_int) -> c_int, checked = allowed;

    fn readlink(path: *const c_char, buffer: *mut c_char, size: size_t) -> ssize_t, checked = |path, buffer, size| link(AT_FDCWD, path, buffer, size);
    fn readlinkat(directory: c_int, path: *const c_char, buffer: *mut c_char, size: size_t) -> ssize_t, checked = link;
    fn __readlink_chk(path: *const c_char, buffer: *mut c_char, size: size_t, room: size_t) -> ssize_t = |path, buffer, size: size_t, room| link(AT_FDCWD, path, buffer, size.min(room));
    fn __readlinkat_chk(directory: c_int, path: *const c_char, buffer: *mut c_char, size: size_t, room: size_t) -> ssize_t = |directory, path, buffer, size: size_t, room| link(directory, path, buffer, size.min(room));

    fn statfs(path: *const c_char, buffer: *mut StatFs) -> c_int, checked = file_system;
    fn statfs64(path: *const c_char, buffer: *mut StatFs) -> c_int = file_system;
    fn statvfs(path: *const c_char, buffer: *mut libc::statvfs) -> c_int, checked = portable_file_system;
    fn statvfs64(path: *const c_char, buffer: *mut libc::statvfs) -> c_int = portable_file_system;

    fn getxattr(path: *const c_char, name: *const c_char, value: *mut c_void, size: size_t) -> ssize_t, checked = |path, _, _, _| attribute(libc::SYS_getxattr, path);
    fn lgetxattr(path: *const c_char, name: *const c_char, value: *mut c_void, size: size_t) -> ssize_t, checked = |path, _, _, _| attribute(libc::SYS_lgetxattr, path);
    fn listxattr(path: *const c_char, list: *mut c_char, size: size_t) -> ssize_t, checked = |path, _, _| attribute(libc::SYS_listxattr, path);
    fn llistxattr(path: *const c_char, list: *mut c_char, size: size_t) -> ssize_t, checked = |path, _, _| attribute(libc::SYS_llistxattr, path);
}

const CREATE: c_int = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
const NO_FOLLOW: c_int = libc::AT_SYMLINK_NOFOLLOW;

pub(crate) fn opened(directory: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> Outcome<c_int> {
    call(libc::SYS_openat, [word(directory), path.expose_provenance(), word(flags), mode as usize, 0, 0])
}

fn status(directory: c_int, path: *const c_char, buffer: *mut Stat, flags: c_int) -> Outcome<c_int> {
    call(
        libc::SYS_newfstatat,
        [word(directory), path.expose_provenance(), buffer.expose_provenance(), word(flags), 0, 0],
    )
}

/// lstat(2).
pub(crate) fn link_status(path: *const c_char, buffer: *mut Stat) -> Outcome<c_int> {
    status(AT_FDCWD, path, buffer, NO_FOLLOW)
}

fn allowed(directory: c_int, path: *const c_char, mode: c_int, flags: c_int) -> Outcome<c_int> {
    call(libc::SYS_faccessat2, [word(directory), path.expose_provenance(), word(mode), word(flags), 0, 0])
}

pub(crate) fn link(
    directory: c_int,
    path: *const c_char,
    buffer: *mut c_char,
    size: size_t,
) -> Outcome<ssize_t> {
    let arguments = [word(directory), path.expose_provenance(), buffer.expose_provenance(), size, 0, 0];
    trapped(libc::SYS_readlinkat, arguments).map(|value| ssize_t::try_from(value).unwrap_or(-1))
}

fn file_system(path: *const c_char, buffer: *mut StatFs) -> Outcome<c_int> {
    call(libc::SYS_statfs, [path.expose_provenance(), buffer.expose_provenance(), 0, 0, 0, 0])
}

/// statvfs(3) as libc makes it of statfs(2).
fn portable_file_system(path: *const c_char, buffer: *mut libc::statvfs) -> Outcome<c_int> {
    // SAFETY: both are plain structures for which zeroes are valid.
    let mut native = unsafe { core::mem::zeroed::<StatFs>() };
    let outcome = file_system(path, &raw mut native);
    if outcome != Outcome::Value(0) {
        return outcome;
    }
    // SAFETY: as above.
    let mut portable = unsafe { core::mem::zeroed::<libc::statvfs>() };
    portable.f_bsize = native.f_bsize.cast_unsigned() as _;
    portable.f_frsize = native.f_frsize.cast_unsigned() as _;
    portable.f_blocks = native.f_blocks;
    portable.f_bfree = native.f_bfree;
    portable.f_bavail = native.f_bavail;
    portable.f_files = native.f_files;
    portable.f_ffree = native.f_ffree;
    portable.f_favail = native.f_ffree;
    portable.f_namemax = native.f_namelen.cast_unsigned() as _;
    // SAFETY: the program's own buffer for a struct statvfs.
    unsafe { buffer.write(portable) };
    outcome
}

fn attribute(number: c_long, path: *const c_char) -> Outcome<ssize_t> {
    let outcome = trapped(number, [path.expose_provenance(), 0, 0, 0, 0, 0]);
    outcome.map(|value| ssize_t::try_from(value).unwrap_or(-1))
}

fn call(number: c_long, arguments: [usize; 6]) -> Outcome<c_int> {
    trapped(number, arguments).map(result)
}
