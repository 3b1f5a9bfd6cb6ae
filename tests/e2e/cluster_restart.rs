//! Parts of the cluster start again under a session: it goes on, and nothing is left afterwards, nor when the host dies meanwhile.
//!
//! A suite of its own, and one test at a time: whatever else asks the cluster is disturbed. Half a minute each.

use std::sync::{Mutex, PoisonError};

use mirrord_tests::{GONE, Stolen, User, World, signal, wait_until};
use rustix::process::Signal;

static ONE: Mutex<()> = Mutex::new(());

#[test]
fn the_api_server_starts_again() {
    starts_again("kube-apiserver", "api");
}

#[test]
fn the_kubelet_starts_again() {
    starts_again("kubelet", "kubelet");
}

#[track_caller]
fn starts_again(component: &str, test: &str) {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(stolen) = Stolen::new(test, env!("CARGO_BIN_EXE_e2e-tool")) else { return };
    let cluster = stolen.namespace.cluster;
    let world = World::new(User::Root);
    let session = stolen.steal(&world);
    let restart = || {
        cluster.restart(component);
        wait_until("the component serves again", GONE, || cluster.serves());
    };
    restart();
    wait_until("the local process answers again", GONE, || stolen.is_stolen());
    session.wait_mode(8080, "steal");
    session.stop();
    stolen.is_over(&format!("stop after a restart of {component}"));

    let session = stolen.steal(&world);
    let host = session.info()["host_pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap();
    signal(host, Signal::KILL);
    drop(session.wait());
    restart();
    stolen.is_over(&format!("SIGKILL of the host and a restart of {component}"));
}
