//! What the tests of the agent stand on: a node and a target made of namespaces, the agent's executable, and a client.
//!
//! A test runs itself again inside the node's namespaces ([`in_node`]); from there the target is one veth away, as a pod is from
//! its node. No root is needed: without it the node has a user namespace of its own.

pub(crate) mod agent;
pub(crate) mod app;
pub(crate) mod target;
pub(crate) mod traffic;

use std::process::Command;

/// Set in the process that runs inside the node.
const INSIDE: &str = "MIRRORD_TEST_NODE";
/// Addresses of the node and of the target.
pub(crate) const NODE_IP: &str = "10.244.0.1";
pub(crate) const TARGET_IP: &str = "10.244.0.5";
pub(crate) const NODE_IP6: &str = "fd00:244::1";
pub(crate) const TARGET_IP6: &str = "fd00:244::5";

/// Runs the body of the test `name` inside a fresh node. `name` must be the whole name of the calling test.
pub(crate) fn in_node<F: Future<Output = ()>>(name: &str, body: impl FnOnce() -> F) {
    if std::env::var_os(INSIDE).is_some() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(body());
        return;
    }
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", "--kill-child", "--fork", "--"]).arg(std::env::current_exe().unwrap());
    let status =
        command.args([name, "--exact", "--nocapture", "--include-ignored"]).env(INSIDE, "1").status();
    let status = status.expect("unshare(1) of util-linux");
    assert!(status.success(), "{name} failed inside the node: {status}");
}
