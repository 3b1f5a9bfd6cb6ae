//! However large, many or slow things are: host and agent stay small, and only the one stream is held up.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Stdio},
    time::Duration,
};

use mirrord_tests::{
    Family, LIMIT, Pod, Session, World, finish, finish_within, for_every_user, peak_memory, wait_until,
};
use serde_json::Value;

/// What host and agent may have needed at their highest.
const MEMORY: u64 = 256 << 20;
const LONG: Duration = Duration::from_secs(120);
const GIB: u64 = 1 << 30;

struct Place<'world> {
    world: &'world World,
    target: Pod<'world>,
    tool: String,
}

fn in_a_place(test: impl Fn(&Place<'_>)) {
    for_every_user(|user| {
        let world = World::new(user);
        let tool = world.install(env!("CARGO_BIN_EXE_e2e-tool"));
        let log = world.home().join("pod.log");
        let target = world.pod("target", &[], &[&tool, "clerk", "80", "pod", &log.to_string_lossy()]);
        target.wait_listening(80);
        test(&Place { world: &world, target, tool });
    });
}

impl Place<'_> {
    /// A session that steals port 80 for a clerk of ours, who also listens on nothing else.
    fn stolen(&self) -> (Session<'_>, Family) {
        let log = self.world.home().join("own.log");
        let log = log.to_string_lossy();
        // Ten thousand connections need as many descriptors.
        let script = "ulimit -n $(ulimit -Hn); exec \"$@\"";
        let command = ["sh", "-c", script, "sh", &self.tool, "clerk", "80", "own", &log];
        let session = self.world.exec(&["-t", &self.target.target(), "--steal", "-p", "80"], &command);
        session.wait_line("listening");
        session.wait_mode(80, "steal");
        let family = session.family();
        (session, family)
    }

    fn address(&self) -> String {
        format!("{}:80", self.target.ip)
    }

    /// Another stream goes on meanwhile: a request is answered at once.
    #[track_caller]
    fn others_go_on(&self) {
        let mut post = self.world.on_node(&[&self.tool, "post", &self.address(), "1000"]);
        let answer = finish_within(&mut post, Duration::from_secs(5)).ok();
        assert!(answer.contains("\"body\":\"own 1\""), "{answer}");
    }
}

#[track_caller]
fn small(family: &Family) {
    for (name, pid) in [("host", family.host), ("agent", family.agent)] {
        let peak = peak_memory(pid);
        println!("{name}: {} MiB at its highest", peak >> 20);
        assert!(peak < MEMORY, "{name} needed {} MiB", peak >> 20);
    }
}

/// A client of the node in the background, with its first line.
fn background(place: &Place<'_>, command: &[&str]) -> (Child, BufReader<std::process::ChildStdout>, String) {
    let mut child =
        place.world.on_node(command).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut printed = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    printed.read_line(&mut line).unwrap();
    (child, printed, line)
}

#[test]
fn a_local_process_that_never_reads() {
    in_a_place(|place| {
        let options = ["-t", &place.target.target(), "--steal", "-p", "80:7000", "-p", "8080"];
        let script = format!("{0} deaf 7000 & {0} clerk 8080 own /dev/null & wait", place.tool);
        let session = place.world.exec(&options, &["sh", "-c", &script]);
        session.wait_mode(80, "steal");
        session.wait_mode(8080, "steal");
        let family = session.family();
        let (mut client, _, line) = background(place, &[&place.tool, "flood", &place.address()]);
        let written: Value = serde_json::from_str(&line).unwrap();
        println!("a client got rid of {written}");
        let mut post =
            place.world.on_node(&[&place.tool, "post", &format!("{}:8080", place.target.ip), "1000"]);
        assert!(finish(&mut post).ok().contains("own 1"), "others go on");
        small(&family);
        drop(client.stdin.take());
        client.wait().unwrap();
    });
}

#[test]
fn a_remote_server_that_never_reads() {
    in_a_place(|place| {
        let server = place.world.pod("deaf", &[], &[&place.tool, "deaf", "7000"]);
        server.wait_listening(7000);
        let address = format!("{}:7000", server.ip);
        let shop = place.world.pod("shop", &[], &[&place.tool, "clerk", "80", "shop", "/dev/null"]);
        shop.wait_listening(80);
        let script = "sleep 600 | \"$0\" flood \"$1\" & \"$0\" post \"$2\" 1000; wait";
        let shop = format!("{}:80", shop.ip);
        let session = place
            .world
            .exec(&["-t", &place.target.target()], &["sh", "-c", script, &place.tool, &address, &shop]);
        session.wait_line("shop 1");
        session.wait_line("written");
        small(&session.family());
        session.stop();
    });
}

