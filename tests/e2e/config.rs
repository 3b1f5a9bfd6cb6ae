//! The keys of a mirrord configuration file that a session of this machine heeds.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
};

use mirrord_tests::{Finished, Pod, User, World, for_every_user, is, victim_or_skip};
use serde_json::{Value, json};

struct Place<'world> {
    world: &'world World,
    target: Pod<'world>,
    catalog: Pod<'world>,
    victim: String,
}

fn in_a_place(test: impl Fn(&Place<'_>)) {
    for_every_user(|user| {
        let Some(victim) = victim_or_skip("c-dynamic", "config") else { return };
        let world = World::new(user);
        let env = ["--env", "SHOP_A=a", "--env", "SHOP_B=b", "--env", "OTHER=o", "--env", "PATH_LIKE=p"];
        let place = Place {
            target: world.pod("target", &env, &[&victim, "serve", "80"]),
            catalog: world.pod("catalog", &[], &[&victim, "serve", "80"]),
            world: &world,
            victim,
        };
        place.target.put("/shop/menu.txt", "soup\n");
        place.target.put("/other/file", "other\n");
        place.target.wait_listening(80);
        place.catalog.wait_listening(80);
        test(&place);
    });
}

impl Place<'_> {
    /// Runs a command with this `feature` section; what it printed, and the events.
    #[track_caller]
    fn with(&self, feature: &Value, command: &[&str]) -> (Finished, Vec<Value>) {
        let file = self.file(feature);
        self.world.exec_to_end(&["-f", &file], command)
    }

    fn file(&self, feature: &Value) -> String {
        let config = json!({ "target": self.target.target(), "feature": feature });
        self.world.write("mirrord.json", &config.to_string())
    }

    /// The victim's answer to a call with this `feature` section, and the decisions of events of a kind.
    #[track_caller]
    fn decisions(&self, feature: &Value, kind: &str, args: &[&str]) -> (String, Vec<(String, String)>) {
        let command: Vec<&str> = std::iter::once(self.victim.as_str()).chain(args.iter().copied()).collect();
        let (finished, events) = self.with(feature, &command);
        let decided = events.iter().filter(|event| event["kind"] == kind).map(|event| {
            let text = |name: &str| event["decision"][name].as_str().unwrap_or_default().to_owned();
            (text("where"), text("rule"))
        });
        (finished.out(), decided.collect())
    }
}

/// Local and remote are told apart by 127.0.0.1: this machine has a server there on a port where the pod has none.
#[test]
fn outgoing_filter() {
    in_a_place(|place| {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port().to_string();
        let connect = ["connect", "127.0.0.1", &port];
        for (filter, place_of, rule) in [
            (json!({ "local": [format!("127.0.0.1:{port}")] }), "local", "filter.local[0]"),
            (json!({ "local": ["10.0.0.0/8", "127.0.0.0/8"] }), "local", "filter.local[1]"),
            (json!({ "local": ["udp://127.0.0.1", ":1"] }), "remote", "filter.local"),
            (json!({ "remote": ["tcp://127.0.0.1"] }), "remote", "filter.remote[0]"),
            (json!({ "remote": ["1.2.3.4"] }), "local", "filter.remote"),
        ] {
            let feature = json!({ "network": { "outgoing": { "filter": filter } } });
            let (answer, decisions) = place.decisions(&feature, "connection", &connect);
            assert_eq!(answer.starts_with("ok "), place_of == "local", "{filter}: {answer}");
            let (at, why) = decisions.first().unwrap_or_else(|| panic!("{filter}: no event"));
            assert_eq!(at, place_of, "{filter}: {decisions:?}");
            assert!(why.contains(&format!("feature.network.outgoing.{rule}")), "{filter}: {why}");
        }
        let feature = json!({ "network": { "outgoing": false } });
        let (answer, _) = place.decisions(&feature, "connection", &connect);
        assert!(answer.starts_with("ok "), "{answer}");
        // By name: the address is known from the answer of the name server.
        let feature = json!({ "network": { "outgoing": { "filter": { "remote": ["catalog.local:80"] } } } });
        let (answer, decisions) =
            place.decisions(&feature, "connection", &["connect", "catalog.local", "80"]);
        assert!(answer.starts_with("ok "), "{answer}");
        let named = |(at, rule): &(String, String)| at == "remote" && rule.contains("catalog.local:80");
        assert!(decisions.iter().all(named), "{decisions:?}");
        let (answer, _) = place.decisions(&feature, "connection", &connect);
        assert!(answer.starts_with("ok "), "all others are local: {answer}");
    });
}

