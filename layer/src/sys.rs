//! The unsafe system calls of the layer that rustix has no wrapper for. One file per subject; everything they export is safe to call.

pub(crate) mod memory;
pub(crate) mod mounts;
pub(crate) mod process;
pub(crate) mod seccomp;

use std::io;

/// The result of a raw system call.
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
