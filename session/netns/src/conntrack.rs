//! Questions to the connection tracking of a namespace: is this flow redirected, and where to?

use std::os::fd::OwnedFd;

use thiserror::Error;

use crate::{Flow, netlink::NetlinkError};

/// Why a question failed.
#[derive(Debug, Error)]
#[error("the kernel refuses to {operation} a tracked connection")]
pub struct ConntrackError {
    operation: &'static str,
    source: NetlinkError,
}

/// Access to the table of one namespace.
#[derive(Debug)]
pub struct Conntrack {
    socket: OwnedFd,
}

impl Conntrack {
    /// `socket`: AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER, made in the namespace.
    #[must_use]
    pub fn from_socket(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Looks a flow up by its original direction and returns the reply's: for a redirected flow its source is not the original's
    /// destination. `None`: not tracked.
    ///
    /// # Errors
    /// [`ConntrackError`].
    pub fn lookup(&self, original: &Flow) -> Result<Option<Flow>, ConntrackError> {
        unimplemented!("{:?} {original:?}", self.socket)
    }

    /// Forgets a flow, so that its next packet counts as new. False: there was none.
    ///
    /// # Errors
    /// [`ConntrackError`].
    pub fn delete(&self, original: &Flow) -> Result<bool, ConntrackError> {
        unimplemented!("{original:?}")
    }
}
