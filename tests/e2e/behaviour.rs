//! Single system calls under a session, one subcommand of the victim `behaviour` after the other, statically and dynamically
//! linked. The program itself checks what the kernel must do; here is checked that the right one on the other side was reached.

use mirrord_tests::{Pod, World, finish, for_every_user, victim_or_skip};
use serde_json::Value;

const FILE: &str = "/shop/menu.txt";
const MENU: &str = "soup\nbread\ncheese\n";
/// What the program prints about [`FILE`]: its length and first line.
const READ: &str = "ok 18 soup";
/// Port of the echo servers' pod, and a second one.
const ECHO: [&str; 3] = ["8001", "8002", "53"];

/// The pods that the subcommands meet.
struct Place<'world> {
    world: &'world World,
    target: Pod<'world>,
    client: Pod<'world>,
    echo: Pod<'world>,
    tool: String,
    behaviour: String,
}

fn in_a_place(test: impl Fn(&Place<'_>)) {
    for_every_user(|user| {
        for (linking, layer, restricted) in [
            ("behaviour-static", "auto", false),
            ("behaviour-dynamic", "auto", false),
            ("behaviour-dynamic", "libc", false),
            ("behaviour-dynamic", "auto", true),
        ] {
            let Some(behaviour) = victim_or_skip(linking, "behaviour") else { continue };
            println!("{linking}, layer {layer}, without namespaces: {restricted}");
            let world = World::new(user).with_layer(layer);
            let world = if restricted { world.restricted(&behaviour) } else { world };
            let servers = ECHO.map(|port| format!("{behaviour} echo-server {port}")).join(" & ");
            let place = Place {
                target: world.pod("target", &[], &["sleep", "600"]),
                client: world.pod("client", &[], &["sleep", "600"]),
                echo: world.pod("echo", &[], &["sh", "-c", &servers]),
                tool: world.install(env!("CARGO_BIN_EXE_e2e-tool")),
                world: &world,
                behaviour,
            };
            place.target.put(FILE, MENU);
            place.target.ok(&["ln", "-s", "menu.txt", "/shop/link"]);
            ECHO.iter().for_each(|port| place.echo.wait_listening(port.parse().unwrap()));
            test(&place);
        }
    });
}

impl Place<'_> {
    /// Runs a subcommand under a session to its end; its last line.
    #[track_caller]
    fn run(&self, args: &[&str]) -> String {
        let command: Vec<&str> =
            std::iter::once(self.behaviour.as_str()).chain(args.iter().copied()).collect();
        let (finished, _) = self.world.exec_to_end(&["-t", &self.target.target()], &command);
        finished.out().lines().last().map_or_else(|| finished.to_string(), str::to_owned)
    }

    #[track_caller]
    fn expect(&self, args: &[&str], expected: &str) {
        assert_eq!(self.run(args), expected, "{args:?}");
    }

    /// Runs a subcommand that waits for clients, and sends it `clients` of them from the client pod; its last line, and the
    /// addresses of the clients.
    #[track_caller]
    fn serve(&self, name: &str, port: u16, more: &[&str], clients: usize) -> (String, Vec<String>) {
        let port_text = port.to_string();
        let mut command = vec![self.behaviour.as_str(), name, &port_text];
        command.extend(more);
        let options = ["-t", &self.target.target(), "--steal", "-p", &port_text];
        let session = self.world.exec(&options, &command);
        session.wait_line(&format!("listening {port}"));
        session.wait_mode(port, "steal");
        let address = format!("{}:{port}", self.target.ip);
        let locals = (0..clients).map(|index| {
            let line = format!("hello {index}");
            let talk = self.client.run(&[&self.tool, "talk", &address, &line]);
            assert!(talk.status.success(), "{name}, client {index}: {talk}\n{:#?}", session.events());
            let talk: Value = serde_json::from_str(&talk.out()).unwrap();
            assert_eq!(talk["answer"], line.as_str(), "{name} answers");
            talk["local"].as_str().unwrap().to_owned()
        });
        let locals = locals.collect();
        let ended = session.wait();
        ended.expect_success();
        (ended.stdout.last().cloned().unwrap_or_default(), locals)
    }
}

