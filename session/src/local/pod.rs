//! The process above a pod (`__pod DIR`): makes the pod's namespaces and its network, starts process 1 and waits for it.
//!
//! Standard input is the link to the node, which process 1 takes over; standard output is the pod's log. The process belongs to
//! the node's user namespace, so everything here needs no privilege on the machine.

use std::{
    fs, io,
    net::IpAddr,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Child, Command, Stdio},
};

use mirrord_netns::{
    ns::{self, Kind},
    rtnl::Rtnl,
};

use super::{
    NODE_IP, NODE_IPV6, OWN_PROGRAM, SPEC_FILE,
    node::BRIDGE,
    spec::PodPlan,
    wire::{Failure, Note, Wire, chain},
};
use crate::limits::STEP_TIMEOUT;

/// The pod's interface, as in a cluster.
const INTERFACE: &str = "eth0";
/// Prefix lengths of the pods' networks.
pub(super) const PREFIX_V4: u8 = 24;
pub(super) const PREFIX_V6: u8 = 64;

/// Runs the role and returns its exit code: that of process 1.
pub(crate) fn run(dir: &Path) -> u8 {
    let Ok(link) = stdin_link() else { return 70 };
    match bring_up(dir) {
        Ok(mut init) => {
            // The link stays open in process 1 alone, so that the node sees it close.
            drop(link);
            if let Ok(null) = fs::File::open("/dev/null") {
                rustix::stdio::dup2_stdin(null).ok();
            }
            init.wait().ok().and_then(|status| status.code()).map_or(70, |code| code.to_le_bytes()[0])
        }
        Err(failure) => {
            // When the node is gone nobody is left to be told.
            link.send(&Note::Failed(failure), &[]).ok();
            1
        }
    }
}

/// The link to the node, which is standard input of the processes of a pod.
pub(super) fn stdin_link() -> io::Result<Wire> {
    io::stdin().as_fd().try_clone_to_owned().map(Wire::new)
}

/// The plan that the node left in the pod's folder.
pub(super) fn read_plan(dir: &Path) -> Result<PodPlan, Failure> {
    let path = dir.join(SPEC_FILE);
    let bytes = fs::read(&path).map_err(|error| Failure::setup("reading its specification", &error))?;
    serde_json::from_slice(&bytes).map_err(|error| Failure::setup("reading its specification", &error))
}

fn bring_up(dir: &Path) -> Result<Child, Failure> {
    rustix::thread::set_name(c"mirrord-pod").ok();
    ns::die_with_parent(None).map_err(|error| Failure::setup("binding its life to the node's", &error))?;
    let plan = read_plan(dir)?;
    let network = |error: &dyn std::error::Error| Failure::setup("making its network", error);
    let node_netns = ns::current(Kind::Net).map_err(|error| network(&error))?;
    let node = Rtnl::open().map_err(|error| network(&error))?;
    ns::unshare(&[Kind::Net, Kind::Mount, Kind::Uts, Kind::Ipc, Kind::Pid]).map_err(|error| {
        let what = "network, mount and process namespaces of a pod".to_owned();
        Failure::Namespaces { what, reason: chain(&error) }
    })?;
    make_network(&plan, &node, node_netns.as_fd()).map_err(|error| network(error.as_ref()))?;
    Command::new(OWN_PROGRAM)
        .arg0("mirrord-tui")
        .arg("__init")
        .arg(dir)
        .stdin(Stdio::inherit())
        .spawn()
        .map_err(|error| Failure::setup("starting its first process", &error))
}

/// Loopback, eth0 with the pod's addresses and the way to the node, on a veth whose other end is a port of the node's bridge.
fn make_network(
    plan: &PodPlan,
    node: &Rtnl,
    node_netns: BorrowedFd<'_>,
) -> Result<(), Box<dyn std::error::Error>> {
    // Neighbours that knew the address with another pod's interface learn at once that it is ours now.
    ns::set_sysctl("net/ipv4/conf/default/arp_notify", "1")?;
    ns::set_sysctl("net/ipv4/ip_unprivileged_port_start", "0")?;
    let pod = Rtnl::open()?;
    pod.set_up(pod.index("lo")?)?;
    pod.add_veth(INTERFACE, &plan.interface, node_netns)?;
    let port = node.index(&plan.interface)?;
    node.enslave(port, node.index(BRIDGE)?)?;
    node.set_up(port)?;
    let eth0 = pod.index(INTERFACE)?;
    pod.add_address(eth0, IpAddr::V4(plan.ip), PREFIX_V4)?;
    if let Some(ipv6) = plan.ipv6 {
        ns::set_sysctl("net/ipv6/conf/default/ndisc_notify", "1")?;
        pod.add_address(eth0, IpAddr::V6(ipv6), PREFIX_V6)?;
    }
    pod.set_up(eth0)?;
    // A fresh veth pair loses what is sent before the kernel has noticed that both ends are up.
    pod.wait_usable(eth0, STEP_TIMEOUT)?;
    node.wait_usable(port, STEP_TIMEOUT)?;
    pod.add_route(IpAddr::V4([0, 0, 0, 0].into()), 0, IpAddr::V4(NODE_IP))?;
    if plan.ipv6.is_some() {
        pod.add_route(IpAddr::V6(0.into()), 0, IpAddr::V6(NODE_IPV6))?;
    }
    Ok(())
}
