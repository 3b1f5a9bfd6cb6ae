//! Trees of processes.

use mirrord_protocol::layer::v1::{Launch, from_layer};

use crate::{
    host::{Host, Remote, command},
    runner::skip,
    victims::{self, KINDS},
};

fn host() -> Host {
    let mut host = Host::new();
    host.add("/remote/file", Remote::File(b"hello\n".to_vec()));
    host
}

pub(crate) fn children() {
    for kind in KINDS {
        let program = victims::path("behaviour", kind);
        for subcommand in ["script-chain", "vfork-exec", "posix-spawn", "stdin-closed"] {
            let output = host().run(command(&[&program, subcommand, "/remote/file"])).output;
            assert_eq!(output, "ok 6 hello\n", "{kind} {subcommand}");
        }
        for subcommand in ["pidfd", "getppid"] {
            let output = host().run(command(&[&program, subcommand])).output;
            assert!(output.starts_with("ok "), "{kind} {subcommand}: {output}");
        }
        // A daemon that outlives the command belongs to the tree; `run` waits for it.
        let folder = tempfile::tempdir().unwrap();
        let written = folder.path().join("out");
        host().run(command(&[&program, "daemon", "/remote/file", written.to_str().unwrap()]));
        assert_eq!(std::fs::read_to_string(written).unwrap(), "hello\n", "{kind}");
    }
}

pub(crate) fn hostname() {
    let run = |launch: Launch| Host::new().run(launch).output;
    for kind in KINDS {
        let program = victims::path("victim", kind);
        let own = run(command(&[&program, "hostname"]));
        let (name, rest) = own.trim().split_once(' ').unwrap();
        let rest = rest.strip_prefix(name).unwrap();
        let named = |arguments: &[&str]| {
            let mut launch = command(arguments);
            launch.rules.as_mut().unwrap().hostname = "web-shop-7".into();
            launch
        };
        assert_eq!(run(named(&[&program, "hostname"])), format!("web-shop-7 web-shop-7{rest}\n"), "{kind}");
        assert_eq!(run(named(&["sh", "-c", "uname -n"])), "web-shop-7\n");
        // In a namespace of its own a program has the name that it gave itself.
        let script = "unshare -Uru sh -c 'hostname inner 2>/dev/null && uname -n || echo skipped'";
        let inner = run(named(&["sh", "-c", script]));
        assert!(["inner\n", "skipped\n", ""].contains(&inner.as_str()), "{inner}");
    }
}

pub(crate) fn exits() {
    let mut host = host();
    let ended = host.run(command(&[&victims::path("victim", "static"), "grandchildren"]));
    assert_eq!((ended.exit.code, ended.exit.command), (5, true));
    let mut exits = Vec::new();
    let mut spawned = Vec::new();
    for message in &host.messages {
        match message {
            from_layer::Kind::Exit(exit) if !exit.command => exits.push((exit.pid, exit.code, exit.known)),
            from_layer::Kind::Spawned(started) => spawned.push((started.pid, started.parent)),
            _ => {}
        }
    }
    // The orphan is reaped by the supervisor. The other may be gone before its end is looked at, on kernels before 6.15.
    assert!(exits.iter().any(|(_, code, known)| *code == 4 && *known), "{exits:?}");
    let reaped = exits.iter().find(|(_, code, _)| *code != 4).unwrap();
    assert!(!reaped.2 || reaped.1 == 3, "{exits:?}");
    for (pid, ..) in &exits {
        assert!(spawned.iter().any(|(known, _)| known == pid), "{pid} in {spawned:?}");
    }
    assert!(spawned.contains(&(reaped.0, ended.exit.pid)), "{spawned:?}");
}

fn skip_list() -> Vec<(String, bool)> {
    let mut host = host();
    let mut launch = command(&["sh", "-c", "cat /remote/file; env cat /remote/file; head -1 /remote/file"]);
    launch.rules.as_mut().unwrap().skip = vec!["env".to_owned()];
    let ended = host.run(launch);
    assert_eq!(ended.output.matches("hello").count(), 2, "{}", ended.output);
    assert!(ended.output.contains("No such file"), "{}", ended.output);
    let executed = host.messages.iter().filter_map(|kind| match kind {
        from_layer::Kind::Exec(exec) => {
            Some((String::from_utf8_lossy(&exec.comm).into_owned(), exec.outside))
        }
        _ => None,
    });
    executed.collect()
}

/// What `env` starts runs outside as well, so its exec is not told.
pub(crate) fn skipped() {
    let told = skip_list();
    let expected = [("sh", false), ("cat", false), ("env", true), ("head", false)];
    assert_eq!(told, expected.map(|(name, outside)| (name.to_owned(), outside)));
}

/// Many at a time: each start has its end, and nothing is told twice.
pub(crate) fn many() {
    let mut host = host();
    let script = "for i in $(seq 300); do cat /remote/file & done; wait";
    let ended = host.run(command(&["sh", "-c", script]));
    assert_eq!(ended.output, "hello\n".repeat(300));
    let mut started = Vec::new();
    let mut ends = Vec::new();
    for message in &host.messages {
        match message {
            from_layer::Kind::Spawned(spawned) => started.push(spawned.pid),
            from_layer::Kind::Exit(exit) => ends.push(exit.pid),
            _ => {}
        }
    }
    started.sort_unstable();
    ends.sort_unstable();
    assert_eq!(started, ends);
    assert!(started.len() > 300, "{}", started.len());
}

/// In a user and mount namespace of its own a program is still part of the session.
pub(crate) fn namespaces() {
    let output = host().run(command(&["unshare", "-Urm", "cat", "/remote/file"])).output;
    if output != "hello\n" {
        assert!(output.contains("unshare"), "{output}");
        skip(output.trim());
    }
}

/// Where the filter can be installed without it, programs may still gain privileges.
pub(crate) fn privileges() {
    let output = host().run(command(&["grep", "NoNewPrivs", "/proc/self/status"])).output;
    let expected = if rustix::process::geteuid().is_root() { "0" } else { "1" };
    assert_eq!(output, format!("NoNewPrivs:\t{expected}\n"));
}

pub(crate) fn executed_by_descriptor() {
    let mut host = host();
    host.run(command(&[&victims::path("victim", "static"), "fexecve", "/bin/true"]));
    let told = host.messages.iter().rev().find_map(|message| match message {
        from_layer::Kind::Exec(exec) => Some(exec.executable.to_vec()),
        _ => None,
    });
    assert!(told.is_some_and(|path| path.ends_with(b"/bin/true")), "{:?}", host.messages);
}

pub(crate) fn rings() {
    for kind in KINDS {
        assert_eq!(
            host().run(command(&[&victims::path("behaviour", kind), "io-uring"])).output,
            "ok ENOSYS\n"
        );
    }
}

pub(crate) fn debuggers() {
    let mut tried = false;
    if which("strace") {
        let output =
            host().run(command(&["strace", "-f", "-e", "trace=openat", "cat", "/remote/file"])).output;
        assert!(output.contains("hello") && output.contains("\"/remote/file\""), "{output}");
        tried = true;
    }
    if which("gdb") {
        let program = victims::path("behaviour", "dynamic");
        let arguments =
            ["gdb", "-q", "-nx", "-batch", "-ex", "run", "--args", &program, "fopen", "/remote/file"];
        let output = host().run(command(&arguments)).output;
        assert!(output.contains("ok 6 hello") && output.contains("exited normally"), "{output}");
        tried = true;
    }
    if !tried {
        skip("neither strace nor gdb is here");
    }
}

fn which(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
