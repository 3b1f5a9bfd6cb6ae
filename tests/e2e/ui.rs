//! The terminal UI at a real terminal: driven by keys as a person would, read off the screen, and the terminal as it was afterwards.

use std::fs;

use mirrord_tests::{LIMIT, Screen, World, for_every_user, signal, wait_until};
use rustix::process::Signal;
use serde_json::Value;

const ENTER: &str = "\r";
const ESCAPE: &str = "\x1b";
const CTRL_C: &str = "\x03";
const CTRL_Z: &str = "\x1a";

/// A server that answers each request with its own name, and says so on its terminal.
const SERVER: &str = "
import http.server, sys
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        print('asked for', self.path, flush=True)
        body = sys.argv[1].encode()
        self.send_response(200)
        self.send_header('content-length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
print('listening', flush=True)
http.server.ThreadingHTTPServer(('', 80), Answer).serve_forever()
";

#[test]
fn the_demo_is_driven_by_keys() {
    for_every_user(|user| {
        let world = World::new(user);
        let mut screen = Screen::run(user, &world.command(["demo"]), 120, 40);
        screen.wait_text("[MIRROR] 80");
        screen.wait_text("POST /orders");

        // Only orders; their details.
        screen.keys("/~m POST & ~mirror\r");
        screen.wait("only copies of orders", |text| {
            let rows = rows(text);
            !rows.is_empty() && rows.iter().all(|row| row.contains(" M POST /orders"))
        });
        screen.keys(ENTER);
        screen.wait("a request and its answer", |text| {
            // On the whole screen: beside the list they may be seen before the key has come.
            rows(text).is_empty()
                && text.contains("POST /orders HTTP/1.1")
                && text.contains("── Response ")
                && text.contains("\"the pod\"")
        });
        screen.keys(ESCAPE);
        screen.wait("the list again", |text| !rows(text).is_empty());

        // The local process answers from now on, and only after the agent has said so is it shown.
        screen.keys("M");
        screen.wait_text("steal: the local process takes over");
        screen.keys("s");
        screen.wait_text("[STEAL] 80");
        screen.keys("/\x15~m POST ~steal\r");
        screen.wait("a stolen order", |text| rows(text).iter().any(|row| row.contains(" S POST /orders")));
        screen.keys(ENTER);
        screen.wait("who has answered, on the whole screen", |text| {
            rows(text).is_empty() && text.contains("\"this machine\"")
        });
        screen.keys(ESCAPE);
        screen.wait("the list again", |text| !rows(text).is_empty());

        // What is read stands still, and the counts go on.
        screen.keys("F ");
        let frozen = screen.wait_text("FROZEN");
        screen.wait("more requests than before", |text| requests(text) > requests(&frozen) + 3);
        assert_eq!(rows(&screen.text()), rows(&frozen), "frozen rows do not move");
        screen.keys(" ");
        screen.wait("rows that move again", |text| rows(text) != rows(&frozen));

        screen.keys("xh");
        screen.wait_text("write HAR to ");
        screen.keys("\x15orders.har\r");
        screen.wait_text("to orders.har");
        let text = fs::read_to_string(world.home().join("orders.har")).unwrap();
        let har: Value = serde_json::from_str(&text).unwrap();
        let entries = har["log"]["entries"].as_array().unwrap();
        assert!(
            !entries.is_empty() && entries.iter().all(|entry| entry["request"]["method"] == "POST"),
            "{text}"
        );
        assert!(text.contains("this machine"), "bodies are exported: {text}");

        leave(&mut screen);
        assert!(world.sessions().is_empty(), "the demo's session ends with its window");
        assert_eq!(world.ok(["local", "ls", "-o", "json"]).trim(), "[]", "so do its pods");
    });
}

#[test]
fn signals_leave_the_terminal_as_it_was() {
    for_every_user(|user| {
        for (number, code) in [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::INT, 130)] {
            let world = World::new(user);
            let screen = Screen::run(user, &world.command([""; 0]), 80, 24);
            screen.wait_text("targets");
            assert!(screen.is_taken());
            signal(screen.pid(), number);
            assert_eq!(screen.wait_end(), code, "{number:?}");
            screen.assert_as_before();
        }
    });
}

