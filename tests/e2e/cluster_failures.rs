//! What can go wrong with a cluster: one sentence with the subject and its cause, what to do, and nothing left behind.

use std::net::TcpListener;

use mirrord_tests::{Cluster, Finished, GONE, LIMIT, Namespace, Stolen, User, World, wait_for, wait_until};
use serde_json::{Value, json};

/// `exec` against a pod; it must fail, with all of `wanted` in what it says.
#[track_caller]
fn refused(world: &World, options: &[&str], wanted: &[&str]) -> Finished {
    let (done, _) = world.exec_to_end(options, &["true"]);
    assert!(!done.status.success(), "it worked: {}", done.err());
    let said = done.err();
    for text in wanted {
        assert!(said.contains(text), "`{text}` is missing in: {said}");
    }
    println!("{}", said.lines().find(|line| line.contains(wanted[0])).unwrap_or_default());
    done
}

fn hello(test: &str) -> Option<(Namespace, World, String)> {
    let namespace = Cluster::get(test)?.namespace(test);
    namespace.pod("hello", "hello", &[]);
    let world = World::new(User::Root);
    let kubeconfig = namespace.cluster.kubeconfig_for(&world);
    Some((namespace, world, kubeconfig))
}

/// A kubeconfig with another server or other credentials.
fn changed(world: &World, kubeconfig: &str, name: &str, change: impl Fn(&str) -> String) -> String {
    let content = std::fs::read_to_string(kubeconfig).unwrap();
    let lines: Vec<_> = content.lines().map(change).collect();
    world.file(name, &lines.join("\n")).to_string_lossy().into_owned()
}

#[test]
fn a_cluster_that_is_not_there_is_named() {
    let world = World::new(User::Root);
    refused(&world, &["-t", "pod/hello"], &["there is no kubeconfig"]);
    let Some((_hello, world, kubeconfig)) = hello("away") else { return };
    // A port that was free a moment ago: nobody listens.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let away = changed(&world, &kubeconfig, "away", |line| line.replace(Cluster::SERVER, &free.to_string()));
    refused(&world, &["--kubeconfig", &away, "-t", "pod/hello"], &["cannot be reached", &free.to_string()]);
    refused(
        &world,
        &["--kubeconfig", &kubeconfig, "--context", "other", "-t", "pod/hello"],
        &["no context `other`"],
    );
}

#[test]
fn a_target_that_is_not_there_is_named() {
    let Some((namespace, world, kubeconfig)) = hello("missing") else { return };
    let refused = |target: &str, wanted: &[&str]| {
        let options = ["--kubeconfig", &kubeconfig, "-n", &namespace.name, "-t", target];
        refused(&world, &options, wanted)
    };
    refused("pod/nobody", &["there is no pod `nobody`", &namespace.name]);
    refused("pod/hello/container/nobody", &["no container `nobody`"]);
    namespace.create(
        r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "late"}, "spec": {"nodeName": "node1",
            "containers": [{"name": "c", "image": "registry.test/nothing:1", "imagePullPolicy": "Never"}]}}"#,
    );
    refused("pod/late", &["late", "not"]);
    // Process 1 does not listen to SIGTERM, so that the deletion takes its time.
    namespace.pod("going", "busybox", &["busybox", "sleep", "3600"]);
    namespace.kubectl(&["delete", "pod", "going", "--wait=false"]);
    refused("pod/going", &["going", "being deleted"]);
    namespace.create(
        r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "half"}, "spec": {"restartPolicy": "Never", "containers": [
            {"name": "runs", "image": "registry.test/hello:1"},
            {"name": "ended", "image": "registry.test/busybox:1", "command": ["true"]}]}}"#,
    );
    wait_until("one container has ended", LIMIT, || {
        namespace.get(&["pod", "half"]).to_string().contains("\"terminated\":{")
    });
    refused("pod/half/container/ended", &["`ended`", "terminated"]);
    namespace.kubectl(&["delete", "pod", "going", "--force", "--grace-period=0"]);
}

