//! Starting the command.

use std::{fs::Permissions, os::unix::fs::PermissionsExt};

use mirrord_protocol::{
    agent::v1::EnvEntry,
    layer::v1::{Launch, PathRule, from_layer},
};

use crate::{
    host::{Host, command, rules},
    victims::{self, KINDS},
};

pub(crate) fn runs() {
    let mut host = Host::new();
    let ended = host.run(command(&["sh", "-c", "echo hello; exec /bin/true --flag"]));
    assert_eq!(ended.output, "hello\n");
    let executed: Vec<_> = host
        .messages
        .iter()
        .filter_map(|kind| match kind {
            from_layer::Kind::Exec(exec) => {
                Some((exec.comm.to_vec(), exec.arguments.len(), exec.executable.to_vec()))
            }
            _ => None,
        })
        .collect();
    assert_eq!(executed.len(), 2, "{executed:?}");
    assert_eq!(executed[0].0, b"sh");
    assert_eq!(executed[1], (b"true".to_vec(), 2, b"/bin/true".to_vec()));
}

pub(crate) fn exit_codes() {
    for (script, code, signal) in [
        ("exit 7", 7, 0),
        ("kill -9 $$", 0, 9),
        ("kill -TERM $$", 0, 15),
        ("exit 0", 0, 0),
        ("exit 255", 255, 0),
    ] {
        let ended = Host::new().run(command(&["sh", "-c", script]));
        assert_eq!((ended.exit.code, ended.exit.signal, ended.exit.known), (code, signal, true), "{script}");
    }
}

/// Nothing is left of a command that could not start, and another one may be started.
pub(crate) fn errors() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, mode| {
        let path = folder.path().join(name);
        std::fs::write(&path, "\u{7f}ELF nonsense").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let mut host = Host::new();
    let mut failure = |launch: Launch| {
        let started = host.launch(launch);
        (started.errno.cast_signed(), started.operation)
    };
    let execve = |errno| (errno, "execve".to_owned());
    assert_eq!(failure(command(&["no-such-command"])), execve(libc::ENOENT));
    assert_eq!(failure(command(&["/no/such/command"])), execve(libc::ENOENT));
    assert_eq!(failure(command(&[&file("plain", 0o644)])), execve(libc::EACCES));
    assert_eq!(failure(command(&["/etc"])), execve(libc::EACCES));
    let nowhere = Launch { cwd: "/no/such/folder".into(), ..command(&["true"]) };
    assert_eq!(failure(nowhere), (libc::ENOENT, "chdir".to_owned()));
    assert_eq!(failure(Launch { arguments: Vec::new(), ..command(&[]) }).0, libc::EINVAL);
    let mut rules = rules();
    rules.paths.push(PathRule {
        pattern: "(".to_owned(),
        name: "feature.fs.local[3]".to_owned(),
        ..PathRule::default()
    });
    let (errno, operation) = failure(Launch { rules: Some(rules), ..command(&["true"]) });
    assert!(errno == libc::EINVAL && operation.contains("feature.fs.local[3]"), "{operation}");
    // Beyond what the kernel gives (PID_MAX_LIMIT of linux/threads.h), so nobody leads it.
    let nobodys = i32::MAX.unsigned_abs();
    assert_eq!(failure(Launch { process_group: nobodys, ..command(&["true"]) }).1, "setpgid");
    assert_eq!(host.run(command(&["true"])).exit.code, 0);
}

pub(crate) fn script() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("script");
    std::fs::write(&path, "echo \"from the script $1\"\n").unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    let mut launch = command(&["script", "x"]);
    let search = format!("/no/such:{}", folder.path().display());
    launch.environment = vec![EnvEntry { name: "PATH".into(), value: search.into_bytes().into() }];
    assert_eq!(Host::new().run(launch).output, "from the script x\n");
}

pub(crate) fn signal_state() {
    for kind in KINDS {
        let mut launch = command(&[&victims::path("victim", kind), "signals"]);
        launch.ignored_signals = 1 << (libc::SIGHUP - 1);
        launch.blocked_signals = 1 << (libc::SIGUSR1 - 1);
        let output = Host::new().run(launch).output;
        assert_eq!(output, "SigBlk:\t0000000000000200\nSigIgn:\t0000000000000001\n", "{kind}");
    }
}

pub(crate) fn process_group() {
    let own = rustix::process::getpgrp().as_raw_nonzero().get();
    let script = ["sh", "-c", "cut -d' ' -f5 /proc/$$/stat; echo $$"];
    let joined = Host::new().run(Launch { process_group: own.unsigned_abs(), ..command(&script) }).output;
    assert_eq!(joined.lines().next().unwrap(), own.to_string());
    let new = Host::new().run(command(&script)).output;
    let lines: Vec<_> = new.lines().collect();
    assert_eq!(lines[0], lines[1]);
}

pub(crate) fn terminal() {
    let main =
        rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
    rustix::pty::unlockpt(&main).unwrap();
    let name = rustix::pty::ptsname(&main, Vec::new()).unwrap();
    let terminal = rustix::fs::open(
        name.as_c_str(),
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    let mut host = Host::new();
    let launch = Launch { new_session: true, ..command(&[&victims::path("behaviour", "static"), "tty"]) };
    assert_eq!(host.launch_on(launch, [&terminal; 3]).errno, 0);
    let exit = host.until("exit", |kind| match kind {
        from_layer::Kind::Exit(exit) if exit.command => Some(*exit),
        _ => None,
    });
    let mut text = [0; 256];
    let count = rustix::io::read(&main, &mut text).unwrap();
    let text = String::from_utf8_lossy(&text[..count]).into_owned();
    assert!(exit.code == 0 && text.starts_with(&format!("ok {}", name.to_string_lossy())), "{text}");
}

/// 400 KiB in all, more than a datagram holds.
pub(crate) fn large_environment() {
    let mut launch = command(&["sh", "-c", "echo ${#LARGE_7}"]);
    for index in 0..10 {
        let name = format!("LARGE_{index}").into_bytes().into();
        launch.environment.push(EnvEntry { name, value: vec![b'x'; 40_000].into() });
    }
    assert_eq!(Host::new().run(launch).output, "40000\n");
}
