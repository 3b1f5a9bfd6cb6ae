//! A running `exec`, driven from outside.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    event_log::EventLog,
    finish::{Collected, Finished, finish},
    process::{Family, parent},
    wait::{LIMIT, wait_for},
    world::World,
};

/// Lines of the command's stdout that wait for the test.
const LINES: usize = 100_000;

/// A session that runs in the background; its events go to a file.
#[derive(Debug)]
pub struct Session<'world> {
    world: &'world World,
    child: Child,
    stdout: mpsc::Receiver<String>,
    stderr: Collected,
    log: Mutex<EventLog>,
    /// Id of the session.
    pub id: String,
}

/// A session that has ended.
#[derive(Debug)]
pub struct Ended {
    /// How `exec` ended.
    pub status: ExitStatus,
    /// Rest of the command's stdout, lines.
    pub stdout: Vec<String>,
    /// stderr of the command and of `exec`.
    pub stderr: String,
    /// All events.
    pub events: Vec<Value>,
}

impl Ended {
    /// Expects the command's success.
    ///
    /// # Panics
    /// When it failed, with what was printed.
    #[track_caller]
    pub fn expect_success(&self) {
        assert!(self.status.success(), "{}\nstdout: {:?}\nstderr: {}", self.status, self.stdout, self.stderr);
    }

    /// The signal that `exec` died of.
    #[must_use]
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }
}

impl<'world> Session<'world> {
    #[track_caller]
    pub(crate) fn start(world: &'world World, options: &[&str], command: &[&str]) -> Self {
        let events = new_events_file(world);
        let mut child = world
            .session_command(exec_args(world, &events, options, command))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start mirrord-tui exec");
        let stdout = lines_of(child.stdout.take().expect("stdout is a pipe"));
        let stderr = Collected::start(child.stderr.take().expect("stderr is a pipe"));
        let log = Mutex::new(EventLog::new(&events));
        let mut session = Self { world, child, stdout, stderr, log, id: String::new() };
        session.id = wait_for("the session runs", LIMIT, || {
            let ended = session.child.try_wait().expect("ask for the program's end");
            assert!(ended.is_none(), "mirrord-tui exec ended at once: {}", session.complaints());
            let exec = session.pid();
            let of_exec = |info: &Value| {
                info["host_pid"].as_u64().and_then(|pid| parent(pid.try_into().ok()?)) == Some(exec)
            };
            let info = world.sessions().into_iter().find(of_exec)?;
            (info["state"] == "running").then(|| info["id"].as_str().unwrap_or_default().to_owned())
        });
        session
    }

    /// What `exec` and the command have written to stderr.
    #[must_use]
    pub fn complaints(&self) -> String {
        crate::finish::text(&self.stderr.so_far())
    }

    /// The session as `sessions -o json` shows it.
    #[must_use]
    pub fn info(&self) -> Value {
        self.world.sessions().into_iter().find(|info| info["id"] == self.id.as_str()).unwrap_or(Value::Null)
    }

    /// Waits until the session's information satisfies `condition`.
    ///
    /// # Panics
    /// When it does not within [`LIMIT`].
    #[track_caller]
    pub fn wait_info(&self, what: &str, mut condition: impl FnMut(&Value) -> bool) -> Value {
        wait_for(&format!("session {} is {what}", self.id), LIMIT, || {
            Some(self.info()).filter(|info| condition(info))
        })
    }

    /// A port as `sessions -o json` shows it.
    #[must_use]
    pub fn port(&self, remote: u16) -> Value {
        port_of(&self.info(), remote)
    }

    /// Waits until a port is in this mode and waits for nothing.
    #[track_caller]
    pub fn wait_mode(&self, remote: u16, mode: &str) -> Value {
        self.wait_info(&format!("in mode {mode} on port {remote}"), |info| {
            let port = port_of(info, remote);
            port["mode"] == mode && port["waiting"] == ""
        });
        self.port(remote)
    }

