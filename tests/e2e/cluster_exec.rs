//! `exec` in the context of a pod of a real cluster: everything that works on a local pod works there.

use mirrord_tests::{Cluster, LIMIT, Namespace, User, World, for_every_user, request, wait_for, wait_until};
use serde_json::Value;

/// A pod without a shell, without a writable folder and without any capability, with configuration of all kinds.
const SHOP: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {COLOR: blue, settings.toml: "depth = 3\n"}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {API_KEY: s3cret, key.pem: "a private key\n"}
---
apiVersion: v1
kind: Service
metadata: {name: store}
spec: {selector: {app: shop}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: shop, labels: {app: shop}}
spec:
  containers:
  - name: web
    image: registry.test/hello:1
    env:
    - {name: COLOR, valueFrom: {configMapKeyRef: {name: settings, key: COLOR}}}
    - {name: API_KEY, valueFrom: {secretKeyRef: {name: keys, key: API_KEY}}}
    ports: [{containerPort: 8080}]
    securityContext:
      runAsNonRoot: true
      readOnlyRootFilesystem: true
      allowPrivilegeEscalation: false
      capabilities: {drop: [ALL]}
      seccompProfile: {type: RuntimeDefault}
    volumeMounts:
    - {name: settings, mountPath: /config/shop}
    - {name: keys, mountPath: /config/keys}
  volumes:
  - {name: settings, configMap: {name: settings}}
  - {name: keys, secret: {secretName: keys}}
"#;

fn shop(test: &str) -> Option<Namespace> {
    let namespace = Cluster::get(test)?.namespace(test);
    namespace.create(SHOP);
    namespace.ready("shop");
    Some(namespace)
}

#[test]
fn a_command_has_what_the_pod_has() {
    let Some(shop) = shop("has") else { return };
    for_every_user(|user| {
        let world = World::new(user);
        let kubeconfig = shop.cluster.kubeconfig_for(&world);
        let options = ["--kubeconfig", &kubeconfig, "-n", &shop.name, "-t", "pod/shop"];
        let script = "echo color=$COLOR key=$API_KEY
            cat /config/shop/settings.toml /config/keys/key.pem
            cat /var/run/secrets/kubernetes.io/serviceaccount/namespace; echo
            until exec 3<>/dev/tcp/store/80; do sleep 0.1; done
            printf 'GET / HTTP/1.1\\r\\nHost: store\\r\\nConnection: close\\r\\n\\r\\n' >&3
            head -n 1 <&3
            exit 7";
        let (done, events) = world.exec_to_end(&options, &["bash", "-c", script]);
        assert_eq!(done.code(), Some(7), "{}", done.err());
        let out = done.out();
        for wanted in ["color=blue key=s3cret", "depth = 3", "a private key", &shop.name, "HTTP/1.1 200"] {
            assert!(out.contains(wanted), "{wanted} is missing in {out}; {}", done.err());
        }
        let name = format!("store.{}.svc.cluster.local", shop.name);
        let asked = |event: &Value| event["kind"] == "dns" && event.to_string().contains(&name);
        assert!(events.iter().any(asked), "nobody has asked for {name}");
        println!("cold start to the end of the command: {:?}", done.took);
        shop.no_agents();
    });
}

