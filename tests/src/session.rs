//! A running `exec`, driven from outside.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, ChildStdout, ExitStatus, Stdio},
    sync::mpsc,
    time::Duration,
};

use serde_json::Value;

use crate::{
    wait::{LIMIT, wait_for},
    world::{World, text},
};

/// A session that runs in the background; its events go to a file.
#[derive(Debug)]
pub struct Session<'world> {
    world: &'world World,
    child: Child,
    stdout: mpsc::Receiver<String>,
    events: PathBuf,
    /// Id of the session.
    pub id: String,
}

/// What an `exec` that has ended gave back.
#[derive(Debug)]
pub struct ExecOutput {
    /// How the program ended.
    pub status: ExitStatus,
    /// Rest of the command's stdout, lines.
    pub stdout: Vec<String>,
    /// All events.
    pub events: Vec<Value>,
}

impl<'world> Session<'world> {
    pub(crate) fn start(world: &'world World, options: &[&str], command: &[&str]) -> Self {
        let events = world.home().join(format!("events-{}.jsonl", unique()));
        let mut args = vec!["exec", "--output", "jsonl", "--events-to"];
        let path = events.to_string_lossy().into_owned();
        args.push(&path);
        args.extend(options);
        args.push("--");
        args.extend(command);
        let before = ids(world);
        let mut child = world
            .command(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("start mirrord-tui exec");
        let stdout = lines_of(child.stdout.take().expect("stdout is a pipe"));
        let id = wait_for("the session is listed", LIMIT, || {
            assert!(
                child.try_wait().expect("ask for the program's end").is_none(),
                "mirrord-tui exec ended at once"
            );
            ids(world).into_iter().find(|id| !before.contains(id))
        });
        let session = Self { world, child, stdout, events, id };
        session.wait_info("running", |info| info["state"] == "running");
        session
    }

    /// The session as `sessions -o json` shows it.
    #[must_use]
    pub fn info(&self) -> Value {
        list(self.world).into_iter().find(|info| info["id"] == self.id.as_str()).unwrap_or(Value::Null)
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

    /// Waits for a line of the command's stdout that contains `needle`.
    ///
    /// # Panics
    /// When none comes within [`LIMIT`].
    #[track_caller]
    pub fn wait_line(&self, needle: &str) -> String {
        let end = std::time::Instant::now() + LIMIT;
        loop {
            let left = end.saturating_duration_since(std::time::Instant::now());
            match self.stdout.recv_timeout(left) {
                Ok(line) if line.contains(needle) => return line,
                Ok(_) => {}
                Err(_) => panic!("the command did not print `{needle}` within {LIMIT:?}"),
            }
        }
    }

    /// Events so far.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.events).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for an event that satisfies `condition`.
    ///
    /// # Panics
    /// When none comes within [`LIMIT`].
    #[track_caller]
    pub fn wait_event(&self, what: &str, mut condition: impl FnMut(&Value) -> bool) -> Value {
        wait_for(&format!("event: {what}"), LIMIT, || {
            self.events().into_iter().find(|event| condition(event))
        })
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

    /// Waits for the end by itself.
    ///
    /// # Panics
    /// When it does not come within [`LIMIT`].
    #[track_caller]
    pub fn wait(mut self) -> ExecOutput {
        let status = wait_for("mirrord-tui exec ends", LIMIT, || {
            self.child.try_wait().expect("ask for the program's end")
        });
        self.output(status)
    }

    /// Ends the session with `mirrord-tui stop` and waits.
    #[track_caller]
    pub fn stop(self) -> ExecOutput {
        let stopped = self.world.run(["stop", &self.id]);
        assert!(stopped.status.success(), "stop: {}", text(&stopped.stderr));
        self.wait()
    }

    fn output(&self, status: ExitStatus) -> ExecOutput {
        let mut stdout = Vec::new();
        while let Ok(line) = self.stdout.recv_timeout(Duration::from_secs(5)) {
            stdout.push(line);
        }
        ExecOutput { status, stdout, events: self.events() }
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // After a failed assertion the program may still run; the world's drop stops the session itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn list(world: &World) -> Vec<Value> {
    let output = world.run(["sessions", "-o", "json"]);
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

fn ids(world: &World) -> Vec<String> {
    list(world).iter().filter_map(|info| info["id"].as_str().map(str::to_owned)).collect()
}

fn lines_of(stdout: ChildStdout) -> mpsc::Receiver<String> {
    let (line_tx, line_rx) = mpsc::sync_channel(100_000);
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

/// A number that no other session of this test process has.
fn unique() -> usize {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}
