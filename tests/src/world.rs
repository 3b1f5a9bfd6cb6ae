//! A world of one test: a runtime folder of its own, so that tests run beside each other, and the pods in it.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    User,
    finish::{Finished, finish, text},
    leftovers::{self, Snapshot},
    pod::Pod,
    process::signal,
    program,
    session::{self, Session},
};

/// Within this time everything must be gone, however it ended.
const GONE: Duration = Duration::from_secs(10);

/// Where one test's pods and sessions live.
#[derive(Debug)]
pub struct World {
    folder: TempDir,
    user: User,
    before: Snapshot,
    /// `--layer` of all sessions.
    layer: &'static str,
    /// The victim that begins all sessions in a place without namespaces.
    restricted: Option<String>,
}

impl World {
    /// An empty world for `user`.
    ///
    /// # Panics
    /// When the folder cannot be made.
    #[must_use]
    pub fn new(user: User) -> Self {
        let before = Snapshot::take();
        let folder = tempfile::Builder::new().prefix("mtui-").tempdir().expect("make a folder for the test");
        for name in ["run", "home", "tmp"] {
            let path = folder.path().join(name);
            fs::create_dir(&path).expect("make a folder for the test");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("close the folder");
            if user == User::Ordinary && rustix::process::geteuid().is_root() {
                chown(&path, Some(user.uid()), Some(user.uid())).expect("give the folder to the user");
            }
        }
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("open the folder");
        Self { folder, user, before, layer: "auto", restricted: None }
    }

    /// The same with `--layer` for all sessions.
    #[must_use]
    pub fn with_layer(mut self, layer: &'static str) -> Self {
        self.layer = layer;
        self
    }

    /// The same where sessions run as in a container with Docker's default profile: the tool and all that it starts may neither make
    /// nor join namespaces, nor mount, nor listen to a filter. `place` is the victim `behaviour`. Pods are outside.
    #[must_use]
    pub fn restricted(mut self, place: &str) -> Self {
        self.restricted = Some(place.to_owned());
        self
    }

    /// The program with arguments, where sessions run.
    #[must_use]
    pub fn session_command(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let Some(place) = &self.restricted else { return self.command(args) };
        let mut command = self.other(place);
        command.arg("no-namespaces").arg(program()).args(args);
        command
    }

