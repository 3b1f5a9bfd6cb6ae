//! The session host and everything it owns: target discovery, agent link, layer link, launch of the command, events.
//!
//! One process per session. `tui` starts it through [`role`] and talks to it through `session.proto` only.

pub mod agent_link;
pub mod agent_process;
mod api;
mod async_fd;
pub mod attachment;
pub mod cluster;
pub mod config;
pub mod doctor;
pub mod env;
pub mod events;
pub mod files;
pub mod histogram;
pub mod host;
pub mod http;
pub mod jsonl;
pub mod layer_link;
mod library;
pub mod limits;
pub mod local;
pub mod network;
pub mod paths;
pub mod recording;
pub mod redact;
pub mod registry;
pub mod role;
pub mod spec;
pub mod starter;
pub mod summary;
pub mod target;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
