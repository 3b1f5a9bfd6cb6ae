//! The process that holds the session netns: it makes the namespace, makes sockets in it on request, and passes them out.
//!
//! [`run`] is the process (`__netns`), [`Holder`] the host's end. The wire is [`mirrord_protocol::sockets`], which the layer's
//! supervisor speaks by itself over an endpoint that the host hands to both sides.

use std::{io, net::IpAddr, os::fd::OwnedFd};

use thiserror::Error;

use crate::seqpacket::SeqPacket;

/// Why the holder or a request to it failed.
#[derive(Debug, Error)]
pub enum HolderError {
    /// The namespace could not be set up.
    #[error("the session's network namespace could not be set up: {step}")]
    SetUp {
        /// Which step.
        step: String,
        /// Why.
        source: io::Error,
    },
    /// The holder's process is gone or does not answer.
    #[error("the holder of the session's network namespace does not answer")]
    Gone(#[source] io::Error),
    /// The kernel refused a socket.
    #[error("no socket of domain {domain} and type {kind} can be made in the session's network namespace")]
    Socket {
        /// Address family.
        domain: u16,
        /// Type.
        kind: u32,
        /// Why.
        source: io::Error,
    },
}

/// The process: sets the namespace up, says so on `control`, then serves requests until `control` is closed. Needs a process with one
/// thread. As an ordinary user it makes a user namespace, too.
///
/// # Errors
/// [`HolderError::SetUp`] (also sent to the other end), [`HolderError::Gone`].
pub fn run(control: OwnedFd) -> Result<(), HolderError> {
    unimplemented!("{control:?}")
}

/// The host's end.
#[derive(Debug)]
pub struct Holder {
    control: SeqPacket,
}

impl Holder {
    /// Waits until the process on the other end of `control` has set the namespace up.
    ///
    /// # Errors
    /// [`HolderError`].
    pub fn connect(control: SeqPacket) -> Result<Self, HolderError> {
        Ok(Self { control })
    }

    /// socket(2) inside.
    ///
    /// # Errors
    /// [`HolderError`].
    pub fn socket(&self, domain: u16, kind: u32, protocol: u32) -> Result<OwnedFd, HolderError> {
        unimplemented!("{:?} {domain} {kind} {protocol}", self.control)
    }

    /// Lets the holder answer requests on `endpoint`, too.
    ///
    /// # Errors
    /// [`HolderError`].
    pub fn serve(&self, endpoint: SeqPacket) -> Result<(), HolderError> {
        unimplemented!("{endpoint:?}")
    }

    /// Puts the target's addresses on `lo` and makes every address local (AnyIP); IPv6 only when `ipv6` is set, else connecting to
    /// an IPv6 address fails as it does in the target.
    ///
    /// # Errors
    /// [`HolderError`].
    pub fn configure(&self, addresses: &[IpAddr], ipv6: bool) -> Result<(), HolderError> {
        unimplemented!("{addresses:?} {ipv6}")
    }
}
