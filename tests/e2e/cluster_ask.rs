//! What a cluster is asked without a session: `ls`, `doctor -t`, `doctor --clean`; and the ways to it: proxies, programs that give
//! credentials, the settings of a pod.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use mirrord_tests::{Cluster, Namespace, User, World, finish, signal, wait_until};
use rustix::process::Signal;
use serde_json::Value;

/// A deployment of two pods, and a world to look at it from.
fn shop(test: &str) -> Option<(Namespace, World, String)> {
    let namespace = Cluster::get(test)?.namespace(test);
    namespace.kubectl(&[
        "create",
        "deployment",
        "api",
        "--image=registry.test/hello:1",
        "--replicas=2",
        "--port=8080",
    ]);
    namespace.kubectl(&["rollout", "status", "deployment/api", "--timeout=60s"]);
    let world = World::new(User::Root);
    let kubeconfig = namespace.cluster.kubeconfig_for(&world);
    Some((namespace, world, kubeconfig))
}

/// The kubeconfig of a service account of the namespace that has the shipped Role.
fn developer(namespace: &Namespace, world: &World) -> String {
    let token = account(namespace);
    let user = format!("token: '{token}'");
    kubeconfig(namespace, world, "developer", &user, "")
}

/// A token of the service account `dev`, which is made with the shipped Role.
fn account(namespace: &Namespace) -> String {
    namespace.kubectl(&["create", "serviceaccount", "dev"]);
    namespace.create(include_str!("../../assets/rbac/role.yaml"));
    let subject = format!("--serviceaccount={}:dev", namespace.name);
    namespace.kubectl(&["create", "rolebinding", "dev", "--role=mirrord-tui", &subject]);
    namespace.kubectl(&["create", "token", "dev"]).trim().to_owned()
}

fn kubeconfig(namespace: &Namespace, world: &World, name: &str, user: &str, cluster: &str) -> String {
    let content = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: dev\n\
         clusters: [{{name: c, cluster: {{server: 'https://{}', insecure-skip-tls-verify: true{cluster}}}}}]\n\
         users: [{{name: dev, user: {{{user}}}}}]\n\
         contexts: [{{name: dev, context: {{cluster: c, user: dev, namespace: {}}}}}]\n",
        Cluster::SERVER,
        namespace.name
    );
    world.file(name, &content).to_string_lossy().into_owned()
}

#[test]
fn targets_are_listed_and_looked_at() {
    let Some((namespace, world, kubeconfig)) = shop("look") else { return };
    let own = ["--kubeconfig", &kubeconfig, "-n", &namespace.name];
    let run = |args: &[&str]| world.run([args, &own].concat());

    let listed = run(&["ls"]).out();
    let row = listed.lines().find(|line| line.starts_with("deployment/api ")).unwrap_or_default();
    assert!(row.contains("2/2") && row.contains("Running") && row.contains("8080"), "{listed}");
    assert_eq!(listed.lines().filter(|line| line.starts_with("pod/api-")).count(), 2, "{listed}");
    let json: Value = serde_json::from_str(&run(&["ls", "-o", "json"]).out()).unwrap();
    let all = json.as_array().unwrap();
    assert!(all.iter().any(|target| target["target"] == "deployment/api" && target["ready"] == 2), "{json}");
    let everywhere = world.run(["ls", "-A", "--kubeconfig", &kubeconfig]).out();
    assert!(everywhere.lines().any(|line| line.contains("deployment/api") && line.contains(&namespace.name)));

    let fine = run(&["doctor", "-t", "deployment/api", "--steal", "-p", "8080"]);
    assert!(fine.status.success(), "{}{}", fine.out(), fine.err());
    for wanted in ["runs and is ready", "that a session needs", "none on this pod", "linux/amd64"] {
        assert!(fine.out().contains(wanted), "`{wanted}` is missing in {}", fine.out());
    }
    let reports = |args: &[&str]| {
        let said = run(&[&["doctor", "-t", "deployment/api", "-o", "json"], args].concat()).out();
        let json: Value = serde_json::from_str(&said).unwrap();
        json["targets"].as_array().cloned().unwrap_or_default()
    };
    assert_eq!(reports(&[]).len(), 1, "a session has the best pod");
    let all = reports(&["--all-pods"]);
    assert!(all.len() == 2 && all[0]["target"] != all[1]["target"], "{all:?}");
    for report in &all {
        for looked_at in ["pod", "system", "room on the node", "other sessions"] {
            assert!(report.to_string().contains(&format!("\"name\":\"{looked_at}\"")), "{report}");
        }
    }
    let missing = run(&["doctor", "-t", "pod/nobody"]);
    assert!(
        !missing.status.success() && missing.err().contains("there is no pod `nobody`"),
        "{}",
        missing.err()
    );
    let nowhere =
        world.run(["doctor", "-t", "deployment/api", "-n", "elsewhere", "--kubeconfig", &kubeconfig]);
    assert!(!nowhere.status.success() && nowhere.err().contains("elsewhere"), "{}", nowhere.err());
}

