//! Runs each test as a child process, with a deadline; as root a second time as an ordinary user.

use std::{
    env,
    fs::{File, Permissions},
    io::{Read, Seek},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Command, Stdio, exit},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags},
    process::{Pid, PidfdFlags},
};

/// Names the test that a child shall be.
const ROLE: &str = "MIRRORD_FILES_TEST_ROLE";
/// A test that takes so long hangs.
const LIMIT: Duration = Duration::from_secs(60);
/// nobody: owns nothing and may nothing.
const ORDINARY: u32 = 65534;
/// Exit code of a test that this machine does not allow.
const SKIPPED: i32 = 77;

/// One test.
#[derive(Clone, Copy)]
pub(crate) struct Test {
    name: &'static str,
    run: fn(),
    /// Whether an ordinary user can do what it does.
    ordinary: bool,
}

impl Test {
    pub(crate) const fn new(name: &'static str, run: fn()) -> Self {
        Self { name, run, ordinary: true }
    }

    /// What only root can do.
    pub(crate) const fn as_root(name: &'static str, run: fn()) -> Self {
        Self { name, run, ordinary: false }
    }
}

/// Ends the test: the machine does not allow it.
pub(crate) fn skip(reason: &str) -> ! {
    println!("skipped: {}: {reason}", env::var(ROLE).unwrap_or_default());
    exit(SKIPPED)
}

pub(crate) fn main(tests: &[Test]) {
    match env::var(ROLE) {
        Ok(role) => (tests.iter().find(|test| test.name == role).expect("a test of this name").run)(),
        Err(_) => all(tests),
    }
}

fn all(tests: &[Test]) {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        tests.iter().for_each(|test| println!("{}: test", test.name));
        return;
    }
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let wanted =
        |test: &&Test| filters.is_empty() || filters.iter().any(|filter| test.name.contains(*filter));
    // An ordinary user cannot reach a target directory in root's home.
    let folder = tempfile::Builder::new().prefix("files-tests-").tempdir().expect("a temporary folder");
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("own folder");
    let program = folder.path().join("tests");
    std::fs::copy(env::current_exe().expect("own path"), &program).expect("a copy of this program");
    let users: &[Option<u32>] =
        if rustix::process::geteuid().is_root() { &[None, Some(ORDINARY)] } else { &[None] };
    let mut failed = 0;
    for user in users {
        for test in tests.iter().filter(wanted).filter(|test| user.is_none() || test.ordinary) {
            let as_user = user.map_or(String::new(), |user| format!(" as uid {user}"));
            let start = Instant::now();
            let (outcome, output) = run(&program, test, *user);
            println!("test {}{as_user} ... {outcome} ({} ms)", test.name, start.elapsed().as_millis());
            failed += i32::from(outcome == "FAILED");
            if outcome != "ok" || output.starts_with("  ") {
                print!("{output}");
            }
        }
    }
    drop(folder);
    println!("files tests: {failed} failed");
    exit(i32::from(failed > 0));
}

fn run(program: &Path, test: &Test, user: Option<u32>) -> (&'static str, String) {
    let mut output = tempfile::tempfile().expect("a temporary file");
    let stream = || Stdio::from(output.try_clone().expect("a second descriptor"));
    let mut command = Command::new(program);
    command.env(ROLE, test.name).current_dir("/");
    command.stdin(Stdio::null()).stdout(stream()).stderr(stream()).process_group(0);
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    let mut child = command.spawn().expect("a child");
    let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).expect("a pidfd");
    let limit = LIMIT.try_into().expect("a short time");
    if rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit)).expect("poll") == 0 {
        child.kill().expect("the child is ours");
    }
    let outcome = match child.wait().expect("the child is ours").code() {
        Some(0) => "ok",
        Some(SKIPPED) => "skipped",
        _ => "FAILED",
    };
    (outcome, read(&mut output))
}

pub(crate) fn read(output: &mut File) -> String {
    let mut text = String::new();
    output.rewind().expect("rewind");
    output.read_to_string(&mut text).expect("text");
    text
}
