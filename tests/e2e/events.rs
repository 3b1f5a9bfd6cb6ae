//! What a session reports: every kind of event with its facts, the recording, the summary, and where the flow stops when nothing
//! arrives.

use std::{collections::BTreeMap, fs};

use mirrord_tests::{Pod, Session, World, for_every_user, is, request, victim_or_skip};
use serde_json::Value;

struct Place<'world> {
    world: &'world World,
    target: Pod<'world>,
    catalog: Pod<'world>,
    victim: String,
}

fn in_a_place(test: impl Fn(&Place<'_>)) {
    for_every_user(|user| {
        let Some(victim) = victim_or_skip("c-dynamic", "events") else { return };
        let world = World::new(user);
        // A server that knows other answers than 200.
        let serve = ["/usr/bin/python3", "-m", "http.server", "80", "--directory", "/shop"];
        let target = world.pod(
            "target",
            &[],
            &["sh", "-c", "mkdir /shop; exec \"$@\"", "sh"].iter().chain(&serve).copied().collect::<Vec<_>>(),
        );
        let catalog = world.pod("catalog", &[], &[&victim, "serve", "80"]);
        target.wait_listening(80);
        catalog.wait_listening(80);
        target.put("/shop/menu.txt", "soup\n");
        test(&Place { world: &world, target, catalog, victim });
    });
}

impl Place<'_> {
    /// A command of the victim in a session, to its end; its events.
    #[track_caller]
    fn events_of(&self, args: &[&str]) -> Vec<Value> {
        let command: Vec<&str> = std::iter::once(self.victim.as_str()).chain(args.iter().copied()).collect();
        self.world.exec_to_end(&["-t", &self.target.target()], &command).1
    }

    /// What curl gets from the target, asked from the other pod: status and body.
    #[track_caller]
    fn curl(&self, path: &str, more: &[&str]) -> String {
        let url = format!("http://{}{path}", self.target.ip);
        let command = [&["curl", "-s", "-w", " %{http_code}", &url], more].concat();
        self.catalog.ok(&command)
    }

    fn session(&self, options: &[&str], command: &[&str]) -> Session<'_> {
        self.world.exec(&[&["-t", &self.target.target()], options].concat(), command)
    }
}

/// The one event that satisfies `condition`.
#[track_caller]
fn only(events: &[Value], what: &str, condition: impl Fn(&Value) -> bool) -> Value {
    let found: Vec<_> = events.iter().filter(|event| condition(event)).collect();
    assert_eq!(found.len(), 1, "one event of {what}, not {found:#?} of\n{events:?}");
    found[0].clone()
}

#[test]
fn requests_carry_the_answer_of_whoever_gave_it() {
    in_a_place(|place| {
        let session = place.session(&["-p", "80"], &[&place.victim, "serve", "80"]);
        session.wait_line("listening");
        session.wait_mode(80, "mirror");
        assert!(place.curl("/menu.txt", &[]).ends_with("soup\n 200"));
        assert!(place.curl("/none", &[]).ends_with(" 404"));
        let event =
            session.wait_event("the pod's own answer", |event| request(event, "mirror", "/menu.txt", 200));
        let detail = &event["request"];
        assert_eq!(detail["method"], "GET");
        assert_eq!(detail["protocol"], "HTTP/1.1");
        assert_eq!(detail["host"], place.target.ip.as_str());
        assert_eq!(detail["direction"], "incoming");
        assert_eq!(detail["response_body"]["data"], "soup\n", "{detail}");
        assert!(detail["response_headers"].to_string().contains("SimpleHTTP"), "{detail}");
        assert!(event["latency_ns"].as_u64() > Some(0));
        session.wait_event("the pod's refusal", |event| request(event, "mirror", "/none", 404));

        session.mode(80, "steal");
        session.wait_mode(80, "steal");
        place.curl("/none", &["-X", "POST", "-d", "two soups"]);
        let event = session.wait_event("our answer", |event| request(event, "steal", "/none", 200));
        assert_eq!(event["request"]["method"], "POST");
        assert_eq!(event["request"]["body"]["data"], "two soups");
        let switch = session
            .wait_event("the switch", |event| is(event, "port", &[("from", "mirror"), ("to", "steal")]));
        assert_eq!(switch["port"]["remote"], 80);
        session.wait_event("the closed connection", |event| {
            is(event, "connection", &[("direction", "incoming"), ("mode", "steal"), ("stage", "closed")])
                && event["connection"]["bytes_in"].as_u64() > Some(0)
        });
        session.stop();
    });
}

