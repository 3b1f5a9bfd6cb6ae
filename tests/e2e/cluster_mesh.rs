//! Pods whose traffic a service mesh takes: `tests/victims/sidecar.py` stands for the proxy, the rules are those that Istio and Linkerd
//! write. Mirror and steal see what the proxy hands to the application, once, and what goes out passes the proxy as well.

use mirrord_tests::{Cluster, LIMIT, Namespace, User, World, request, wait_until};
use serde_json::{Value, json};

/// The proxies and the application.
const SIDECAR: &str = include_str!("../victims/sidecar.py");

/// How a mesh puts itself into a pod.
struct Mesh {
    /// Mode of `sidecar.py`.
    mode: &'static str,
    /// What preflight calls it.
    named: &'static str,
    /// Its container, and the user that it runs as.
    proxy: (&'static str, u32),
    /// The container that has written the rules, or has checked that somebody else did.
    init: Option<&'static str>,
    annotations: Value,
    /// iptables as it writes them; legacy ones and those of nf_tables end up in different tables of the kernel.
    restore: &'static str,
    rules: &'static str,
    peer: Peer,
}

/// Where the agent is.
#[derive(Clone, Copy)]
enum Agent {
    Job,
    Ephemeral,
}

/// Whom the application sees behind the proxy.
#[derive(Clone, Copy)]
enum Peer {
    Fixed(&'static str),
    Pod,
    Client,
}

const ISTIO: &str = "*nat
-N ISTIO_INBOUND
-N ISTIO_IN_REDIRECT
-N ISTIO_OUTPUT
-N ISTIO_REDIRECT
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A OUTPUT -p tcp -j ISTIO_OUTPUT
-A ISTIO_INBOUND -p tcp -m tcp --dport 15008 -j RETURN
-A ISTIO_INBOUND -p tcp -m tcp --dport 15090 -j RETURN
-A ISTIO_INBOUND -p tcp -m tcp --dport 15021 -j RETURN
-A ISTIO_INBOUND -p tcp -m tcp --dport 15020 -j RETURN
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --gid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
COMMIT
";

const LINKERD: &str = "*nat
-N PROXY_INIT_REDIRECT
-N PROXY_INIT_OUTPUT
-A PREROUTING -m comment --comment proxy-init/install-proxy-init-prerouting -j PROXY_INIT_REDIRECT
-A OUTPUT -m comment --comment proxy-init/install-proxy-init-output -j PROXY_INIT_OUTPUT
-A PROXY_INIT_REDIRECT -p tcp -m multiport --dports 4190,4191,4567,4568 -j RETURN
-A PROXY_INIT_REDIRECT -p tcp -m comment --comment proxy-init/redirect-all-incoming-to-proxy-port -j REDIRECT --to-ports 4143
-A PROXY_INIT_OUTPUT -m owner --uid-owner 2102 -m comment --comment proxy-init/ignore-proxy-user-id -j RETURN
-A PROXY_INIT_OUTPUT -o lo -m comment --comment proxy-init/ignore-loopback -j RETURN
-A PROXY_INIT_OUTPUT -p tcp -m multiport --dports 4567,4568 -j RETURN
-A PROXY_INIT_OUTPUT -p tcp -m comment --comment proxy-init/redirect-all-outgoing-to-proxy-port -j REDIRECT --to-ports 4140
COMMIT
";

const AMBIENT: &str = "*mangle
-N ISTIO_PRERT
-N ISTIO_OUTPUT
-A PREROUTING -j ISTIO_PRERT
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_PRERT -m mark --mark 0x539/0xfff -j CONNMARK --set-xmark 0x111/0xfff
-A ISTIO_OUTPUT -m connmark --mark 0x111/0xfff -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff
COMMIT
*nat
-N ISTIO_PRERT
-N ISTIO_OUTPUT
-A PREROUTING -j ISTIO_PRERT
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_PRERT ! -d 127.0.0.1/32 -p tcp -m tcp ! --dport 15008 -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15006
-A ISTIO_OUTPUT -p tcp -m mark --mark 0x111/0xfff -j ACCEPT
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -j ACCEPT
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -p tcp -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15001
COMMIT
";

#[test]
fn istio_with_an_init_container() {
    works_behind("mesh-istio", &istio(), Agent::Job);
}

/// Its process is in the pod, and the proxy's rules hold for what it sends as well.
#[test]
fn istio_with_an_agent_in_the_pod() {
    works_behind("mesh-ephemeral", &istio(), Agent::Ephemeral);
}

fn istio() -> Mesh {
    Mesh {
        mode: "istio",
        named: "Istio (sidecar)",
        proxy: ("istio-proxy", 1337),
        init: Some("istio-init"),
        annotations: json!({}),
        restore: "iptables-nft-restore",
        rules: ISTIO,
        peer: Peer::Fixed("127.0.0.6"),
    }
}

#[test]
fn istio_with_its_cni_plugin() {
    let mesh = Mesh {
        named: "Istio (sidecar, CNI)",
        init: Some("istio-validation"),
        restore: "iptables-legacy-restore",
        ..istio()
    };
    works_behind("mesh-istio-cni", &mesh, Agent::Job);
}

#[test]
fn istio_without_sidecars() {
    let mesh = Mesh {
        mode: "ambient",
        named: "Istio (ambient)",
        // Not in the pod in truth, but its sockets are.
        proxy: ("ztunnel", 0),
        init: None,
        annotations: json!({"ambient.istio.io/redirection": "enabled"}),
        restore: "iptables-nft-restore",
        rules: AMBIENT,
        peer: Peer::Client,
    };
    works_behind("mesh-ambient", &mesh, Agent::Job);
}

#[test]
fn linkerd() {
    let mesh = Mesh {
        mode: "linkerd",
        named: "Linkerd",
        proxy: ("linkerd-proxy", 2102),
        init: Some("linkerd-init"),
        annotations: json!({"linkerd.io/inject": "enabled"}),
        restore: "iptables-legacy-restore",
        rules: LINKERD,
        peer: Peer::Pod,
    };
    works_behind("mesh-linkerd", &mesh, Agent::Job);
}

#[track_caller]
fn works_behind(test: &str, mesh: &Mesh, agent: Agent) {
    let Some(place) = Place::new(test, mesh) else { return };
    let world = World::new(User::Root);
    let cluster = place.namespace.cluster;
    let kubeconfig = cluster.kubeconfig_for(&world);
    let agent = match agent {
        Agent::Job => json!({}),
        Agent::Ephemeral => cluster.ephemeral_agent(&world),
    };
    let config = world.write("agent.json", &json!({ "agent": agent }).to_string());
    let target = ["--kubeconfig", &kubeconfig, "-n", &place.namespace.name, "-t", "pod/app", "-f", &config];

    let doctor = world.run([&["doctor"], &target[..]].concat());
    assert!(doctor.out().contains(mesh.named), "preflight does not name {}: {}", mesh.named, doctor.out());
    let tool = world.install(env!("CARGO_BIN_EXE_e2e-tool"));
    let log = world.home().join("own.log").to_string_lossy().into_owned();
    let options = [&target[..], &["-p", "8080"]].concat();
    let session = world.exec(&options, &[&tool, "clerk", "8080", "own", &log]);
    session.wait_line("listening");
    session.wait_mode(8080, "mirror");
    assert!(place.of_pod("/mirrored"), "the pod answers what is mirrored");
    session.wait_event("the mirrored request", |event| request(event, "mirror", "/mirrored", 200));

    session.mode(8080, "steal");
    session.wait_mode(8080, "steal");
    let stolen = place.ask("/stolen").expect("a stolen request is answered");
    assert_eq!(stolen, format!("own {}", place.peer), "behind the proxy comes the local process");
    session.wait_event("the stolen request", |event| request(event, "steal", "/stolen", 200));

    session.mode(8080, "mirror");
    session.wait_mode(8080, "mirror");
    assert!(place.of_pod("/again"), "the pod answers again");
    session.wait_event("the request after the steal", |event| request(event, "mirror", "/again", 200));
    let ended = session.stop();
    for path in ["/mirrored", "/stolen", "/again"] {
        let seen: Vec<&Value> =
            ended.events.iter().filter(|event| event["request"]["path"] == path).collect();
        assert_eq!(seen.len(), 1, "{path} is seen once: {seen:?}");
        let headers = seen.iter().map(|event| event["request"]["headers"].to_string()).collect::<String>();
        assert!(headers.contains("x-sidecar"), "{path} is seen behind the proxy: {headers}");
    }
    place.goes_out(&world, &target);
    place.namespace.no_agents();
    assert!(place.of_pod("/after"), "the mesh works on");
}

/// A pod of a mesh, a customer without one, and what they answer.
struct Place {
    namespace: Namespace,
    url: String,
    /// Whom the application sees.
    peer: String,
    address: String,
}

impl Place {
    fn new(test: &str, mesh: &Mesh) -> Option<Self> {
        let namespace = Cluster::get(test)?.namespace(test);
        namespace.create(&pod(mesh).to_string());
        let python = ["python3", "-c", SIDECAR, "app", "8080", "customer"];
        let customer = namespace.pod("customer", "python", &python);
        let address = namespace.ready("app");
        let peer = match mesh.peer {
            Peer::Fixed(peer) => peer.to_owned(),
            Peer::Pod => address.clone(),
            Peer::Client => customer,
        };
        let place = Self { namespace, url: format!("http://{address}:8080"), peer, address };
        place.in_network(&format!("{} <<'RULES'\n{}RULES", mesh.restore, mesh.rules));
        if mesh.mode == "ambient" {
            place.in_network("ip rule add fwmark 0x111/0xfff pref 32764 lookup 100 && ip route add local default dev lo table 100");
        }
        wait_until("the mesh takes the pod's traffic", LIMIT, || place.of_pod("/"));
        Some(place)
    }