#[test]
fn loopback_is_the_targets_unless_it_shall_be_ours() {
    in_a_place(|place| {
        // A port that nothing listens on in the pod, and a server of this machine.
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port().to_string();
        let connect = ["connect", "127.0.0.1", &port];
        let (answer, _) = place.decisions(&json!({}), "connection", &connect);
        assert_eq!(answer, "error ECONNREFUSED\n", "the pod's loopback");
        let (answer, _) = place.decisions(&json!({}), "connection", &["get", "http://127.0.0.1:80/x/"]);
        assert!(answer.starts_with("200\n"), "the pod's loopback has the pod's server: {answer}");
        let feature = json!({ "network": { "outgoing": { "ignore_localhost": true } } });
        let (answer, _) = place.decisions(&feature, "connection", &connect);
        assert!(answer.starts_with("ok "), "this machine's loopback: {answer}");
        let filter = json!({ "local": [format!("127.0.0.1:{port}")] });
        let feature = json!({ "network": { "outgoing": { "filter": filter } } });
        let (answer, _) = place.decisions(&feature, "connection", &connect);
        assert!(answer.starts_with("ok "), "this machine's by rule: {answer}");
    });
}

#[test]
fn dns_filter() {
    in_a_place(|place| {
        let resolve = ["resolve", "catalog.local"];
        let (answer, decisions) = place.decisions(&json!({}), "dns", &resolve);
        assert!(answer.contains(&place.catalog.ip), "{answer}");
        assert!(decisions.iter().all(|(at, _)| at == "remote"), "{decisions:?}");
        for filter in [json!({ "local": ["other.local"] }), json!({ "remote": ["catalog.local"] })] {
            let feature = json!({ "network": { "dns": { "filter": filter } } });
            let (answer, decisions) = place.decisions(&feature, "dns", &resolve);
            assert!(answer.contains(&place.catalog.ip), "{filter}: {answer}");
            let by_filter = |rule: &str| rule.contains("feature.network.dns.filter");
            assert!(decisions.iter().any(|(at, rule)| at == "remote" && by_filter(rule)), "{decisions:?}");
        }
        if place.world.user() != User::Root {
            return; // what follows would ask the name server of this machine's network
        }
        for (feature, name, found) in [
            (json!({ "dns": { "filter": { "local": ["catalog.local"] } } }), "catalog.local", false),
            (json!({ "dns": { "filter": { "remote": ["other.local"] } } }), "catalog.local", false),
            (json!({ "dns": { "filter": { "local": ["*.test"] } } }), "local-name.test", true),
            (json!({ "dns": false }), "local-name.test", true),
            (json!({}), "local-name.test", false),
        ] {
            let file = place.file(&json!({ "network": feature }));
            let command = [&*place.victim, "resolve", name];
            let (finished, _) = place.world.sealed_exec_to_end(&["-f", &file], &command);
            let expected = if found { "127.0.0.1\n" } else { "error NXDOMAIN\n" };
            assert_eq!(finished.out(), expected, "{feature}: {finished}");
        }
    });
}

