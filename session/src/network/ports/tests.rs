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

/// The only agent of most examples, and another one.
const A: SourceId = SourceId(0);
const B: SourceId = SourceId(1);

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
            Effect::Ask { id, port, mode, .. } => Some((*id, *port, *mode)),
            _ => None,
        })
        .collect()
}

#[test]
fn stealing_waits_for_the_local_process_and_gives_the_port_back_when_it_goes() {
    let mut ports = Ports::new(config(vec![PortSpec { remote: 80, local: 3000, mode: Mode::Steal }]));
    assert_eq!(asked(&ports.linked(A)), [(1, 80, Some(Mode::Off))]);
    ports.acknowledged(A, &ack(1, 80, ""));
    assert_eq!(ports.facts(0)[0].waiting, "waiting for the local process to listen on 3000");
    let effects = ports.listening(listening(5, 3000));
    assert_eq!(effects[0], Effect::Listens(listening(5, 3000)));
    assert_eq!(asked(&effects), [(2, 80, Some(Mode::Steal))]);
    assert!(ports.listening(listening(5, 3000)).is_empty());
    ports.acknowledged(A, &ack(2, 80, ""));
    assert_eq!(ports.facts(0)[0].mode(), mirrord_protocol::session::v1::Mode::Steal);
    let effects = ports.closed(5);
    assert_eq!(effects[0], Effect::Gone { cookie: 5 });
    assert_eq!(asked(&effects), [(3, 80, Some(Mode::Off))]);
}

#[test]
fn listening_subscribes_with_mapping_and_without_ignored_ports() {
    let mut ports = Ports::new(config(Vec::new()));
    ports.linked(A);
    assert_eq!(asked(&ports.listening(listening(1, 8080))), [(1, 80, Some(Mode::Steal))]);
    assert!(asked(&ports.listening(listening(2, 9229))).is_empty());
    ports.acknowledged(A, &ack(1, 80, ""));
    assert_eq!(asked(&ports.closed(1)), [(2, 80, None)]);
    ports.acknowledged(A, &ack(2, 80, ""));
    assert!(ports.facts(0).is_empty());
}

#[test]
fn a_refused_mode_leaves_the_old_one() {
    let mut ports = Ports::new(config(vec![PortSpec { remote: 80, local: 80, mode: Mode::Mirror }]));
    ports.linked(A);
    ports.acknowledged(A, &ack(1, 80, ""));
    ports.listening(listening(1, 80));
    assert_eq!(asked(&ports.set_mode(7, 80, Mode::Steal).unwrap()), [(2, 80, Some(Mode::Steal))]);
    let effects = ports.acknowledged(A, &ack(2, 80, "no NET_ADMIN"));
    assert_eq!(effects, [Effect::Settled { wish: 7, result: Err("no NET_ADMIN".to_owned()) }]);
    assert_eq!(ports.facts(0)[0].mode(), mirrord_protocol::session::v1::Mode::Mirror);
    assert!(ports.set_mode(8, 81, Mode::Off).is_none());
    // The mode that holds already settles at once.
    assert_eq!(ports.set_mode(9, 80, Mode::Mirror).unwrap(), [Effect::Settled { wish: 9, result: Ok(()) }]);
}

#[test]
fn a_broken_link_fails_wishes_and_asks_again_later() {
    let mut ports = Ports::new(config(vec![PortSpec { remote: 80, local: 80, mode: Mode::Mirror }]));
    ports.linked(A);
    ports.acknowledged(A, &ack(1, 80, ""));
    ports.set_mode(3, 80, Mode::Off).unwrap();
    let effects = ports.unlinked(A);
    assert!(matches!(effects.as_slice(), [Effect::Settled { wish: 3, result: Err(_) }]));
    assert_eq!(ports.facts(0)[0].waiting, "waiting for the agent");
    assert_eq!(asked(&ports.linked(A)), [(3, 80, Some(Mode::Mirror))]);
}

