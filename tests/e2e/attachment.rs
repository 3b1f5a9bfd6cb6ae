//! The choice of the layer's attachment, what the session says about it, and what the libc attachment must not leave. What it costs is
//! in `bench/layers.rs`.

use std::{fs, time::Duration};

use mirrord_tests::{Pod, User, World, finish, finish_within, for_every_user, on_path, skip, victim_or_skip};
use serde_json::Value;

const FILE: &str = "/shop/menu.txt";
const MENU: &str = "soup\n";

/// Functions that execute programs, as the victim knows them.
const EXECUTING: [&str; 12] = [
    "execl",
    "execle",
    "execlp",
    "execv",
    "execve",
    "execvp",
    "execvpe",
    "fexecve",
    "execveat",
    "execveat-empty",
    "system",
    "popen",
];

fn target<'world>(world: &'world World) -> Pod<'world> {
    let target = world.pod("target", &[], &["sleep", "600"]);
    target.put(FILE, MENU);
    target
}

#[test]
fn the_session_says_which_attachment_it_uses() {
    for (layer, name) in [("auto", "syscall"), ("syscall", "syscall"), ("libc", "libc")] {
        let world = World::new(User::Ordinary).with_layer(layer);
        let target = target(&world);
        let session = world.exec(&["-t", &target.target()], &["sleep", "600"]);
        let info = session.info();
        assert_eq!(info["attachment"], name, "{info}");
        assert_ne!(info["attachment_reason"], "", "{info}");
        session.stop();
    }
}

