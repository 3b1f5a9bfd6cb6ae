//! A pod of a cluster with one port that is stolen and one that is not, a customer who asks the one and a witness who asks the other.

use std::fs;

use crate::{Cluster, GONE, Namespace, Session, World, wait_until};

/// Writes down each time that a server does not answer.
const WITNESS: &str = "
import sys, time, urllib.request
print('begins', flush=True)
while True:
    try: urllib.request.urlopen(sys.argv[1], timeout=2).read()
    except Exception as error: print('failed', error, flush=True)
    time.sleep(0.05)
";
/// The target: what is stolen is on port 8080, and on 8081 is what nobody touches.
const APP: &str = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "app"}, "spec": {"containers": [
    {"name": "app", "image": "registry.test/hello:1"},
    {"name": "untouched", "image": "registry.test/busybox:1",
     "command": ["sh", "-c", "echo ok > /tmp/index.html; exec busybox httpd -f -p 8081 -h /tmp"]}]}}"#;

/// A pod with a server on port 8080, and somebody who asks it.
#[derive(Debug)]
pub struct Stolen {
    /// Where it is.
    pub namespace: Namespace,
    url: String,
    /// Path of `e2e-tool`.
    tool: &'static str,
}

impl Stolen {
    /// `None`: no cluster can be had here, which was said aloud. `tool`: the path of `e2e-tool`, which only tests know.
    #[must_use]
    #[track_caller]
    pub fn new(test: &str, tool: &'static str) -> Option<Self> {
        let namespace = Cluster::get(test)?.namespace(test);
        namespace.create(APP);
        namespace.start("customer", "python", &["busybox", "sleep", "3600"]);
        let address = namespace.ready("app");
        namespace.pod("witness", "python", &["python3", "-c", WITNESS, &format!("http://{address}:8081/")]);
        namespace.ready("customer");
        Some(Self { namespace, url: format!("http://{address}:8080/"), tool })
    }

    /// Starts a session that steals the port, and sees that it does.
    #[must_use]
    #[track_caller]
    pub fn steal<'world>(&self, world: &'world World) -> Session<'world> {
        let kubeconfig = self.namespace.cluster.kubeconfig_for(world);
        self.steal_through(world, &kubeconfig)
    }

    /// The same with another way to the API server.
    #[must_use]
    #[track_caller]
    pub fn steal_through<'world>(&self, world: &'world World, kubeconfig: &str) -> Session<'world> {
        self.steal_with(world, kubeconfig, &[])
    }

    /// The same with more options.
    #[must_use]
    #[track_caller]
    pub fn steal_with<'world>(
        &self,
        world: &'world World,
        kubeconfig: &str,
        more: &[&str],
    ) -> Session<'world> {
        let tool = world.install(self.tool);
        let log = world.home().join("own.log").to_string_lossy().into_owned();
        let options = [
            "--kubeconfig",
            kubeconfig,
            "-n",
            &self.namespace.name,
            "-t",
            "pod/app",
            "-p",
            "8080",
            "--steal",
        ];
        let session = world.exec(&[&options[..], more].concat(), &[&tool, "clerk", "8080", "own", &log]);
        session.wait_mode(8080, "steal");
        assert!(self.is_stolen());
        session
    }

    /// Whether the local process answers.
    #[must_use]
    pub fn is_stolen(&self) -> bool {
        self.namespace.ask(&self.url).is_some_and(|answer| answer.starts_with("own "))
    }

    /// Whether the pod answers for itself.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.namespace.ask(&self.url).is_some_and(|answer| !answer.starts_with("own "))
    }

    /// Waits until the pod answers for itself and nothing of the agent is left. The port that nobody touched has served throughout.
    ///
    /// # Panics
    /// When it has not.
    #[track_caller]
    pub fn is_over(&self, what: &str) {
        wait_until("the pod answers for itself", GONE, || self.answers());
        let seen = self.namespace.kubectl(&["logs", "witness"]);
        assert_eq!(seen.trim(), "begins", "the untouched port was served throughout");
        println!("{what}: gone after {:?}", self.namespace.no_agents());
    }
}

/// A kubeconfig for `world` with another address instead of the API server's.
///
/// # Panics
/// When the cluster's own cannot be read.
#[must_use]
pub fn kubeconfig_through(cluster: &Cluster, world: &World, address: &str) -> String {
    let content = fs::read_to_string(cluster.kubeconfig()).expect("read the kubeconfig");
    world.file("kubeconfig", &content.replace(Cluster::SERVER, address)).to_string_lossy().into_owned()
}
