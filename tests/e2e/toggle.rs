//! Switching between mirror and steal while customers ask at full speed: nobody loses a connection, a request or an answer.

use std::{
    collections::HashSet,
    fs::File,
    io::{BufRead, BufReader, Read},
    process::Stdio,
};

use mirrord_tests::{World, for_every_user};
use serde_json::Value;

const CONNECTIONS: &str = "200";
const TOGGLES: usize = 50;
/// Requests that must have been asked between two switches, so that each mode is used.
const BETWEEN: u64 = 200;

#[test]
fn nothing_is_lost_while_the_port_is_switched() {
    for_every_user(|user| {
        let world = World::new(user);
        let tool = world.install(env!("CARGO_BIN_EXE_e2e-tool"));
        let log = |name: &str| world.home().join(name).to_string_lossy().into_owned();
        let (pod_log, own_log, answers) = (log("pod.log"), log("own.log"), log("answers.log"));
        let target = world.pod("target", &[], &[&tool, "clerk", "80", "pod", &pod_log]);
        target.wait_listening(80);
        let options = ["-t", &target.target(), "-p", "80"];
        let session = world.exec(&options, &[&tool, "clerk", "80", "own", &own_log]);
        session.keep_only(r#""port":{"#);
        session.wait_line("listening");
        session.wait_mode(80, "mirror");

        let address = format!("{}:80", target.ip);
        let mut customers = world.on_node(&[&tool, "customers", &address, CONNECTIONS, &answers]);
        let mut customers = customers.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut printed = BufReader::new(customers.stdout.take().unwrap());
        printed.read_line(&mut String::new()).unwrap();
        for toggle in 0..TOGGLES {
            let before = session.port(80)["requests"].as_u64().unwrap();
            session.mode(80, if toggle % 2 == 0 { "steal" } else { "mirror" });
            session.wait_info("asked in this mode", |info| {
                info["ports"][0]["requests"].as_u64() >= Some(before + BETWEEN)
            });
        }
        drop(customers.stdin.take());
        let mut report = String::new();
        printed.read_to_string(&mut report).unwrap();
        assert!(customers.wait().unwrap().success(), "{report}");
        let report: Value = serde_json::from_str(&report).unwrap();
        println!("{report}");
        assert_eq!(report["errors"].as_array().map(Vec::len), Some(0), "{report}");
        assert_eq!(report["asked"], report["answered"], "{report}");
        let events = session.events();
        let switches = events.iter().filter(|event| event["port"]["to"].is_string()).count();
        // At this rate rows may be left out, and the stream says so.
        assert!(switches >= TOGGLES || session.lost_rows() > 0, "{switches} switches were told of");
        println!("{switches} switches told of, {} rows left out", session.lost_rows());
        session.stop();
        let asked = report["asked"].as_u64().and_then(|asked| usize::try_from(asked).ok()).unwrap();
        each_was_answered_by_one(asked, &pod_log, &own_log, &answers);
    });
}

/// Who answered a request has it in his log once. The pod does not know what we answered; we may know what the pod answered,
/// once, as a copy.
fn each_was_answered_by_one(asked: usize, pod: &str, own: &str, answers: &str) {
    let pod = counted(asked, pod);
    let own = counted(asked, own);
    let mut by = HashSet::new();
    for line in lines(answers) {
        let (id, name) = line.split_once(' ').unwrap();
        by.insert(name.to_owned());
        let index: usize = id.parse().unwrap();
        let seen = (pod[index], own[index]);
        match name {
            "own" => assert_eq!(seen, (0, 1), "request {id} was stolen: (pod, own) saw it so often"),
            _ => {
                assert!(seen.0 == 1 && seen.1 <= 1, "request {id} was the pod's: (pod, own) saw it {seen:?}")
            }
        }
    }
    assert_eq!(by.len(), 2, "both answered some");
}

/// How often each request, by its id, is in a file. A fast machine asks ten million.
fn counted(asked: usize, path: &str) -> Vec<u8> {
    let mut count = vec![0_u8; asked];
    for line in lines(path) {
        let count = &mut count[line.parse::<usize>().unwrap()];
        *count = count.saturating_add(1);
    }
    count
}

fn lines(path: &str) -> impl Iterator<Item = String> {
    BufReader::new(File::open(path).unwrap()).lines().map(Result::unwrap)
}
