//! The agent as an ephemeral container of the target's pod: all that a Job's agent does, and what it leaves is one ended container.

use mirrord_tests::{GONE, Stolen, User, World, request, signal, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A configuration file with such an agent.
fn config(stolen: &Stolen, world: &World) -> String {
    let agent = stolen.namespace.cluster.ephemeral_agent(world);
    world.write("ephemeral.json", &json!({ "agent": agent }).to_string())
}

/// The states of the agents' containers in the pod, as Kubernetes tells them.
fn states(stolen: &Stolen) -> Vec<Value> {
    let pod = stolen.namespace.get(&["pod", "app"]);
    let statuses = pod["status"]["ephemeralContainerStatuses"].as_array().cloned().unwrap_or_default();
    statuses.into_iter().map(|status| status["state"].clone()).collect()
}

/// The target answers for itself, and the agent's container has ended.
#[track_caller]
fn is_over(stolen: &Stolen, what: &str) {
    stolen.is_over(what);
    wait_until("the agent's container has ended", GONE, || {
        let states = states(stolen);
        !states.is_empty() && states.iter().all(|state| state["terminated"].is_object())
    });
}

#[test]
fn it_does_what_a_job_does() {
    let Some(stolen) = Stolen::new("ephemeral", env!("CARGO_BIN_EXE_e2e-tool")) else { return };
    let world = World::new(User::Root);
    let config = config(&stolen, &world);
    let namespace = &stolen.namespace;
    let kubeconfig = namespace.cluster.kubeconfig_for(&world);
    let options = ["--kubeconfig", &kubeconfig, "-n", &namespace.name, "-t", "pod/app", "-f", &config];
    let script = "echo server=$KUBERNETES_SERVICE_HOST name=$(uname -n)
        cat /var/run/secrets/kubernetes.io/serviceaccount/namespace; echo
        exec 3<>/dev/tcp/127.0.0.1/8081
        printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3";
    let (done, events) = world.exec_to_end(&options, &["bash", "-c", script]);
    for wanted in ["server=10.96.0.1", "name=app", &namespace.name, "ok"] {
        assert!(done.out().contains(wanted), "{wanted} is missing in {}; {}", done.out(), done.err());
    }
    let told = |event: &Value| event.to_string().contains("Kubernetes cannot remove");
    assert!(events.iter().any(told), "what stays is said");
    println!("cold start to the end of the command: {:?}", done.took);
    is_over(&stolen, "end of the command");

    let session = stolen.steal_with(&world, &kubeconfig, &["-f", &config]);
    assert_eq!(namespace.agents(), [""; 0], "no job, no pod, no ConfigMap");
    session.mode(8080, "mirror");
    session.wait_mode(8080, "mirror");
    assert!(stolen.answers(), "the pod answers what is mirrored");
    session.wait_event("the mirrored request", |event| request(event, "mirror", "/", 200));
    session.mode(8080, "steal");
    session.wait_mode(8080, "steal");
    assert!(stolen.is_stolen());
    session.stop();
    is_over(&stolen, "stop");
}

#[test]
fn it_ends_by_itself_when_the_host_is_killed() {
    let Some(stolen) = Stolen::new("eph-kill", env!("CARGO_BIN_EXE_e2e-tool")) else { return };
    let world = World::new(User::Root);
    let config = config(&stolen, &world);
    let kubeconfig = stolen.namespace.cluster.kubeconfig_for(&world);
    let session = stolen.steal_with(&world, &kubeconfig, &["-f", &config]);
    let host = session.info()["host_pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap();
    signal(host, Signal::KILL);
    drop(session.wait());
    is_over(&stolen, "SIGKILL of the host");
}

/// It is among the processes of the target's container, and ends with them.
#[test]
fn a_container_that_is_started_again_gets_another() {
    let Some(stolen) = Stolen::new("eph-again", env!("CARGO_BIN_EXE_e2e-tool")) else { return };
    let world = World::new(User::Root);
    let config = config(&stolen, &world);
    let kubeconfig = stolen.namespace.cluster.kubeconfig_for(&world);
    let session = stolen.steal_with(&world, &kubeconfig, &["-f", &config]);
    assert_eq!(states(&stolen).len(), 1);
    stolen.namespace.crash("app");
    wait_until("another agent steals", GONE, || {
        let states = states(&stolen);
        states.iter().any(|state| state["terminated"].is_object())
            && states.iter().any(|state| state["running"].is_object())
            && stolen.is_stolen()
    });
    session.wait_mode(8080, "steal");
    session.stop();
    is_over(&stolen, "stop after the end of the target's container");
}

/// The agent listens in the pod's own network: whoever took its port would cut off the session.
#[test]
fn its_own_port_is_not_taken() {
    let Some(stolen) = Stolen::new("eph-port", env!("CARGO_BIN_EXE_e2e-tool")) else { return };
    let world = World::new(User::Root);
    let config = config(&stolen, &world);
    let namespace = &stolen.namespace;
    let kubeconfig = namespace.cluster.kubeconfig_for(&world);
    let tool = world.install(env!("CARGO_BIN_EXE_e2e-tool"));
    let (port_file, log) = (world.home().join("port"), world.home().join("own.log"));
    let script = format!(
        "until read port < {}; do sleep 0.1; done 2>/dev/null; exec {tool} clerk $port own {}",
        port_file.display(),
        log.display()
    );
    let options =
        ["--kubeconfig", &kubeconfig, "-n", &namespace.name, "-t", "pod/app", "-f", &config, "--steal"];
    let session = world.exec(&options, &["bash", "-c", &script]);
    let pod = namespace.get(&["pod", "app"]);
    let listen = pod["spec"]["ephemeralContainers"][0]["command"][2].as_str().unwrap_or_default();
    let port = listen.rsplit(':').next().and_then(|port| port.parse::<u16>().ok()).unwrap();
    std::fs::write(&port_file, format!("{port}\n")).unwrap();
    session.wait_event("the agent refuses", |event| event.to_string().contains("is the agent's own"));
    session.stop();
    is_over(&stolen, "stop");
}

#[test]
fn what_cannot_work_is_said_before() {
    let Some(stolen) = Stolen::new("eph-fail", env!("CARGO_BIN_EXE_e2e-tool")) else { return };
    let world = World::new(User::Root);
    let namespace = &stolen.namespace;
    let kubeconfig = namespace.cluster.kubeconfig_for(&world);
    let refused = |agent: Value, wanted: &[&str]| {
        let config = world.write("fail.json", &json!({ "agent": agent }).to_string());
        let options = ["--kubeconfig", &kubeconfig, "-n", &namespace.name, "-t", "pod/app", "-f", &config];
        let (done, _) = world.exec_to_end(&options, &["true"]);
        let said = done.err();
        assert!(!done.status.success(), "it worked: {said}");
        for text in wanted {
            assert!(said.contains(text), "`{text}` is missing in: {said}");
        }
    };
    refused(json!({"ephemeral": true}), &["needs `agent.image`"]);
    let label = "pod-security.kubernetes.io/enforce=baseline";
    namespace.cluster.kubectl(&["label", "namespace", &namespace.name, label]);
    let agent = json!({"ephemeral": true, "image": "registry.test/nothing:1"});
    refused(agent.clone(), &["baseline", "SYS_PTRACE"]);
    namespace.cluster.kubectl(&[
        "label",
        "namespace",
        &namespace.name,
        "pod-security.kubernetes.io/enforce-",
    ]);
    refused(agent, &["mage", "registry.test/nothing:1"]);
    assert!(stolen.answers());
}
