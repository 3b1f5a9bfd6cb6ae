//! The layer: what sits between the user's process and the kernel and hands out descriptors.
//!
//! The syscall attachment is a small process, the [`supervisor`], that starts the command under a seccomp filter and answers the
//! few calls that the filter traps: socket(2) with a socket of the session netns, path calls with what the session host says, all
//! others with "go on". It decides by itself what it can ([`decide`]) and asks the host over a [`link`] for the rest.
//!
//! ```text
//! host ─ link ─ supervisor ─ notifications ─ the command and its descendants
//!                 │  └─ holder of the session netns: sockets
//!                 └─ its parent, the guardian: kills the tree when the supervisor dies
//! ```
#![deny(unsafe_code)]
#![cfg(target_os = "linux")]

mod answer;
pub mod decide;
mod defaults;
mod filter;
mod guardian;
mod launch;
pub mod limits;
pub mod link;
mod loadable;
pub mod mounts;
mod paths;
mod processes;
mod request;
mod sockets;
pub mod supervisor;
mod sys;
pub mod trap;
mod trapped;

pub use crate::sys::process::inherited;