#[test]
fn an_agent_that_may_not_run_is_explained() {
    let Some((namespace, world, kubeconfig)) = hello("may") else { return };
    let restricted = namespace.cluster.namespace("restricted");
    let label = "pod-security.kubernetes.io/enforce=restricted";
    namespace.cluster.kubectl(&["label", "namespace", &restricted.name, label]);
    let config =
        world.file("config.json", &format!(r#"{{"agent": {{"namespace": "{}"}}}}"#, restricted.name));
    let config = config.to_string_lossy();
    let options = ["--kubeconfig", &kubeconfig, "-n", &namespace.name, "-t", "pod/hello", "-f", &config];
    let done = refused(&world, &options, &["restricted", "agent.namespace"]);
    println!("pod security: {:?}", done.took);
    restricted.no_agents();

    let config = world.file("image.json", r#"{"agent": {"image": "registry.test/nothing:1"}}"#);
    let config = config.to_string_lossy();
    let options = ["--kubeconfig", &kubeconfig, "-n", &namespace.name, "-t", "pod/hello", "-f", &config];
    let done = refused(&world, &options, &["mage", "registry.test/nothing:1"]);
    println!("image: {:?}", done.took);
    namespace.no_agents();

    namespace.create(
        r#"{"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": {"configmaps": "2"}}}"#,
    );
    let options = ["--kubeconfig", &kubeconfig, "-n", &namespace.name, "-t", "pod/hello"];
    refused(&world, &options, &["quota `few`", "configmaps"]);
    namespace.no_agents();
}

/// A user of whom the cluster knows no right; its kubeconfig.
fn dev(namespace: &Namespace, world: &World) -> String {
    namespace.kubectl(&["create", "serviceaccount", "dev"]);
    let token = namespace.kubectl(&["create", "token", "dev"]);
    let own = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: dev\n\
         clusters: [{{name: c, cluster: {{server: 'https://{}', insecure-skip-tls-verify: true}}}}]\n\
         users: [{{name: dev, user: {{token: '{}'}}}}]\n\
         contexts: [{{name: dev, context: {{cluster: c, user: dev, namespace: {}}}}}]\n",
        Cluster::SERVER,
        token.trim(),
        namespace.name
    );
    world.file("dev", &own).to_string_lossy().into_owned()
}

/// Lets the user do what a role says.
fn bind(namespace: &Namespace, role: &str) {
    let account = format!("--serviceaccount={}:dev", namespace.name);
    namespace.kubectl(&[
        "create",
        "rolebinding",
        &format!("dev-{role}"),
        &format!("--role={role}"),
        &account,
    ]);
}

#[test]
fn a_right_that_is_missing_is_named() {
    let Some((namespace, world, _)) = hello("rights") else { return };
    let own = dev(&namespace, &world);
    let options = ["--kubeconfig", &own, "-t", "pod/hello"];
    refused(&world, &options, &["may not", "pod"]);
    namespace.kubectl(&["create", "role", "pods", "--verb=get,list,watch", "--resource=pods"]);
    bind(&namespace, "pods");
    refused(&world, &options, &["jobs", "configmaps", "pods/portforward"]);
    namespace.no_agents();
    namespace.create(include_str!("../../assets/rbac/role.yaml"));
    bind(&namespace, "mirrord-tui");
    let (done, _) = world.exec_to_end(&options, &["true"]);
    assert!(done.status.success(), "these rights suffice: {}", done.err());
    let expired = changed(&world, &own, "expired", |line| line.replace("token: '", "token: 'x"));
    refused(&world, &["--kubeconfig", &expired, "-t", "pod/hello"], &["does not accept the credentials"]);
}

/// Another form of the agent, and other rights: no job, no ConfigMap.
#[test]
fn an_ephemeral_container_has_a_role_of_its_own() {
    let Some((namespace, world, _)) = hello("eph-rights") else { return };
    let image = namespace.cluster.agent_image(&world);
    let config =
        world.write("ephemeral.json", &json!({"agent": {"image": image, "ephemeral": true}}).to_string());
    let own = dev(&namespace, &world);
    let options = ["--kubeconfig", &own, "-t", "pod/hello", "-f", &config];
    namespace.kubectl(&["create", "role", "pods", "--verb=get,list,watch", "--resource=pods"]);
    bind(&namespace, "pods");
    refused(&world, &options, &["patch pods/ephemeralcontainers", "pods/portforward"]);
    namespace.create(include_str!("../../assets/rbac/ephemeral.yaml"));
    bind(&namespace, "mirrord-tui-ephemeral");
    let (done, _) = world.exec_to_end(&options, &["true"]);
    assert!(done.status.success(), "these rights suffice: {}", done.err());
}

/// Every right of the shipped role is taken away once: it is missed before anything is created, by its name. Only `patch`, by which
/// colleagues learn of a switch, is nothing that a session needs.
#[test]
fn each_right_is_missed() {
    let Some((namespace, world, _)) = hello("each-right") else { return };
    let own = dev(&namespace, &world);
    namespace.create(include_str!("../../assets/rbac/role.yaml"));
    bind(&namespace, "mirrord-tui");
    let shipped = namespace.get(&["role", "mirrord-tui"])["rules"].clone();
    for (number, rule) in shipped.as_array().unwrap().iter().enumerate() {
        for verb in rule["verbs"].as_array().unwrap().iter().filter_map(Value::as_str) {
            let mut rules = shipped.clone();
            rules[number]["verbs"].as_array_mut().unwrap().retain(|other| *other != *verb);
            if rules[number]["verbs"] == json!([]) {
                rules.as_array_mut().unwrap().remove(number);
            }
            let patch = json!([{"op": "replace", "path": "/rules", "value": rules}]).to_string();
            namespace.kubectl(&["patch", "role", "mirrord-tui", "--type=json", "-p", &patch]);
            let resource = rule["resources"][0].as_str().unwrap();
            let may = || {
                let mut question = vec!["--kubeconfig", &own, "auth", "can-i", verb];
                match resource.split_once('/') {
                    Some((of, part)) => question.extend([of, "--subresource", part]),
                    None => question.push(resource),
                }
                namespace.cluster.try_kubectl(&question).is_ok()
            };
            wait_until("the right is gone", LIMIT, || !may());
            if verb == "patch" {
                let (done, _) = world.exec_to_end(&["--kubeconfig", &own, "-t", "pod/hello"], &["true"]);
                assert!(done.status.success(), "`{verb} {resource}` is not needed: {}", done.err());
                namespace.no_agents();
                continue;
            }
            let done = refused(&world, &["--kubeconfig", &own, "-t", "pod/hello"], &["may not"]);
            let said = done.err();
            // Without the first of all rights nobody gets so far as to be asked about the others.
            let named =
                said.contains(&format!("{verb} {resource}")) || said.contains("may not read pod `hello`");
            assert!(named, "`{verb} {resource}` is not named: {said}");
            assert!(namespace.agents().is_empty(), "without `{verb} {resource}` something was created");
        }
    }
}

#[test]
fn credentials_and_certificates_that_do_not_work_are_explained() {
    let Some((_hello, world, kubeconfig)) = hello("login") else { return };
    let broken = world.file("broken", "clusters: [").to_string_lossy().into_owned();
    refused(&world, &["--kubeconfig", &broken, "-t", "pod/hello"], &["cannot be used", &broken]);
    let distrusted = changed(&world, &kubeconfig, "distrusted", |line| {
        let authority = line.split_once(", certificate-authority-data: ");
        authority.map_or_else(|| line.to_owned(), |(server, _)| format!("{server}}}}}]"))
    });
    let wanted = ["cannot be reached", "--accept-invalid-certificates"];
    refused(&world, &["--kubeconfig", &distrusted, "-t", "pod/hello"], &wanted);
    for (program, script, wanted) in [
        ("/does/not/exist", "", "/does/not/exist"),
        ("sh", "echo the session has ended >&2; exit 3", "the session has ended"),
    ] {
        let exec = json!({
            "apiVersion": "client.authentication.k8s.io/v1", "command": program, "args": ["-c", script],
            "interactiveMode": "Never",
        });
        let file = changed(&world, &kubeconfig, "plugin", |line| {
            if !line.starts_with("users: ") {
                return line.to_owned();
            }
            format!("users: [{{name: admin, user: {{exec: {exec}}}}}]")
        });
        refused(&world, &["--kubeconfig", &file, "-t", "pod/hello"], &["gives no credentials", wanted]);
    }
}

#[test]
fn an_api_server_that_says_nothing_is_not_waited_for_long() {
    let Some((_hello, world, kubeconfig)) = hello("silent") else { return };
    // It accepts, as a firewall's end does, and that is all.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let kubeconfig = changed(&world, &kubeconfig, "silent", |line| line.replace(Cluster::SERVER, &address));
    let done = refused(&world, &["--kubeconfig", &kubeconfig, "-t", "pod/hello"], &[&address]);
    assert!(done.took < LIMIT, "it took {:?}", done.took);
}

/// A node that exists on paper only, with a pod that is said to run there.
fn paper_node(namespace: &Namespace, pods: &str, architecture: &str) -> String {
    let node = format!("{}-{architecture}-{pods}", namespace.name);
    namespace.create(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}}).to_string());
    let status = json!({"status": {
        "allocatable": {"pods": pods},
        "capacity": {"pods": pods},
        "nodeInfo": {
            "architecture": architecture, "operatingSystem": "linux", "bootID": "", "containerRuntimeVersion": "",
            "kernelVersion": "", "kubeProxyVersion": "", "kubeletVersion": "v1.34.0", "machineID": "", "osImage": "",
            "systemUUID": "",
        },
    }});
    namespace.kubectl(&["patch", "node", &node, "--subresource=status", "-p", &status.to_string()]);
    let container = json!({"name": "c", "image": "registry.test/hello:1"});
    let spec = json!({"nodeName": node, "containers": [container], "tolerations": [{"operator": "Exists"}]});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": node}, "spec": spec});
    namespace.create(&pod.to_string());
    let now = namespace.get(&["pod", &node])["metadata"]["creationTimestamp"].clone();
    let running = json!({"name": "c", "image": "registry.test/hello:1", "imageID": "", "ready": true, "restartCount": 0,
        "containerID": "containerd://00", "state": {"running": {"startedAt": now}}});
    let status = json!({"status": {"phase": "Running", "containerStatuses": [running]}});
    namespace.kubectl(&["patch", "pod", &node, "--subresource=status", "-p", &status.to_string()]);
    node
}

