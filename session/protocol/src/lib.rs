//! The three wires of mirrord-tui as values: agent, session host and layer. Bytes in, values out.
//!
//! No I/O, no clock, no unsafe. The modules below are generated from `proto/` by `cargo xtask proto` and kept in git, so that
//! a build needs neither protoc nor a generator; a test regenerates them and compares.
#![forbid(unsafe_code)]

pub mod codec;
pub mod handed;
pub mod sockets;

/// Version of the agent wire. Both ends speak the lower of the two and refuse below [`AGENT_PROTOCOL_OLDEST`].
pub const AGENT_PROTOCOL: u32 = 1;
/// Oldest version of the agent wire that this build understands.
pub const AGENT_PROTOCOL_OLDEST: u32 = 1;
/// Metadata key that carries the session's token on every call to the agent.
pub const TOKEN_METADATA: &str = "x-mirrord-token";

/// Session host <-> agent.
pub mod agent {
    #[allow(
        missing_docs,
        clippy::all,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        unreachable_pub,
        unused_qualifications,
        missing_debug_implementations,
        clippy::use_self,
        clippy::large_futures,
        clippy::or_fun_call,
        clippy::needless_pass_by_value,
        reason = "generated"
    )]
    pub mod v1 {
        include!("generated/mirrord.agent.v1.rs");
    }
}
/// Viewers <-> session host.
pub mod session {
    #[allow(
        missing_docs,
        clippy::all,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        unreachable_pub,
        unused_qualifications,
        missing_debug_implementations,
        clippy::use_self,
        clippy::large_futures,
        clippy::or_fun_call,
        clippy::needless_pass_by_value,
        reason = "generated"
    )]
    pub mod v1 {
        include!("generated/mirrord.session.v1.rs");
    }
}
/// Layer's supervisor <-> session host.
pub mod layer {
    #[allow(
        missing_docs,
        clippy::all,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        unreachable_pub,
        unused_qualifications,
        missing_debug_implementations,
        clippy::use_self,
        reason = "generated"
    )]
    pub mod v1 {
        include!("generated/mirrord.layer.v1.rs");
    }
}