    /// `--layer` of all sessions.
    pub(crate) const fn layer(&self) -> &'static str {
        self.layer
    }

    /// The user.
    #[must_use]
    pub fn user(&self) -> User {
        self.user
    }

    /// A folder that the user may write to.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// The runtime folder (`XDG_RUNTIME_DIR`) of everything in this world.
    #[must_use]
    pub fn runtime(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// The program with arguments, as the user, with an environment that holds only what a login has.
    #[must_use]
    pub fn command(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new(program());
        command.args(args).env_clear().envs(self.environment()).current_dir(self.home()).stdin(Stdio::null());
        self.user.apply(&mut command);
        command
    }

    /// Environment of a login of this user.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        vec![
            ("PATH", std::env::var_os("PATH").map_or_else(|| "/usr/bin:/bin".into(), Into::into)),
            ("HOME", self.home()),
            ("TMPDIR", self.folder.path().join("tmp")),
            ("XDG_RUNTIME_DIR", self.runtime()),
            ("LANG", "C.UTF-8".into()),
        ]
    }

    /// Runs the program to its end.
    #[track_caller]
    pub fn run(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Finished {
        finish(&mut self.command(args))
    }

    /// Runs the program and expects success; its stdout.
    #[track_caller]
    pub fn ok(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> String {
        self.run(args).ok()
    }

    /// Any other program with arguments, as the user and with the same environment.
    #[must_use]
    pub fn other(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(self.environment()).current_dir(self.home()).stdin(Stdio::null());
        self.user.apply(&mut command);
        command
    }

    /// Starts a local pod: `options` as on the command line, then the pod's command.
    #[track_caller]
    pub fn pod(&self, name: &str, options: &[&str], command: &[&str]) -> Pod<'_> {
        Pod::start(self, name, options, command)
    }

    /// Starts a session in the background: `options` of `exec`, then the command.
    #[must_use]
    #[track_caller]
    pub fn exec(&self, options: &[&str], command: &[&str]) -> Session<'_> {
        Session::start(self, options, command)
    }

    /// Runs a session whose command ends by itself; what was printed, and the events.
    #[track_caller]
    pub fn exec_to_end(&self, options: &[&str], command: &[&str]) -> (Finished, Vec<Value>) {
        session::run(self, options, command, |exec| exec)
    }

    /// The same on a machine that has nothing but a loopback, and a name server at 127.0.0.1 that knows `local-name.test`: what goes
    /// out locally does not leave the test. Only root can make such a machine; the user of the world must be root.
    #[track_caller]
    pub fn sealed_exec_to_end(&self, options: &[&str], command: &[&str]) -> (Finished, Vec<Value>) {
        session::run(self, options, command, |exec| {
            let dns = concat!(env!("CARGO_MANIFEST_DIR"), "/victims/dns.py");
            let resolv_conf = self.write("resolv.conf", "nameserver 127.0.0.1\n");
            let script = "ip link set lo up && mount --bind \"$1\" /etc/resolv.conf || exit 1\n\
                          exec 3< <(/usr/bin/python3 \"$2\" 127.0.0.1 53 local-name.test=127.0.0.1 & echo $!; wait)\n\
                          read -r server <&3; read -r ready <&3\n\
                          shift 2; \"$@\" 3<&-; code=$?\n\
                          kill $server; exit $code";
            let mut sealed = self.other("unshare");
            sealed.args(["--net", "--mount", "bash", "-c", script, "bash", &resolv_conf, dns]);
            sealed.arg(exec.get_program()).args(exec.get_args());
            sealed
        })
    }

    /// A command in the network of the node that the pods hang on.
    #[must_use]
    pub fn on_node(&self, command: &[&str]) -> Command {
        self.command(["local", "node-exec", "--"].iter().chain(command))
    }

    /// The sessions of this world as `sessions -o json` shows them.
    #[must_use]
    #[track_caller]
    pub fn sessions(&self) -> Vec<Value> {
        serde_json::from_str(&self.ok(["sessions", "-o", "json"])).expect("sessions prints JSON")
    }

    /// Writes a file that only the world's user may read; its path.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.home().join(name);
        fs::write(&path, content).expect("write a file for the test");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("close the file");
        self.give(&path);
        path
    }

    /// Makes the world's user the owner of a file or folder.
    ///
    /// # Panics
    /// When it cannot be given.
    pub fn give(&self, path: &Path) {
        if self.user == User::Ordinary && rustix::process::geteuid().is_root() {
            chown(path, Some(self.user.uid()), Some(self.user.uid())).expect("give the file to the user");
        }
    }

    /// Copies a program of this test to where the user can run it; its path.
    ///
    /// # Panics
    /// When it cannot be copied.
    #[must_use]
    pub fn install(&self, program: &str) -> String {
        let name = Path::new(program).file_name().expect("a program has a name");
        let path = self.folder.path().join(name);
        fs::copy(program, &path).expect("copy a program of the test");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("make the copy executable");
        path.to_string_lossy().into_owned()
    }

    /// Writes a file that the user may read, in the user's home; its path.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn write(&self, name: &str, content: &str) -> String {
        let path = self.home().join(name);
        fs::write(&path, content).expect("write a file of the test");
        path.to_string_lossy().into_owned()
    }

    /// The variable that marks every process of this world's pods.
    pub(crate) fn mark(&self) -> String {
        format!("{}={}", leftovers::MARK, self.folder.path().display())
    }

    /// Processes of this world: pid and command line.
    #[must_use]
    pub fn processes(&self) -> Vec<(u32, String)> {
        leftovers::processes(self.folder.path())
    }

    /// Folder of the test.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        let stop: &[&str] = if failed { &["stop", "--all", "--kill"] } else { &["stop", "--all"] };
        let ended = [stop, &["local", "stop", "--all"]].map(|args| self.command(args).output());
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for output in ended {
                let output = output.expect("run mirrord-tui");
                assert!(output.status.success(), "the world does not end: {}", text(&output.stderr));
            }
            self.assert_nothing_left();
        }));
        if result.is_err() {
            // What a test has left shall not disturb the next one.
            self.processes().iter().for_each(|(pid, _)| signal(*pid, Signal::KILL));
        }
        if let Err(panic) = result
            && !failed
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl World {
    /// Fails the test when anything of this world does not go away by itself.
    ///
    /// # Panics
    /// Then.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        let start = Instant::now();
        loop {
            let left = leftovers::of(self.folder.path(), self.user, &self.before);
            if left.is_empty() {
                return;
            }
            assert!(start.elapsed() < GONE, "left behind after {GONE:?}:\n{left}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
