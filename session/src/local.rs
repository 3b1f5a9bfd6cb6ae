//! Local pods: targets made of namespaces on this machine, as an ordinary user and without any other program.
//!
//! ```text
//! local start ──control socket──▶ __node   user + network namespace, addresses, resolver, published ports; one per user
//!                                  └─ __pod NAME     makes the pod's namespaces and its veth, waits
//!                                      └─ __init     pid 1 of the pod: mounts, reaps, forwards signals
//!                                          └─ CMD
//! ```
//! The node starts with the first pod and ends with the last. Whoever is killed takes all below along. A pod whose command has
//! ended leaves its log and its result for `local ls` and `local logs` until `local stop` or the next start of the same name.
//! This file holds what others call; [`spec`] what a pod shall be, `wire` and `client` the way to the node.

mod client;
mod dns;
mod enter;
mod error;
mod init;
mod node;
mod pod;
mod publish;
mod registry;
mod resolver;
mod root;
pub mod spec;
mod wire;

use std::{
    ffi::OsString,
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, TcpStream},
    path::PathBuf,
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

pub(crate) use self::{
    client::start_agent, enter::run as run_enter, init::run as run_init, node::run as run_node,
    pod::run as run_pod,
};
pub use self::{
    client::{Dialer, exec_command, find, list, log_path, node_exec_command, start, stop, stop_all},
    error::LocalError,
    spec::{PodFile, Publish, SpecError, StartSpec},
};

/// One local pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalPod {
    /// Its name: a DNS label.
    pub name: String,
    /// The command's process as the machine sees it; 0 when it has ended.
    pub pid: u32,
    /// Process 1 of the pod as the machine sees it; 0 when it has ended.
    pub init_pid: u32,
    /// Its address on eth0.
    pub ip: Ipv4Addr,
    /// Its IPv6 address; `None` when the machine has no IPv6.
    pub ipv6: Option<Ipv6Addr>,
    /// Ports of this machine's loopback that lead to ports of the pod.
    pub ports_published: Vec<Publish>,
    /// When its command was started.
    pub started: SystemTime,
    /// The command and its arguments.
    pub command: Vec<OsString>,
    /// How it is.
    pub state: PodState,
}

/// How a local pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodState {
    /// Its command runs.
    Running,
    /// Its command has ended with this code.
    Exited(i32),
    /// Its command was ended by this signal.
    Signalled(i32),
    /// It was killed together with its node, so that nobody saw how it ended.
    Lost,
}

impl std::fmt::Display for PodState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Running => f.write_str("running"),
            Self::Exited(code) => write!(f, "exited {code}"),
            Self::Signalled(signal) => write!(f, "signal {signal}"),
            Self::Lost => f.write_str("lost"),
        }
    }
}

/// A connection to a port of a pod, made inside the node's network namespace: as another pod would, at the kernel's full speed.
///
/// # Errors
/// [`LocalError::Unknown`] and [`LocalError::Dial`], which carries what connect(2) said.
pub fn dial(name: &str, port: u16) -> Result<TcpStream, LocalError> {
    Dialer::open(name)?.dial(port)
}

/// Where pods reach the node, its resolver included.
pub const NODE_IP: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);

/// The node's IPv6 address.
pub const NODE_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 1);

/// Where the resolver listens.
const RESOLVER: SocketAddrV4 = SocketAddrV4::new(NODE_IP, 53);

/// This very program, also when its file was replaced since it started.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// Names of what lies in a pod's folder.
const SPEC_FILE: &str = "pod.json";
const LOG_FILE: &str = "log";
const END_FILE: &str = "end.json";
const ROOT_DIR: &str = "root";

/// Names of what lies in the node's folder.
const NODE_DIR: &str = "node";
const PODS_DIR: &str = "pods";
const SOCKET_FILE: &str = "control.sock";

/// The folder that holds the folders of all pods.
fn pods_dir(base: &std::path::Path) -> PathBuf {
    base.join(PODS_DIR)
}
