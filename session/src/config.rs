//! The effective configuration of a session: what remains when file, environment and flags are merged.
//!
//! Reading mirrord's files is in `config/`; this file holds only the resolved types, which the rest of the crate works with.

mod address;
pub mod file;
mod load;
pub mod path_rules;
mod resolve;
pub mod shapes;

use std::collections::BTreeMap;

pub use address::AddressError;
pub use load::{LoadError, load};
use mirrord_protocol::session::v1 as wire;
pub use resolve::{Flags, ResolveError, Resolved, file_mode, resolve};
use serde::{Deserialize, Serialize};

use crate::attachment::Choice;

/// What happens with a port of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The local process gets a copy, its answers are thrown away.
    Mirror,
    /// The local process takes over.
    Steal,
    /// Neither.
    Off,
}

impl From<Mode> for wire::Mode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Mirror => Self::Mirror,
            Mode::Steal => Self::Steal,
            Mode::Off => Self::Off,
        }
    }
}

/// One wanted port subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortSpec {
    /// Port of the target, 1..=65535.
    pub remote: u16,
    /// Port that the local process listens on.
    pub local: u16,
    /// Wanted mode.
    pub mode: Mode,
}

/// Resolved configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Incoming traffic.
    pub incoming: Incoming,
    /// Outgoing traffic.
    pub outgoing: Outgoing,
    /// DNS.
    pub dns: Dns,
    /// Files.
    pub files: Files,
    /// Environment.
    pub env: Env,
    /// The command sees the target's host name.
    pub hostname: bool,
    /// Programs that are started outside the session, by file name.
    pub skip_processes: Vec<String>,
    /// How the layer is attached to the command.
    pub layer: Choice,
}

/// Incoming traffic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Incoming {
    /// Mode of ports without a mode of their own.
    pub mode: Mode,
    /// Explicit subscriptions. When empty, every port that the local process listens on is subscribed, as mirrord does.
    pub ports: Vec<PortSpec>,
    /// Local port -> remote port, for listeners without an explicit subscription.
    pub port_mapping: BTreeMap<u16, u16>,
    /// Ports that are never subscribed by listening on them.
    pub ignore_ports: Vec<u16>,
    /// Listeners on loopback addresses are not subscribed.
    pub ignore_localhost: bool,
    /// Listeners of the session are published on the host's loopback.
    pub publish: bool,
}

/// Outgoing traffic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outgoing {
    /// TCP leaves from the target.
    pub tcp: bool,
    /// UDP leaves from the target.
    pub udp: bool,
    /// 127.0.0.0/8 and ::1 mean the host's loopback and not the target's.
    pub ignore_localhost: bool,
    /// Which destinations are local or remote.
    pub filter: OutgoingFilter,
    /// Regular expressions of unix sockets that are dialled from the target.
    pub unix_streams: Vec<String>,
}

/// Which destinations leave from the target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutgoingFilter {
    /// All.
    All,
    /// Only those that match one of these.
    Remote(Vec<AddressRule>),
    /// All but those that match one of these.
    Local(Vec<AddressRule>),
}

/// `[tcp://|udp://]HOST[:PORT]` with HOST a name, an address or a subnet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AddressRule {
    /// As it was written.
    pub text: String,
    /// `None`: both.
    pub transport: Option<Transport>,
    /// Which host.
    pub host: HostRule,
    /// 0: any.
    pub port: u16,
}

/// Transport protocol of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Host part of a rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostRule {
    /// Any host.
    Any,
    /// A DNS name (lower case, no trailing dot); matched by the names that DNS gave for an address. `*.` in front matches subdomains.
    Name(String),
    /// A subnet; a single address has the full prefix length.
    Subnet(std::net::IpAddr, u8),
}

/// DNS.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dns {
    /// Names are resolved by the target's name servers.
    pub remote: bool,
    /// Exceptions by name; same forms as for outgoing.
    pub filter: OutgoingFilter,
}

/// How files are handled when no pattern matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileMode {
    /// All local.
    Local,
    /// Local but for the default remote list.
    LocalWithOverrides,
    /// Read from the target, write locally.
    Read,
}

/// Files: regular expressions on absolute paths, case-insensitive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Files {
    /// What holds when nothing else does.
    pub mode: FileMode,
    /// Read from the target.
    pub read_only: Vec<String>,
    /// Read and written there; written locally as long as remote writes are not built.
    pub read_write: Vec<String>,
    /// Local.
    pub local: Vec<String>,
    /// Do not exist.
    pub not_found: Vec<String>,
    /// Pattern -> replacement, applied before anything else.
    pub mapping: Vec<(String, String)>,
}

/// Environment. Names may hold `*` and `?`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Env {
    /// false: nothing of the target's environment is taken.
    pub enabled: bool,
    /// Only these; empty: all but the excluded.
    pub include: Vec<String>,
    /// Never these, in addition to the default list.
    pub exclude: Vec<String>,
    /// Set last.
    pub overrides: BTreeMap<String, String>,
    /// Removed at the very end.
    pub unset: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            incoming: Incoming {
                mode: Mode::Mirror,
                ports: Vec::new(),
                port_mapping: BTreeMap::new(),
                ignore_ports: Vec::new(),
                ignore_localhost: false,
                publish: true,
            },
            outgoing: Outgoing {
                tcp: true,
                udp: true,
                ignore_localhost: false,
                filter: OutgoingFilter::All,
                unix_streams: Vec::new(),
            },
            dns: Dns { remote: true, filter: OutgoingFilter::All },
            files: Files {
                mode: FileMode::Read,
                read_only: Vec::new(),
                read_write: Vec::new(),
                local: Vec::new(),
                not_found: Vec::new(),
                mapping: Vec::new(),
            },
            env: Env {
                enabled: true,
                include: Vec::new(),
                exclude: Vec::new(),
                overrides: BTreeMap::new(),
                unset: Vec::new(),
            },
            hostname: true,
            skip_processes: Vec::new(),
            layer: Choice::Auto,
        }
    }
}
