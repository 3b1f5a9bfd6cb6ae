//! A world of one test: a runtime folder of its own, so that tests run beside each other, and the pods in it.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

use crate::{
    User,
    leftovers::{self, Snapshot},
    program,
    session::Session,
    wait::{LIMIT, wait_until},
};

/// Where one test's pods and sessions live.
#[derive(Debug)]
pub struct World {
    folder: TempDir,
    user: User,
    before: Snapshot,
}

/// A running local pod of a [`World`].
#[derive(Debug)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Pid of its command as this machine sees it.
    pub pid: u32,
    /// Its IPv4 address.
    pub ip: String,
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
        Self { folder, user, before }
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
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn run(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
        self.command(args).output().expect("run mirrord-tui")
    }

    /// Runs the program and expects success; its stdout.
    ///
    /// # Panics
    /// When it fails, with all that it printed.
    #[track_caller]
    pub fn ok(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{}\n{}", output.status, text(&output.stderr));
        text(&output.stdout)
    }

    /// Starts a local pod: `options` as on the command line, then the pod's command.
    ///
    /// # Panics
    /// When it does not start.
    #[track_caller]
    pub fn pod(&self, name: &str, options: &[&str], command: &[&str]) -> Pod {
        let mut args = vec!["local", "start", name];
        args.extend(options);
        args.push("--");
        args.extend(command);
        self.ok(args);
        let list: serde_json::Value =
            serde_json::from_str(&self.ok(["local", "ls", "-o", "json"])).expect("local ls prints JSON");
        let pod = list
            .as_array()
            .and_then(|pods| pods.iter().find(|pod| pod["name"] == name))
            .expect("the pod is listed")
            .clone();
        Pod {
            name: name.to_owned(),
            pid: pod["pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("a pod has a pid"),
            ip: pod["ip"].as_str().expect("a pod has an address").to_owned(),
        }
    }

    /// Starts a session in the background: `options` of `exec`, then the command.
    #[must_use]
    pub fn exec(&self, options: &[&str], command: &[&str]) -> Session<'_> {
        Session::start(self, options, command)
    }

    /// Runs a command inside of a pod's namespaces; its stdout.
    #[track_caller]
    pub fn in_pod(&self, pod: &str, command: &[&str]) -> String {
        let mut args = vec!["local", "exec", pod, "--"];
        args.extend(command);
        self.ok(args)
    }

    /// Folder of the test.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let stopped = [self.run(["stop", "--all"]), self.run(["local", "stop", "--all"])];
        if std::thread::panicking() {
            return;
        }
        for output in stopped {
            assert!(output.status.success(), "the world does not end: {}", text(&output.stderr));
        }
        let mine = |what: &leftovers::Leftovers| what.to_string();
        let mut last = String::new();
        let clean = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_until("nothing is left behind", LIMIT, || {
                let left = leftovers::of(self.folder.path(), self.user, &self.before);
                last = mine(&left);
                left.is_empty()
            });
        }));
        assert!(clean.is_ok(), "left behind:\n{last}");
    }
}

/// Bytes of a program's output as text.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