    /// Waits for a line of the command's stdout that contains `needle`.
    ///
    /// # Panics
    /// When none comes within [`LIMIT`].
    #[track_caller]
    pub fn wait_line(&self, needle: &str) -> String {
        let end = Instant::now() + LIMIT;
        loop {
            match self.stdout.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(needle) => return line,
                Ok(_) => {}
                Err(_) => panic!(
                    "the command did not print `{needle}` within {LIMIT:?}; stderr: {}",
                    self.complaints()
                ),
            }
        }
    }

    /// Events so far.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        self.log.lock().expect("no test panics here").update().values().cloned().collect()
    }

    /// Of the events only those with this text in their line are kept. For a session with millions of them: a test that holds some GiB
    /// takes seconds to start a program.
    pub fn keep_only(&self, text: &'static str) {
        self.log.lock().expect("no test panics here").keep_only(text);
    }

    /// Rows that the stream of events left out so far.
    #[must_use]
    pub fn lost_rows(&self) -> u64 {
        let mut log = self.log.lock().expect("no test panics here");
        log.update();
        log.lost()
    }

    /// Waits for an event that satisfies `condition`.
    ///
    /// # Panics
    /// When none comes within [`LIMIT`]; the events that came are printed.
    #[track_caller]
    pub fn wait_event(&self, what: &str, mut condition: impl FnMut(&Value) -> bool) -> Value {
        let end = Instant::now() + LIMIT;
        loop {
            let late = Instant::now() >= end;
            let found = self
                .log
                .lock()
                .expect("no test panics here")
                .update()
                .values()
                .find(|event| condition(event))
                .cloned();
            if let Some(event) = found {
                return event;
            }
            if late {
                let last: Vec<_> = self.events().iter().rev().take(15).map(Value::to_string).collect();
                panic!("no event within {LIMIT:?}: {what}; the last ones:\n{}", last.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Switches a port and waits for the acknowledgement.
    #[track_caller]
    pub fn mode(&self, port: u16, mode: &str) {
        self.world.ok(["mode", &self.id, &port.to_string(), mode]);
    }

    /// Pid of the `exec` process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The session's processes.
    #[must_use]
    #[track_caller]
    pub fn family(&self) -> Family {
        let info =
            self.wait_info("with a command", |info| info["command_pid"].as_u64().is_some_and(|pid| pid > 0));
        let command = info["command_pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("it has a pid");
        Family::of(self.pid(), command)
    }

    /// Waits for the end by itself.
    #[track_caller]
    pub fn wait(mut self) -> Ended {
        let status = wait_for("mirrord-tui exec ends", LIMIT, || {
            self.child.try_wait().expect("ask for the program's end")
        });
        let mut stdout = Vec::new();
        while let Ok(line) = self.stdout.recv_timeout(Duration::from_secs(1)) {
            stdout.push(line);
        }
        Ended { status, stdout, stderr: self.complaints(), events: self.events() }
    }

    /// Ends the session with `mirrord-tui stop` and waits.
    #[track_caller]
    pub fn stop(self) -> Ended {
        self.world.ok(["stop", &self.id]);
        self.wait()
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // After a failed assertion the program may still run; the world's drop stops the session itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs a session whose command ends by itself; its events beside what it printed. `wrap` makes the command that runs `exec` of the
/// one that would.
#[track_caller]
pub(crate) fn run(
    world: &World,
    options: &[&str],
    command: &[&str],
    wrap: impl FnOnce(Command) -> Command,
) -> (Finished, Vec<Value>) {
    let events = new_events_file(world);
    let finished = finish(&mut wrap(world.session_command(exec_args(world, &events, options, command))));
    let events = EventLog::new(&events).update().values().cloned().collect();
    (finished, events)
}

fn exec_args(world: &World, events: &std::path::Path, options: &[&str], command: &[&str]) -> Vec<String> {
    let events = events.to_string_lossy();
    let head = ["exec", "--layer", world.layer(), "--output", "jsonl", "--events-to", &events];
    head.iter().chain(options).chain(&["--"]).chain(command).map(|argument| (*argument).to_owned()).collect()
}

fn port_of(info: &Value, remote: u16) -> Value {
    let ports = info["ports"].as_array();
    ports.and_then(|ports| ports.iter().find(|port| port["remote"] == remote)).cloned().unwrap_or(Value::Null)
}

fn lines_of(stdout: ChildStdout) -> mpsc::Receiver<String> {
    let (line_tx, line_rx) = mpsc::sync_channel(LINES);
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            let Ok(line) = line else { break };
            if line_tx.send(line).is_err() {
                break;
            }
        }
    });
    line_rx
}

/// A file that no other session of this world writes to.
fn new_events_file(world: &World) -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    world.home().join(format!("events-{}.jsonl", NEXT.fetch_add(1, Ordering::Relaxed)))
}
