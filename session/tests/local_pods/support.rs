//! Runs each case as root and as an ordinary user, in a process and with a runtime folder of its own.

use std::{
    collections::BTreeSet,
    env,
    ffi::OsString,
    fs::{self, File},
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use mirrord_session::local::{self, LocalPod, StartSpec};

/// Set in the process that runs a case.
const INNER: &str = "LOCAL_PODS_CASE";
/// The ordinary user of the tests: nobody.
const ORDINARY: u32 = 65_534;
/// No state takes this long to come, on the slowest machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Runs the body of the test `name`: in a fresh process for each user that this machine lets us be.
#[track_caller]
pub(crate) fn for_each_user(name: &str, body: impl FnOnce()) {
    if env::var_os(INNER).is_some() {
        // Pods outlive their starter by design, so a failed case has to take its own down.
        let result = catch_unwind(AssertUnwindSafe(body));
        if let Err(panic) = result {
            local::stop_all().ok();
            resume_unwind(panic);
        }
        assert_nothing_left();
        return;
    }
    let users: &[Option<u32>] = if is_root() { &[None, Some(ORDINARY)] } else { &[None] };
    for &user in users {
        let folder = tempfile::Builder::new().prefix("lp-").tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let runtime = folder.path().join("run");
        fs::create_dir(&runtime).unwrap();
        fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700)).unwrap();
        let test = place(&env::current_exe().unwrap(), folder.path(), "test");
        let program = place(&program_under_test(), folder.path(), "program");
        let mut command = Command::new(test);
        command.args(["--exact", name, "--nocapture"]).current_dir(folder.path());
        command.env(INNER, name).env("XDG_RUNTIME_DIR", &runtime).env("MIRRORD_TUI_BIN", program);
        if let Some(uid) = user {
            chown(&runtime, Some(uid), Some(uid)).unwrap();
            command.uid(uid).gid(uid);
        }
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "as {user:?}:\n{text}");
        text.lines()
            .filter(|line| line.starts_with("figure:"))
            .for_each(|line| println!("as {user:?} {line}"));
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Makes a program reachable for a user who may not enter the folder that it was built in.
fn place(program: &Path, folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    if fs::hard_link(program, &path).is_err() {
        fs::copy(program, &path).unwrap();
    }
    path
}

/// The example that runs all roles; `cargo test` has built it.
fn program_under_test() -> PathBuf {
    let test = env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().join("examples/localpods")
}

/// The program as the pods see it.
pub(crate) fn program() -> OsString {
    env::var_os("MIRRORD_TUI_BIN").unwrap()
}

/// The folder of the case, where it may write below `run`.
pub(crate) fn runtime() -> PathBuf {
    PathBuf::from(env::var_os("XDG_RUNTIME_DIR").unwrap())
}

/// Starts a pod that waits.
#[track_caller]
pub(crate) fn idle(name: &str) -> LocalPod {
    local::start(&StartSpec::new(name, ["sleep", "1000"])).unwrap()
}

/// A specification of a pod that serves on a port.
pub(crate) fn server(name: &str, port: u16) -> StartSpec {
    StartSpec::new(name, [program(), "serve".into(), port.to_string().into()])
}

/// Starts a pod that serves on a port, and waits until it does.
#[track_caller]
pub(crate) fn serve(spec: &StartSpec, port: u16) -> LocalPod {
    let pod = local::start(spec).unwrap();
    until("the server listens", || local::dial(&spec.name, port).is_ok());
    pod
}

/// Runs a command in a pod; its standard output.
#[track_caller]
pub(crate) fn inside(pod: &str, command: &[&str]) -> String {
    let command: Vec<OsString> = command.iter().map(OsString::from).collect();
    text(&local::exec_command(pod, &command).unwrap().stdin(Stdio::null()).output().unwrap())
}

/// Runs the program in a pod; its standard output.
#[track_caller]
pub(crate) fn program_inside(pod: &str, args: &[&str]) -> String {
    let program = program().into_string().unwrap();
    inside(pod, &[&[program.as_str()], args].concat())
}

#[track_caller]
pub(crate) fn text(output: &Output) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
    assert!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    stdout
}

/// Waits for a state.
#[track_caller]
pub(crate) fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let start = Instant::now();
    while !reached() {
        assert!(start.elapsed() < LIMIT, "waited in vain until {what}");
        sleep(Duration::from_millis(2));
    }
}

/// Processes whose command line names the case's folder, and whose pid is not this one.
pub(crate) fn processes() -> Vec<u32> {
    let needle = runtime().into_os_string().into_encoded_bytes();
    let of_case = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        *pid != std::process::id() && line.windows(needle.len()).any(|part| part == needle)
    };
    pids().into_iter().filter(of_case).collect()
}

/// The case's process with this name.
pub(crate) fn process(name: &str) -> u32 {
    let named =
        |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name);
    processes().into_iter().find(named).unwrap_or_else(|| panic!("no process {name}"))
}

fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Namespaces of a process, as the kernel numbers them.
pub(crate) fn namespaces(pid: u32) -> BTreeSet<PathBuf> {
    links(pid).filter_map(|link| fs::read_link(link).ok()).collect()
}

/// Namespaces of processes, held open: the kernel would give the number of one that has gone to one of another test.
pub(crate) struct Held {
    names: BTreeSet<PathBuf>,
    _open: Vec<File>,
}

impl Held {
    /// Those of the processes that are not the test's own.
    pub(crate) fn of(pids: &[u32]) -> Self {
        let open: Vec<_> =
            pids.iter().flat_map(|pid| links(*pid)).filter_map(|link| File::open(link).ok()).collect();
        let all: BTreeSet<_> = pids.iter().flat_map(|pid| namespaces(*pid)).collect();
        let own = namespaces(std::process::id());
        Self { names: all.difference(&own).cloned().collect(), _open: open }
    }

    pub(crate) fn names(&self) -> &BTreeSet<PathBuf> {
        &self.names
    }

    /// Those that a process is still in.
    pub(crate) fn alive(&self) -> BTreeSet<PathBuf> {
        let all: BTreeSet<PathBuf> = pids().into_iter().flat_map(namespaces).collect();
        self.names.intersection(&all).cloned().collect()
    }
}

fn links(pid: u32) -> impl Iterator<Item = String> {
    ["net", "mnt", "uts", "ipc", "pid", "user"].into_iter().map(move |kind| format!("/proc/{pid}/ns/{kind}"))
}

/// Nothing of the case is on the machine: no process, mount or file.
#[track_caller]
pub(crate) fn assert_nothing_left() {
    until("the node has ended", || processes().is_empty());
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(runtime().to_str().unwrap()), "{mounts}");
    let left: Vec<_> = fs::read_dir(runtime().join("mirrord-tui")).into_iter().flatten().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}
