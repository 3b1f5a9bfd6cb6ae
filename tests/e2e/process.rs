//! The command must not notice that it is not started by a shell: exit codes, signals, streams, terminal, children.

use std::{
    fs,
    io::Write,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::Stdio,
};

use mirrord_tests::{
    LIMIT, Pod, Terminal, World, finish, for_every_user, signal, victim_or_skip, wait_for, wait_until,
};
use rustix::process::{Pid, Signal, kill_process_group};

const FILE: &str = "/shop/menu.txt";

/// A world with a target that has [`FILE`], for every user.
fn with_target(test: impl Fn(&World, &Pod<'_>)) {
    for_every_user(|user| {
        let world = World::new(user);
        let target = world.pod("target", &[], &["sleep", "600"]);
        target.put(FILE, "soup\n");
        test(&world, &target);
    });
}

/// `exec` without a word about events, so that nothing but the command's own output is to be seen.
fn silent(target: &Pod<'_>, command: &[&str]) -> Vec<String> {
    let target = target.target();
    let head = ["exec", "--output", "silent", "-t", &target, "--"];
    head.iter().chain(command).map(|argument| (*argument).to_owned()).collect()
}

#[test]
fn the_exit_code_is_the_commands() {
    with_target(|world, target| {
        for code in [0, 1, 42, 255] {
            let ended =
                world.run(silent(target, &["sh", "-c", &format!("echo out; echo err >&2; exit {code}")]));
            ended.expect_code(code);
            assert_eq!((ended.out().as_str(), ended.err().as_str()), ("out\n", "err\n"), "nothing is added");
        }
    });
}

#[test]
fn a_death_by_signal_is_passed_on() {
    with_target(|world, target| {
        for number in [Signal::KILL, Signal::TERM, Signal::SEGV, Signal::ABORT, Signal::USR1] {
            let number = number.as_raw();
            let ended = world.run(silent(target, &["sh", "-c", &format!("kill -{number} $$")]));
            assert_eq!(ended.signal(), Some(number), "{ended}");
        }
    });
}

#[test]
fn what_cannot_be_run_has_the_shells_codes() {
    with_target(|world, target| {
        let missing = world.run(silent(target, &["no-such-program-anywhere"]));
        missing.expect_code(127);
        assert!(missing.err().contains("no-such-program-anywhere"), "{missing}");
        let file = world.write("plain.txt", "text");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let refused = world.run(silent(target, &[&file]));
        refused.expect_code(126);
        assert!(refused.err().contains("plain.txt"), "{refused}");
        world.run(["exec", "-t", "local/nobody", "--", "true"]).expect_code(125);
    });
}

#[test]
fn signals_to_exec_reach_the_command() {
    with_target(|world, target| {
        for (name, number) in [("TERM", Signal::TERM), ("HUP", Signal::HUP)] {
            let script =
                format!("trap 'echo got {name}; exit 7' {name}; echo ready; while :; do sleep 0.05; done");
            let session = world.exec(&["-t", &target.target()], &["sh", "-c", &script]);
            session.wait_line("ready");
            signal(session.pid(), number);
            let ended = session.wait();
            assert_eq!(ended.status.code(), Some(7), "{name}: {ended:?}");
            assert_eq!(ended.stdout, [format!("got {name}")]);
        }
    });
}

#[test]
fn a_signal_to_the_process_group_reaches_the_command_once() {
    with_target(|world, target| {
        let script = "trap 'echo got INT' INT; echo ready; read line; read line; echo done; exit 5";
        let mut exec = world.command(silent(target, &["bash", "-c", script]));
        exec.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = exec.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let stdout = child.stdout.take().unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stdout));
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        kill_process_group(Pid::from_child(&child), Signal::INT).unwrap();
        stdin.write_all(b"\n\n").unwrap();
        let rest: Vec<String> = lines.map(Result::unwrap).collect();
        assert_eq!(rest, ["got INT", "done"]);
        let status = wait_for("exec ends", LIMIT, || child.try_wait().unwrap());
        assert_eq!(status.code(), Some(5));
    });
}