#[test]
fn accepting() {
    in_a_place(|place| {
        for (index, name) in
            ["dup-listener", "double-listen", "fork-accept", "exec-accept"].iter().enumerate()
        {
            let (line, clients) = place.serve(name, 9000 + u16::try_from(index).unwrap(), &[], 1);
            assert_eq!(line, format!("ok {}", clients[0]), "{name} sees its true client");
        }
        let (line, clients) = place.serve("getsockname-after-accept", 9010, &[], 1);
        assert_eq!(line, format!("ok {}:9010 {}", place.target.ip, clients[0]));
        let (line, clients) = place.serve("eintr-accept", 9011, &[], 1);
        assert!(line.starts_with(&format!("ok {} ", clients[0])), "{line}");
        let (line, _) = place.serve("reuseport", 9012, &["3", "6"], 6);
        let shares: Vec<u32> = line.split(' ').skip(1).map(|share| share.parse().unwrap()).collect();
        assert_eq!((shares.len(), shares.iter().sum::<u32>()), (3, 6), "{line}");
    });
}

#[test]
fn listening() {
    in_a_place(|place| {
        place.expect(&["double-bind", "9020"], "ok EADDRINUSE");
        place.expect(&["self-connect", "9021"], "ok 127.0.0.1 0.0.0.0");
        place.expect(&["privileged-bind"], "ok 80 443");
        let line = place.run(&["rebind0"]);
        assert!(line.starts_with("ok "), "{line}");
    });
}

#[test]
fn connecting() {
    in_a_place(|place| {
        let (echo, port) = (place.echo.ip.as_str(), ECHO[0]);
        for name in ["connect-blocking", "connect-nonblock", "bound-connect", "udp-connected"] {
            let line = place.run(&[name, echo, port]);
            let (local, peer) = line.trim_start_matches("ok ").split_once(" -> ").unwrap_or((&line, ""));
            assert_eq!(peer, format!("{echo}:{port}"), "{name}: {line}");
            assert!(
                local.starts_with(&format!("{}:", place.target.ip)),
                "{name} leaves from the pod: {line}"
            );
        }
        let line = place.run(&["v6-mapped", echo, port]);
        assert!(line.ends_with(&format!(" -> [::ffff:{echo}]:{port}")), "{line}");
        place.expect(&["connect-many", echo, port, "100"], "ok 100");
        for name in ["connect-blocking", "connect-nonblock"] {
            let line = place.run(&[name, echo, "9"]);
            assert!(line.starts_with("error ECONNREFUSED"), "{name}: {line}");
        }
    });
}

#[test]
fn datagrams() {
    in_a_place(|place| {
        let echo = place.echo.ip.as_str();
        for port in ECHO {
            place.expect(&["udp-echo", echo, port], &format!("ok {echo}:{port}"));
            place.expect(&["udp-sendmsg", echo, port], &format!("ok {echo}:{port}"));
        }
        let [one, two, _] = ECHO;
        place.expect(&["udp-many", echo, one, two], &format!("ok {echo}:{one} {echo}:{two}"));
    });
}

#[test]
fn files() {
    in_a_place(|place| {
        for name in ["readv", "mmap", "fopen", "script-chain", "vfork-exec", "posix-spawn", "stdin-closed"] {
            place.expect(&[name, FILE], READ);
        }
        place.expect(&["openat-relative", "/shop", "menu.txt"], READ);
        place.expect(&["openat-relative", "/shop", "link"], READ);
        place.expect(&["opendir-walk", "/shop"], "ok 1 2 26");
        place.expect(&["realpath", "/shop/link"], &format!("ok {FILE}"));
        place.expect(&["access", FILE], "ok r--");
        place.expect(&["readlink", "/shop/link"], "ok menu.txt");
        place.expect(&["statx", FILE], "ok 18 0644");
        // statfs() tells of the pod's file system; fstatfs() of the file that stands in for it (README.md).
        let line = place.run(&["statfs", FILE]);
        assert!(line.contains("0x1021994"), "the pod's root is a tmpfs: {line}");
        let statfs = ["stat", "--file-system", "--format", "%t %s %b", FILE];
        let (ours, _) = place.world.exec_to_end(&["-t", &place.target.target()], &statfs);
        assert_eq!(ours.ok(), place.target.ok(&statfs));
        let line = place.run(&["o-rdwr-remote", FILE]);
        assert!(["ok EROFS", "ok EACCES"].contains(&line.as_str()), "{line}");
        let line = place.run(&["threads-open", "4", FILE]);
        assert!(line.starts_with("ok "), "{line}");
        let here = place.world.home().join("new");
        place.expect(&["open-modes", &here.to_string_lossy()], "ok 0640 0604 0431 0755");
    });
}