#[test]
fn a_node_that_cannot_take_the_agent_is_named() {
    let Some((namespace, world, kubeconfig)) = hello("nodes") else { return };
    let other = if cfg!(target_arch = "x86_64") { "arm64" } else { "amd64" };
    let own = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let options = ["--kubeconfig", &kubeconfig, "-n", &namespace.name, "-t"];
    let foreign = paper_node(&namespace, "10", other);
    let full = paper_node(&namespace, "1", own);
    let target = format!("pod/{foreign}");
    refused(&world, &[&options[..], &[&target]].concat(), &[&foreign, &format!("linux/{other}")]);
    let target = format!("pod/{full}");
    refused(&world, &[&options[..], &[&target]].concat(), &[&full, "may run 1", "no room for an agent"]);
    for node in [foreign, full] {
        namespace.kubectl(&["delete", "pod", &node, "--force", "--grace-period=0"]);
        namespace.kubectl(&["delete", "node", &node]);
    }
    // What only the kubelet knows: the node has no such amount left.
    let greedy = r#"{"agent": {"resources": {"requests": {"cpu": "1000"}, "limits": {"cpu": "1000"}}}}"#;
    let greedy = world.file("greedy.json", greedy).to_string_lossy().into_owned();
    refused(
        &world,
        &[&options[..], &["pod/hello", "-f", &greedy]].concat(),
        &["OutOfcpu", "the node is full"],
    );
    namespace.no_agents();
}