#[test]
fn a_port_is_mirrored_stolen_and_given_back() {
    let Some(shop) = shop("ports") else { return };
    let address =
        shop.get(&["pod", "shop"])["status"]["podIP"].as_str().map(str::to_owned).unwrap_or_default();
    shop.customer();
    let url = format!("http://{address}:8080/");
    let of_pod = || shop.ask(&url).is_some_and(|answer| answer.contains("\"served_by\":\"shop\""));
    assert!(of_pod());
    for_every_user(|user| {
        let world = World::new(user);
        let tool = world.install(env!("CARGO_BIN_EXE_e2e-tool"));
        let log = world.home().join("own.log").to_string_lossy().into_owned();
        let kubeconfig = shop.cluster.kubeconfig_for(&world);
        let options = ["--kubeconfig", &kubeconfig, "-n", &shop.name, "-t", "pod/shop", "-p", "8080"];
        let session = world.exec(&options, &[&tool, "clerk", "8080", "own", &log]);
        session.wait_line("listening");
        session.wait_mode(8080, "mirror");
        assert!(of_pod(), "the pod answers what is mirrored");
        session.wait_event("the mirrored request", |event| request(event, "mirror", "/", 200));

        session.mode(8080, "steal");
        session.wait_mode(8080, "steal");
        let own = shop.ask(&url).unwrap();
        assert!(own.starts_with("own "), "the local process answers what is stolen: {own}");
        let customer = shop.get(&["pod", "customer"])["status"]["podIP"].as_str().map(str::to_owned).unwrap();
        assert!(own.contains(&customer), "it sees the customer's address {customer}: {own}");

        session.mode(8080, "mirror");
        session.wait_mode(8080, "mirror");
        assert!(of_pod(), "the pod answers again");

        session.mode(8080, "steal");
        session.wait_mode(8080, "steal");
        session.stop();
        wait_until("the pod answers after the session", LIMIT, of_pod);
        println!("gone after {:?}", shop.no_agents());
    });
}

#[test]
fn a_container_that_starts_again_is_followed() {
    let Some(cluster) = Cluster::get("follow") else { return };
    let follow = cluster.namespace("follow");
    let server = "import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b'pod')
http.server.HTTPServer(('', 8080), Handler).serve_forever()";
    let address = follow.pod("app", "python", &["python3", "-c", server]);
    follow.customer();
    let url = format!("http://{address}:8080/");
    let world = World::new(User::Root);
    let tool = world.install(env!("CARGO_BIN_EXE_e2e-tool"));
    let log = world.home().join("own.log").to_string_lossy().into_owned();
    let kubeconfig = cluster.kubeconfig_for(&world);
    let options = ["--kubeconfig", &kubeconfig, "-n", &follow.name, "-t", "pod/app", "-p", "8080", "--steal"];
    let session = world.exec(&options, &[&tool, "clerk", "8080", "own", &log]);
    session.wait_mode(8080, "steal");
    let first = follow.agent_pod();
    // SIGINT, for process 1 takes only signals that it has a handler for; the kubelet starts the container again.
    follow.kubectl(&["exec", "app", "--", "busybox", "kill", "-INT", "1"]);
    let second = wait_for("the next agent", 3 * LIMIT, || {
        let pods = follow.agents();
        pods.iter().find_map(|pod| pod.strip_prefix("Pod ").filter(|pod| *pod != first).map(str::to_owned))
    });
    println!("{first} was followed by {second}");
    wait_until("the port is stolen again", 3 * LIMIT, || {
        follow.ask(&url).is_some_and(|answer| answer.starts_with("own "))
    });
    session.stop();
}

#[test]
fn an_agent_can_come_out_of_an_image() {
    let Some(shop) = shop("image") else { return };
    let world = World::new(User::Root);
    let image = shop.cluster.agent_image(&world);
    let config = world.write("image.json", &format!(r#"{{"agent": {{"image": "{image}"}}}}"#));
    let kubeconfig = shop.cluster.kubeconfig_for(&world);
    let options = ["--kubeconfig", &kubeconfig, "-n", &shop.name, "-t", "pod/shop", "-f", &config];
    let session = world.exec(&options, &["bash", "-c", "cat /config/shop/settings.toml; sleep 600"]);
    session.wait_line("depth = 3");
    let agents = shop.agents();
    assert!(agents.iter().any(|agent| agent.starts_with("Pod ")), "{agents:?}");
    assert!(
        !agents.iter().any(|agent| agent.starts_with("ConfigMap ")),
        "an image needs no ConfigMap: {agents:?}"
    );
    session.stop();
    shop.no_agents();
}