#[test]
fn a_window_that_is_closed_ends_the_demo_and_its_pods() {
    for_every_user(|user| {
        let world = World::new(user);
        let screen = Screen::run(user, &world.command(["demo"]), 100, 30);
        screen.wait_text("[MIRROR] 80");
        let pid = screen.pid();
        // The terminal goes: its programs get SIGHUP, and nothing can be written any more.
        drop(screen);
        wait_until("the demo has ended", LIMIT, || fs::metadata(format!("/proc/{pid}")).is_err());
        assert_eq!(world.ok(["local", "ls", "-o", "json"]).trim(), "[]", "its pods are gone");
        assert!(world.sessions().is_empty());
    });
}

#[test]
fn ctrl_z_gives_the_terminal_back_and_fg_takes_it_again() {
    for_every_user(|user| {
        let world = World::new(user);
        // Without line editing, so that the shell itself changes nothing of the terminal.
        let mut shell = world.other("bash");
        shell.args(["--norc", "--noprofile", "--noediting", "-i"]).env("PS1", "shell> ");
        let mut screen = Screen::shell(user, &shell, 80, 24);
        screen.wait_text("shell>");
        screen.keys(&format!("{}\n", mirrord_tests::program().display()));
        screen.wait_text("targets");
        screen.keys(CTRL_Z);
        screen.wait_text("Stopped");
        screen.assert_as_before();
        screen.keys("fg\n");
        screen.wait("the UI again", |text| text.contains("targets") && text.contains("help"));
        // What came while it was away is seen: the window is another one.
        screen.keys(CTRL_Z);
        screen.wait_text("Stopped");
        screen.resize(100, 30);
        screen.keys("fg\n");
        screen.wait("the whole window", |text| {
            text.lines().nth(27).is_some_and(|line| line.len() > 20) || text.lines().count() >= 29
        });
        screen.keys("Q");
        screen.wait("the shell again", |text| text.trim_end().ends_with("shell>"));
        screen.assert_as_before();
        screen.keys("exit\n");
    });
}

#[test]
fn a_session_outlives_its_window_and_is_shown_from_its_start() {
    for_every_user(|user| {
        let world = World::new(user);
        let server = world.write("server.py", SERVER);
        let target = world.pod("target", &[], &["python3", "-c", SERVER, "pod"]);
        target.wait_listening(80);
        let ask = |path: &str| {
            let url = format!("http://{}{path}", target.ip);
            let script =
                "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=10).read().decode())";
            mirrord_tests::finish(&mut world.on_node(&["python3", "-c", script, &url])).ok().trim().to_owned()
        };
        let options =
            ["exec", "-t", &target.target(), "-p", "80", "--steal", "--", "python3", &server, "window"];
        let screen = Screen::run(user, &world.command(options), 120, 40);
        screen.wait_text("[STEAL] 80");
        assert_eq!(ask("/first"), "window");
        screen.wait_text("/first");
        signal(screen.pid(), Signal::KILL);
        assert_eq!(screen.wait_end(), 137);

        assert_eq!(ask("/second"), "window", "the session goes on");
        let sessions = world.sessions();
        let id = sessions.first().and_then(|session| session["id"].as_str()).unwrap().to_owned();
        let mut screen = Screen::run(user, &world.command(["attach", &id]), 120, 40);
        screen.wait("both requests", |text| {
            rows(text).len() == 2 && text.contains("/first") && text.contains("/second")
        });
        // What the command has printed since the start, too.
        screen.keys("6");
        screen.wait("the command's output", |text| {
            ["listening", "asked for /first", "asked for /second"].iter().all(|line| text.contains(line))
        });
        // Leaving is asked about; the session goes on, until it is ended from another window.
        screen.keys("Q");
        screen.wait_text("attach");
        screen.keys("l");
        assert_eq!(screen.wait_end(), 0);
        screen.assert_as_before();
        assert_eq!(ask("/third"), "window");
        let mut screen = Screen::run(user, &world.command(["attach", &id]), 80, 24);
        screen.wait_text("/third");
        world.ok(["stop", &id]);
        screen.wait_text("ENDED");
        screen.keys(CTRL_C);
        screen.wait_end();
        screen.assert_as_before();
        wait_until("the session is gone", LIMIT, || world.sessions().is_empty());
    });
}

