//! Whatever is wrong with what the program is told: one clear sentence, a hint, the right exit code, and nothing left behind
//! (the world's drop looks).

use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::FileTypeExt, net::UnixStream},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use mirrord_tests::{Finished, Pod, User, World, for_every_user, victim_or_skip};

/// Failures of the program itself, as in docker(1) and env(1); 2 is a wrong command line.
const OWN: i32 = 125;
const USAGE: i32 = 2;

fn with_target(test: impl Fn(&World, &Pod<'_>)) {
    for_every_user(|user| {
        let world = World::new(user);
        let target = world.pod("web-shop", &[], &["sleep", "600"]);
        test(&world, &target);
        let sessions = world.sessions();
        assert!(sessions.is_empty(), "no session is left: {sessions:?}");
    });
}

/// The message has these words, in this order, and is not a panic or a list of Rust values.
#[track_caller]
fn says(finished: &Finished, words: &[&str]) {
    let message = finished.err();
    let mut rest = message.as_str();
    for word in words {
        let at = rest.find(word).unwrap_or_else(|| panic!("`{word}` is missing in:\n{message}"));
        rest = &rest[at + word.len()..];
    }
    for bad in ["panicked", "Os {", "Custom {", "Some(", "Err("] {
        assert!(!message.contains(bad), "not for people:\n{message}");
    }
    assert!(message.lines().count() <= 8, "a page of text:\n{message}");
}

#[test]
fn an_unknown_target() {
    with_target(|world, _| {
        let finished = world.run(["exec", "-t", "local/web-shp", "--", "true"]);
        finished.expect_code(OWN);
        says(&finished, &["web-shp", "hint:", "web-shop"]);
        let finished = world.run(["exec", "-t", "shop", "--", "true"]);
        finished.expect_code(USAGE);
        says(&finished, &["shop", "KIND/NAME"]);
        let finished = world.run(["exec", "--", "true"]);
        finished.expect_code(OWN);
        says(&finished, &["target", "hint:", "-t"]);
        let finished = world.run(["local", "stop", "web-shp"]);
        assert!(!finished.status.success(), "{finished}");
        says(&finished, &["web-shp", "web-shop"]);
    });
}

#[test]
fn a_process_that_is_dead() {
    with_target(|world, _| {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        let finished = world.run(["exec", "-t", &format!("pid/{pid}"), "--", "true"]);
        finished.expect_code(OWN);
        says(&finished, &[&pid.to_string(), "hint:"]);
    });
}

#[test]
fn a_process_of_somebody_else() {
    with_target(|world, _| {
        if world.user() == User::Root {
            return; // root may enter any process
        }
        let finished = world.run(["exec", "-t", "pid/1", "--", "true"]);
        finished.expect_code(OWN);
        says(&finished, &["1", "hint:"]);
        if !rustix_is_root() {
            return;
        }
        let mut other = Command::new("sleep").arg("600").spawn().unwrap();
        let finished = world.run(["exec", "-t", &format!("pid/{}", other.id()), "--", "true"]);
        other.kill().unwrap();
        other.wait().unwrap();
        finished.expect_code(OWN);
        says(&finished, &["hint:"]);
    });
}

fn rustix_is_root() -> bool {
    User::all().contains(&User::Root)
}

#[test]
fn a_process_that_is_not_a_pod_is_a_target_as_well() {
    with_target(|world, _| {
        let mut other = world.other("sleep").arg("600").env("OF_THE_TARGET", "yes").spawn().unwrap();
        let target = format!("pid/{}", other.id());
        let finished =
            world.run(["exec", "--output", "silent", "-t", &target, "--", "printenv", "OF_THE_TARGET"]);
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(finished.ok(), "yes\n");
    });
}

#[test]
fn a_command_that_is_none() {
    with_target(|world, target| {
        let target = target.target();
        let finished = world.run(["exec", "-t", &target, "--", "no-such-command"]);
        finished.expect_code(127);
        says(&finished, &["no-such-command"]);
        let folder = world.home().to_string_lossy().into_owned();
        let finished = world.run(["exec", "-t", &target, "--", &folder]);
        finished.expect_code(126);
        says(&finished, &[&folder]);
        let finished = world.run(["exec", "-t", &target]);
        finished.expect_code(USAGE);
    });
}

#[test]
fn ports_that_are_none() {
    with_target(|world, target| {
        let target = target.target();
        for (ports, code, words) in [
            (&["-p", "80", "-p", "80:8080"][..], OWN, &["80", "twice"][..]),
            (&["-p", "65536"], USAGE, &["65536", "1 to 65535"]),
            (&["-p", "0"], USAGE, &["0", "1 to 65535"]),
            (&["-p", "80:http"], USAGE, &["http", "1 to 65535"]),
        ] {
            let finished = world.run([&["exec", "-t", &target], ports, &["--", "true"]].concat());
            finished.expect_code(code);
            says(&finished, words);
        }
        let finished = world.run(["mode", "nosuchid", "80", "steal"]);
        finished.expect_code(OWN);
        says(&finished, &["nosuchid"]);
        let session = world.exec(&["-t", &target, "-p", "80"], &["sleep", "600"]);
        let finished = world.run(["mode", &session.id, "81", "steal"]);
        finished.expect_code(OWN);
        says(&finished, &["81", "hint:"]);
        world.run(["mode", &session.id, "80", "both"]).expect_code(USAGE);
        session.stop();
    });
}

#[test]
fn a_configuration_that_is_broken() {
    with_target(|world, target| {
        let target = target.target();
        for (name, content, words) in [
            (
                "key.json",
                "{\n  \"feature\": {\n    \"netwrk\": {}\n  }\n}",
                &["key.json", "netwrk", "network", "line 3"][..],
            ),
            ("syntax.json", "{\n  \"feature\": \n", &["syntax.json", "line"]),
            ("type.json", "{\"feature\": {\"env\": {\"unset\": 5}}}", &["type.json", "line 1"]),
            ("key.toml", "[feature]\nfss = \"read\"\n", &["key.toml", "fss", "line 2"]),
            ("key.yaml", "feature:\n  enw: true\n", &["key.yaml", "line 2", "enw"]),
            (
                "word.json",
                "{\"feature\": {\"network\": {\"incoming\": \"theft\"}}}",
                &["word.json", "theft", "steal"],
            ),
            (
                "pattern.json",
                "{\"feature\": {\"fs\": {\"local\": [\"(\"]}}}",
                &["pattern.json", "feature.fs.local", "("],
            ),
            ("config.ini", "", &["config.ini", ".json"]),
        ] {
            let path = world.write(name, content);
            let finished = world.run(["exec", "-t", &target, "-f", &path, "--", "true"]);
            finished.expect_code(OWN);
            says(&finished, words);
            let verified = world.run(["verify-config", &path]);
            assert!(!verified.status.success(), "{verified}");
        }
        let finished = world.run(["exec", "-t", &target, "-f", "/nowhere/mirrord.json", "--", "true"]);
        finished.expect_code(OWN);
        says(&finished, &["/nowhere/mirrord.json"]);
        let fine = world.write("fine.json", "{\"feature\": {\"network\": {\"incoming\": \"steal\"}}}");
        world.ok(["verify-config", &fine]);
    });
}

#[test]
fn a_session_inside_a_session() {
    with_target(|world, target| {
        let program = mirrord_tests::program().to_string_lossy().into_owned();
        let target = target.target();
        let (finished, _) =
            world.exec_to_end(&["-t", &target], &[&program, "exec", "-t", &target, "--", "true"]);
        finished.expect_code(OWN);
        says(&finished, &["session", "hint:"]);
    });
}

#[test]
fn a_record_file_that_cannot_be_written() {
    with_target(|world, target| {
        let finished = world.run([
            "exec",
            "-t",
            &target.target(),
            "--record",
            "/proc/nowhere/record.jsonl",
            "--",
            "true",
        ]);
        finished.expect_code(OWN);
        says(&finished, &["/proc/nowhere/record.jsonl"]);
    });
}

/// Nonsense on every socket that has a name: the session goes on, and so do the pods.
#[test]
fn garbage_on_the_sockets() {
    with_target(|world, target| {
        let Some(victim) = victim_or_skip("c-static", "garbage") else { return };
        target.put("/shop/menu.txt", "soup\n");
        let session = world.exec(&["-t", &target.target(), "--steal", "-p", "80"], &[&victim, "serve", "80"]);
        session.wait_mode(80, "steal");
        let sockets = sockets_below(&world.runtime());
        assert!(sockets.len() >= 2, "the host's and the node's: {sockets:?}");
        for socket in &sockets {
            println!("{}", socket.display());
            for garbage in garbage() {
                // A socket of another type refuses; one that hangs up in the middle of our sending is right.
                let Ok(mut stream) = UnixStream::connect(socket) else { continue };
                stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
                stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
                let _hung_up = stream.write_all(&garbage);
                let _hung_up = stream.read(&mut [0; 64]);
            }
            seqpacket_garbage(world, socket);
        }
        assert_eq!(session.info()["state"], "running");
        let answer = world.on_node(&[&victim, "get", &format!("http://{}/x/", target.ip)]);
        let answer = mirrord_tests::finish(&mut { answer }).ok();
        assert!(answer.contains("\"lang\":\"c-static\""), "{answer}");
        assert_eq!(target.ok(&["cat", "/shop/menu.txt"]), "soup\n");
        session.stop();
    });
}

fn garbage() -> Vec<Vec<u8>> {
    let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // A frame of the largest length that never comes, and one of a type that does not exist.
    let endless = [http2.as_slice(), &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat();
    let unknown = [http2.as_slice(), &[0, 0, 4, 0xee, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4]].concat();
    let noise = (0..200_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    vec![Vec::new(), b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0; 70_000], http2, endless, unknown, noise]
}

/// The same for sockets that keep message boundaries; std has none of these.
fn seqpacket_garbage(world: &World, socket: &std::path::Path) {
    let script = "import socket, sys\n\
        for size in (0, 1, 8, 4096, 65000):\n\
        \x20   s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n\
        \x20   s.settimeout(2)\n\
        \x20   try:\n\
        \x20       s.connect(sys.argv[1])\n\
        \x20       s.send(bytes(at * 37 % 256 for at in range(size)))\n\
        \x20       s.recv(64)\n\
        \x20   except OSError as error:\n\
        \x20       print(size, error)\n";
    let mut python = world.other("/usr/bin/python3");
    python.args(["-c", script]).arg(socket).stdout(Stdio::piped());
    mirrord_tests::finish(&mut python).ok();
}

fn sockets_below(folder: &std::path::Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(sockets_below(&entry.path()));
        } else if kind.is_socket() {
            found.push(entry.path());
        }
    }
    found
}
