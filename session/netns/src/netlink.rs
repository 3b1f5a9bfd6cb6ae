//! Netlink without a library: nested attributes, a request with its acknowledgement, a dump.

use std::io;

use thiserror::Error;

/// Why a netlink exchange failed.
#[derive(Debug, Error)]
pub enum NetlinkError {
    /// The socket could not be made or used.
    #[error("the netlink socket failed to {operation}")]
    Socket {
        /// What was tried.
        operation: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The kernel said no.
    #[error("the kernel refused the request")]
    Kernel(#[source] io::Error),
    /// The kernel did not answer in time.
    #[error("the kernel did not answer on a netlink socket within {0:?}")]
    Timeout(std::time::Duration),
    /// The answer cannot be read.
    #[error("the kernel's netlink answer is malformed")]
    Malformed,
}

impl NetlinkError {
    /// The error number, when the kernel gave one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel(source) | Self::Socket { source, .. } => source.raw_os_error(),
            Self::Timeout(_) | Self::Malformed => None,
        }
    }
}