#[test]
fn a_session_is_launched_from_the_form_and_typed_into() {
    for_every_user(|user| {
        let world = World::new(user);
        let target = world.pod("target", &[], &["sleep", "600"]);
        let script =
            world.write("echo.sh", "echo ready; while read line; do echo \"heard $line\"; done; echo bye");
        let mut screen = Screen::run(user, &world.command([""; 0]), 80, 24);
        screen.wait_text(&target.target());
        screen.keys("/local/tar\rL");
        screen.wait_text("Run in the context of local/target");
        screen.keys(&format!("sh {script}"));
        // The equal command line is shown, and what is wrong where it is.
        screen.wait_text("mirrord-tui exec -t local/target -- sh");
        screen.keys("\t\tx\r");
        screen.wait_text("`x` is not REMOTE");
        screen.keys("\x15\r");
        screen.wait_text("running");
        screen.keys("6");
        screen.wait_text("ready");
        screen.keys("i");
        screen.wait_text("TYPING");
        screen.keys("one q two\r");
        screen.wait_text("heard one q two");
        // Ctrl-D is the command's; ctrl-] leaves.
        screen.keys("\x1d");
        screen.wait("no typing", |text| !text.contains("TYPING"));
        let id = world.sessions()[0]["id"].as_str().unwrap().to_owned();

        screen.keys("R");
        screen.wait_text("Start the command again?");
        screen.keys("y\r");
        screen.wait_text("started again as session");
        screen.wait("the new session", |text| {
            !text.contains(&id) && text.contains("ready") && !text.contains("heard")
        });
        screen.keys("i");
        screen.wait_text("TYPING");
        screen.keys("\x04");
        screen.wait_text("bye");
        screen.wait_text("ENDED");
        // What has ended can be started again as well.
        screen.keys("R");
        screen.wait_text("Start the command again?");
        screen.keys("y\r");
        screen.wait("a third session", |text| {
            text.contains("running") && text.contains("ready") && !text.contains("bye")
        });
        screen.keys("Q");
        screen.wait_text("stop the session and leave");
        screen.keys("s");
        assert_eq!(screen.wait_end(), 0);
        screen.assert_as_before();
        wait_until("the session is gone", LIMIT, || world.sessions().is_empty());
    });
}

