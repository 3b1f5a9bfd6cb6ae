//! Taking ports of a pod over while connections are open, and giving them back.

use std::{net::TcpListener, os::fd::OwnedFd};

use mirrord_netns::{
    Flow, Transport,
    conntrack::Conntrack,
    netlink::Family,
    nft::{AGENT_MARK, NftError, StealTable},
    sockopt,
};
use rustix::net::{AddressFamily, SocketType};

use crate::{
    network::{POD, Pod, connect, talk},
    runner::skip,
    session::address,
};

const PORT: u16 = 80;
const OTHER: u16 = 81;

fn netfilter(pod: &Pod) -> OwnedFd {
    pod.inside(|| Family::Netfilter.socket().unwrap())
}

fn table(pod: &Pod, listener: &TcpListener) -> StealTable {
    StealTable::new(netfilter(pod), listener.local_addr().unwrap().port(), "ann@laptop since now")
}

fn add(table: &mut StealTable, port: u16) {
    match table.add(port) {
        Ok(()) => {}
        Err(NftError::Kernel { source, .. }) if source.errno() == Some(95) => skip("no nf_tables"),
        Err(error) => panic!("{error:?}"),
    }
}

pub(crate) fn new_connections_only() {
    let pod = Pod::start();
    let (app, other, agent) = (pod.listen(PORT), pod.listen(OTHER), pod.listen(0));
    let mut table = table(&pod, &agent);
    let open: Vec<_> = POD.map(|ip| (connect(ip, PORT).unwrap(), app.accept().unwrap().0)).into();
    let check_open = || open.iter().for_each(|(client, server)| talk(client, server));
    check_open();

    add(&mut table, PORT);
    add(&mut table, OTHER);
    assert!(matches!(table.add(PORT), Err(NftError::Taken(PORT))));
    check_open();
    let mut stolen = Vec::new();
    for ip in POD {
        let client = connect(ip, PORT).unwrap();
        let (server, peer) = agent.accept().unwrap();
        assert_eq!(peer.port(), client.local_addr().unwrap().port());
        assert_eq!(peer.ip().to_canonical(), client.local_addr().unwrap().ip());
        assert_eq!(sockopt::original_dst(&server).unwrap(), address(ip, PORT));
        assert_eq!(client.peer_addr().unwrap(), address(ip, PORT));
        stolen.push((client, server));
    }
    let client = connect(POD[0], OTHER).unwrap();
    assert_eq!(sockopt::original_dst(&agent.accept().unwrap().0).unwrap(), address(POD[0], OTHER));
    drop(client);
    assert_eq!(table.counters().unwrap(), [(PORT, 2), (OTHER, 1)]);
    let check_stolen = || stolen.iter().for_each(|(client, server)| talk(client, server));
    check_stolen();
    check_conntrack(&pod, &stolen[0].0, &agent);

    table.remove(PORT).unwrap();
    assert_eq!(table.ports(), [OTHER]);
    for ip in POD {
        let client = connect(ip, PORT).unwrap();
        talk(&client, &app.accept().unwrap().0);
    }
    check_open();
    check_stolen();
    table.remove(OTHER).unwrap();
    table.remove(OTHER).unwrap();
    let client = connect(POD[0], OTHER).unwrap();
    talk(&client, &other.accept().unwrap().0);
    check_open();
    check_stolen();
    assert!(table.counters().unwrap().is_empty());

    // Stolen again while the rules of before are still kept.
    add(&mut table, PORT);
    let client = connect(POD[1], PORT).unwrap();
    talk(&client, &agent.accept().unwrap().0);
    table.remove(PORT).unwrap();
    table.flows_ended().unwrap();
    check_open();
    // The name is free again: the table is gone, and can be made anew.
    let mut second = StealTable::new(netfilter(&pod), agent.local_addr().unwrap().port(), "");
    add(&mut second, PORT);
}

/// Connection tracking knows that the flow goes to the agent.
fn check_conntrack(pod: &Pod, client: &std::net::TcpStream, agent: &TcpListener) {
    let conntrack = Conntrack::from_socket(netfilter(pod));
    let (src, dst) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
    let flow = Flow { transport: Transport::Tcp, src, dst };
    let reply = conntrack.lookup(&flow).unwrap().unwrap();
    assert_eq!((reply.dst, reply.src.port()), (src, agent.local_addr().unwrap().port()));
    let unknown = Flow { dst: address("192.0.2.1", 9), ..flow };
    assert_eq!(conntrack.lookup(&unknown).unwrap(), None);
}

pub(crate) fn inside_the_pod() {
    let pod = Pod::start();
    let (app, agent) = (pod.listen(PORT), pod.listen(0));
    let mut table = table(&pod, &agent);
    add(&mut table, PORT);
    // A sidecar or a port-forward, over loopback and over the pod's own address.
    for ip in ["127.0.0.1", "::1", POD[0], POD[1]] {
        let client = pod.inside(|| connect(ip, PORT).unwrap());
        let (server, _) = agent.accept().unwrap();
        assert_eq!(sockopt::original_dst(&server).unwrap(), address(ip, PORT));
        talk(&client, &server);
    }
    assert_eq!(table.counters().unwrap(), [(PORT, 4)]);
    // The agent itself reaches the application.
    let socket = pod.inside(|| rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap());
    sockopt::set_mark(&socket, AGENT_MARK).unwrap();
    rustix::net::connect(&socket, &address("127.0.0.1", PORT)).unwrap();
    talk(&socket.into(), &app.accept().unwrap().0);
    // Outgoing connections to the same port elsewhere are not the pod's to serve.
    let node = TcpListener::bind((crate::network::NODE[0], PORT)).unwrap();
    let out = pod.inside(|| connect(crate::network::NODE[0], PORT).unwrap());
    talk(&out, &node.accept().unwrap().0);
}

pub(crate) fn one_agent_per_port() {
    let pod = Pod::start();
    let (app, agent, rival) = (pod.listen(PORT), pod.listen(0), pod.listen(0));
    let mut first = table(&pod, &agent);
    add(&mut first, PORT);
    let mut second = StealTable::new(netfilter(&pod), rival.local_addr().unwrap().port(), "bob");
    match second.add(PORT) {
        Err(NftError::Stolen { port: PORT, client }) => assert_eq!(client, "ann@laptop since now"),
        other => panic!("{other:?}"),
    }
    add(&mut second, OTHER);
    assert!(matches!(first.add(OTHER), Err(NftError::Stolen { port: OTHER, .. })));
    first.remove(PORT).unwrap();
    add(&mut second, PORT);
    let client = connect(POD[0], PORT).unwrap();
    talk(&client, &rival.accept().unwrap().0);
    drop((first, second));
    let client = connect(POD[0], PORT).unwrap();
    talk(&client, &app.accept().unwrap().0);
}

pub(crate) fn table_goes_with_its_socket() {
    let pod = Pod::start();
    let (app, agent) = (pod.listen(PORT), pod.listen(0));
    let mut owned = table(&pod, &agent);
    add(&mut owned, PORT);
    let client = connect(POD[0], PORT).unwrap();
    talk(&client, &agent.accept().unwrap().0);
    let mut second = table(&pod, &agent);
    assert!(second.add(PORT).is_err(), "nobody else may touch an owned table");
    drop(owned);
    let client = connect(POD[0], PORT).unwrap();
    talk(&client, &app.accept().unwrap().0);
}
