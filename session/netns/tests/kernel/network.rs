//! A node and a pod: two network namespaces with a veth pair between them, as in a cluster.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, OwnedFd},
    thread,
};

use mirrord_netns::{
    ns::{self, Kind},
    rtnl::{LOOPBACK, Rtnl},
};

use crate::session::LIMIT;

/// The node's ends.
pub(crate) const NODE: [&str; 2] = ["10.244.0.1", "fd00:244::1"];
/// The pod's ends.
pub(crate) const POD: [&str; 2] = ["10.244.0.5", "fd00:244::5"];

/// The calling process is the node.
pub(crate) struct Pod {
    pub(crate) netns: OwnedFd,
}

impl Pod {
    pub(crate) fn start() -> Self {
        let netns = new_netns();
        let node = Rtnl::open().unwrap();
        node.set_up(LOOPBACK).unwrap();
        node.add_veth("veth0", "eth0", netns.as_fd()).unwrap();
        let pod = ns::in_thread_netns(netns.as_fd(), Rtnl::open).unwrap().unwrap();
        pod.set_up(LOOPBACK).unwrap();
        for (rtnl, name, addresses) in [(&node, "veth0", NODE), (&pod, "eth0", POD)] {
            let index = rtnl.index(name).unwrap();
            for (ip, prefix) in addresses.iter().zip([24, 64]) {
                rtnl.add_address(index, ip.parse().unwrap(), prefix).unwrap();
            }
            rtnl.set_up(index).unwrap();
        }
        for (rtnl, name) in [(&node, "veth0"), (&pod, "eth0")] {
            rtnl.wait_usable(rtnl.index(name).unwrap(), LIMIT).unwrap();
        }
        Self { netns }
    }

    /// Runs in the pod's namespace.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        ns::in_thread_netns(self.netns.as_fd(), work).unwrap()
    }

    pub(crate) fn listen(&self, port: u16) -> TcpListener {
        self.inside(|| TcpListener::bind(("::", port)).unwrap())
    }
}

pub(crate) fn new_netns() -> OwnedFd {
    // The thread's end does not end the namespace: the descriptor holds it.
    let thread = thread::spawn(|| {
        ns::unshare(&[Kind::Net]).unwrap();
        ns::current(Kind::Net).unwrap()
    });
    thread.join().unwrap()
}

pub(crate) fn connect(ip: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::new(ip.parse::<IpAddr>().unwrap(), port), LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(stream)
}

/// Bytes go through in both directions.
pub(crate) fn talk(one: &TcpStream, other: &TcpStream) {
    use io::{Read, Write};
    for ((mut from, mut to), text) in [((one, other), b"there"), ((other, one), b"back!")] {
        from.write_all(text).unwrap();
        let mut buffer = [0; 5];
        to.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, text);
    }
}
