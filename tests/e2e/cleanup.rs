//! Whoever is killed while a port is stolen: within ten seconds the target serves by itself again and nothing is left.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use mirrord_tests::{
    Family, Pod, World, finish, for_every_user, signal, victim_or_skip, wait_none, wait_until,
};
use rustix::process::Signal;

const WITHIN: Duration = Duration::from_secs(10);

/// Processes of a session to kill.
type Victims = fn(&Family) -> Vec<u32>;

#[test]
fn of_the_command() {
    killing("the command", |family| vec![family.command]);
}

#[test]
fn of_the_session_host() {
    killing("the session host", |family| vec![family.host]);
}

#[test]
fn of_the_agent() {
    killing("the agent", |family| vec![family.agent]);
}

#[test]
fn of_the_supervisor() {
    killing("the supervisor", |family| vec![family.supervisor]);
}

#[test]
fn of_the_netns_holder() {
    killing("the netns holder", |family| vec![family.netns]);
}

#[test]
fn of_exec() {
    killing("exec", |family| vec![family.exec]);
}

#[test]
fn of_all_at_once() {
    killing("all at once", |family| family.all().map(|(_, pid)| pid).to_vec());
}

/// The other way round: the target goes, and the session says so and ends at once instead of waiting for an agent that is gone.
#[test]
fn of_the_target() {
    for_every_user(|user| {
        let world = World::new(user);
        let target = world.pod("target", &[], &["sleep", "600"]);
        let command = ["sh", "-c", "trap 'echo told; exit 3' TERM; echo up; while :; do sleep 0.1; done"];
        let session = world.exec(&["-t", &target.target(), "--steal", "-p", "80"], &command);
        session.wait_line("up");
        let start = Instant::now();
        signal(target.pid, Signal::KILL);
        let ended = session.wait();
        println!("exec ended {:?} after its target with {}", start.elapsed(), ended.status);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        assert!(ended.stderr.contains("the target has ended"), "{}", ended.stderr);
        assert!(ended.stdout.iter().any(|line| line == "told"), "the command was told: {:?}", ended.stdout);
        assert!(!ended.stderr.contains("killed"), "{}", ended.stderr);
        wait_until("no session is listed", WITHIN, || world.sessions().is_empty());
    });
}

fn killing(what: &str, victims: Victims) {
    for_every_user(|user| {
        let world = World::new(user);
        let Some(place) = Place::open(&world) else { return };
        let session = place
            .world
            .exec(&["-t", &place.target.target(), "--steal", "-p", "80"], &[&place.own, "serve", "80"]);
        session.wait_line("listening");
        session.wait_mode(80, "steal");
        assert!(place.ask().contains(OWN), "stolen at first");
        let mut open = place.ask_slowly();
        let family = session.family();
        let start = Instant::now();
        for pid in victims(&family) {
            signal(pid, Signal::KILL);
        }
        wait_until(&format!("the target serves by itself after SIGKILL of {what}"), WITHIN, || {
            place.ask().contains(PODS)
        });
        println!("{what}: the target serves by itself after {:?}", start.elapsed());
        let ended = session.wait();
        println!("{what}: exec ended with {}: {}", ended.status, ended.stderr);
        place.nothing_is_left_of(&family);
        // A connection that was stolen ends; it does not hang.
        wait_until("the open connection has ended", WITHIN, || open.try_wait().unwrap().is_some());
        println!("{what}: all gone after {:?}", start.elapsed());
    });
}

const OWN: &str = "\"lang\":\"c-static\"";
const PODS: &str = "\"lang\":\"c-musl\"";

struct Place<'world> {
    world: &'world World,
    target: Pod<'world>,
    own: String,
    /// Entries of the runtime folder before the session.
    before: Vec<String>,
}

impl<'world> Place<'world> {
    fn open(world: &'world World) -> Option<Self> {
        let own = victim_or_skip("c-static", "cleanup")?;
        let pods = victim_or_skip("c-musl", "cleanup")?;
        let target = world.pod("target", &[], &[&pods, "serve", "80"]);
        target.wait_listening(80);
        let mut place = Self { world, target, own, before: Vec::new() };
        place.before = place.files();
        Some(place)
    }

    /// What the node gets from port 80 of the target; empty when it gets nothing.
    fn ask(&self) -> String {
        let url = format!("http://{}:80/x/", self.target.ip);
        let mut get = self.world.on_node(&["timeout", "2", &self.own, "get", &url]);
        finish(&mut get).out()
    }

    /// A stolen connection that stays open: its request has no end.
    fn ask_slowly(&self) -> Child {
        let script = format!(
            "exec 3<>/dev/tcp/{}/80; printf 'GET / HTTP/1.1\\r\\n' >&3; echo open; exec cat <&3 >/dev/null",
            self.target.ip
        );
        let mut client = self.world.on_node(&["bash", "-c", &script]);
        let mut client = client.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(client.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "open\n");
        client
    }

    fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.world.runtime()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                found.push(entry.path().to_string_lossy().into_owned());
                folders.push(entry.path());
            }
        }
        found.sort();
        found
    }

    /// Of a session whose pod lives on.
    #[track_caller]
    fn nothing_is_left_of(&self, family: &Family) {
        for (name, pid) in family.all() {
            wait_until(&format!("{name} ({pid}) is gone"), WITHIN, || !lives(pid));
        }
        wait_none("no process of the session is left", WITHIN, || {
            let words = ["__host", "__supervisor", "__netns", "mirrord-agent", " serve "];
            let of_session = |(pid, command): &(u32, String)| {
                *pid != self.target.pid && words.iter().any(|word| command.contains(word))
            };
            self.world.processes().into_iter().filter(of_session).collect()
        });
        wait_none("the files are as before", WITHIN, || {
            // Whoever lists removes the folder of a session of which nobody lives.
            let listed = self.world.sessions().into_iter().map(|session| session.to_string());
            let new = |file: &String| !self.before.contains(file) && !file.ends_with("/sessions");
            self.files().into_iter().filter(new).chain(listed).collect()
        });
        // In the pod: no socket that listens for redirected connections, none that captures, no rule.
        let net = |table: &str| {
            fs::read_to_string(format!("/proc/{}/net/{table}", self.target.pid)).unwrap_or_default()
        };
        let listeners =
            net("tcp").lines().filter(|line| line.split_ascii_whitespace().nth(3) == Some("0A")).count();
        assert_eq!(listeners, 1, "only the pod's own listener: {}", net("tcp"));
        assert_eq!(net("packet").lines().count(), 1, "nobody captures: {}", net("packet"));
        if mirrord_tests::on_path("nft") {
            assert_eq!(self.target.ok(&["nft", "list", "ruleset"]), "");
        }
    }
}

fn lives(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X']))
    })
}