#[test]
fn an_agent_with_too_little_memory_says_so() {
    let Some((namespace, world, kubeconfig)) = hello("memory") else { return };
    let refused = |memory: &str, wanted: &[&str]| {
        // One that does not even begin is waited for, for it might.
        let config = json!({"agent": {"startup_timeout": 10, "resources": {"limits": {"memory": memory}}}});
        let config = world.file("little.json", &config.to_string()).to_string_lossy().into_owned();
        let options = ["--kubeconfig", &kubeconfig, "-n", &namespace.name, "-t", "pod/hello", "-f", &config];
        refused(&world, &options, wanted);
        namespace.no_agents();
    };
    refused("6Mi", &["OOMKilled", "agent.resources"]);
    // The limit is also the size of the volume that brings it.
    refused("1Mi", &["within 10 s", "ContainerCreating: ", "no space left"]);
}

#[test]
fn an_agent_that_is_killed_is_explained() {
    killed(
        "killed",
        Namespace::crash,
        &["the agent has ended again (", "exit code 137", "logs of its machine or node"],
    );
}

#[test]
fn an_agent_that_runs_out_of_memory_is_explained() {
    killed(
        "oom",
        Namespace::starve,
        &["the agent has ended again (OOMKilled, exit code 137)", "agent.resources"],
    );
}

/// The first time the agent gets a successor, the second time the session says why it ends.
#[track_caller]
fn killed(test: &str, kill: fn(&Namespace, &str), wanted: &[&str]) {
    let Some(stolen) = Stolen::new(test, env!("CARGO_BIN_EXE_e2e-tool")) else { return };
    let world = World::new(User::Root);
    let kubeconfig = stolen.namespace.cluster.kubeconfig_for(&world);
    let config = world.write("limit.json", r#"{"agent": {"resources": {"limits": {"memory": "128Mi"}}}}"#);
    let session = stolen.steal_with(&world, &kubeconfig, &["-f", &config]);
    let first = stolen.namespace.agent_pod();
    kill(&stolen.namespace, &first);
    let second = wait_for("the next agent", GONE, || {
        let agents = stolen.namespace.agents();
        agents
            .iter()
            .find_map(|agent| agent.strip_prefix("Pod ").filter(|pod| *pod != first).map(str::to_owned))
    });
    wait_until("the next agent steals", GONE, || stolen.is_stolen());
    kill(&stolen.namespace, &second);
    let ended = session.wait();
    assert!(!ended.status.success());
    for text in wanted {
        assert!(ended.stderr.contains(text), "`{text}` is missing in: {}", ended.stderr);
    }
    stolen.is_over(test);
}
