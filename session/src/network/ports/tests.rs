//! The state machine by example, and against random orders of everything that can happen.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn config(ports: Vec<PortSpec>) -> Incoming {
    Incoming {
        mode: Mode::Steal,
        ports,
        port_mapping: BTreeMap::from([(8080, 80)]),
        ignore_ports: vec![9229],
        ignore_localhost: false,
        publish: true,
    }
}

fn listening(cookie: u64, port: u16) -> Listening {
    Listening { address: ([0, 0, 0, 0], port).into(), cookie, pid: 1 }
}

fn ack(id: u64, port: u16, error: &str) -> agent::SubscriptionAck {
    agent::SubscriptionAck { id, port: port.into(), mode: 0, error: error.to_owned() }
}

fn asked(effects: &[Effect]) -> Vec<(u64, u16, Option<Mode>)> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Ask { id, port, mode } => Some((*id, *port, *mode)),
            _ => None,
        })
        .collect()
}

#[test]
fn stealing_waits_for_the_local_process_and_gives_the_port_back_when_it_goes() {
    let mut ports = Ports::new(config(vec![PortSpec { remote: 80, local: 3000, mode: Mode::Steal }]));
    assert_eq!(asked(&ports.linked()), [(1, 80, Some(Mode::Off))]);
    ports.acknowledged(&ack(1, 80, ""));
    assert_eq!(ports.facts(0)[0].waiting, "waiting for the local process to listen on 3000");
    let effects = ports.listening(listening(5, 3000));
    assert_eq!(effects[0], Effect::Listens(listening(5, 3000)));
    assert_eq!(asked(&effects), [(2, 80, Some(Mode::Steal))]);
    assert!(ports.listening(listening(5, 3000)).is_empty());
    ports.acknowledged(&ack(2, 80, ""));
    assert_eq!(ports.facts(0)[0].mode(), mirrord_protocol::session::v1::Mode::Steal);
    let effects = ports.closed(5);
    assert_eq!(effects[0], Effect::Gone { cookie: 5 });
    assert_eq!(asked(&effects), [(3, 80, Some(Mode::Off))]);
}

#[test]
fn listening_subscribes_with_mapping_and_without_ignored_ports() {
    let mut ports = Ports::new(config(Vec::new()));
    ports.linked();
    assert_eq!(asked(&ports.listening(listening(1, 8080))), [(1, 80, Some(Mode::Steal))]);
    assert!(asked(&ports.listening(listening(2, 9229))).is_empty());
    ports.acknowledged(&ack(1, 80, ""));
    assert_eq!(asked(&ports.closed(1)), [(2, 80, None)]);
    ports.acknowledged(&ack(2, 80, ""));
    assert!(ports.facts(0).is_empty());
}

#[test]
fn a_refused_mode_leaves_the_old_one() {
    let mut ports = Ports::new(config(vec![PortSpec { remote: 80, local: 80, mode: Mode::Mirror }]));
    ports.linked();
    ports.acknowledged(&ack(1, 80, ""));
    ports.listening(listening(1, 80));
    assert_eq!(asked(&ports.set_mode(7, 80, Mode::Steal).unwrap()), [(2, 80, Some(Mode::Steal))]);
    let effects = ports.acknowledged(&ack(2, 80, "no NET_ADMIN"));
    assert_eq!(effects, [Effect::Settled { wish: 7, result: Err("no NET_ADMIN".to_owned()) }]);
    assert_eq!(ports.facts(0)[0].mode(), mirrord_protocol::session::v1::Mode::Mirror);
    assert!(ports.set_mode(8, 81, Mode::Off).is_none());
    // The mode that holds already settles at once.
    assert_eq!(ports.set_mode(9, 80, Mode::Mirror).unwrap(), [Effect::Settled { wish: 9, result: Ok(()) }]);
}

#[test]
fn a_broken_link_fails_wishes_and_asks_again_later() {
    let mut ports = Ports::new(config(vec![PortSpec { remote: 80, local: 80, mode: Mode::Mirror }]));
    ports.linked();
    ports.acknowledged(&ack(1, 80, ""));
    ports.set_mode(3, 80, Mode::Off).unwrap();
    let effects = ports.unlinked();
    assert!(matches!(effects.as_slice(), [Effect::Settled { wish: 3, result: Err(_) }]));
    assert_eq!(ports.facts(0)[0].waiting, "waiting for the agent");
    assert_eq!(asked(&ports.linked()), [(3, 80, Some(Mode::Mirror))]);
}

