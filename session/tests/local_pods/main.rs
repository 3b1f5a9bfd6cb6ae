//! Local pods on this machine, as root and as an ordinary user.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and figures are shown"
)]

mod support;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    os::unix::fs::symlink,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use mirrord_session::limits::POD_LOG_BYTES as LOG_BYTES;
use mirrord_session::local::{self, LocalError, PodFile, PodState, Publish, StartSpec};
use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, Signal, kill_process},
};

use self::support::{
    Held, LIMIT, assert_nothing_left, for_each_user, idle, inside, namespaces, process, processes, program,
    program_inside, runtime, serve, server, text, until,
};

fn kill(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

fn state(name: &str) -> PodState {
    local::list().unwrap().into_iter().find(|pod| pod.name == name).unwrap().state
}

#[test]
fn a_pod_is_what_was_asked_for() {
    for_each_user("a_pod_is_what_was_asked_for", || {
        let mut spec = StartSpec::new("web", ["sleep", "1000"]);
        spec.env.insert("COLOUR".into(), "blue".into());
        spec.hostname = Some("web-0".to_owned());
        let before = Instant::now();
        let pod = local::start(&spec).unwrap();
        println!("figure: up in {:?}, with the node", before.elapsed());
        assert_eq!(
            (pod.name.as_str(), pod.state, pod.ip),
            ("web", PodState::Running, [10, 244, 0, 2].into())
        );
        let line = fs::read_to_string(format!("/proc/{}/cmdline", pod.pid)).unwrap();
        assert_eq!(line, "sleep\x001000\x00");
        assert_eq!(local::find("web").unwrap(), pod);
        assert_eq!(inside("web", &["hostname"]), "web-0");
        assert_eq!(inside("web", &["cat", "/etc/hostname"]), "web-0");
        let environment = fs::read(format!("/proc/{}/environ", pod.pid)).unwrap();
        let environment: BTreeSet<_> = environment.split(|&byte| byte == 0).collect();
        for variable in ["COLOUR=blue", "POD_NAME=web", "POD_IP=10.244.0.2", "HOSTNAME=web-0", "HOME=/"] {
            assert!(environment.contains(variable.as_bytes()), "{variable}");
        }
        assert!(
            !environment.iter().any(|variable| variable.starts_with(b"XDG_RUNTIME_DIR")),
            "the caller's stay out"
        );
        let own = namespaces(std::process::id());
        let shared = namespaces(pod.pid).intersection(&own).count();
        assert_eq!(
            shared,
            usize::from(rustix::process::geteuid().is_root()),
            "root's pods share the user namespace only"
        );
        assert_eq!(inside("web", &["cat", "/proc/1/comm"]), "mirrord-init");
        assert_eq!(inside("web", &["cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"]), "0");
        assert!(
            !inside("web", &["cat", "/proc/mounts"]).contains("/pods/web/root"),
            "how the root was made does not show"
        );
        local::stop("web").unwrap();
    });
}

#[test]
fn pods_find_each_other_by_name() {
    for_each_user("pods_find_each_other_by_name", || {
        let web = serve(&server("web", 80), 80);
        idle("client");
        let over_tcp = inside("client", &["env", "RES_OPTIONS=use-vc", "getent", "ahostsv4", "web"]);
        assert!(over_tcp.starts_with(&web.ip.to_string()), "{over_tcp}");
        assert_eq!(
            inside("client", &["getent", "hosts", &web.ip.to_string()]).split_whitespace().last(),
            Some("web.local.svc.cluster.local")
        );
        for name in ["web", "web.local", "web.local.svc", "web.local.svc.cluster.local"] {
            let found = program_inside("client", &["resolve", name]);
            assert!(found.lines().any(|line| line == web.ip.to_string()), "{name}: {found}");
            assert_eq!(found.lines().count(), 1 + usize::from(web.ipv6.is_some()), "{name}: {found}");
            let reached = program_inside("client", &["ask", &format!("{name}:80")]);
            assert!(reached.ends_with(":80"), "{name}: {reached}");
        }
        if let Some(ipv6) = web.ipv6 {
            assert_eq!(program_inside("client", &["ask", &format!("[{ipv6}]:80")]), format!("[{ipv6}]:80"));
        }
        for name in ["db", "example.com", "web.example.com"] {
            assert!(program_inside("client", &["resolve", name]).contains("not known"), "{name}");
        }
        let command = [program(), "resolve".into(), "web".into()];
        let on_node = text(&local::node_exec_command(&command).unwrap().output().unwrap());
        assert!(on_node.contains(&web.ip.to_string()), "{on_node}");
        local::stop("web").unwrap();
        assert!(program_inside("client", &["resolve", "web"]).contains("not known"), "its name goes with it");
        local::stop("client").unwrap();
    });
}

#[test]
fn sockets_of_the_node_reach_pods_from_outside() {
    for_each_user("sockets_of_the_node_reach_pods_from_outside", || {
        serve(&server("web", 80), 80);
        let stream = local::dial("web", 80).unwrap();
        assert_eq!(stream.local_addr().unwrap().ip(), local::NODE_IP);
        let dialer = local::Dialer::open("web").unwrap();
        let before = Instant::now();
        for _ in 0..200 {
            let mut stream = dialer.dial(80).unwrap();
            stream.write_all(b"ping").unwrap();
            stream.read_exact(&mut [0; 100]).unwrap();
        }
        println!("figure: {:?} to dial and ask", before.elapsed() / 200);
        assert!(
            matches!(local::dial("web", 81), Err(LocalError::Dial { port: 81, source, .. }) if source.kind() == std::io::ErrorKind::ConnectionRefused)
        );
        assert!(matches!(local::dial("db", 80), Err(LocalError::Unknown { near, .. }) if near == ["web"]));
        local::stop("web").unwrap();
    });
}

#[test]
fn published_ports_carry_everything_in_both_directions() {
    for_each_user("published_ports_carry_everything_in_both_directions", || {
        let mut spec = server("web", 80);
        spec.publish = vec![Publish { host: 0, pod: 80 }, Publish { host: 0, pod: 81 }];
        let pod = serve(&spec, 80);
        let address = (Ipv4Addr::LOCALHOST, pod.ports_published[0].host);
        let clients: Vec<_> = (0..20)
            .map(|_| {
                thread::spawn(move || {
                    let mut stream = TcpStream::connect(address).unwrap();
                    for _ in 0..50 {
                        stream.write_all(b"ping").unwrap();
                        let mut answer = [0; 100];
                        stream.read_exact(&mut answer).unwrap();
                        assert_eq!(answer, [b'x'; 100]);
                    }
                    // The pod sees the end, and its own end comes back.
                    stream.shutdown(Shutdown::Write).unwrap();
                    assert_eq!(stream.read(&mut answer_space()).unwrap(), 0);
                })
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().unwrap());

        // A reader that is slow at first loses nothing of a stream that fills all buffers.
        let mut stream = TcpStream::connect(address).unwrap();
        let requests = 200_000;
        let mut writer = stream.try_clone().unwrap();
        let writing = thread::spawn(move || {
            writer.write_all(&b"ping".repeat(requests)).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        writing.join().unwrap();
        assert_eq!(received.len(), requests * 100);

        // Where nobody listens in the pod, the connection is broken off and does not end in order.
        let mut refused = TcpStream::connect((Ipv4Addr::LOCALHOST, pod.ports_published[1].host)).unwrap();
        assert_eq!(
            refused.read(&mut answer_space()).unwrap_err().kind(),
            std::io::ErrorKind::ConnectionReset
        );

        local::stop("web").unwrap();
        assert!(TcpStream::connect(address).is_err(), "the port is free again");
    });
}

fn answer_space() -> [u8; 16] {
    [0; 16]
}

#[test]
fn files_are_the_pods_own() {
    for_each_user("files_are_the_pods_own", || {
        let mut spec = StartSpec::new("web", ["sleep", "1000"]);
        let paths = ["/etc/passwd", "/etc/web/deep/web.toml", "/app/config.json", "/usr/share/web.txt"];
        spec.files = paths
            .iter()
            .map(|path| PodFile { path: path.into(), content: format!("this is {path}").into_bytes() })
            .collect();
        local::start(&spec).unwrap();
        for path in paths {
            assert_eq!(inside("web", &["cat", path]), format!("this is {path}"));
            let write = inside("web", &["sh", "-c", &format!("echo x > {path} || echo refused")]);
            assert_eq!(write, "refused", "{path}");
            assert!(
                !fs::read_to_string(path).is_ok_and(|text| text.starts_with("this is")),
                "{path} of the machine"
            );
        }
        assert_eq!(inside("web", &["ls", "/etc/web", "/app"]), "/app:\nconfig.json\n\n/etc/web:\ndeep");
        assert!(inside("web", &["ls", "/etc"]).lines().count() > 10, "the rest of the folder is there");
        assert!(inside("web", &["cat", "/etc/resolv.conf"]).contains("nameserver 10.244.0.1"));
        assert!(inside("web", &["cat", "/etc/hosts"]).contains("10.244.0.2\tweb"));
        local::stop("web").unwrap();
        let bad = vec![PodFile { path: "/etc/passwd/x".into(), content: Vec::new() }];
        let error = local::start(&StartSpec { files: bad, ..StartSpec::new("bad", ["true"]) }).unwrap_err();
        assert!(
            matches!(&error, LocalError::Setup { reason, .. } if reason.contains("/etc/passwd")),
            "{error}"
        );
    });
}

/// A folder that can be a root: the program and the libraries that it needs.
fn small_root() -> PathBuf {
    let root = runtime().join("root");
    let listed = text(&Command::new("ldd").arg(program()).output().unwrap());
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
    for file in libraries.chain([program().to_str().unwrap()]) {
        let to = root.join(file.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(file, to).unwrap();
    }
    fs::create_dir(root.join("data")).unwrap();
    fs::write(root.join("data/here"), "in the root").unwrap();
    root
}

#[test]
fn a_folder_can_be_the_root() {
    for_each_user("a_folder_can_be_the_root", || {
        let root = small_root();
        fs::create_dir(root.join("etc")).unwrap();
        symlink("../run/none", root.join("etc/resolv.conf")).unwrap();
        let entries =
            || fs::read_dir(&root).unwrap().flatten().map(|entry| entry.file_name()).collect::<BTreeSet<_>>();
        let before = entries();
        let pod = serve(&StartSpec { root: Some(root.clone()), ..server("web", 80) }, 80);
        let seen = PathBuf::from(format!("/proc/{}/root", pod.init_pid));
        // As an ordinary user we are not in the pod's user namespace, but its files are ours to read.
        assert_eq!(fs::read_to_string(seen.join("data/here")).unwrap(), "in the root");
        assert!(seen.join("proc/1/status").exists() && seen.join("dev/null").exists());
        assert!(fs::read_to_string(seen.join("etc/hosts")).unwrap().contains("web"));
        assert!(
            fs::read_to_string(seen.join("etc/resolv.conf")).unwrap().contains("nameserver"),
            "in place of the link"
        );
        assert!(!seen.join("home").exists(), "the machine's folders are not there");
        fs::write(root.join("data/later"), "x").unwrap();
        assert!(seen.join("data/later").exists(), "it is the folder and not a copy");
        idle("client");
        assert!(program_inside("client", &["ask", "web:80"]).ends_with(":80"));
        local::stop_all().unwrap();
        assert_eq!(entries(), before, "nothing was put into the folder");
        let missing = StartSpec { root: Some("/no/such".into()), ..server("web", 80) };
        assert!(matches!(local::start(&missing), Err(LocalError::Spec(_))));
        fs::remove_dir_all(root).unwrap();
    });
}

#[test]
fn stopping_leaves_nothing() {
    for_each_user("stopping_leaves_nothing", || {
        let pod = serve(&server("web", 80), 80);
        let other = idle("other");
        let spaces = Held::of(&[pod.pid, other.pid, process("mirrord-node")]);
        assert!(spaces.names().len() >= 11, "5 of each pod and the node's network: {:?}", spaces.names());
        local::stop("web").unwrap();
        assert!(
            !PathBuf::from(format!("/proc/{}", pod.pid)).exists()
                && !PathBuf::from(format!("/proc/{}", pod.init_pid)).exists()
        );
        assert_eq!(local::list().unwrap(), [other]);
        local::stop("other").unwrap();
        assert!(local::list().unwrap().is_empty());
        assert_nothing_left();
        // The node was not our child: it stays a zombie until the machine's first process takes it off.
        until("nobody is in its namespaces", || spaces.alive().is_empty());
    });
}

#[test]
fn who_is_killed_takes_all_below_along() {
    for_each_user("who_is_killed_takes_all_below_along", || {
        for victim in ["mirrord-init", "mirrord-pod", "mirrord-node"] {
            let pod = idle("web");
            let spaces = Held::of(&[pod.pid]);
            kill(process(victim), Signal::KILL);
            until("the command is gone", || !PathBuf::from(format!("/proc/{}/ns", pod.pid)).exists());
            until("the node has noticed", || state("web") != PodState::Running);
            assert_eq!(state("web"), PodState::Lost, "{victim}");
            until("the node is gone", || processes().is_empty());
            // Orphans stay zombies until the machine's first process takes them off.
            until("nobody is in its namespaces", || spaces.alive().is_empty());
            assert!(matches!(local::find("web"), Err(LocalError::Ended { state: PodState::Lost, .. })));
        }
        // The name is free for the next one.
        idle("web");
        local::stop("web").unwrap();
    });
}

#[test]
fn a_command_that_does_not_start_leaves_nothing() {
    for_each_user("a_command_that_does_not_start_leaves_nothing", || {
        let missing = local::start(&StartSpec::new("web", ["/no/such"])).unwrap_err();
        assert!(matches!(&missing, LocalError::NotFound { command } if command == "/no/such"), "{missing}");
        assert_eq!(missing.exit_code(), Some(127));
        assert_nothing_left();
        let refused = local::start(&StartSpec::new("web", ["/etc/passwd"])).unwrap_err();
        assert!(matches!(&refused, LocalError::NotExecutable { .. }), "{refused}");
        assert_eq!(refused.exit_code(), Some(126));
        let spec = StartSpec { cwd: Some("/no/such".into()), ..StartSpec::new("web", ["true"]) };
        assert!(matches!(local::start(&spec), Err(LocalError::Setup { .. })));
    });
}

#[test]
fn names_and_ports_are_given_once() {
    for_each_user("names_and_ports_are_given_once", || {
        idle("web");
        let again = local::start(&StartSpec::new("web", ["true"])).unwrap_err();
        assert!(matches!(&again, LocalError::Taken { name } if name == "web"), "{again}");
        assert!(again.hint().unwrap().contains("local stop web"));
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let spec = StartSpec { publish: vec![Publish { host: port, pod: 80 }], ..server("other", 80) };
        assert!(
            matches!(local::start(&spec), Err(LocalError::Listen { port: refused, .. }) if refused == port)
        );
        for name in ["Web", "", "a.b", "../x"] {
            assert!(
                matches!(local::start(&StartSpec::new(name, ["true"])), Err(LocalError::Spec(_))),
                "{name}"
            );
        }
        for unknown in ["wep", "../../etc"] {
            let error = local::stop(unknown).unwrap_err();
            assert!(matches!(&error, LocalError::Unknown { near, .. } if near == &["web"]), "{error}");
        }
        assert_eq!(state("web"), PodState::Running);
        local::stop("web").unwrap();
    });
}

#[test]
fn a_command_that_ends_leaves_its_log_and_result() {
    for_each_user("a_command_that_ends_leaves_its_log_and_result", || {
        local::start(&StartSpec::new("job", ["sh", "-c", "echo out; echo err >&2; exit 3"])).unwrap();
        until("it has ended", || state("job") == PodState::Exited(3));
        assert_eq!(fs::read_to_string(local::log_path("job").unwrap()).unwrap(), "out\nerr\n");
        until("the node has ended with its last pod", || processes().is_empty());
        // The name is free, and what the first one left goes.
        let script = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done";
        let pod = local::start(&StartSpec::new("job", ["sh", "-c", script])).unwrap();
        until("it listens", || fs::read_to_string(local::log_path("job").unwrap()).unwrap() == "ready\n");
        kill(pod.init_pid, Signal::TERM);
        until("the signal was passed on", || state("job") == PodState::Exited(7));
        let pod = idle("job");
        kill(pod.pid, Signal::KILL);
        until("it was killed", || state("job") == PodState::Signalled(9));
        local::stop("job").unwrap();
        assert!(matches!(local::log_path("job"), Err(LocalError::Unknown { .. })));
    });
}

#[test]
fn a_node_that_wants_to_end_answers_who_holds_the_lock() {
    for_each_user("a_node_that_wants_to_end_answers_who_holds_the_lock", || {
        let pod = idle("web");
        let folder = File::open(runtime().join("mirrord-tui")).unwrap();
        flock(&folder, FlockOperation::LockExclusive).unwrap();
        kill(pod.pid, Signal::KILL);
        until("it was killed", || state("web") == PodState::Signalled(9));
        assert_eq!(local::list().unwrap().len(), 1);
        assert!(!processes().is_empty(), "the node waits for the lock");
        drop(folder);
        until("the node has ended", || processes().is_empty());
        local::stop("web").unwrap();
    });
}

#[test]
fn a_log_does_not_grow_for_ever() {
    for_each_user("a_log_does_not_grow_for_ever", || {
        let script = format!("head -c {} /dev/zero; echo; exec sleep 1000", LOG_BYTES + 1);
        local::start(&StartSpec::new("web", ["sh", "-c", &script])).unwrap();
        let log = local::log_path("web").unwrap();
        until("it is too long", || fs::metadata(&log).unwrap().len() > LOG_BYTES);
        until("it is cut", || fs::read(&log).unwrap().starts_with(b"[mirrord-tui: "));
        local::stop("web").unwrap();
    });
}

#[test]
fn what_does_not_end_by_itself_is_killed() {
    for_each_user("what_does_not_end_by_itself_is_killed", || {
        let script = "trap '' TERM; echo ready; while :; do sleep 1; done";
        local::start(&StartSpec::new("web", ["sh", "-c", script])).unwrap();
        until("it ignores", || fs::read_to_string(local::log_path("web").unwrap()).unwrap() == "ready\n");
        let before = Instant::now();
        local::stop("web").unwrap();
        assert!(
            before.elapsed() > Duration::from_secs(4) && before.elapsed() < LIMIT,
            "{:?}",
            before.elapsed()
        );
    });
}

#[test]
fn ten_pods_start_at_once() {
    for_each_user("ten_pods_start_at_once", || {
        let before = Instant::now();
        let pods: Vec<_> = thread::scope(|scope| {
            let starting: Vec<_> = (0..10).map(|n| scope.spawn(move || idle(&format!("pod-{n}")))).collect();
            starting.into_iter().map(|starting| starting.join().unwrap()).collect()
        });
        println!("figure: ten pods in {:?}", before.elapsed());
        let addresses: BTreeSet<_> = pods.iter().map(|pod| pod.ip).collect();
        assert_eq!(addresses.len(), 10);
        assert_eq!(local::list().unwrap().len(), 10);
        for pod in &pods {
            assert!(program_inside("pod-0", &["resolve", &pod.name]).contains(&pod.ip.to_string()));
        }
        let nodes = processes()
            .iter()
            .filter(|pid| {
                fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().starts_with("mirrord-node")
            })
            .count();
        assert_eq!(nodes, 1);
        assert_eq!(local::stop_all().unwrap(), 10);
    });
}

#[test]
fn a_pod_survives_the_session_of_its_starter() {
    for_each_user("a_pod_survives_the_session_of_its_starter", || {
        // A shell that starts a pod and goes: nothing of the pod may be in its session or hold its output open.
        let script = format!("echo shell $$; {} start web - -- sleep 1000", program().to_str().unwrap());
        let output = Command::new("setsid").args(["--wait", "sh", "-c", &script]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        let shell: i32 = said.lines().find_map(|line| line.strip_prefix("shell ")?.parse().ok()).unwrap();
        assert!(said.contains("up in"), "{said}");
        let pod = local::find("web").unwrap();
        // Not the session of this test: where the tests are started from outside of the PID namespace, it has no number here.
        let session = |pid: u32| rustix::process::getsid(Pid::from_raw(pid.cast_signed())).unwrap();
        assert_eq!(session(pod.pid), session(process("mirrord-node")));
        assert_ne!(session(pod.pid).as_raw_pid(), shell);
        local::stop("web").unwrap();
    });
}
