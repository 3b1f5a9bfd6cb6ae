//! The same four checks for a program in every language: requests arrive, mirrored and then stolen, with the client's true
//! address; a name that only the pod knows is found; connections fail as they do in the pod; the pod's files are there.

use std::collections::BTreeSet;

use mirrord_tests::{Pod, User, World, for_every_user, request, skip, victim_or_skip};

/// Port of the target, in the pod and in the victim.
const PORT: u16 = 8000;
/// A file and a folder that only the pod has.
const FILE: &str = "/shop/menu.txt";
const MENU: &str = "soup\nbread\ncheese\n";

macro_rules! languages {
    ($($test:ident $victim:literal $quirks:ident $loads:ident;)+) => {$(
        #[test]
        fn $test() {
            for_every_user(|user| four_checks($victim, Quirks::$quirks, &World::new(user)));
        }
    )+

        /// The same with the libc attachment. What cannot load its library goes under a filter by itself.
        mod libc {
            use super::*;
            $(
                #[test]
                fn $test() {
                    four_checks($victim, Quirks::$quirks, &World::new(User::Ordinary).with_layer("libc"));
                }
            )+
        }

        /// The same as in a container with Docker's default profile: the tool finds by itself that addresses must be rewritten. What
        /// cannot load the library is not in the session there.
        mod without_namespaces {
            use super::*;
            $(
                #[test]
                fn $test() {
                    let test = concat!("languages without namespaces ", $victim);
                    if Loads::$loads == Loads::No {
                        return skip(test, "it cannot load the library");
                    }
                    let Some(place) = victim_or_skip("behaviour-dynamic", test) else { return };
                    four_checks($victim, Quirks::$quirks, &World::new(User::Ordinary).restricted(&place));
                }
            )+
        }
    };
}

/// Whether a victim can load the library: it is dynamically linked and makes its calls through libc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loads {
    Yes,
    No,
}

/// What a victim cannot do; `tests/victims/README.md` says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quirks {
    None,
    /// Its name client does not read /etc/hosts and shows no local address.
    Bare,
    /// Its libc orders addresses in a way of its own, the libc attachment all in the same.
    Order,
}

languages! {
    static_c "c-static" None No;
    dynamic_c "c-dynamic" None Yes;
    musl_c "c-musl" None No;
    dynamic_musl_c "c-musl-dynamic" Order Yes;
    static_go "go-static" None No;
    dynamic_go_with_cgo "go-cgo" None No;
    rust_std "rust-std" None Yes;
    rust_tokio "rust-tokio" None Yes;
    python_with_threads "python-threads" None Yes;
    python_with_asyncio "python-asyncio" None Yes;
    node "node" None Yes;
    java "java" None Yes;
    ruby "ruby" None Yes;
    perl "perl" None Yes;
    bash_and_curl "bash-curl" None Yes;
    static_busybox "busybox-static" Bare No;
}

/// The pods of one run: the target, a client of it, and a service that the target asks by name.
struct Shop<'world> {
    world: &'world World,
    target: Pod<'world>,
    client: Pod<'world>,
    catalog: Pod<'world>,
    victim: String,
    asker: String,
    quirks: Quirks,
}

fn four_checks(name: &str, quirks: Quirks, world: &World) {
    // Who serves in the pod must be told from the victim by its name.
    let server = if name == "c-musl" { "c-static" } else { "c-musl" };
    let test = format!("languages {name}");
    let Some(victim) = victim_or_skip(name, &test) else { return };
    let Some(server_path) = victim_or_skip(server, &test) else { return };
    let port = PORT.to_string();
    let tool = world.install(env!("CARGO_BIN_EXE_e2e-tool"));
    let shop = Shop {
        target: world.pod("target", &[], &[&server_path, "serve", &port]),
        client: world.pod("client", &[], &["sleep", "600"]),
        catalog: world.pod("catalog", &[], &[&tool, "clerk", "80", "catalog", "/dev/null"]),
        world,
        victim,
        asker: server_path,
        quirks,
    };
    shop.target.put(FILE, MENU);
    shop.target.put("/shop/empty", "");
    shop.target.wait_listening(PORT);
    shop.catalog.wait_listening(80);
    shop.requests_arrive(name, server);
    shop.names_are_the_pods();
    shop.failures_are_the_pods();
    shop.files_are_the_pods();
}