#[test]
fn file_patterns() {
    in_a_place(|place| {
        let (menu, other, missing) = ("soup\n", "other\n", "error ENOENT\n");
        for (fs, expected) in [
            (json!("read"), [menu, other]),
            (json!("local"), [missing, missing]),
            (json!(false), [missing, missing]),
            (json!("localwithoverrides"), [missing, missing]),
            (json!({ "mode": "local", "read_only": ["^/shop/"] }), [menu, missing]),
            (json!({ "mode": "read", "local": ["^/shop/"] }), [missing, other]),
            (json!({ "not_found": ["menu\\.txt$"] }), [missing, other]),
            (json!({ "mode": "local", "read_write": "^/other/" }), [missing, other]),
        ] {
            for (path, expected) in ["/shop/menu.txt", "/other/file"].iter().zip(expected) {
                let (answer, _) = place.decisions(&json!({ "fs": fs }), "file", &["file", path]);
                assert_eq!(answer, expected, "{fs}: {path}");
            }
        }
        let mapping = json!({ "fs": { "mapping": { "^/here/(.*)$": "/shop/$1" } } });
        let (answer, decisions) = place.decisions(&mapping, "file", &["file", "/here/menu.txt"]);
        assert_eq!(answer, menu);
        assert!(decisions.iter().any(|(_, rule)| rule.contains("feature.fs.mapping[0]")), "{decisions:?}");
    });
}

#[test]
fn hostname() {
    in_a_place(|place| {
        let own = place.world.other("uname").arg("-n").output().unwrap().stdout;
        let own = String::from_utf8(own).unwrap();
        assert_ne!(own, "target\n", "this machine has another name than the pod");
        for (feature, expected) in [
            (json!({}), "target\n"),
            (json!({ "hostname": true }), "target\n"),
            (json!({ "hostname": false }), own.as_str()),
        ] {
            let (finished, _) = place.with(&feature, &["uname", "-n"]);
            assert_eq!(finished.ok(), expected, "{feature}");
        }
        if mirrord_tests::on_path("python3") {
            let ask = "import socket, platform; print(socket.gethostname(), platform.node())";
            let (finished, _) = place.with(&json!({}), &["python3", "-c", ask]);
            assert_eq!(finished.ok(), "target target\n");
        }
    });
}

#[test]
fn environment() {
    in_a_place(|place| {
        for (env, expected) in [
            (json!({}), ["SHOP_A=a", "SHOP_B=b", "OTHER=o"].as_slice()),
            (json!(false), &[]),
            (json!({ "include": "SHOP_A;OTH*" }), &["SHOP_A=a", "OTHER=o"]),
            (json!({ "exclude": ["SHOP_*"] }), &["OTHER=o"]),
            (json!({ "override": { "SHOP_A": "ours" } }), &["SHOP_A=ours", "SHOP_B=b", "OTHER=o"]),
            (json!({ "unset": ["OTHER"] }), &["SHOP_A=a", "SHOP_B=b"]),
        ] {
            let (finished, _) = place.with(&json!({ "env": env }), &["env"]);
            let printed = finished.ok();
            let mut shop: Vec<&str> = printed
                .lines()
                .filter(|line| line.starts_with("SHOP_") || line.starts_with("OTHER="))
                .collect();
            let mut expected = expected.to_vec();
            shop.sort_unstable();
            expected.sort_unstable();
            assert_eq!(shop, expected, "{env}");
            let home = format!("HOME={}", place.world.home().display());
            assert!(printed.lines().any(|line| line == home), "HOME is the caller's: {printed}");
        }
        let file = place.world.write("shop.env", "# ours\nexport SHOP_A=\"from file\"\n");
        let (finished, _) = place.with(&json!({ "env": { "env_file": file } }), &["printenv", "SHOP_A"]);
        assert_eq!(finished.ok(), "from file\n");
    });
}

