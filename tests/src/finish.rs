//! Running a program to its end, with a deadline and with everything that it printed.

use std::{
    fmt,
    io::Read,
    os::unix::process::ExitStatusExt,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::wait::{LIMIT, wait_for};

/// How long output may still come after the end of the program: a daemon of its that holds the pipe is not waited for.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    /// How.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// What it complained about.
    pub stderr: Vec<u8>,
    /// How long it ran.
    pub took: Duration,
}

impl Finished {
    /// stdout as text.
    #[must_use]
    pub fn out(&self) -> String {
        text(&self.stdout)
    }

    /// stderr as text.
    #[must_use]
    pub fn err(&self) -> String {
        text(&self.stderr)
    }

    /// Exit code; `None` after a death by signal.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that ended it.
    #[must_use]
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// Expects success and gives stdout.
    ///
    /// # Panics
    /// When it failed, with all that it printed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.status.success(), "{self}");
        self.out()
    }

    /// Expects this exit code.
    ///
    /// # Panics
    /// When it is another, with all that was printed.
    #[track_caller]
    pub fn expect_code(&self, code: i32) {
        assert_eq!(self.code(), Some(code), "{self}");
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} after {:?}\nstdout: {}\nstderr: {}", self.status, self.took, self.out(), self.err())
    }
}

/// Runs `command` to its end. stdin stays as the command has it.
///
/// # Panics
/// When it cannot be started or does not end within [`LIMIT`].
#[track_caller]
pub fn finish(command: &mut Command) -> Finished {
    finish_within(command, LIMIT)
}

/// The same with another deadline.
///
/// # Panics
/// When it cannot be started or does not end in time; it is killed then.
#[track_caller]
pub fn finish_within(command: &mut Command, limit: Duration) -> Finished {
    let start = Instant::now();
    let spawned = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.unwrap_or_else(|error| panic!("start {command:?}: {error}"));
    let stdout = Collected::start(child.stdout.take().expect("stdout is a pipe"));
    let stderr = Collected::start(child.stderr.take().expect("stderr is a pipe"));
    let status = end(&mut child, limit);
    let took = start.elapsed();
    let (stdout, stderr) = (stdout.rest(), stderr.rest());
    match status {
        Some(status) => Finished { status, stdout, stderr, took },
        None => panic!(
            "{command:?} did not end within {limit:?}\nstdout: {}\nstderr: {}",
            text(&stdout),
            text(&stderr)
        ),
    }
}

/// Waits for the end of a child; kills it when the limit has passed.
fn end(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_for("the end of a program", limit, || child.try_wait().expect("ask for a program's end"))
    }));
    if waited.is_err() {
        child.kill().expect("kill a program that does not end");
        child.wait().expect("wait for a killed program");
    }
    waited.ok()
}

/// What a pipe brings, while it is read by a thread.
#[derive(Debug)]
pub(crate) struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Collected {
    /// Starts to read.
    pub(crate) fn start(mut pipe: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let target = Arc::clone(&bytes);
        let reader = std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(read @ 1..) = pipe.read(&mut buffer) {
                let piece = buffer.get(..read).unwrap_or_default();
                target.lock().expect("no reader panics").extend_from_slice(piece);
            }
        });
        Self { bytes, reader }
    }

    /// What has come so far.
    pub(crate) fn so_far(&self) -> Vec<u8> {
        self.bytes.lock().expect("no reader panics").clone()
    }

    /// Everything, once the writer has ended.
    fn rest(&self) -> Vec<u8> {
        let end = Instant::now() + LAST_OUTPUT;
        while !self.reader.is_finished() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.so_far()
    }
}

/// Bytes of a program's output as text.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