#[test]
fn requests_are_copied_edited_and_sent_again() {
    for_every_user(|user| {
        let world = World::new(user);
        let server = world.write("server.py", SERVER);
        let target = world.pod("target", &[], &["sleep", "600"]);
        // An editor as the terminal UI sees it: it has the terminal for itself, and asks the user.
        let editor = world
            .write("editor.sh", "printf 'which path? '; read path; sed -i \"s#^GET .*#GET $path#\" \"$1\"");
        let options =
            ["exec", "-t", &target.target(), "-p", "80", "--steal", "--", "python3", &server, "window"];
        let mut command = world.command(options);
        command.env("EDITOR", format!("sh {editor}"));
        let mut screen = Screen::run(user, &command, 120, 40);
        screen.wait_text("[STEAL] 80");
        let url = format!("http://{}/first", target.ip);
        let script =
            "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=10).read().decode())";
        mirrord_tests::finish(&mut world.on_node(&["python3", "-c", script, &url])).ok();
        screen.wait("the request", |text| rows(text).iter().any(|row| row.contains("/first")));

        screen.keys("e");
        screen.wait_text("which path?");
        screen.assert_as_before();
        screen.keys("/typed\n");
        screen.wait("what was typed, sent again", |text| {
            rows(text).iter().any(|row| row.contains("GET  /typed"))
        });
        screen.wait_text("asked for /typed");
        assert!(screen.is_taken());
        screen.keys("r");
        screen.wait("the same once more", |text| {
            rows(text).iter().filter(|row| row.contains("GET  /typed")).count() == 2
        });

        // A click chooses the first row; its command goes to the clipboard of the terminal.
        screen.keys("\x1b[<0;10;6M\x1b[<0;10;6m");
        screen.wait("the first row chosen", |text| {
            text.lines().any(|line| line.starts_with('▌') && line.contains("/first"))
        });
        screen.keys("c");
        screen.wait_text("copied the curl command");
        let raw = screen.raw();
        let clipboard = b"\x1b]52;c;Y3VybCA";
        assert!(raw.windows(clipboard.len()).any(|part| part == clipboard), "`curl ` in base64 was sent");
        screen.keys("2");
        screen.wait_text("Conns");
        screen.keys("Q");
        screen.wait_text("stop the session and leave");
        screen.keys("s");
        assert_eq!(screen.wait_end(), 0);
        screen.assert_as_before();
        wait_until("the session is gone", LIMIT, || world.sessions().is_empty());
    });
}

#[test]
fn a_recording_is_opened_and_gone_through() {
    for_every_user(|user| {
        let world = World::new(user);
        let target = world.pod("target", &[], &["sleep", "600"]);
        let recording = world.home().join("all.jsonl").to_string_lossy().into_owned();
        let read = [
            "exec",
            "-t",
            &target.target(),
            "--output",
            "silent",
            "--record",
            &recording,
            "--",
            "cat",
            "/etc/hostname",
        ];
        world.run(read);
        let mut screen = Screen::run(user, &world.command(["open", &recording]), 120, 40);
        screen.wait_text("REPLAY");
        screen.keys("7");
        screen.wait_text("process");
        screen.keys("<");
        screen.wait_text(" AT ");
        screen.keys(".");
        screen.wait("the end again", |text| !text.contains(" AT "));
        screen.keys("Q");
        assert_eq!(screen.wait_end(), 0);
        screen.assert_as_before();
        // One that is none says so, and is left as easily.
        let wrong = world.write("wrong.jsonl", "no recording\n");
        let mut screen = Screen::run(user, &world.command(["open", &wrong]), 80, 24);
        screen.wait_text("✗");
        screen.keys("Q");
        screen.wait_end();
        screen.assert_as_before();
    });
}

/// Leaves a UI whose session ends with it.
#[track_caller]
fn leave(screen: &mut Screen) {
    screen.keys("Q");
    screen.wait_text("Leave?");
    screen.keys(&format!("y{ENTER}"));
    assert_eq!(screen.wait_end(), 0, "{}", screen.text());
    screen.assert_as_before();
}

/// The rows of the list at the left: they begin with a time of day.
fn rows(text: &str) -> Vec<String> {
    let list = |line: &str| line.split('│').next().unwrap_or_default().trim_end().to_owned();
    let is_row = |line: &String| {
        let time = line.trim_start_matches(['▌', '*', ' ']);
        time.get(2..3) == Some(":") && time.get(5..6) == Some(":")
    };
    // The mark of the chosen row may move.
    text.lines().map(list).filter(is_row).map(|line| line.replace('▌', " ")).collect()
}

/// The number of the traffic tab.
fn requests(text: &str) -> u64 {
    let number = text.split("1 Traffic ").nth(1).and_then(|rest| rest.split_whitespace().next());
    number.and_then(|number| number.replace(',', "").parse().ok()).unwrap_or(0)
}
