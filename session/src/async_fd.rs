//! Descriptors that the runtime polls.
#![expect(unsafe_code, reason = "tokio leaves to its caller that the descriptor stays open and the same")]

use std::{io, os::fd::OwnedFd};

use mirrord_layer::link::Link;
use tokio::io::unix::AsyncFd;

/// Watches a descriptor for reading and writing.
///
/// # Errors
/// When the runtime cannot poll it (a regular file).
pub(crate) fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: register wants a descriptor that is open, and the same, as long as the AsyncFd lives. An OwnedFd is open until it is
    // dropped, its number cannot be changed, and the AsyncFd owns it.
    Ok(unsafe { AsyncFd::register(descriptor) }?)
}

/// Watches a link for reading and writing.
///
/// # Errors
/// When the runtime cannot poll it.
pub(crate) fn watch_link(link: Link) -> io::Result<AsyncFd<Link>> {
    // SAFETY: as above: a Link owns one OwnedFd, gives no mutable access to it, and returns its number from as_raw_fd.
    Ok(unsafe { AsyncFd::register(link) }?)
}