/// What libc opens and asks by itself, where the libc attachment's names do not reach.
#[test]
fn inside_of_libc() {
    in_a_place(|place| {
        place.expect(&["glob", "/shop/*"], "ok 2 /shop/link /shop/menu.txt");
        place.expect(&["glob", "/shop/nothing*"], "ok 0");
        place.expect(&["nftw", "/shop"], "ok 1 1 1 0 18, followed: 2 1 0");
        place.expect(&["nftw", FILE], "ok 1 0 0 0 18, followed: 1 0 0");
        let line = place.run(&["nftw", "/shop/nothing"]);
        assert!(line.starts_with("error ENOENT"), "{line}");
        place.expect(&["scandir", "/shop"], "ok 4 . .. link menu.txt");
        place.expect(&["name-of", "127.0.0.1"], "ok localhost");
        // Only the name server of the pods knows the other, and nobody the last.
        let name = place.target.ok(&["getent", "hosts", &place.echo.ip]);
        let name = name.split_whitespace().nth(1).expect("pods have names");
        place.expect(&["name-of", &place.echo.ip], &format!("ok {name}"));
        place.expect(&["name-of", "192.0.2.1"], "ok NONE");
    });
}

#[test]
fn processes() {
    in_a_place(|place| {
        for name in ["io-uring", "pidfd", "getppid"] {
            let line = place.run(&[name]);
            assert!(line.starts_with("ok "), "{name}: {line}");
        }
        let line = place.run(&["io-uring"]);
        assert_eq!(line, "ok ENOSYS", "a ring would go past the layer");
    });
}

#[test]
fn a_debugger_and_a_tracer_work() {
    in_a_place(|place| {
        for (tool, args) in [
            ("gdb", &["-batch", "-nx", "-ex", "run", "-ex", "quit", "--args"][..]),
            ("strace", &["-f", "-o", "/dev/null"][..]),
        ] {
            if !mirrord_tests::on_path(tool) {
                mirrord_tests::skip("a_debugger_and_a_tracer_work", &format!("{tool} is not installed"));
                continue;
            }
            let command: Vec<&str> = std::iter::once(tool)
                .chain(args.iter().copied())
                .chain([&*place.behaviour, "fopen", FILE])
                .collect();
            let (finished, _) = place.world.exec_to_end(&["-t", &place.target.target()], &command);
            assert!(finished.out().contains(READ), "{tool}: {finished}");
        }
    });
}

/// An outsider's view of what the victim cannot see of itself.
#[test]
fn a_connection_to_an_own_listener_stays_inside() {
    in_a_place(|place| {
        let (finished, events) = place
            .world
            .exec_to_end(&["-t", &place.target.target()], &[&place.behaviour, "self-connect", "9021"]);
        finished.ok();
        let outgoing = |event: &&Value| event["connection"]["direction"] == "outgoing";
        assert_eq!(events.iter().filter(outgoing).count(), 0, "nothing left for the target: {events:?}");
        // And nothing listens in the pod.
        assert!(!place.target.listens(9021));
        let mut talk = place.world.on_node(&[&place.tool, "talk", &format!("{}:9021", place.target.ip), "x"]);
        assert!(!finish(&mut talk).status.success());
    });
}
