//! Stolen connections of a real target, and that the target serves whenever the session does not.
#![allow(
    clippy::allow_attributes,
    clippy::disallowed_methods,
    clippy::exit,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    dead_code,
    reason = "a test fails by panicking, and each file uses its part of the support"
)]

mod support;

use std::{
    io::{Read, Write},
    net::{IpAddr, Shutdown},
    time::Duration,
};

use mirrord_protocol::agent::v1::{self as wire, Mode, accept_down, accept_up};

use crate::support::{
    NODE_IP, NODE_IP6, TARGET_IP, TARGET_IP6,
    agent::{Agent, Subscriptions},
    app::{ECHO, expect, ping},
    in_node,
    target::Target,
    traffic::{Parked, connect, ip},
};

#[test]
fn target_role() {
    support::target::role();
}

#[test]
fn stolen_connections_show_both_true_addresses() {
    in_node("stolen_connections_show_both_true_addresses", async || {
        let target = Target::start();
        let agent = Agent::start(target.pid());
        let mut client = agent.client().await;
        let mut subscriptions = Subscriptions::open(&mut client).await;
        subscriptions.set(ECHO, Mode::Steal).await;
        for (node, there) in [(NODE_IP, TARGET_IP), (NODE_IP6, TARGET_IP6)] {
            let mut parked = Parked::new(&mut client).await;
            let mut socket = connect(there);
            let connection = parked.connection().await;
            assert_eq!(connection.port, ECHO.into());
            assert_eq!(ip(connection.client.as_ref()), node.parse::<IpAddr>().unwrap());
            assert_eq!(connection.client.unwrap().port, socket.local_addr().unwrap().port().into());
            assert_eq!(ip(connection.server.as_ref()), there.parse::<IpAddr>().unwrap());
            socket.write_all(b"to the session").unwrap();
            parked.hear("to the session").await;
            parked.say("stolen").await;
            expect(&mut socket, "stolen");

            // Half-close towards the session, then an answer, then its half-close.
            socket.shutdown(Shutdown::Write).unwrap();
            assert!(matches!(parked.next().await, Some(accept_down::Kind::Shutdown(_))));
            parked.say("last words").await;
            parked.send(accept_up::Kind::Shutdown(wire::Shutdown {})).await;
            let mut rest = String::new();
            socket.read_to_string(&mut rest).unwrap();
            assert_eq!(rest, "last words");
            assert!(parked.next().await.is_none());
        }
        let status = subscriptions.until(|status| status.redirected == 2 && status.stolen_open == 0).await;
        assert!(status.target_listens);
        assert_eq!(status.mode(), Mode::Steal);
    });
}