#[test]
fn silence_is_explained() {
    let mut ports = Ports::new(config(vec![PortSpec { remote: 80, local: 80, mode: Mode::Mirror }]));
    ports.linked(A);
    ports.acknowledged(A, &ack(1, 80, ""));
    ports.facts(1);
    ports.status(A, &agent::PortStatus { port: 80, ..agent::PortStatus::default() }, 2);
    assert_eq!(ports.facts(3)[0].diagnosis, "");
    assert!(ports.facts(60_000)[0].diagnosis.contains("nothing in the target listens"));
    ports.status(
        A,
        &agent::PortStatus { port: 80, packets: 3, syns: 1, ..agent::PortStatus::default() },
        60_001,
    );
    assert_eq!(ports.facts(60_002)[0].diagnosis, "");
}

/// A port that two agents steal.
fn stolen_from_two() -> Ports {
    let mut ports = Ports::new(config(vec![PortSpec { remote: 80, local: 80, mode: Mode::Steal }]));
    ports.listening(listening(1, 80));
    assert_eq!(asked(&ports.linked(A)), [(1, 80, Some(Mode::Steal))]);
    assert_eq!(asked(&ports.linked(B)), [(2, 80, Some(Mode::Steal))]);
    ports
}

fn changes(effects: &[Effect]) -> Vec<(Mode, Mode)> {
    let changed = effects.iter().filter_map(|effect| match effect {
        Effect::Changed { from, to, .. } => Some((*from, *to)),
        _ => None,
    });
    changed.collect()
}

#[test]
fn a_mode_holds_when_all_agents_have_it() {
    let mut ports = stolen_from_two();
    assert_eq!(changes(&ports.acknowledged(B, &ack(2, 80, ""))), []);
    assert_eq!(ports.facts(0)[0].mode(), mirrord_protocol::session::v1::Mode::Off);
    assert_eq!(changes(&ports.acknowledged(A, &ack(1, 80, ""))), [(Mode::Off, Mode::Steal)]);
    assert_eq!(asked(&ports.set_mode(1, 80, Mode::Mirror).unwrap()).len(), 2);
    assert_eq!(ports.acknowledged(A, &ack(3, 80, "")), []);
    // The one that has not answered goes away: what is left agrees.
    let effects = ports.gone(B);
    assert_eq!(changes(&effects), [(Mode::Steal, Mode::Mirror)]);
    assert!(effects.contains(&Effect::Settled { wish: 1, result: Ok(()) }));
    // One that comes later gets what the others have, and nobody is told anything new.
    assert_eq!(asked(&ports.linked(B)), [(5, 80, Some(Mode::Mirror))]);
    assert_eq!(ports.acknowledged(B, &ack(5, 80, "")), []);
}

#[test]
fn a_change_that_one_agent_refuses_is_taken_back_by_all() {
    let mut ports = stolen_from_two();
    ports.acknowledged(A, &ack(1, 80, ""));
    ports.acknowledged(B, &ack(2, 80, ""));
    ports.set_mode(1, 80, Mode::Mirror).unwrap();
    ports.acknowledged(A, &ack(3, 80, ""));
    let effects = ports.acknowledged(B, &ack(4, 80, "no NET_RAW"));
    assert_eq!(effects[0], Effect::Settled { wish: 1, result: Err("no NET_RAW".to_owned()) });
    assert_eq!(asked(&effects), [(5, 80, Some(Mode::Steal))]);
    assert_eq!(changes(&ports.acknowledged(A, &ack(5, 80, ""))), []);
    assert_eq!(ports.facts(0)[0].mode(), mirrord_protocol::session::v1::Mode::Steal);
}

#[test]
fn an_agent_that_refuses_from_the_start_does_without() {
    let mut ports = stolen_from_two();
    ports.acknowledged(A, &ack(1, 80, ""));
    let effects = ports.acknowledged(B, &ack(2, 80, "somebody else steals it"));
    let reason = "somebody else steals it".to_owned();
    assert_eq!(effects[0], Effect::Refused { source: B, port: 80, reason });
    assert_eq!(changes(&effects), [(Mode::Off, Mode::Steal)]);
    assert_eq!(asked(&effects), []);
    // Asked for once more, it is tried once more.
    assert_eq!(asked(&ports.set_mode(1, 80, Mode::Steal).unwrap()), [(3, 80, Some(Mode::Steal))]);
    assert!(ports.acknowledged(B, &ack(3, 80, "")).contains(&Effect::Settled { wish: 1, result: Ok(()) }));
}

