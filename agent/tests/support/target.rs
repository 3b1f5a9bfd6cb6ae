//! A target: a process in a network of its own, with a root folder of its own, that runs the small servers of [`super::app`].

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::{fd::AsFd, unix::fs::symlink},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
};

use mirrord_netns::{
    ns::{self, Kind},
    rtnl::Rtnl,
};
use tempfile::TempDir;

use super::{NODE_IP, NODE_IP6, TARGET_IP, TARGET_IP6, app};

/// Set in the target's process; the value is its root folder.
const ROLE: &str = "MIRRORD_TEST_TARGET";

/// A running target. It ends with the value.
pub(crate) struct Target {
    child: Child,
    stdin: Option<ChildStdin>,
    pub(crate) root: TempDir,
}

impl Target {
    /// Starts one beside the current node and joins both by a veth pair.
    pub(crate) fn start() -> Self {
        let target = Self::spawn(false);
        let rtnl = Rtnl::open().unwrap();
        rtnl.set_up(rtnl.index("lo").unwrap()).unwrap();
        let theirs = ns::open(target.pid(), Kind::Net).unwrap();
        rtnl.add_veth("veth0", "eth0", theirs.as_fd()).unwrap();
        let veth = rtnl.index("veth0").unwrap();
        rtnl.add_address(veth, NODE_IP.parse().unwrap(), 24).unwrap();
        rtnl.add_address(veth, NODE_IP6.parse().unwrap(), 64).unwrap();
        rtnl.set_up(veth).unwrap();
        target.go()
    }

    /// One in a user namespace of its own, also when we are root, and without a node.
    pub(crate) fn start_alone() -> Self {
        Self::spawn(true).go()
    }

    fn spawn(user: bool) -> Self {
        let root = tempfile::tempdir().unwrap();
        fill_root(root.path());
        let mut command = Command::new("unshare");
        if user {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--net", "--uts", "--"]).arg(std::env::current_exe().unwrap());
        command.args(["target_role", "--exact", "--nocapture"]).env(ROLE, root.path()).env("COLOUR", "blue");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take();
        let mut target = Self { child, stdin, root };
        target.wait_for("made");
        target
    }

    fn go(mut self) -> Self {
        self.stdin.as_ref().unwrap().write_all(b"go\n").unwrap();
        self.wait_for("ready");
        self
    }

    fn wait_for(&mut self, word: &str) {
        let output = self.child.stdout.as_mut().unwrap();
        let mut lines = BufReader::with_capacity(1, output).lines();
        // The test runner's own words come before.
        assert!(lines.any(|line| line.unwrap().ends_with(word)), "the target did not say {word}");
    }

    /// unshare(1) has become the process itself.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        drop(self.stdin.take());
        self.kill();
    }
}

fn fill_root(root: &Path) {
    for folder in ["etc", "run", "data/deep"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::write(root.join("etc/resolv.conf"), format!("nameserver {NODE_IP}\n")).unwrap();
    fs::write(root.join("data/small"), "small content").unwrap();
    fs::write(root.join("data/large"), vec![b'L'; 3 << 20]).unwrap();
    symlink("/etc/resolv.conf", root.join("data/inside")).unwrap();
    symlink("../../../../../../../../../../etc/passwd", root.join("data/outside")).unwrap();
}

/// The body of the test `target_role`: in the target's process it never returns, elsewhere it does nothing.
pub(crate) fn role() {
    let Some(root) = std::env::var_os(ROLE) else { return };
    let mut stdin = std::io::stdin().lines();
    println!("\nmade");
    assert_eq!(stdin.next().unwrap().unwrap(), "go");
    rustix::system::sethostname(b"api-0").unwrap();
    let rtnl = Rtnl::open().unwrap();
    rtnl.set_up(rtnl.index("lo").unwrap()).unwrap();
    if let Ok(eth0) = rtnl.index("eth0") {
        rtnl.add_address(eth0, TARGET_IP.parse().unwrap(), 24).unwrap();
        rtnl.add_address(eth0, TARGET_IP6.parse().unwrap(), 64).unwrap();
        rtnl.set_up(eth0).unwrap();
    }
    std::os::unix::fs::chroot(&root).unwrap();
    std::env::set_current_dir("/").unwrap();
    app::serve();
    println!("ready");
    // Ends with the test that holds the other end.
    assert!(stdin.next().is_none());
    std::process::exit(0);
}