#[test]
fn silence_is_explained() {
    let mut ports = Ports::new(config(vec![PortSpec { remote: 80, local: 80, mode: Mode::Mirror }]));
    ports.linked();
    ports.acknowledged(&ack(1, 80, ""));
    ports.facts(1);
    ports.status(&agent::PortStatus { port: 80, ..agent::PortStatus::default() }, 2);
    assert_eq!(ports.facts(3)[0].diagnosis, "");
    assert!(ports.facts(60_000)[0].diagnosis.contains("nothing in the target listens"));
    ports
        .status(&agent::PortStatus { port: 80, packets: 3, syns: 1, ..agent::PortStatus::default() }, 60_001);
    assert_eq!(ports.facts(60_002)[0].diagnosis, "");
}

#[derive(Clone, Debug)]
enum Step {
    Linked,
    Unlinked,
    Listen(u64, u16),
    Close(u64),
    Set(u16, Mode),
    /// Answer the oldest question; true: with an error.
    Answer(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let mode = prop_oneof![Just(Mode::Mirror), Just(Mode::Steal), Just(Mode::Off)];
    let port = prop_oneof![Just(80_u16), Just(81), Just(8080), Just(9229)];
    prop_oneof![
        Just(Step::Linked),
        Just(Step::Unlinked),
        (0_u64..4, port.clone()).prop_map(|(cookie, port)| Step::Listen(cookie, port)),
        (0_u64..4).prop_map(Step::Close),
        (port, mode).prop_map(|(port, mode)| Step::Set(port, mode)),
        any::<bool>().prop_map(Step::Answer),
    ]
}

proptest! {
    /// Whatever happens: one question per port is in flight, every wish settles exactly once, and when the agent answers
    /// everything with success the ports are where they should be.
    #[test]
    fn questions_and_wishes_add_up(steps in prop::collection::vec(step(), 0..60), explicit in any::<bool>()) {
        let explicit = explicit.then_some(PortSpec { remote: 80, local: 8080, mode: Mode::Steal });
        let mut ports = Ports::new(config(explicit.into_iter().collect()));
        let mut questions: Vec<(u64, u16)> = Vec::new();
        let mut wishes: Vec<u64> = Vec::new();
        let mut linked = false;
        let mut wish = 0;
        // Ends with the link up and every question answered well.
        let tail = [Step::Linked].into_iter().chain(std::iter::repeat_n(Step::Answer(false), 50));
        for step in steps.into_iter().chain(tail) {
            let effects = match step {
                Step::Linked => { questions.clear(); linked = true; ports.linked() }
                Step::Unlinked => { questions.clear(); linked = false; ports.unlinked() }
                Step::Listen(cookie, port) => ports.listening(listening(cookie, port)),
                Step::Close(cookie) => ports.closed(cookie),
                Step::Set(port, mode) => {
                    wish += 1;
                    match ports.set_mode(wish, port, mode) {
                        Some(effects) => { wishes.push(wish); effects }
                        None => Vec::new(),
                    }
                }
                Step::Answer(fail) if !questions.is_empty() => {
                    let (id, port) = questions.remove(0);
                    ports.acknowledged(&ack(id, port, if fail { "no" } else { "" }))
                }
                Step::Answer(_) => Vec::new(),
            };
            for effect in effects {
                match effect {
                    Effect::Ask { id, port, .. } => {
                        prop_assert!(linked);
                        prop_assert!(questions.iter().all(|(_, other)| *other != port), "two questions about {port}");
                        questions.push((id, port));
                    }
                    Effect::Settled { wish, .. } => {
                        let before = wishes.len();
                        wishes.retain(|waiting| *waiting != wish);
                        prop_assert_eq!(wishes.len() + 1, before, "settled twice");
                    }
                    _ => {}
                }
            }
        }
        prop_assert!(questions.is_empty());
        prop_assert!(wishes.is_empty());
        let listening: Vec<u16> = ports.listeners().map(|listening| listening.address.port()).collect();
        for entry in ports.entries.values() {
            prop_assert!(!entry.leaving);
            prop_assert_eq!(entry.holds, entry.desired(listening.contains(&entry.local)));
        }
    }
}