#[test]
fn a_body_of_one_gib() {
    in_a_place(|place| {
        let (session, family) = place.stolen();
        let bytes = GIB.to_string();
        let mut large = place.world.on_node(&[&place.tool, "post", &place.address(), &bytes]);
        let mut large = large.stdout(Stdio::piped()).spawn().unwrap();
        place.others_go_on();
        let mut answer = String::new();
        large.stdout.take().unwrap().read_to_string(&mut answer).unwrap();
        assert!(large.wait().unwrap().success());
        println!("{answer}");
        assert!(answer.contains("\"body\":\"own 1\"") && answer.contains("200"), "{answer}");
        let event = session.wait_event("the large request", |event| {
            event["kind"] == "request" && event["request"]["body"]["size"].as_u64() == Some(GIB)
        });
        assert_eq!(event["request"]["body"]["truncated"], true, "its body is counted, not kept");
        small(&family);
    });
}

#[test]
fn ten_thousand_open_connections() {
    in_a_place(|place| {
        let (session, family) = place.stolen();
        let command = [&*place.tool, "hold", &place.address(), "10000"];
        let (mut client, mut printed, line) = background(place, &command);
        assert_eq!(line, "holding 10000\n");
        place.others_go_on();
        let mut stdin = client.stdin.take().unwrap();
        stdin.write_all(b"\n").unwrap();
        let mut report = String::new();
        printed.read_to_string(&mut report).unwrap();
        assert!(client.wait().unwrap().success(), "{report}");
        println!("{report}");
        small(&family);
        let (small_host, _) = (peak_memory(family.host), session.stop());
        println!("{} KiB a connection in the host", (small_host >> 10) / 10_000);
    });
}

/// A file of 10 GiB that is nearly all hole. As root it is handed out through FUSE; an ordinary user gets it where `/dev/fuse` is
/// open to all, else the error that the documentation promises.
#[test]
fn a_file_of_ten_gib() {
    in_a_place(|place| {
        place.target.put("/shop/small", "small");
        place.target.ok(&["truncate", "--size", "10G", "/shop/large"]);
        place.target.ok(&[
            "sh",
            "-c",
            "printf end | dd of=/shop/large bs=1 seek=10737418237 conv=notrunc status=none",
        ]);
        let script = "stat -c %s /shop/large && tail -c 3 /shop/large && head -c 104857600 /shop/large | wc -c; \
                      cat /shop/small";
        let target = place.target.target();
        let (finished, _) = place.world.exec_to_end(&["-t", &target], &["sh", "-c", script]);
        let fuse = File::options().read(true).write(true).open("/dev/fuse").is_ok()
            && (place.world.user() == mirrord_tests::User::Root || fuse_is_for_all());
        let expected = if fuse { "10737418240\nend104857600\nsmall" } else { "10737418240\nsmall" };
        assert_eq!(finished.out(), expected, "{finished}");
        if !fuse {
            assert!(finished.err().contains("large"), "the refusal names the file: {finished}");
        }
        let session = place
            .world
            .exec(&["-t", &target], &["sh", "-c", "head -c 1073741824 /shop/large | wc -c; exec sleep 600"]);
        if fuse {
            session.wait_line("1073741824");
        }
        small(&session.family());
    });
}

fn fuse_is_for_all() -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata("/dev/fuse").is_ok_and(|metadata| metadata.permissions().mode() & 0o006 == 0o006)
}

#[test]
fn a_folder_of_a_hundred_thousand_entries() {
    in_a_place(|place| {
        place.target.put("/shop/many/1", "");
        let make = "cd /shop/many && seq 2 100000 | xargs touch";
        finish_within(&mut place.target.command(&["sh", "-c", make]), LONG).ok();
        let script = "ls -f /shop/many | wc -l; ls /shop/many | tail -n 1; exec sleep 600";
        let session = place.world.exec(&["-t", &place.target.target()], &["sh", "-c", script]);
        session.wait_line("100002");
        session.wait_line("99999");
        small(&session.family());
        wait_until("the session still answers", LIMIT, || session.info()["state"] == "running");
    });
}