impl Shop<'_> {
    /// What the client pod gets for a path of the target: status and body.
    #[track_caller]
    fn ask(&self, path: &str) -> String {
        self.client.ok(&[&self.asker, "get", &format!("http://{}:{PORT}{path}", self.target.ip)])
    }

    /// What the victim prints in a session, and what it prints in the pod itself.
    #[track_caller]
    fn both(&self, args: &[&str]) -> (String, String) {
        let command: Vec<&str> = std::iter::once(self.victim.as_str()).chain(args.iter().copied()).collect();
        let (ours, _) = self.world.exec_to_end(&["-t", &self.target.target()], &command);
        let pods = self.target.run(&command);
        assert_eq!(ours.code(), pods.code(), "{args:?}\nin the session: {ours}\nin the pod: {pods}");
        (ours.out(), pods.out())
    }

    fn requests_arrive(&self, name: &str, server: &str) {
        let port = PORT.to_string();
        let options = ["-t", &self.target.target(), "-p", &port];
        let session = self.world.exec(&options, &[&self.victim, "serve", &port]);
        session.wait_line("listening");
        session.wait_mode(PORT, "mirror");

        let answer = self.ask("/mirrored/");
        assert!(answer.contains(&format!("\"lang\":\"{server}\"")), "the pod answers: {answer}");
        let event =
            session.wait_event("the mirrored request", |event| request(event, "mirror", "/mirrored/", 200));
        let peer = event["request"]["peer"].as_str().unwrap_or_default();
        assert!(peer.starts_with(&format!("{}:", self.client.ip)), "the event names the client: {event}");
        session.wait_info("given the copy", |info| {
            info["ports"][0]["delivered"].as_u64() >= Some(1) && info["ports"][0]["refused"] == 0
        });

        session.mode(PORT, "steal");
        session.wait_mode(PORT, "steal");
        let answer = self.ask("/stolen/");
        let client = format!("\"lang\":\"{name}\",\"peer\":\"{}:", self.client.ip);
        assert!(
            answer.starts_with("200\n") && answer.contains(&client),
            "we answer and see the client: {answer}"
        );
        let event =
            session.wait_event("the stolen request", |event| request(event, "steal", "/stolen/", 200));
        assert!(event["latency_ns"].as_u64() > Some(0), "it has a latency: {event}");

        session.stop();
        let answer = self.ask("/after/");
        assert!(answer.contains(&format!("\"lang\":\"{server}\"")), "the pod answers again: {answer}");
    }

    fn names_are_the_pods(&self) {
        let (ours, pods) = self.both(&["get", "http://catalog/x/"]);
        if self.quirks != Quirks::Order {
            assert_eq!(ours, pods, "also the address that the catalog sees is the pod's");
        }
        assert!(ours.starts_with("200\ncatalog "), "{ours}");
        // busybox's nslookup asks for all names of the search list and fails when one of them is unknown.
        let full = "catalog.local.svc.cluster.local";
        let name = if self.quirks == Quirks::Bare { full } else { "catalog" };
        let (ours, pods) = self.both(&["resolve", name]);
        if self.quirks != Quirks::None {
            // Bare asks for both kinds of address at once and prints them as the answers come.
            assert_eq!(lines(&ours), lines(&pods));
        } else {
            assert_eq!(ours, pods);
        }
        assert!(ours.contains(&self.catalog.ip), "the name is found: {ours}");
        let (ours, pods) = self.both(&["resolve", "nobody-has-this-name"]);
        assert_eq!((ours.as_str(), pods.as_str()), ("error NXDOMAIN\n", "error NXDOMAIN\n"));
    }

    fn failures_are_the_pods(&self) {
        let (ours, pods) = self.both(&["connect", &self.catalog.ip, "80"]);
        assert_eq!(peer_of(&ours), peer_of(&pods));
        if self.quirks != Quirks::Bare {
            assert!(ours.starts_with(&format!("ok {}:", self.target.ip)), "our address is the pod's: {ours}");
        }
        let (ours, pods) = self.both(&["connect", &self.catalog.ip, "9"]);
        assert_eq!((ours.as_str(), pods.as_str()), ("error ECONNREFUSED\n", "error ECONNREFUSED\n"));
        // TEST-NET-1 (RFC 5737): nobody has an address there.
        let (ours, pods) = self.both(&["connect", "192.0.2.1", "80"]);
        let unreachable = ["error EHOSTUNREACH\n", "error ENETUNREACH\n"];
        // Ruby asks too late for an error that came at once, and says ENOTCONN.
        assert!(unreachable.contains(&ours.as_str()) || ours == pods, "here: {ours}, in the pod: {pods}");
        assert!(
            !unreachable.contains(&pods.as_str()) || ours == pods,
            "in the session {ours}, in the pod {pods}"
        );
    }

    fn files_are_the_pods(&self) {
        for (args, expected) in [
            (["file", FILE], MENU),
            (["ls", "/shop"], "empty\nmenu.txt\n"),
            (["stat", FILE], "18 0644 file\n"),
            (["stat", "/shop"], ""),
            (["file", "/shop/none"], "error ENOENT\n"),
            (["file", "/shop/menu.txt/below"], "error ENOTDIR\n"),
            (["ls", "/shop/none"], "error ENOENT\n"),
        ] {
            let (ours, pods) = self.both(&args);
            assert_eq!(ours, pods, "{args:?}");
            assert!(expected.is_empty() || ours == expected, "{args:?}: {ours}");
        }
    }
}

fn lines(text: &str) -> BTreeSet<&str> {
    text.lines().collect()
}

/// What stands behind the arrow of `ok LOCAL -> PEER`.
fn peer_of(answer: &str) -> &str {
    answer.split(" -> ").nth(1).unwrap_or(answer)
}
