//! The data path: everything between the session netns, the agent and the host's own network.
//!
//! [`Network`] owns the tasks; [`NetworkHandle`] is what the host and the layer link use. Nothing here knows HTTP: a relay shows
//! its bytes to a [`Tap`] that [`NetworkSpec::tap`] makes.

pub mod outgoing_rules;
mod tap;

use crate::{agent_link::AgentLink, config, events::Events};

pub use self::tap::{Tap, TapContext, TapFactory, no_taps};

/// What the data path is made of.
pub struct NetworkSpec {
    /// Incoming traffic.
    pub incoming: config::Incoming,
    /// Outgoing traffic.
    pub outgoing: config::Outgoing,
    /// DNS.
    pub dns: config::Dns,
    /// Link to the agent.
    pub agent: AgentLink,
    /// Where operations are written down.
    pub events: Events,
    /// Makes the readers beside the relays.
    pub tap: TapFactory,
}