#[test]
fn agents_without_an_owner_are_removed() {
    let Some((namespace, world, _)) = shop("orphan") else { return };
    // An agent ends by itself when its session is gone, but here nobody waits for that.
    let config = world.file("config.json", r#"{"agent": {"communication_timeout": 600}}"#);
    let kubeconfig = developer(&namespace, &world);
    let options = ["--kubeconfig", &kubeconfig, "-t", "deployment/api", "-f", &config.to_string_lossy()];
    let killed = world.exec(&options, &["sleep", "600"]);
    let alive = world.exec(&options, &["sleep", "600"]);
    let host = killed.info()["host_pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap();
    let orphan = format!("mirrord-tui-{}-0", killed.id);
    signal(host, Signal::KILL);
    drop(killed.wait());

    let cleaned = world.run(["doctor", "--clean", "--kubeconfig", &kubeconfig]);
    assert!(cleaned.status.success(), "{}", cleaned.err());
    let said = cleaned.out();
    assert!(said.contains(&format!("removed {}/{orphan}, of ", namespace.name)), "{said}");
    assert!(!said.contains(&alive.id), "a session that lives keeps its agent: {said}");
    wait_until("everything of the orphan is gone", Duration::from_secs(10), || {
        namespace.agents().iter().all(|agent| agent.contains(&alive.id))
    });
    assert!(!namespace.agents().is_empty());
    let again = world.run(["doctor", "--clean", "--kubeconfig", &kubeconfig]).out();
    assert!(again.contains("nothing is left of any agent"), "{again}");
    alive.stop();
    namespace.no_agents();
}

/// A proxy that speaks CONNECT and SOCKS5 and counts what it lets through.
#[derive(Clone)]
struct Proxy {
    address: SocketAddr,
    served: Arc<AtomicUsize>,
}

impl Proxy {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Self { address: listener.local_addr().unwrap(), served: Arc::default() };
        let served = Arc::clone(&proxy.served);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let served = Arc::clone(&served);
                // A client that gives up ends its thread.
                thread::spawn(move || serve(client, &served));
            }
        });
        proxy
    }

    fn served(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }
}

fn serve(client: TcpStream, served: &AtomicUsize) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut first = [0];
    client.peek(&mut first)?;
    let server = if first == [5] { socks(&client)? } else { connect(&client)? };
    served.fetch_add(1, Ordering::Relaxed);
    let (mut there, mut back) = ((client.try_clone()?, server.try_clone()?), (server, client));
    thread::spawn(move || {
        drop(std::io::copy(&mut there.0, &mut there.1));
        drop(there.1.shutdown(Shutdown::Write));
    });
    drop(std::io::copy(&mut back.0, &mut back.1));
    back.1.shutdown(Shutdown::Write)
}

/// `CONNECT HOST:PORT HTTP/1.1`; nothing follows before the answer.
fn connect(mut client: &TcpStream) -> std::io::Result<TcpStream> {
    let mut lines = BufReader::new(client).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let server = TcpStream::connect(request.split(' ').nth(1).unwrap_or_default())?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    Ok(server)
}

/// RFC 1928 without authentication, IPv4 only.
fn socks(mut client: &TcpStream) -> std::io::Result<TcpStream> {
    let mut head = [0; 2];
    client.read_exact(&mut head)?;
    let mut methods = vec![0; head[1].into()];
    client.read_exact(&mut methods)?;
    client.write_all(&[5, 0])?;
    let mut request = [0; 10];
    client.read_exact(&mut request)?;
    let [_, _, _, _, a, b, c, d, high, low] = request;
    let server = TcpStream::connect(SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low]))))?;
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
    Ok(server)
}

