//! The rules in the target's netns that send new connections of some ports to the agent.
//!
//! ```text
//! chain keep  filter input      0   ct established -> accept        keeps connection tracking in use
//! chain pre   nat    prerouting -99 daddr local, syn to P -> the listener's port
//! chain out   nat    output     -99 agent's mark -> accept; on lo, syn to P -> the listener's port
//! ```
//! Only SYNs match, so open connections stay with the target. When the last rule that uses connection tracking went away, the kernel
//! would stop translating stolen connections and they would be reset: `keep` stays until the last of them has ended.
//! The priority is one behind that of a service mesh or of kube-proxy (-100): where those have translated, the kernel asks no further
//! chain. So what a sidecar takes arrives at the sidecar, and is caught in `out` on its way from there to the application.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
};

use super::{
    AGENT_MARK, NftError,
    batch::{Batch, ChainType, Compare, Hook, Listed, Meta, Rule, list},
};
use crate::netlink::{Netlink, NetlinkError};

/// How the names of all agents' tables begin.
const TABLES: &str = "mirrord-steal-";
/// Most letters of a client's name in a rule: of user data nft shows 128 bytes, the kernel keeps 256.
const CLIENT: usize = 100;
const KEEP: &str = "keep";
const PRE: &str = "pre";
const OUT: &str = "out";
const PRIORITY: i32 = -99;
/// NF_CT_STATE_BIT(IP_CT_ESTABLISHED).
const STATE_ESTABLISHED: u32 = 2;
/// `lo` has index 1 in every namespace (LOOPBACK_IFINDEX).
const LOOPBACK: u32 = 1;

/// The rules in the target's netns that take ports over. Dropping it removes all of them, which resets stolen connections.
#[derive(Debug)]
pub struct StealTable {
    netlink: Netlink,
    listener: u16,
    table: String,
    /// Whose it is, for others.
    client: String,
    ports: BTreeSet<u16>,
    installed: bool,
    /// The kernel knows `fib`; without it forwarded packets of a node's namespace match as well.
    local_only: bool,
}

impl StealTable {
    /// Nothing is installed before the first [`StealTable::add`]. `socket`: AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER, made in the
    /// target's netns. `listener`: port of the agent's listener there, on `[::]`. The agent's own sockets carry [`AGENT_MARK`].
    /// `client`: who steals, as others are told who want the same port; its first 100 letters.
    #[must_use]
    pub fn new(socket: OwnedFd, listener: u16, client: &str) -> Self {
        Self {
            netlink: Netlink::from_socket(socket),
            listener,
            // A port has one listener, so two agents beside one target have two names.
            table: format!("{TABLES}{listener}"),
            client: client.chars().take(CLIENT).collect(),
            ports: BTreeSet::new(),
            installed: false,
            local_only: true,
        }
    }

    /// New connections to `port` go to the listener from now on; open ones stay where they are.
    ///
    /// # Errors
    /// [`NftError::Taken`] when it is there already, [`NftError::Stolen`] when another agent has it, [`NftError::Kernel`].
    pub fn add(&mut self, port: u16) -> Result<(), NftError> {
        if self.ports.contains(&port) {
            return Err(NftError::Taken(port));
        }
        if let Some(client) = self.stolen_by(port)? {
            return Err(NftError::Stolen { port, client });
        }
        match self.batch_for(port).commit(&self.netlink) {
            Err(source) if self.local_only && source.errno() == Some(libc::ENOENT) => {
                self.local_only = false;
                self.batch_for(port).commit(&self.netlink).map_err(failed("install the stealing"))?;
            }
            result => result.map_err(failed("install the stealing"))?,
        }
        self.installed = true;
        self.ports.insert(port);
        Ok(())
    }