#[test]
fn resets_go_both_ways() {
    in_node("resets_go_both_ways", async || {
        let target = Target::start();
        let agent = Agent::start(target.pid());
        let mut client = agent.client().await;
        let mut subscriptions = Subscriptions::open(&mut client).await;
        subscriptions.set(ECHO, Mode::Steal).await;

        let mut parked = Parked::new(&mut client).await;
        let socket = connect(TARGET_IP);
        parked.connection().await;
        mirrord_netns::sockopt::reset_on_close(&socket).unwrap();
        drop(socket);
        assert!(matches!(parked.next().await, Some(accept_down::Kind::Reset(_))));

        for dropped in [false, true] {
            let mut parked = Parked::new(&mut client).await;
            let mut socket = connect(TARGET_IP);
            parked.connection().await;
            if dropped {
                drop(parked);
            } else {
                parked.send(accept_up::Kind::Reset(wire::Reset {})).await;
            }
            assert_eq!(socket.read(&mut [0; 1]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        }
    });
}

#[test]
fn what_nobody_takes_goes_to_the_target() {
    in_node("what_nobody_takes_goes_to_the_target", async || {
        let target = Target::start();
        let agent = Agent::start(target.pid());
        let mut client = agent.client().await;
        let mut subscriptions = Subscriptions::open(&mut client).await;
        subscriptions.set(ECHO, Mode::Steal).await;
        // Parked, but gone before the connection comes.
        drop(Parked::new(&mut client).await);
        // The agent reads this after it has read that the call is gone.
        client
            .hello(wire::HelloRequest { protocol_version: 1, client_version: String::new() })
            .await
            .unwrap();
        let mut socket = connect(TARGET_IP);
        ping(&mut socket, "hello target");
        socket.shutdown(Shutdown::Write).unwrap();
        assert_eq!(socket.read(&mut [0; 1]).unwrap(), 0, "the target's half-close");
        let notice = subscriptions.notice().await;
        assert!(notice.text.starts_with("1 connections to port 80 went to the target"), "{}", notice.text);

        // A call that is parked while a connection waits takes it.
        let mut socket = connect(TARGET_IP);
        let mut parked = Parked::new(&mut client).await;
        parked.connection().await;
        parked.say("taken").await;
        expect(&mut socket, "taken");
    });
}

#[test]
fn open_connections_stay_where_they_began() {
    in_node("open_connections_stay_where_they_began", async || {
        let target = Target::start();
        let agent = Agent::start(target.pid());
        let mut client = agent.client().await;
        let mut before = connect(TARGET_IP);
        ping(&mut before, "before everything");
        let mut subscriptions = Subscriptions::open(&mut client).await;
        subscriptions.set(ECHO, Mode::Steal).await;
        ping(&mut before, "still with the target");

        let mut parked = Parked::new(&mut client).await;
        let mut stolen = connect(TARGET_IP);
        parked.connection().await;
        for mode in [Mode::Off, Mode::Steal, Mode::Mirror, Mode::Unspecified, Mode::Steal, Mode::Off] {
            subscriptions.set(ECHO, mode).await;
            ping(&mut before, "the target's");
            stolen.write_all(b"the session's").unwrap();
            parked.hear("the session's").await;
            parked.say("indeed").await;
            expect(&mut stolen, "indeed");
        }
        ping(&mut connect(TARGET_IP), "a new one");
        drop(subscriptions);
        stolen.write_all(b"to the very end").unwrap();
        parked.hear("to the very end").await;
        ping(&mut before, "both of them");
    });
}

#[test]
fn a_killed_agent_leaves_the_target_as_it_was() {
    in_node("a_killed_agent_leaves_the_target_as_it_was", async || {
        let target = Target::start();
        let mut agent = Agent::start(target.pid());
        let mut client = agent.client().await;
        let mut subscriptions = Subscriptions::open(&mut client).await;
        subscriptions.set(ECHO, Mode::Steal).await;
        let mut parked = Parked::new(&mut client).await;
        let mut stolen = connect(TARGET_IP);
        parked.connection().await;
        agent.child.kill().unwrap();
        agent.child.wait().unwrap();
        let mut buffer = [0; 1];
        // The kernel closes the agent's socket, and its rules go with its netlink socket.
        assert!(!matches!(stolen.read(&mut buffer), Ok(1..)));
        ping(&mut connect(TARGET_IP), "the target serves again");
    });
}

#[test]
fn a_client_that_is_gone_takes_its_rules_along() {
    in_node("a_client_that_is_gone_takes_its_rules_along", async || {
        let target = Target::start();
        let agent = Agent::start(target.pid());
        let mut client = agent.client().await;
        let mut subscriptions = Subscriptions::open(&mut client).await;
        subscriptions.set(ECHO, Mode::Steal).await;
        drop((subscriptions, client));
        // Whether the rule is gone already or the agent passes it on: the target answers, without the wait for a parked call.
        let start = std::time::Instant::now();
        ping(&mut connect(TARGET_IP), "served");
        assert!(start.elapsed() < Duration::from_secs(1));
        let mut client = agent.client().await;
        let mut subscriptions = Subscriptions::open(&mut client).await;
        subscriptions.set(ECHO, Mode::Steal).await;
        let mut parked = Parked::new(&mut client).await;
        let _socket = connect(TARGET_IP);
        parked.connection().await;
    });
}

#[test]
fn nonsense_is_refused_in_words() {
    in_node("nonsense_is_refused_in_words", async || {
        let target = Target::start();
        let agent = Agent::start(target.pid());
        let mut client = agent.client().await;
        let mut subscriptions = Subscriptions::open(&mut client).await;
        for port in [0, 65_536, u32::MAX] {
            let ack = subscriptions.try_set(port, Mode::Steal).await;
            assert!(ack.error.contains("1 to 65535") && ack.mode() == Mode::Unspecified);
        }
        ping(&mut connect(TARGET_IP), "untouched");
    });
}