#[test]
fn a_cluster_behind_a_proxy_is_reached() {
    let Some((namespace, world, _)) = shop("proxy") else { return };
    let proxy = Proxy::start();
    let user = format!("token: '{}'", account(&namespace));
    for scheme in ["http", "socks5"] {
        let through = format!(", proxy-url: '{scheme}://{}'", proxy.address);
        let kubeconfig = kubeconfig(&namespace, &world, scheme, &user, &through);
        let before = proxy.served();
        let options = ["--kubeconfig", &kubeconfig, "-t", "deployment/api"];
        let (done, _) = world.exec_to_end(&options, &["bash", "-c", "echo at $HOSTNAME"]);
        assert!(
            done.status.success() && done.out().contains("at api-"),
            "{scheme}: {}{}",
            done.out(),
            done.err()
        );
        // The API, and the two streams to the agent.
        assert!(proxy.served() - before > 2, "{scheme}: {} connections", proxy.served() - before);
    }

    // Of the environment, with its exceptions.
    let direct = kubeconfig(&namespace, &world, "direct", &user, "");
    let list = |exceptions: &str| {
        let before = proxy.served();
        let mut ls = world.command(["ls", "--kubeconfig", &direct]);
        ls.env("HTTPS_PROXY", format!("http://{}", proxy.address)).env("NO_PROXY", exceptions);
        let listed = finish(&mut ls);
        assert!(listed.out().contains("deployment/api"), "{}{}", listed.out(), listed.err());
        proxy.served() - before
    };
    assert!(list("localhost,.test") > 0);
    assert_eq!(list("10.243.0.0/16"), 0);

    let unknown = kubeconfig(&namespace, &world, "unknown", &user, ", proxy-url: 'ftp://127.0.0.1:1'");
    let refused = world.run(["ls", "--kubeconfig", &unknown]);
    assert!(
        !refused.status.success() && refused.err().contains("none of http:// and socks5://"),
        "{}",
        refused.err()
    );
    namespace.no_agents();
}

#[test]
fn credentials_come_from_a_program_or_from_the_pod() {
    let Some((namespace, world, _)) = shop("creds") else { return };
    let token = account(&namespace);
    let program = world.file(
        "token.sh",
        &format!(
            "#!/bin/sh\necho '{{\"apiVersion\": \"client.authentication.k8s.io/v1\", \"kind\": \"ExecCredential\", \
             \"status\": {{\"token\": \"{token}\"}}}}'\n"
        ),
    );
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let user = format!(
        "exec: {{apiVersion: client.authentication.k8s.io/v1, command: '{}', interactiveMode: IfAvailable}}",
        program.display()
    );
    let kubeconfig = kubeconfig(&namespace, &world, "exec", &user, "");
    let (done, _) = world.exec_to_end(&["--kubeconfig", &kubeconfig, "-t", "deployment/api"], &["true"]);
    assert!(done.status.success(), "{}", done.err());
    namespace.no_agents();

    // As in a pod of the cluster: its service account's folder, and the API server in two variables.
    let folder = "/var/run/secrets/kubernetes.io/serviceaccount";
    let files = [
        ("token", token.clone()),
        ("namespace", namespace.name.clone()),
        (
            "ca.crt",
            namespace.kubectl(&["get", "configmap", "kube-root-ca.crt", "-o", "jsonpath={.data.ca\\.crt}"]),
        ),
    ];
    let copies: Vec<_> =
        files.iter().map(|(name, content)| (world.file(&format!("pod-{name}"), content), *name)).collect();
    let copies: Vec<_> =
        copies.iter().map(|(copy, name)| format!("cp {} {folder}/{name}", copy.display())).collect();
    // In a mount namespace of its own, so that nobody else sees the folder.
    let script = format!(
        "mount -t tmpfs none /var/run && mkdir -p {folder} && {} && exec \"$0\" ls -o json",
        copies.join(" && ")
    );
    let mut inside = world.other("unshare");
    inside.args(["--mount", "sh", "-c", &script]).arg(mirrord_tests::program());
    let (host, port) = Cluster::SERVER.split_once(':').unwrap();
    inside.env("KUBERNETES_SERVICE_HOST", host).env("KUBERNETES_SERVICE_PORT", port);
    let listed = finish(&mut inside);
    assert!(listed.out().contains("deployment/api"), "{}{}", listed.out(), listed.err());
}