#[test]
fn counters_of_agents_add_up_and_stay() {
    let mut ports = stolen_from_two();
    let status =
        agent::PortStatus { port: 80, syns: 2, stolen_open: 1, target_listens: true, ..Default::default() };
    ports.status(A, &status, 1);
    ports.status(B, &status, 1);
    let facts = |ports: &mut Ports| {
        let facts = ports.facts(2).remove(0);
        (facts.syns, facts.stolen_open, facts.target_listens)
    };
    assert_eq!(facts(&mut ports), (4, 2, true));
    ports.gone(A);
    assert_eq!(facts(&mut ports), (4, 1, true));
}

#[derive(Clone, Debug)]
enum Step {
    Linked(SourceId),
    Unlinked(SourceId),
    Listen(u64, u16),
    Close(u64),
    Set(u16, Mode),
    /// Answer the oldest question; true: with an error.
    Answer(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let mode = prop_oneof![Just(Mode::Mirror), Just(Mode::Steal), Just(Mode::Off)];
    let source = prop_oneof![Just(A), Just(B)];
    let port = prop_oneof![Just(80_u16), Just(81), Just(8080), Just(9229)];
    prop_oneof![
        source.clone().prop_map(Step::Linked),
        source.prop_map(Step::Unlinked),
        (0_u64..4, port.clone()).prop_map(|(cookie, port)| Step::Listen(cookie, port)),
        (0_u64..4).prop_map(Step::Close),
        (port, mode).prop_map(|(port, mode)| Step::Set(port, mode)),
        any::<bool>().prop_map(Step::Answer),
    ]
}

proptest! {
    /// Whatever happens: one question per port and agent is in flight, every wish settles exactly once, and when the agents answer
    /// everything with success the ports are where they should be.
    #[test]
    fn questions_and_wishes_add_up(steps in prop::collection::vec(step(), 0..60), explicit in any::<bool>()) {
        let explicit = explicit.then_some(PortSpec { remote: 80, local: 8080, mode: Mode::Steal });
        let mut ports = Ports::new(config(explicit.into_iter().collect()));
        let mut questions: Vec<(SourceId, u64, u16)> = Vec::new();
        let mut wishes: Vec<u64> = Vec::new();
        let mut linked = BTreeSet::new();
        let mut wish = 0;
        // Ends with the link up and every question answered well.
        let tail = [Step::Linked(A), Step::Linked(B)].into_iter().chain(std::iter::repeat_n(Step::Answer(false), 50));
        for step in steps.into_iter().chain(tail) {
            let effects = match step {
                Step::Linked(source) => {
                    questions.retain(|(of, ..)| *of != source);
                    linked.insert(source);
                    ports.linked(source)
                }
                Step::Unlinked(source) => {
                    questions.retain(|(of, ..)| *of != source);
                    linked.remove(&source);
                    ports.unlinked(source)
                }
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
                    let (source, id, port) = questions.remove(0);
                    ports.acknowledged(source, &ack(id, port, if fail { "no" } else { "" }))
                }
                Step::Answer(_) => Vec::new(),
            };
            for effect in effects {
                match effect {
                    Effect::Ask { source, id, port, .. } => {
                        prop_assert!(linked.contains(&source));
                        let others = questions.iter().filter(|(of, ..)| *of == source);
                        prop_assert!(others.clone().all(|(.., other)| *other != port), "two questions about {port}");
                        questions.push((source, id, port));
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
            let desired = entry.desired(listening.contains(&entry.local));
            let all: Vec<&At> = entry.at.values().filter(|at| !at.given_up).collect();
            prop_assert!(all.iter().all(|at| at.holds == desired));
            prop_assert!(all.is_empty() || entry.holds == desired);
        }
    }
}