#[test]
fn names_and_connections_of_the_command() {
    in_a_place(|place| {
        let events = place.events_of(&["get", "http://catalog/x/"]);
        let answered = |event: &Value| {
            is(event, "dns", &[("record", "A"), ("rcode", "NOERROR")])
                && event["dns"]["answers"].to_string().contains(&place.catalog.ip)
        };
        let dns =
            events.iter().find(|event| answered(event)).unwrap_or_else(|| panic!("no answer in {events:?}"));
        assert!(dns["dns"]["question"].as_str().unwrap().starts_with("catalog"), "{dns}");
        assert_eq!(dns["decision"]["where"], "remote");
        assert!(dns["latency_ns"].as_u64() > Some(0), "{dns}");
        let closed = only(&events, "the connection", |event| {
            is(event, "connection", &[("direction", "outgoing"), ("stage", "closed"), ("transport", "tcp")])
        });
        assert_eq!(closed["connection"]["peer"], format!("{}:80", place.catalog.ip));
        assert!(closed["connection"]["name"].as_str().unwrap_or_default().starts_with("catalog"), "{closed}");
        assert!(
            closed["connection"]["bytes_in"].as_u64() > Some(0)
                && closed["connection"]["bytes_out"].as_u64() > Some(0)
        );
        assert_eq!(closed["decision"]["rule"], "default remote");
        let request = only(&events, "the request", |event| {
            is(event, "request", &[("direction", "outgoing"), ("path", "/x/"), ("status", "200")])
        });
        for event in [dns, &closed, &request] {
            assert!(event["pid"].as_u64() > Some(0) && event["comm"] == "c-dynamic", "{event}");
        }

        let events = place.events_of(&["connect", &place.catalog.ip, "9"]);
        let failed = only(&events, "the failure", |event| is(event, "connection", &[("stage", "failed")]));
        assert_eq!(failed["error"], "ECONNREFUSED");
        let events = place.events_of(&["resolve", "nobody"]);
        assert!(events.iter().any(|event| is(event, "dns", &[("rcode", "NXDOMAIN")])), "{events:?}");
    });
}

#[test]
fn files_and_processes_of_the_command() {
    in_a_place(|place| {
        let events = place.events_of(&["file", "/shop/menu.txt"]);
        let open = only(&events, "the file", |event| is(event, "file", &[("path", "/shop/menu.txt")]));
        assert!(open["file"]["operation"].as_str().unwrap().starts_with("open"), "{open}");
        assert_eq!(open["decision"]["where"], "remote");
        assert!(open["pid"].as_u64() > Some(0) && open["comm"] == "c-dynamic", "{open}");
        let events = place.events_of(&["stat", "/shop/none"]);
        let missing = only(&events, "what is missing", |event| is(event, "file", &[("path", "/shop/none")]));
        assert_eq!(missing["error"], "ENOENT");
        let start = events.iter().find(|event| event["process"]["stage"] == "start").expect("a start");
        assert!(start["process"]["arguments"].to_string().contains("/shop/none"), "{start}");
        let exit = events.iter().find(|event| event["process"]["stage"] == "exit").expect("an end");
        assert_eq!(exit["process"]["exit"]["code"], 1, "{exit}");
    });
}

#[test]
fn local_files_are_told_of_when_asked_for() {
    in_a_place(|place| {
        let options = ["-vv", "-t", &place.target.target()];
        let (_, events) = place.world.exec_to_end(&options, &[&place.victim, "file", "/usr/bin/env"]);
        let local = |event: &Value| {
            is(event, "file", &[("path", "/usr/bin/env")])
                && event["decision"]["where"] == "local"
                && event["decision"]["rule"] == "default local"
        };
        assert!(events.iter().any(local), "{events:?}");
    });
}

#[test]
fn a_recording_holds_what_was_streamed() {
    in_a_place(|place| {
        let record = place.world.home().join("record.jsonl");
        let session = place.session(
            &["-p", "80", "--steal", "--record", &record.to_string_lossy()],
            &[&place.victim, "serve", "80"],
        );
        session.wait_mode(80, "steal");
        for index in 0..20 {
            place.curl(&format!("/{index}"), &[]);
        }
        session.wait_event("the last request", |event| request(event, "steal", "/19", 200));
        let streamed: BTreeMap<u64, Value> =
            session.stop().events.into_iter().map(|event| (event["seq"].as_u64().unwrap(), event)).collect();
        let text = fs::read_to_string(&record).unwrap();
        let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let header = lines.next().unwrap();
        assert_eq!((&header["recording"], &header["target"]), (&1.into(), &place.target.target().into()));
        let recorded: BTreeMap<u64, Value> =
            lines.map(|event| (event["seq"].as_u64().unwrap(), event)).collect();
        // The viewer leaves when the command has ended; what the host has to say after that is only in the recording.
        for (seq, event) in &streamed {
            assert_eq!(recorded.get(seq), Some(event), "event {seq}");
        }
        assert!(streamed.len() >= 40, "{} events", streamed.len());
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&record).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    });
}

