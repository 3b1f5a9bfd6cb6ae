//! A mirror reports everything at a high rate, and when its reader is too slow it says what it lost; the target never waits.

use mirrord_tests::{Pod, Session, World, finish_within, for_every_user, signal, wait_until};
use rustix::process::Signal;
use serde_json::Value;
use std::time::{Duration, Instant};

const RATE: f64 = 20_000.0;
/// Below this part of it the rate was not reached.
const REACHED: f64 = 0.95;
const MANY_BYTES: u64 = 512 << 20;
const LONG: Duration = Duration::from_secs(60);
/// Counters of the agent come about once a second.
const TOLD: Duration = Duration::from_secs(3);

/// A pod with a fast HTTP server, and the two programs that ask it.
struct Place<'world> {
    world: &'world World,
    target: Pod<'world>,
    tool: String,
    bench: String,
}

fn in_a_place(test: impl Fn(&Place<'_>)) {
    for_every_user(|user| {
        let world = World::new(user);
        let bench = world.install(env!("CARGO_BIN_EXE_bench-tool"));
        let target = world.pod("target", &[], &[&bench, "server", "80"]);
        target.wait_listening(80);
        let tool = world.install(env!("CARGO_BIN_EXE_e2e-tool"));
        test(&Place { world: &world, target, tool, bench });
    });
}

impl Place<'_> {
    fn address(&self) -> String {
        format!("{}:80", self.target.ip)
    }

    /// So many requests a second, from the node.
    #[track_caller]
    fn paced(&self, connections: &str, rate: f64, seconds: &str) -> Value {
        let command = [&self.tool, "paced", &self.address(), connections, &rate.to_string(), seconds];
        serde_json::from_str(&finish_within(&mut self.world.on_node(&command), LONG).ok()).unwrap()
    }

    fn mirrored(&self, command: &[&str]) -> Session<'_> {
        let options = ["-t", &self.target.target(), "--mirror", "-p", "80", "-p", "81"];
        let session = self.world.exec(&options, command);
        session.wait_mode(80, "mirror");
        session.wait_mode(81, "mirror");
        session
    }
}

#[test]
fn every_request_and_response_is_reported_at_twenty_thousand_a_second() {
    in_a_place(|place| {
        let session = place.mirrored(&[&place.bench, "server", "80"]);
        let report = place.paced("20", RATE, "5");
        println!("asked: {report}");
        let requests = report["requests"].as_u64();
        let port = session.wait_info("told of all, or of what was lost", |info| {
            let port = &info["ports"][0];
            port["requests"].as_u64() >= requests && port["responses"].as_u64() >= requests
                || port["gaps"].as_u64() > Some(0)
        });
        let port = &port["ports"][0];
        println!("mirrored: {port}");
        if report["rate"].as_f64() < Some(RATE * REACHED) {
            // Others had the machine, and the mirror got as little of it. What it lost it must have told.
            println!("only {} requests a second could be asked, so gaps prove nothing", report["rate"]);
            return drop(session.stop());
        }
        assert_eq!(
            (port["requests"].as_u64(), port["responses"].as_u64()),
            (requests, requests),
            "each is reported once"
        );
        assert_eq!(port["gaps"], 0, "nothing is lost: {port}");
        session.wait_event("the connections of the load are closed", |event| {
            event["connection"]["stage"] == "closed" && event["connection"]["mode"] == "mirror"
        });
        let events = session.stop().events;
        let lost = events.iter().filter_map(|event| event["connection"]["gaps"].as_u64()).sum::<u64>();
        assert_eq!(lost, 0, "no connection has a gap");
    });
}

#[test]
fn a_reader_that_stands_still_is_told_what_it_missed_and_the_target_does_not_wait() {
    in_a_place(|place| {
        let mut sink =
            place.target.command(&[&place.tool, "clerk", "81", "sink", "/dev/null"]).spawn().unwrap();
        place.target.wait_listening(81);
        let session = place.mirrored(&["sleep", "600"]);
        let family = session.family();
        signal(family.host, Signal::STOP);
        let report = place.paced("20", RATE, "2");
        assert_eq!(report["requests"], RATE * 2.0, "the target answers all that it is asked: {report}");
        // More than all queues on the way hold, however slow the machine is.
        let sink_address = format!("{}:81", place.target.ip);
        let post = [&place.tool, "post", &sink_address, &MANY_BYTES.to_string()];
        finish_within(&mut place.world.on_node(&post), LONG).ok();
        signal(family.host, Signal::CONT);
        let port = session.wait_info("told of the gaps", |info| info["ports"][1]["gaps"].as_u64() > Some(0));
        assert!(port["ports"][1]["gap_bytes"].as_u64() > Some(0), "gaps have a size: {port}");
        sink.kill().unwrap();
        sink.wait().unwrap();
        // Afterwards all is as before: once the queues are empty, a round comes through whole. One that meets them full has gaps.
        wait_until("mirrored again", LONG, || {
            let before = session.port(80);
            let asked = place.paced("4", 500.0, "1")["requests"].as_u64();
            let whole = |port: &Value| {
                port["gaps"] == before["gaps"]
                    && port["requests"].as_u64() == before["requests"].as_u64().zip(asked).map(|(a, b)| a + b)
            };
            let told = Instant::now();
            while told.elapsed() < TOLD {
                if whole(&session.port(80)) {
                    return true;
                }
            }
            false
        });
    });
}

#[test]
fn a_local_process_that_stands_still_costs_nobody_else_anything() {
    in_a_place(|place| {
        let session = place.mirrored(&[&place.bench, "server", "80"]);
        let family = session.family();
        wait_until("the command listens", mirrord_tests::LIMIT, || session.port(80)["local_listens"] == true);
        signal(family.command, Signal::STOP);
        let report = place.paced("10", 5000.0, "3");
        let asked = report["requests"].as_u64();
        assert!(
            report["rate"].as_f64() > Some(4000.0),
            "the target answers as fast as it is asked: {report}"
        );
        let info = session.wait_info("told of all", |info| {
            info["ports"][0]["requests"].as_u64() >= asked && info["ports"][0]["responses"].as_u64() >= asked
        });
        assert_eq!(info["ports"][0]["gaps"], 0, "the events do not wait for the command: {info}");
        signal(family.command, Signal::CONT);
    });
}
