//! Two pods behind a bridge of the node, as the local pods are.

use std::{net::TcpListener, os::fd::AsFd};

use mirrord_netns::{
    ns::{self, Kind},
    rtnl::{LOOPBACK, Rtnl},
};

use crate::{
    network::{connect, new_netns, talk},
    session::LIMIT,
};

pub(crate) fn routes() {
    let node = Rtnl::open().unwrap();
    node.set_up(LOOPBACK).unwrap();
    node.add_bridge("br0").unwrap();
    assert!(node.add_bridge("br0").unwrap_err().is_exists());
    let bridge = node.index("br0").unwrap();
    node.add_address(bridge, "10.244.1.1".parse().unwrap(), 24).unwrap();
    node.set_up(bridge).unwrap();
    // An address that only the node has: pods reach it over their default route.
    node.add_address(LOOPBACK, "192.0.2.10".parse().unwrap(), 32).unwrap();
    let pods = ["10.244.1.5", "10.244.1.6"].map(|ip| {
        let netns = new_netns();
        let name = format!("p{}", ip.rsplit('.').next().unwrap());
        node.add_veth(&name, "eth0", netns.as_fd()).unwrap();
        let port = node.index(&name).unwrap();
        node.enslave(port, bridge).unwrap();
        node.set_mtu(port, 1450).unwrap();
        node.set_up(port).unwrap();
        let pod = ns::in_thread_netns(netns.as_fd(), Rtnl::open).unwrap().unwrap();
        let eth0 = pod.index("eth0").unwrap();
        pod.add_address(eth0, ip.parse().unwrap(), 24).unwrap();
        pod.set_up(eth0).unwrap();
        pod.wait_usable(eth0, LIMIT).unwrap();
        node.wait_usable(port, LIMIT).unwrap();
        node.wait_usable(bridge, LIMIT).unwrap();
        pod.add_route("0.0.0.0".parse().unwrap(), 0, "10.244.1.1".parse().unwrap()).unwrap();
        let address =
            pod.addresses().unwrap().into_iter().find(|address| address.global && address.ip.is_ipv4());
        let address = address.unwrap();
        assert_eq!((address.ip.to_string().as_str(), address.prefix, address.interface), (ip, 24, eth0));
        (ip, netns)
    });
    let links = node.links().unwrap();
    let port = links.iter().find(|link| link.name == "p5").unwrap();
    assert!(port.up && !port.loopback && port.mtu == 1450);
    let (ip, netns) = &pods[0];
    let listener = ns::in_thread_netns(netns.as_fd(), || TcpListener::bind((*ip, 80)).unwrap()).unwrap();
    let client = ns::in_thread_netns(pods[1].1.as_fd(), || connect(ip, 80).unwrap()).unwrap();
    talk(&client, &listener.accept().unwrap().0);
    let outside = TcpListener::bind("192.0.2.10:80").unwrap();
    let client = ns::in_thread_netns(netns.as_fd(), || connect("192.0.2.10", 80).unwrap()).unwrap();
    talk(&client, &outside.accept().unwrap().0);
    node.delete_link(port.index).unwrap();
    assert_eq!(node.index("p5").unwrap_err().io().raw_os_error(), Some(19));
    assert!(ns::current(Kind::Net).is_ok());
}