#[test]
fn incoming() {
    in_a_place(|place| {
        let ask = || place.catalog.ok(&[&place.victim, "get", &format!("http://{}:80/x/", place.target.ip)]);
        let serve = |incoming: Value, script: &str| {
            let file = place.file(&json!({ "network": { "incoming": incoming } }));
            place.world.exec(&["-f", &file], &["sh", "-c", &format!("{script} & wait"), &place.victim])
        };
        // The local port 9999 receives what arrives at port 80.
        let session = serve(json!({ "mode": "steal", "port_mapping": [[9999, 80]] }), "$0 serve 9999");
        let port = session.wait_mode(80, "steal");
        assert_eq!(port["local"], 9999);
        ask();
        session.wait_event("the request", |event| mirrord_tests::request(event, "steal", "/x/", 200));
        session.stop();

        // Listening subscribes; ignored and foreign ports do not.
        let session = serve(
            json!({ "mode": "steal", "ignore_ports": [8081], "ignore_localhost": true }),
            "$0 serve 80 & $0 serve 8081 & socat TCP-LISTEN:8082,bind=127.0.0.1 /dev/null",
        );
        session.wait_mode(80, "steal");
        session.wait_event("the ignored port is told of", |event| event.to_string().contains("8081"));
        let ports = session.info()["ports"].clone();
        let remotes: Vec<_> = ports.as_array().unwrap().iter().map(|port| port["remote"].clone()).collect();
        assert_eq!(remotes, [80], "{ports}");
        session.stop();

        let session = serve(json!({ "mode": "mirror", "ports": [80] }), "$0 serve 80 & $0 serve 8083");
        session.wait_mode(80, "mirror");
        assert_eq!(session.info()["ports"].as_array().map(Vec::len), Some(1));
        session.stop();

        let session = serve(json!("off"), "$0 serve 80");
        session.wait_line("listening");
        ask();
        let seen = session.stop().events.iter().any(|event| is(event, "request", &[]));
        assert!(!seen, "nothing is copied");
    });
}

#[test]
fn unix_streams() {
    in_a_place(|place| {
        for tool in ["socat"] {
            if !mirrord_tests::on_path(tool) {
                return mirrord_tests::skip("unix_streams", &format!("{tool} is not installed"));
            }
        }
        let _server = Background(
            place.target.command(&["socat", "UNIX-LISTEN:/shop/echo.sock,fork", "EXEC:cat"]).spawn().unwrap(),
        );
        mirrord_tests::wait_until("the pod's socket is there", mirrord_tests::LIMIT, || {
            place.target.run(&["test", "-S", "/shop/echo.sock"]).status.success()
        });
        let command = ["sh", "-c", "echo hello | socat -t 5 - UNIX-CONNECT:/shop/echo.sock"];
        let feature = json!({ "network": { "outgoing": { "unix_streams": ["^/shop/"] } } });
        let (finished, events) = place.with(&feature, &command);
        assert_eq!(finished.ok(), "hello\n");
        assert!(
            events.iter().any(|event| is(event, "connection", &[("transport", "unix")])),
            "it is an event: {events:?}"
        );
        let (finished, _) = place.with(&json!({}), &command);
        assert!(!finished.status.success(), "without the rule it is a socket of this machine: {finished}");
    });
}

/// A process that ends with the test.
struct Background(std::process::Child);

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn listeners_are_published_on_this_machine() {
    in_a_place(|place| {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let command = [&*place.victim, "serve", &port.to_string()];
        let session = place.world.exec(&["-t", &place.target.target()], &command);
        session.wait_line("listening");
        let mut answer = String::new();
        mirrord_tests::wait_until("the listener is published", mirrord_tests::LIMIT, || {
            let Ok(mut connection) = TcpStream::connect(("127.0.0.1", port)) else { return false };
            connection.write_all(b"GET /local/ HTTP/1.0\r\n\r\n").is_ok()
                && connection.read_to_string(&mut answer).is_ok()
                && !answer.is_empty()
        });
        assert!(
            answer.contains("\"path\":\"/local/\"") && answer.contains("\"peer\":\"127.0.0.1:"),
            "{answer}"
        );
        session.stop();
        let session = place.world.exec(&["-t", &place.target.target(), "--no-publish"], &command);
        session.wait_line("listening");
        TcpStream::connect(("127.0.0.1", port)).unwrap_err();
        session.stop();
    });
}

#[test]
fn the_other_formats_say_the_same() {
    in_a_place(|place| {
        for (name, content) in [
            ("mirrord.toml", "[feature.fs]\nmode = \"local\"\nread_only = [\"^/shop/\"]\n"),
            ("mirrord.yaml", "feature:\n  fs:\n    mode: local\n    read_only: ['^/shop/']\n"),
        ] {
            let file = place.world.write(name, content);
            let options = ["-f", &*file, "-t", &place.target.target()];
            let (finished, _) = place.world.exec_to_end(&options, &["cat", "/shop/menu.txt"]);
            assert_eq!(finished.ok(), "soup\n", "{name}");
        }
    });
}
