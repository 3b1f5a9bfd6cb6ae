//! However a session ends, the cluster is as it was within 30 s: no Job, pod or ConfigMap, and the target answers for itself.

use mirrord_tests::{GONE, LIMIT, Stolen, User, World, signal, wait_until};
use rustix::process::Signal;

fn stolen(test: &str) -> Option<Stolen> {
    Stolen::new(test, env!("CARGO_BIN_EXE_e2e-tool"))
}

#[test]
fn nothing_is_left_after_the_end() {
    let Some(stolen) = stolen("end") else { return };
    let world = World::new(User::Root);
    stolen.steal(&world).stop();
    stolen.is_over("stop");
}

#[test]
fn nothing_is_left_after_sigkill_of_the_host() {
    let Some(stolen) = stolen("kill") else { return };
    let world = World::new(User::Root);
    let session = stolen.steal(&world);
    let host = session.info()["host_pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap();
    signal(host, Signal::KILL);
    drop(session.wait());
    stolen.is_over("SIGKILL of the host");
}

#[test]
fn an_agent_that_is_deleted_comes_back() {
    let Some(stolen) = stolen("deleted") else { return };
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
    let Some(stolen) = stolen("target") else { return };
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
    let Some(stolen) = stolen("nostart") else { return };
    let world = World::new(User::Root);
    let kubeconfig = stolen.namespace.cluster.kubeconfig_for(&world);
    let options = ["--kubeconfig", &kubeconfig, "-n", &stolen.namespace.name, "-t", "pod/app"];
    let (done, _) = world.exec_to_end(&options, &["/does/not/exist"]);
    assert_eq!(done.code(), Some(127), "{}", done.err());
    wait_until("nothing is left", LIMIT, || stolen.namespace.agents().is_empty());
}
