//! Linux namespaces, rtnetlink, nf_tables, NFQUEUE, socket diagnosis and packet capture: the kernel-facing library of host and agent.
//!
//! Everything here is blocking or non-blocking system calls on descriptors; no runtime, no threads but those that a caller asks
//! for. A socket belongs to the network namespace in which it was made, whoever uses it: the host works on the session netns
//! through sockets that [`holder`] made inside and passed out.
#![deny(unsafe_code)]
#![cfg(target_os = "linux")]

#[cfg(target_endian = "big")]
compile_error!(
    "the redirect-to-mark rule reads the port from the low half of the mark register, which needs a little-endian machine"
);

mod bytes;
pub mod capture;
pub mod conntrack;
pub mod holder;
pub mod limits;
pub mod netlink;
pub mod nfqueue;
pub mod nft;
pub mod ns;
pub mod packet;
pub mod probe;
pub mod rtnl;
pub mod seqpacket;
pub mod sock_diag;
pub mod sockopt;
mod sys;

pub use self::packet::{Flow, Transport};