    fn ask(&self, path: &str) -> Option<String> {
        self.namespace.ask(&format!("{}{path}", self.url))
    }

    /// Whether the pod itself answers, asked by its proxy.
    fn of_pod(&self, path: &str) -> bool {
        let answer = self.ask(path).unwrap_or_default();
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        let by_proxy = answer["headers"].to_string().contains("x-sidecar: in");
        answer["served_by"] == "app" && answer["peer"] == self.peer.as_str() && by_proxy
    }

    /// What the command sends goes through the proxy, as what the pod sends does.
    #[track_caller]
    fn goes_out(&self, world: &World, target: &[&str]) {
        let customer = self.namespace.get(&["pod", "customer"]);
        let script = format!(
            "exec 3<>/dev/tcp/{}/8080; printf 'GET /out HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n' >&3; read -r -t 10 -d '}}' <&3; echo \"$REPLY\"",
            customer["status"]["podIP"].as_str().unwrap_or_default()
        );
        let (done, _) = world.exec_to_end(target, &["bash", "-c", &script]);
        let out = done.out();
        assert!(out.contains("x-sidecar: out") && out.contains(&self.address), "{out}\n{}", done.err());
    }

    /// A command on the node in the network namespace of the pod, which has nobody who may write rules there.
    fn in_network(&self, command: &str) {
        let script = format!(
            "for name in $(ip netns list | cut -d ' ' -f 1); do
               if ip -n $name -4 -o address | grep -qF ' {}/'; then exec ip netns exec $name sh -c \"$0\"; fi
             done; echo no such pod >&2; exit 1",
            self.address
        );
        self.namespace.cluster.on_node(&["sh", "-c", &script, command]);
    }
}

/// The application and the proxy.
fn pod(mesh: &Mesh) -> Value {
    let (proxy, uid) = mesh.proxy;
    let container = |name: &str, command: &[&str]| json!({"name": name, "image": "registry.test/python:1", "command": command});
    let mut sidecar = container(proxy, &["python3", "-c", SIDECAR, mesh.mode]);
    sidecar["securityContext"] = if uid == 0 {
        json!({"capabilities": {"add": ["NET_ADMIN"]}})
    } else {
        json!({"runAsUser": uid, "runAsGroup": uid})
    };
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "app", "annotations": mesh.annotations},
        "spec": {
            "initContainers": mesh.init.map(|name| vec![container(name, &["busybox", "true"])]),
            "containers": [container("app", &["python3", "-c", SIDECAR, "app", "8080", "app"]), sidecar],
        },
    })
}