#[test]
fn the_configuration_chooses_as_well() {
    let world = World::new(User::Ordinary);
    let target = target(&world);
    let config = world.write("mirrord.json", r#"{"layer": "libc"}"#);
    let mut command = world.command(["exec", "-f", &config, "-t", &target.target(), "--", "sh", "-c"]);
    let finished = finish(command.arg("echo $LD_PRELOAD; cat /shop/menu.txt"));
    assert!(finished.out().contains("libmirrord_layer.so\nsoup"), "{finished}");
    let wrong = world.write("wrong.json", r#"{"layer": "magic"}"#);
    let finished = world.run(["exec", "-f", &wrong, "-t", &target.target(), "--", "true"]);
    assert!(finished.err().contains("auto, syscall or libc"), "{finished}");
}

/// As in a container whose profile refuses it.
#[test]
fn where_filters_cannot_have_listeners_the_library_is_used() {
    for_every_user(|user| {
        let test = "where_filters_cannot_have_listeners_the_library_is_used";
        let Some(place) = victim_or_skip("behaviour-dynamic", test) else { return };
        let Some(outside) = victim_or_skip("behaviour-static", test) else { return };
        let world = World::new(user);
        let target = target(&world);
        let script = format!("cat {FILE}; {outside} fopen {FILE}; {outside} fopen {FILE}; exit 3");
        let exec = ["exec", "--output", "jsonl", "-t", &target.target(), "--", "sh", "-c", &script];
        let mut restricted = world.other(&place);
        restricted.arg("no-listeners").arg(mirrord_tests::program()).args(exec);
        let finished = finish(&mut restricted);
        assert_eq!(finished.code(), Some(3), "{finished}");
        assert!(finished.out().starts_with("soup\nerror ENOENT"), "{finished}");
        let events: Vec<Value> =
            finished.err().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let told = |text: &str| {
            let warnings = events.iter().filter(|event| event["kind"] == "warning");
            warnings.filter(|event| event["subject"].as_str().is_some_and(|said| said.contains(text))).count()
        };
        assert_eq!(told("behaviour-static is statically linked: not in the session"), 1, "{finished}");
        assert_eq!(told("seccomp-listener"), 1, "the session says why: {finished}");
    });
}

/// As in a container with Docker's default profile, where the whole tool runs.
#[test]
fn where_no_namespace_can_be_made_addresses_are_rewritten() {
    for_every_user(|user| {
        let test = "where_no_namespace_can_be_made_addresses_are_rewritten";
        let Some(place) = victim_or_skip("behaviour-dynamic", test) else { return };
        let Some(outside) = victim_or_skip("behaviour-static", test) else { return };
        let world = World::new(user).restricted(&place);
        let target = target(&world);
        let script = format!(
            "cat {FILE}; {outside} fopen {FILE}; {outside} fopen {FILE}; {place} connect-blocking $1 $2"
        );
        let server = world.pod("server", &[], &[&place, "echo-server", "8001"]);
        server.wait_listening(8001);
        let command = ["sh", "-c", &script, "sh", &server.ip, "8001"];
        let (finished, events) = world.exec_to_end(&["-t", &target.target()], &command);
        let local = format!("ok {}:", target.ip);
        assert!(finished.out().starts_with("soup\nerror ENOENT"), "{finished}");
        assert!(finished.out().lines().last().is_some_and(|line| line.starts_with(&local)), "{finished}");
        let told = |text: &str| {
            let warnings = events.iter().filter(|event| event["kind"] == "warning");
            warnings.filter(|event| event["subject"].as_str().is_some_and(|said| said.contains(text))).count()
        };
        assert_eq!(told("behaviour-static is statically linked: not in the session"), 1, "{events:?}");
        assert_eq!(told("no network namespace can be made here"), 1, "the session says why: {events:?}");
        let opened = events.iter().find(|event| event["connection"]["port"] == 8001).expect("an event of it");
        assert_eq!(opened["comm"], "behaviour-dynam", "it names the process: {opened}");
        let session = world.exec(&["-t", &target.target()], &["sleep", "600"]);
        assert_eq!(session.info()["attachment"], "libc", "{}", session.info());
        session.stop();
    });
}

/// Programs that cannot load the library are in the session all the same where system calls can be trapped.
#[test]
fn static_programs_go_under_a_filter() {
    let test = "static_programs_go_under_a_filter";
    let Some(outside) = victim_or_skip("behaviour-static", test) else { return };
    for_every_user(|user| {
        let world = World::new(user).with_layer("libc");
        let target = target(&world);
        let cleaned = "import os, subprocess, sys\n\
                       print(subprocess.run(sys.argv[1:], env={}, capture_output=True, text=True).stdout, end='')\n\
                       os.execve(sys.argv[1], sys.argv[1:], {})";
        for command in [
            &[&*outside, "fopen", FILE][..],
            &["sh", "-c", &format!("{outside} fopen {FILE}; true")],
            &["env", "-i", &outside, "fopen", FILE],
            &["python3", "-c", cleaned, &outside, "fopen", FILE],
        ] {
            let (finished, _) = world.exec_to_end(&["-t", &target.target()], command);
            assert_eq!(finished.out().lines().last(), Some("ok 5 soup"), "{command:?}: {finished}");
        }
    });
}

/// Each function that executes programs, with an environment of its own where it takes one, for both kinds of programs.
#[test]
fn every_way_to_execute_a_program_keeps_it_in_the_session() {
    let test = "every_way_to_execute_a_program_keeps_it_in_the_session";
    let Some(dynamic) = victim_or_skip("behaviour-dynamic", test) else { return };
    let Some(outside) = victim_or_skip("behaviour-static", test) else { return };
    for_every_user(|user| {
        let world = World::new(user).with_layer("libc");
        let target = target(&world);
        let mut expected = String::new();
        for how in EXECUTING {
            expected += &format!("{how}: ok 5 soup\n{how}: ok 5 soup\n");
        }
        let script = format!(
            "for how in {}; do for program in {dynamic} {outside}; do\n\
             echo $how: $({dynamic} exec-family $how $program {FILE}); done; done",
            EXECUTING.join(" ")
        );
        let (finished, _) = world.exec_to_end(&["-t", &target.target()], &["sh", "-c", &script]);
        assert_eq!(finished.out(), expected, "{finished}");
        let (finished, _) = world.exec_to_end(&["-t", &target.target()], &[&dynamic, "exec-nowhere"]);
        assert_eq!(finished.out(), "ok ENOENT\n", "{finished}");
    });
}

/// Where nothing can be trapped, the user is told of a program that cannot be in the session, whatever executes it.
#[test]
fn every_way_to_execute_a_program_tells_of_it() {
    let test = "every_way_to_execute_a_program_tells_of_it";
    let Some(dynamic) = victim_or_skip("behaviour-dynamic", test) else { return };
    let Some(outside) = victim_or_skip("behaviour-static", test) else { return };
    let world = World::new(User::Ordinary).restricted(&dynamic);
    let target = target(&world);
    for how in EXECUTING {
        let command = [dynamic.as_str(), "exec-family", how, &outside, "/etc/hostname"];
        let (finished, events) = world.exec_to_end(&["-t", &target.target()], &command);
        assert!(finished.out().starts_with("ok "), "{how}: {finished}");
        let told = events
            .iter()
            .filter(|event| event["kind"] == "warning")
            .filter_map(|event| event["subject"].as_str());
        let told =
            told.filter(|told| told.contains("behaviour-static is statically linked: not in the session"));
        assert_eq!(told.count(), 1, "{how}: {events:?}");
    }
}

/// A program that cleans its environment keeps its children in the session.
#[test]
fn the_library_is_handed_on() {
    let world = World::new(User::Ordinary).with_layer("libc");
    let target = target(&world);
    for command in [
        &["env", "-i", "/bin/cat", FILE][..],
        &["env", "-i", "/bin/sh", "-c", "unset LD_PRELOAD; exec cat /shop/menu.txt"],
    ] {
        let (finished, _) = world.exec_to_end(&["-t", &target.target()], command);
        assert_eq!(finished.out(), MENU, "{command:?}: {finished}");
    }
}

/// 64 threads open, connect, fork and execute for a minute.
fn stress(test: &str, layer: &str, world: impl FnOnce(&str) -> World) {
    let Some(behaviour) = victim_or_skip("behaviour-dynamic", test) else { return };
    let world = world(&behaviour);
    let target = target(&world);
    let options = ["exec", "--layer", layer, "--output", "silent", "-t", &target.target(), "--"];
    let command = [behaviour.as_str(), "stress", "64", "60", FILE];
    let mut session = world.session_command(options.iter().chain(&command));
    let finished = finish_within(&mut session, Duration::from_secs(120));
    assert!(finished.out().starts_with("ok "), "{finished}");
}

#[test]
fn many_threads_leave_no_descriptor() {
    stress("many_threads_leave_no_descriptor", "libc", |_| World::new(User::Ordinary));
}

#[test]
fn many_threads_leave_no_descriptor_where_addresses_are_rewritten() {
    let test = "many_threads_leave_no_descriptor_where_addresses_are_rewritten";
    stress(test, "auto", |behaviour| World::new(User::Ordinary).restricted(behaviour));
}

/// A session, and the environment that its programs have: for tools that cannot run inside.
fn beside<T>(world: &World, run: impl FnOnce(&[(&str, String)]) -> T) -> T {
    let target = target(world);
    let session = world.exec(&["-t", &target.target()], &["sh", "-c", "env; echo ready; exec sleep 600"]);
    let mut variables = Vec::new();
    for name in ["LD_PRELOAD", "MIRRORD_TUI_LAYER"] {
        let pid = session.info()["command_pid"].as_u64().expect("it has a command");
        let environment = fs::read(format!("/proc/{pid}/environ")).expect("the command's environment");
        let entry = environment.split(|byte| *byte == 0).find_map(|entry| {
            let entry = std::str::from_utf8(entry).ok()?;
            entry.strip_prefix(name)?.strip_prefix('=').map(str::to_owned)
        });
        variables.push((name, entry.expect("the library is in the environment")));
    }
    let result = run(&variables);
    session.stop();
    result
}

#[test]
fn valgrind_finds_nothing() {
    if !on_path("valgrind") {
        return skip("valgrind_finds_nothing", "valgrind is not installed");
    }
    let Some(behaviour) = victim_or_skip("behaviour-dynamic", "valgrind_finds_nothing") else { return };
    let world = World::new(User::Ordinary).with_layer("libc");
    beside(&world, |variables| {
        for arguments in [&["fopen", FILE][..], &["opendir-walk", "/shop"], &["realpath", FILE]] {
            let mut command = world.other("valgrind");
            command.args(["-q", "--error-exitcode=9", "--leak-check=no"]);
            command.arg(&behaviour).args(arguments).envs(variables.iter().cloned());
            let finished = finish(&mut command);
            assert_eq!(finished.code(), Some(0), "{arguments:?}: {finished}");
        }
    });
}
