//! What the node knows about its pods: names, addresses, and who is coming up. Plain data behind one lock; no waiting in here.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use super::{
    LocalPod, NODE_IP, NODE_IPV6,
    dns::{Host, Zone},
    wire::Failure,
};

/// Addresses end in 2 to 254: 1 is the node, 255 the broadcast address.
const FIRST: u8 = 2;
const LAST: u8 = 254;

/// The pods of a node, shared by its tasks.
#[derive(Clone, Debug, Default)]
pub(super) struct Registry(Arc<Mutex<Pods>>);

#[derive(Debug, Default)]
struct Pods {
    by_name: BTreeMap<String, Entry>,
    /// Last octet given; the search for the next begins behind it, so that an address is not soon another pod's.
    last: u8,
}

#[derive(Debug)]
struct Entry {
    octet: u8,
    /// Pods without: coming up.
    up: Option<Up>,
}

#[derive(Clone, Debug)]
struct Up {
    pod: LocalPod,
    /// client --stop--> task that owns the pod
    stop: watch::Sender<bool>,
}

/// A name and an address that are taken until this is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    registry: Registry,
    name: String,
    octet: u8,
}

impl Registry {
    /// Takes a name and an address for a pod that comes up.
    pub(super) fn claim(&self, name: &str) -> Result<Claim, Failure> {
        let mut pods = self.lock();
        if pods.by_name.contains_key(name) {
            return Err(Failure::Taken);
        }
        let taken: Vec<u8> = pods.by_name.values().map(|entry| entry.octet).collect();
        let after = (pods.last.max(FIRST - 1) + 1..=LAST).chain(FIRST..=LAST);
        let octet = after.into_iter().find(|octet| !taken.contains(octet)).ok_or(Failure::Full)?;
        pods.last = octet;
        pods.by_name.insert(name.to_owned(), Entry { octet, up: None });
        Ok(Claim { registry: self.clone(), name: name.to_owned(), octet })
    }

    /// All pods that are up.
    pub(super) fn list(&self) -> Vec<LocalPod> {
        self.lock().by_name.values().filter_map(|entry| Some(entry.up.as_ref()?.pod.clone())).collect()
    }

    /// The address of a pod that is up.
    pub(super) fn address(&self, name: &str) -> Option<Ipv4Addr> {
        Some(self.lock().by_name.get(name)?.up.as_ref()?.pod.ip)
    }

    /// Asks the owner of a pod to stop it; what is returned closes when it is gone.
    pub(super) fn ask_stop(&self, name: &str) -> Option<watch::Sender<bool>> {
        let stop = self.lock().by_name.get(name)?.up.as_ref()?.stop.clone();
        stop.send_replace(true);
        Some(stop)
    }

    /// No pod is up or coming up.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().by_name.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Pods> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// The pod's address.
    pub(super) fn ip(&self) -> Ipv4Addr {
        let [a, b, c, _] = NODE_IP.octets();
        Ipv4Addr::new(a, b, c, self.octet)
    }

    /// The pod's IPv6 address: it ends in the same number, written in hexadecimal.
    pub(super) fn ipv6(&self) -> Ipv6Addr {
        let node = u128::from(NODE_IPV6) - 1;
        Ipv6Addr::from(node | u128::from(self.octet))
    }

    /// Name of the node's end of the pod's veth.
    pub(super) fn interface(&self) -> String {
        format!("pod{}", self.octet)
    }

    /// Makes the pod known; it is forgotten when the claim is dropped. What is returned says that it shall be stopped.
    pub(super) fn publish(&self, pod: LocalPod) -> watch::Receiver<bool> {
        let (stop, stopped) = watch::channel(false);
        if let Some(entry) = self.registry.lock().by_name.get_mut(&self.name) {
            entry.up = Some(Up { pod, stop });
        }
        stopped
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.registry.lock().by_name.remove(&self.name);
    }
}

impl Zone for Registry {
    fn by_name(&self, name: &str) -> Option<Host> {
        let pods = self.lock();
        let pod = &pods.by_name.get(name)?.up.as_ref()?.pod;
        let ports = pod.ports_published.iter().map(|publish| publish.pod).collect();
        Some(Host { ip: pod.ip, ipv6: pod.ipv6, ports })
    }

    fn by_address(&self, address: IpAddr) -> Option<String> {
        self.list().into_iter().find_map(|pod| {
            let known = IpAddr::V4(pod.ip) == address || pod.ipv6.map(IpAddr::V6) == Some(address);
            known.then_some(pod.name)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_taken_until_the_claim_is_dropped() {
        let registry = Registry::default();
        let one = registry.claim("one").unwrap();
        assert_eq!(one.ip(), Ipv4Addr::new(10, 244, 0, 2));
        assert_eq!(one.ipv6(), "fd00:244::2".parse::<Ipv6Addr>().unwrap());
        assert_eq!(registry.claim("one").unwrap_err(), Failure::Taken);
        assert!(registry.list().is_empty() && !registry.is_empty(), "it is not up yet");
        drop(one);
        assert!(registry.is_empty());
        assert_eq!(registry.claim("one").unwrap().ip(), Ipv4Addr::new(10, 244, 0, 3), "not the same again");
    }

    #[test]
    fn addresses_run_out_and_come_back() {
        let registry = Registry::default();
        let mut claims: Vec<_> = (0..253).map(|n| registry.claim(&format!("p{n}")).unwrap()).collect();
        let mut all: Vec<_> = claims.iter().map(Claim::ip).collect();
        all.dedup();
        assert_eq!(all.len(), 253);
        assert_eq!(registry.claim("more").unwrap_err(), Failure::Full);
        let free = claims.remove(100).ip();
        assert_eq!(registry.claim("more").unwrap().ip(), free);
    }
}
