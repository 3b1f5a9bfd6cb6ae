//! What can go wrong with a cluster: one sentence with the subject and its cause, what to do, and nothing left behind.

use std::net::TcpListener;

use mirrord_tests::{Cluster, Finished, Namespace, User, World};

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

#[test]
fn a_right_that_is_missing_is_named() {
    let Some((namespace, world, _)) = hello("rights") else { return };
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
    let own = world.file("dev", &own).to_string_lossy().into_owned();
    let options = ["--kubeconfig", &own, "-t", "pod/hello"];
    refused(&world, &options, &["may not", "pod"]);
    namespace.kubectl(&["create", "role", "pods", "--verb=get,list,watch", "--resource=pods"]);
    let account = format!("--serviceaccount={}:dev", namespace.name);
    namespace.kubectl(&["create", "rolebinding", "pods", "--role=pods", &account]);
    refused(&world, &options, &["jobs", "configmaps", "pods/portforward"]);
    namespace.no_agents();
    namespace.create(include_str!("../../assets/rbac/role.yaml"));
    namespace.kubectl(&["create", "rolebinding", "all", "--role=mirrord-tui", &account]);
    let (done, _) = world.exec_to_end(&options, &["true"]);
    assert!(done.status.success(), "these rights suffice: {}", done.err());
    let expired = changed(&world, &own, "expired", |line| line.replace("token: '", "token: 'x"));
    refused(&world, &["--kubeconfig", &expired, "-t", "pod/hello"], &["does not accept the credentials"]);
}
