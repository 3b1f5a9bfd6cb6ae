//! Runs each test as a child process, with a deadline; as root a second time as an ordinary user.

use std::{
    env,
    fs::File,
    io::Read,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio, exit},
    time::{Duration, Instant},
};

use mirrord_netns::ns::{self, Kind, UserMap};

/// Names the test (or `holder`) that a child shall be.
pub(crate) const ROLE: &str = "MIRRORD_NETNS_TEST_ROLE";
/// A test that takes so long hangs.
const LIMIT: Duration = Duration::from_secs(60);
/// nobody: owns nothing and may nothing.
const ORDINARY: u32 = 65534;
/// Exit code of a test that this machine does not allow.
const SKIPPED: i32 = 77;

/// Where a test runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the caller's namespaces, as the session host does.
    Plain,
    /// In a new network namespace (as an ordinary user in a new user namespace, too), as the agent beside a local pod does.
    Fresh,
}

/// One test.
#[derive(Clone, Copy)]
pub(crate) struct Test {
    name: &'static str,
    place: Place,
    run: fn(),
}

impl Test {
    pub(crate) const fn new(name: &'static str, place: Place, run: fn()) -> Self {
        Self { name, place, run }
    }
}

/// Ends the test: the machine does not allow it.
pub(crate) fn skip(reason: &str) -> ! {
    println!("skipped: {}: {reason}", env::var(ROLE).unwrap_or_default());
    exit(SKIPPED)
}

pub(crate) fn main(tests: &[Test]) {
    match env::var(ROLE) {
        Ok(role) if role == "holder" => crate::holder::process(),
        Ok(role) => child(tests.iter().find(|test| test.name == role).expect("a test of this name")),
        Err(_) => all(tests),
    }
}

/// The process has one thread still.
fn child(test: &Test) {
    if test.place == Place::Fresh {
        let entered = if rustix::process::geteuid().is_root() {
            ns::unshare(&[Kind::Net])
        } else {
            ns::enter_user_namespace(UserMap::Identity, &[Kind::Net])
        };
        if let Err(error) = entered {
            skip(&format!("{error}: {}", error.io()));
        }
    }
    (test.run)();
}

fn all(tests: &[Test]) {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let has = |option: &str| arguments.iter().any(|argument| argument == option);
    // What nextest asks for: no test is ignored, and names are chosen as libtest does it.
    if has("--ignored") {
        return;
    }
    if has("--list") {
        tests.iter().for_each(|test| println!("{}: test", test.name));
        return;
    }
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let matches = |test: &Test, filter: &str| {
        if has("--exact") { test.name == filter } else { test.name.contains(filter) }
    };
    let wanted = |test: &&Test| filters.is_empty() || filters.iter().any(|filter| matches(test, filter));
    // An ordinary user cannot reach a target directory in root's home.
    let copy = tempfile::Builder::new().prefix("netns-tests-").tempfile().expect("a temporary file");
    std::fs::copy(env::current_exe().expect("own path"), copy.path()).expect("a copy of this program");
    let copy = copy.into_temp_path();
    set_mode(&copy, 0o755);
    let users: &[Option<u32>] =
        if rustix::process::geteuid().is_root() { &[None, Some(ORDINARY)] } else { &[None] };
    let mut failed = 0;
    for user in users {
        for test in tests.iter().filter(wanted) {
            let as_user = user.map_or(String::new(), |user| format!(" as uid {user}"));
            let start = Instant::now();
            let (outcome, output) = run(&copy, test, *user);
            println!("test {}{as_user} ... {outcome} ({} ms)", test.name, start.elapsed().as_millis());
            if outcome == "FAILED" {
                failed += 1;
                println!("{output}");
            } else if outcome == "skipped" {
                print!("{output}");
            }
        }
    }
    drop(copy);
    println!("kernel tests: {failed} failed");
    exit(i32::from(failed > 0));
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .expect("permissions of an own file");
}

fn run(program: &Path, test: &Test, user: Option<u32>) -> (&'static str, String) {
    let mut output = tempfile::tempfile().expect("a temporary file");
    let stream = || Stdio::from(output.try_clone().expect("a second descriptor"));
    let mut command = Command::new(program);
    command.env(ROLE, test.name).stdin(Stdio::null()).stdout(stream()).stderr(stream());
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    let code = wait(command.spawn().expect("a child"), LIMIT);
    let outcome = match code {
        Some(0) => "ok",
        Some(SKIPPED) => "skipped",
        _ => "FAILED",
    };
    (outcome, read(&mut output))
}

/// Exit code; `None`: ended by a signal, by us when the time was over.
pub(crate) fn wait(mut child: Child, limit: Duration) -> Option<i32> {
    let pid = rustix::process::Pid::from_child(&child);
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).expect("a pidfd");
    let mut fds = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    let limit = limit.try_into().expect("a short time");
    if rustix::event::poll(&mut fds, Some(&limit)).expect("poll") == 0 {
        child.kill().expect("the child is ours");
    }
    child.wait().expect("the child is ours").code()
}

fn read(output: &mut File) -> String {
    use std::io::Seek;
    let mut text = String::new();
    output.rewind().expect("rewind");
    output.read_to_string(&mut text).ok();
    text
}
