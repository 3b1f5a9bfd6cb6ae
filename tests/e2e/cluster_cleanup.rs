//! However a session ends, the cluster is as it was within 30 s: no Job, pod or ConfigMap, and the target answers for itself.

use mirrord_tests::{Cluster, GONE, LIMIT, Namespace, Session, User, World, signal, wait_until};
use rustix::process::Signal;

/// A pod whose port is stolen, and somebody who asks it.
struct Stolen {
    namespace: Namespace,
    url: String,
}

impl Stolen {
    fn new(test: &str) -> Option<Self> {
        let namespace = Cluster::get(test)?.namespace(test);
        let address = namespace.pod("app", "hello", &[]);
        namespace.customer();
        Some(Self { namespace, url: format!("http://{address}:8080/") })
    }

    fn steal<'world>(&self, world: &'world World) -> Session<'world> {
        let tool = world.install(env!("CARGO_BIN_EXE_e2e-tool"));
        let log = world.home().join("own.log").to_string_lossy().into_owned();
        let kubeconfig = self.namespace.cluster.kubeconfig_for(world);
        let options = [
            "--kubeconfig",
            &kubeconfig,
            "-n",
            &self.namespace.name,
            "-t",
            "pod/app",
            "-p",
            "8080",
            "--steal",
        ];
        let session = world.exec(&options, &[&tool, "clerk", "8080", "own", &log]);
        session.wait_mode(8080, "steal");
        assert!(self.is_stolen());
        session
    }

    fn is_stolen(&self) -> bool {
        self.namespace.ask(&self.url).is_some_and(|answer| answer.starts_with("own "))
    }

    /// Waits until the pod answers for itself and nothing of the agent is left.
    fn is_over(&self, what: &str) {
        wait_until("the pod answers for itself", GONE, || {
            self.namespace.ask(&self.url).is_some_and(|answer| !answer.starts_with("own "))
        });
        println!("{what}: gone after {:?}", self.namespace.no_agents());
    }
}

#[test]
fn nothing_is_left_after_the_end() {
    let Some(stolen) = Stolen::new("end") else { return };
    let world = World::new(User::Root);
    stolen.steal(&world).stop();
    stolen.is_over("stop");
}

#[test]
fn nothing_is_left_after_sigkill_of_the_host() {
    let Some(stolen) = Stolen::new("kill") else { return };
    let world = World::new(User::Root);
    let session = stolen.steal(&world);
    let host = session.info()["host_pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap();
    signal(host, Signal::KILL);
    drop(session.wait());
    stolen.is_over("SIGKILL of the host");
}

#[test]
fn an_agent_that_is_deleted_comes_back() {
    let Some(stolen) = Stolen::new("deleted") else { return };
    let world = World::new(User::Root);
    let session = stolen.steal(&world);
    let first = stolen.namespace.agent_pod();
    stolen.namespace.kubectl(&["delete", "pod", &first, "--wait=false"]);
    wait_until("another agent steals again", GONE, || {
        let agents = stolen.namespace.agents();
        agents.iter().any(|agent| agent.starts_with("Pod ") && !agent.ends_with(&first)) && stolen.is_stolen()
    });
    session.stop();
    stolen.is_over("deletion of the agent");
}

#[test]
fn the_session_ends_with_its_target() {
    let Some(stolen) = Stolen::new("target") else { return };
    let world = World::new(User::Root);
    let session = stolen.steal(&world);
    stolen.namespace.kubectl(&["delete", "pod", "app", "--wait=false"]);
    let ended = session.wait();
    assert!(ended.stderr.contains("app") && ended.stderr.contains("gone"), "{}", ended.stderr);
    assert!(!ended.status.success());
    println!("deletion of the target: gone after {:?}", stolen.namespace.no_agents());
}

#[test]
fn a_command_that_cannot_start_leaves_nothing() {
    let Some(stolen) = Stolen::new("nostart") else { return };
    let world = World::new(User::Root);
    let kubeconfig = stolen.namespace.cluster.kubeconfig_for(&world);
    let options = ["--kubeconfig", &kubeconfig, "-n", &stolen.namespace.name, "-t", "pod/app"];
    let (done, _) = world.exec_to_end(&options, &["/does/not/exist"]);
    assert_eq!(done.code(), Some(127), "{}", done.err());
    wait_until("nothing is left", LIMIT, || stolen.namespace.agents().is_empty());
}