#[test]
fn streams_carry_every_byte() {
    with_target(|world, target| {
        // All byte values, and more than any pipe holds.
        let bytes: Vec<u8> =
            (0..8_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let input = world.home().join("input");
        fs::write(&input, &bytes).unwrap();
        for (script, to_stderr) in [("cat", false), ("cat >&2", true)] {
            let mut exec = world.command(silent(target, &["sh", "-c", script]));
            exec.stdin(fs::File::open(&input).unwrap());
            let ended = finish(&mut exec);
            ended.expect_code(0);
            let (full, empty) =
                if to_stderr { (&ended.stderr, &ended.stdout) } else { (&ended.stdout, &ended.stderr) };
            assert!(*full == bytes, "{script}: {} of {} bytes came through", full.len(), bytes.len());
            assert!(empty.is_empty(), "{script}: {}", String::from_utf8_lossy(empty));
        }
        // In a pipe of a shell, with a reader that goes away first.
        let line = format!("\"{}\" \"$@\" | head -n 1", mirrord_tests::program().display());
        let mut pipe = world.other("bash");
        pipe.args(["-c", &line, "bash"]).args(silent(target, &["yes"]));
        assert_eq!(finish(&mut pipe).ok(), "y\n");
    });
}

#[test]
fn standard_streams_may_be_closed() {
    with_target(|world, target| {
        let line = format!("exec \"{}\" \"$@\" <&- >&- 2>&-", mirrord_tests::program().display());
        let mut closed = world.other("bash");
        closed.args(["-c", &line, "bash"]).args(silent(target, &["sh", "-c", "cat /shop/menu.txt; exit 3"]));
        finish(&mut closed).expect_code(3);
    });
}

#[test]
fn the_working_directory_and_the_mask_are_the_callers() {
    with_target(|world, target| {
        let line = format!("umask 027; nice -n 5 \"{}\" \"$@\"", mirrord_tests::program().display());
        let mut shell = world.other("bash");
        shell
            .args(["-c", &line, "bash"])
            .args(silent(target, &["sh", "-c", "pwd; umask; nice; echo $#", "sh"]));
        let expected = format!("{}\n0027\n5\n0\n", world.home().display());
        assert_eq!(finish(&mut shell).ok(), expected);
    });
}

#[test]
fn a_script_starts_programs_that_see_the_pods_files() {
    with_target(|world, target| {
        let script = world.write("script", &format!("#!/usr/bin/env bash\ncat {FILE}\nenv cat {FILE}\n"));
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let (finished, events) = world.exec_to_end(&["-t", &target.target()], &[&script]);
        assert_eq!(finished.ok(), "soup\nsoup\n");
        let started = |name: &str| {
            let named = |event: &&serde_json::Value| {
                event["kind"] == "process" && event["process"]["arguments"].to_string().contains(name)
            };
            events.iter().filter(named).count()
        };
        assert!(started("cat") >= 2 && started("bash") >= 1, "every program is an event: {events:?}");
    });
}

#[test]
fn a_daemon_outlives_the_command_and_keeps_the_session() {
    with_target(|world, target| {
        let Some(behaviour) = victim_or_skip("behaviour-static", "daemon") else { return };
        let out = world.home().join("out");
        let ended = world.run(silent(target, &[&behaviour, "daemon", FILE, &out.to_string_lossy()]));
        ended.expect_code(0);
        wait_until("the daemon has read the pod's file", LIMIT, || {
            fs::read_to_string(&out).is_ok_and(|content| content == "soup\n")
        });
        wait_until("the session ends with its last process", LIMIT, || world.sessions().is_empty());
    });
}

#[test]
fn a_daemon_is_ended_by_stop() {
    with_target(|world, target| {
        let script =
            "setsid sh -c 'echo $$ >daemon.pid; sleep 600' </dev/null >/dev/null 2>&1 & sleep 0.2; exit 4";
        world.run(silent(target, &["sh", "-c", script])).expect_code(4);
        let pid_file = world.home().join("daemon.pid");
        let pid: u32 = fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
        let alive = || fs::metadata(format!("/proc/{pid}")).is_ok();
        assert!(alive(), "the daemon outlives the command");
        let sessions = world.sessions();
        assert_eq!(sessions.len(), 1, "its session goes on: {sessions:?}");
        world.ok(["stop", sessions[0]["id"].as_str().unwrap()]);
        wait_until("the daemon ends with its session", LIMIT, || !alive());
    });
}

// ---- in a terminal

#[test]
fn the_terminal_is_the_commands() {
    with_target(|world, target| {
        let Some(behaviour) = victim_or_skip("behaviour-dynamic", "terminal") else { return };
        let mut terminal = Terminal::run(world.user(), &world.command(silent(target, &[&behaviour, "tty"])));
        assert!(terminal.wait().success(), "{}", terminal.shown());
        terminal.wait_shown("ok /dev/pts/");
        let mut terminal =
            Terminal::run(world.user(), &world.command(silent(target, &[&behaviour, "winch"])));
        terminal.wait_shown("ready");
        terminal.resize(33, 77);
        terminal.wait_shown("ok 33x77");
        assert!(terminal.wait().success());
    });
}

#[test]
fn ctrl_c_is_the_commands_business() {
    with_target(|world, target| {
        let script = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.05; done";
        let mut terminal = Terminal::run(world.user(), &world.command(silent(target, &["sh", "-c", script])));
        terminal.wait_shown("ready");
        terminal.type_in("\x03");
        assert_eq!(terminal.wait().code(), Some(9), "{}", terminal.shown());

        let mut terminal = Terminal::run(
            world.user(),
            &world.command(silent(target, &["sh", "-c", "echo ready; exec sleep 600"])),
        );
        terminal.wait_shown("ready");
        terminal.type_in("\x03");
        let status = terminal.wait();
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        assert_eq!(signal, Some(Signal::INT.as_raw()), "{status}: {}", terminal.shown());
    });
}

#[test]
fn ctrl_z_and_fg_work_in_a_shell() {
    with_target(|world, target| {
        let mut terminal =
            Terminal::run(world.user(), world.other("bash").args(["--norc", "--noprofile", "-i"]));
        let script = "'echo started; read line; echo \"got $line\"'";
        let mut line = format!("\"{}\"", mirrord_tests::program().display());
        for argument in silent(target, &["sh", "-c"]) {
            line.push(' ');
            line.push_str(&argument);
        }
        terminal.type_in(&format!("{line} {script}\n"));
        terminal.wait_shown("\nstarted");
        terminal.type_in("\x1a");
        terminal.wait_shown("Stopped");
        terminal.type_in("fg\n");
        terminal.type_in("hello\n");
        terminal.wait_shown("got hello");
        terminal.type_in("exit 6\n");
        assert_eq!(terminal.wait().code(), Some(6), "{}", terminal.shown());
    });
}

#[test]
fn a_closed_terminal_ends_everything() {
    with_target(|world, target| {
        let terminal = Terminal::run(
            world.user(),
            &world.command(silent(target, &["sh", "-c", "echo ready; exec sleep 600"])),
        );
        terminal.wait_shown("ready");
        // The screen's reader holds the terminal, too; SIGHUP is what a terminal that goes away sends to its group.
        let leader = i32::try_from(terminal.pid()).ok().and_then(Pid::from_raw).unwrap();
        kill_process_group(leader, Signal::HUP).unwrap();
        wait_until("the session ends", LIMIT, || world.sessions().is_empty());
    });
}
