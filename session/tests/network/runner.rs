//! Runs each test as a child process, with a deadline; as root a second time as an ordinary user.

use std::{
    env,
    fs::File,
    io::{Read, Seek},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio, exit},
    time::{Duration, Instant},
};

/// Names the test (or `holder` or `target`) that a child shall be.
pub(crate) const ROLE: &str = "MIRRORD_NETWORK_TEST_ROLE";
/// A test that takes so long hangs.
const LIMIT: Duration = Duration::from_secs(90);
/// nobody: owns nothing and may nothing.
const ORDINARY: u32 = 65534;
/// Exit code of a test that this machine does not allow.
const SKIPPED: i32 = 77;

/// One test.
#[derive(Clone, Copy)]
pub(crate) struct Test {
    name: &'static str,
    run: fn(),
}

impl Test {
    pub(crate) const fn new(name: &'static str, run: fn()) -> Self {
        Self { name, run }
    }

    /// Prints figures; runs only when its name is asked for.
    fn measures(self) -> bool {
        self.name.starts_with("measure")
    }
}

/// Ends the test: the machine does not allow it.
pub(crate) fn skip(reason: &str) -> ! {
    println!("skipped: {}: {reason}", env::var(ROLE).unwrap_or_default());
    exit(SKIPPED)
}

pub(crate) fn main(tests: &[Test]) {
    match env::var(ROLE) {
        Ok(role) if role == "holder" => crate::world::holder_process(),
        Ok(role) if role == "target" => crate::real_agent::target_process(),
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
    let named = |test: &Test| filters.iter().any(|filter| test.name.contains(*filter));
    let wanted = |test: &&Test| named(test) || (filters.is_empty() && !test.measures());
    // An ordinary user cannot reach a target directory in root's home.
    let copy = tempfile::Builder::new().prefix("network-tests-").tempfile().expect("a temporary file");
    std::fs::copy(env::current_exe().expect("own path"), copy.path()).expect("a copy of this program");
    let copy = copy.into_temp_path();
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755))
        .expect("permissions of an own file");
    let users: &[Option<u32>] =
        if rustix::process::geteuid().is_root() { &[None, Some(ORDINARY)] } else { &[None] };
    let mut failed = 0;
    for user in users {
        for test in tests.iter().filter(wanted) {
            let as_user = user.map_or(String::new(), |user| format!(" as uid {user}"));
            let start = Instant::now();
            let (outcome, output) = run(&copy, test, *user);
            println!("test {}{as_user} ... {outcome} ({} ms)", test.name, start.elapsed().as_millis());
            failed += i32::from(outcome == "FAILED");
            if outcome != "ok" || test.measures() {
                println!("{output}");
            }
        }
    }
    drop(copy);
    println!("network tests: {failed} failed");
    exit(i32::from(failed > 0));
}

fn run(program: &Path, test: &Test, user: Option<u32>) -> (&'static str, String) {
    let mut output = tempfile::tempfile().expect("a temporary file");
    let stream = || Stdio::from(output.try_clone().expect("a second descriptor"));
    let mut command = Command::new(program);
    command.env(ROLE, test.name).stdin(Stdio::null()).stdout(stream()).stderr(stream());
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    let code = wait(command.spawn().expect("a child"));
    let outcome = match code {
        Some(0) => "ok",
        Some(SKIPPED) => "skipped",
        _ => "FAILED",
    };
    (outcome, read(&mut output))
}

/// Exit code; `None`: ended by a signal, by us when the time was over.
fn wait(mut child: Child) -> Option<i32> {
    let pid = rustix::process::Pid::from_child(&child);
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).expect("a pidfd");
    let mut fds = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    let limit = LIMIT.try_into().expect("a short time");
    if rustix::event::poll(&mut fds, Some(&limit)).expect("poll") == 0 {
        child.kill().expect("the child is ours");
    }
    child.wait().expect("the child is ours").code()
}

fn read(output: &mut File) -> String {
    let mut text = String::new();
    output.rewind().expect("rewind");
    output.read_to_string(&mut text).expect("the test's output");
    text
}