#[test]
fn secrets_are_in_no_event() {
    in_a_place(|place| {
        let record = place.world.home().join("record.jsonl");
        let session = place.session(
            &["-p", "80", "--steal", "--record", &record.to_string_lossy(), "-e", "DB_PASSWORD=hunter2"],
            &[&place.victim, "serve", "80"],
        );
        session.wait_mode(80, "steal");
        let headers =
            ["-H", "Authorization: Bearer hunter2", "-H", "Cookie: id=hunter2", "-H", "X-Api-Key: hunter2"];
        place.curl("/secret?token=hunter2&page=3", &headers);
        let event = session.wait_event("the request", |event| {
            event["request"]["path"].as_str().is_some_and(|path| path.starts_with("/secret"))
                && event["request"]["status"] == 200
        });
        assert!(event["request"]["path"].as_str().unwrap().contains("page=3"), "the rest is there: {event}");
        let redacted = event["request"]["headers"].as_array().unwrap();
        assert_eq!(redacted.iter().filter(|header| header["redacted"] == true).count(), 3, "{event}");
        let info = session.info().to_string();
        let events = session.stop().events;
        for text in [info, format!("{events:?}"), fs::read_to_string(&record).unwrap()] {
            // The body that the victim sent back repeats the path: bodies are not looked into.
            let text = text.replace("\\\"path\\\":\\\"/secret?token=hunter2", "");
            assert!(!text.contains("hunter2"), "{text}");
        }
    });
}

#[test]
fn the_summary_of_text_mode() {
    in_a_place(|place| {
        let port = "80";
        let script = "\"$0\" serve 80 & sleep 0.1; \"$0\" get http://catalog/a/; \"$0\" get http://catalog/b/; \
                      \"$0\" file /shop/menu.txt; read line; kill $!; exit 3";
        let finished = place.world.run([
            "exec",
            "-t",
            &place.target.target(),
            "--steal",
            "-p",
            port,
            "--",
            "sh",
            "-c",
            script,
            &place.victim,
        ]);
        finished.expect_code(3);
        let text = finished.err();
        println!("{text}");
        for word in ["p50", "p90", "p99", "GET /a", "GET /b", "port 80 stolen", "local/target"] {
            assert!(text.contains(word), "`{word}` is missing in\n{text}");
        }
        assert!(
            finished.out().starts_with("listening 80\n200\n"),
            "stdout is the command's: {}",
            finished.out()
        );
    });
}

/// The diagnosis of a port, as the session's information and as a warning event.
#[track_caller]
fn diagnosis(session: &Session<'_>, port: u16) -> String {
    let info = session.wait_info("diagnosed", |info| {
        let ports = info["ports"].as_array().into_iter().flatten();
        ports.filter(|entry| entry["remote"] == port).any(|entry| entry["diagnosis"] != "")
    });
    println!("{info}");
    session.wait_event("the warning", |event| {
        event["kind"] == "warning"
            && event["warning"]["text"].as_str().is_some_and(|text| text.contains(&port.to_string()))
    });
    session.port(port)["diagnosis"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn when_nothing_arrives_the_place_where_it_stops_is_named() {
    in_a_place(|place| {
        // The wrong port: nothing listens on it in the target.
        let session = place.session(&["-p", "81:8000"], &[&place.victim, "serve", "8000"]);
        let wrong = diagnosis(&session, 81);
        assert!(wrong.contains("target") && wrong.contains("listen"), "{wrong}");
        session.stop();
        // Nobody asks: the target listens, so do we, and no packet comes.
        let session = place.session(&["-p", "80"], &[&place.victim, "serve", "80"]);
        let silent = diagnosis(&session, 80);
        assert!(silent.contains("no ") || silent.contains("nobody"), "{silent}");
        place.curl("/menu.txt", &[]);
        session.wait_info("no longer silent", |info| info["ports"][0]["diagnosis"] == "");
        session.stop();
        // Nobody listens here.
        let session = place.session(&["-p", "80", "--steal"], &["sleep", "600"]);
        let own = session.wait_info("waiting", |info| {
            info["ports"][0]["waiting"] != "" || info["ports"][0]["diagnosis"] != ""
        });
        assert!(own["ports"].to_string().contains("listen"), "{own}");
        assert!(place.curl("/menu.txt", &[]).ends_with("soup\n 200"), "the target goes on serving meanwhile");
        let alone = diagnosis(&session, 80);
        assert!(alone.contains("local") || alone.contains("listen"), "{alone}");
        session.stop();
    });
}