    /// New connections to `port` go to the target again; stolen ones stay stolen. Does nothing for a port that is not there.
    ///
    /// # Errors
    /// [`NftError::Kernel`].
    pub fn remove(&mut self, port: u16) -> Result<(), NftError> {
        if !self.ports.contains(&port) {
            return Ok(());
        }
        let mut batch = Batch::new(&self.table);
        for (_, rule) in self.rules()?.into_iter().filter(|(of, _)| *of == port) {
            batch = batch.delete_rule(&rule.chain, rule.handle);
        }
        batch.commit(&self.netlink).map_err(failed("remove some of the stealing"))?;
        self.ports.remove(&port);
        Ok(())
    }

    /// The last stolen flow has ended: when no port is left, the rules that keep connection tracking alive go, too.
    ///
    /// # Errors
    /// [`NftError::Kernel`].
    pub fn flows_ended(&mut self) -> Result<(), NftError> {
        if self.installed && self.ports.is_empty() {
            let batch = Batch::new(&self.table).delete_table();
            batch.commit(&self.netlink).map_err(failed("remove the stealing"))?;
            self.installed = false;
        }
        Ok(())
    }

    /// Stolen ports in order.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        self.ports.iter().copied().collect()
    }

    /// SYNs that were redirected, for each port.
    ///
    /// # Errors
    /// [`NftError::Kernel`].
    pub fn counters(&self) -> Result<Vec<(u16, u64)>, NftError> {
        let mut sums: BTreeMap<u16, u64> = self.ports.iter().map(|port| (*port, 0)).collect();
        if self.installed {
            for (port, rule) in self.rules()? {
                *sums.entry(port).or_default() += rule.packets;
            }
        }
        Ok(sums.into_iter().collect())
    }

    fn batch_for(&self, port: u16) -> Batch<'_> {
        let mut batch = Batch::new(&self.table);
        if !self.installed {
            let established = Rule::new().conntrack_state(STATE_ESTABLISHED, Compare::Equal);
            let own = Rule::new().meta(Meta::Mark).compare(Compare::Equal, &AGENT_MARK.to_ne_bytes());
            batch = batch
                .owned_table()
                .chain(KEEP, ChainType::Filter, Hook::Input, 0)
                .chain(PRE, ChainType::Nat, Hook::Prerouting, PRIORITY)
                .chain(OUT, ChainType::Nat, Hook::Output, PRIORITY)
                .rule(KEEP, &established.accept())
                .rule(OUT, &own.accept());
        }
        let steal = |rule: Rule| {
            rule.tcp_syn()
                .destination_port(port)
                .counter()
                .change_port(self.listener)
                .comment(format!("mirrord {port} {}", self.client))
        };
        let local = if self.local_only { Rule::new().destination_is_local() } else { Rule::new() };
        let on_loopback =
            Rule::new().meta(Meta::OutputInterface).compare(Compare::Equal, &LOOPBACK.to_ne_bytes());
        batch.rule(PRE, &steal(local)).rule(OUT, &steal(on_loopback))
    }

    /// The rules of the ports as the kernel has them.
    fn rules(&self) -> Result<Vec<(u16, Listed)>, NftError> {
        let listed = list(&self.netlink, Some(&self.table)).map_err(failed("list the stealing"))?;
        Ok(listed.into_iter().filter_map(|rule| Some((port_and_client(&rule)?.0, rule))).collect())
    }

    /// Whose table has the port, if any other has.
    fn stolen_by(&self, port: u16) -> Result<Option<String>, NftError> {
        let listed = list(&self.netlink, None).map_err(failed("list the stealing of others among"))?;
        let others = listed.iter().filter(|rule| rule.table.starts_with(TABLES) && rule.table != self.table);
        let mut taken = others.filter_map(port_and_client).filter(|(of, _)| *of == port);
        Ok(taken.next().map(|(_, client)| client.to_owned()))
    }
}

/// What the comment of a port's rule says.
fn port_and_client(rule: &Listed) -> Option<(u16, &str)> {
    let (port, client) = rule.comment.strip_prefix("mirrord ")?.split_once(' ')?;
    Some((port.parse().ok()?, client))
}

fn failed(operation: &'static str) -> impl FnOnce(NetlinkError) -> NftError {
    move |source| NftError::Kernel { operation, source }
}
