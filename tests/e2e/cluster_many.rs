//! Many pods in one session, many sessions on one cluster, several sessions on one pod.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use mirrord_tests::{Cluster, GONE, Namespace, Screen, Session, User, World, request, wait_for, wait_until};
use serde_json::{Value, json};

/// A rollout starts and ends pods one after the other.
const ROLLOUT: Duration = Duration::from_secs(60);

/// Pods of one workload; a customer asks them.
struct Workload {
    namespace: Namespace,
}

impl Workload {
    fn new(test: &str, replicas: u32) -> Option<Self> {
        let namespace = Cluster::get(test)?.namespace(test);
        namespace.create(&format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: api}}\nspec:\n  replicas: {replicas}\n  \
             selector: {{matchLabels: {{app: api}}}}\n  template:\n    metadata: {{labels: {{app: api}}}}\n    spec:\n      \
             terminationGracePeriodSeconds: 1\n      containers: [{{name: web, image: 'registry.test/hello:1'}}]\n"
        ));
        namespace.kubectl(&["rollout", "status", "deployment/api", "--timeout=60s"]);
        namespace.customer();
        Some(Self { namespace })
    }

    /// Names and addresses of the pods that are there to stay.
    fn pods(&self) -> Vec<(String, String)> {
        let pods = self.namespace.get(&["pods", "-l", "app=api"]);
        let items = pods["items"].as_array().cloned().unwrap_or_default();
        let stays = items.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        stays.map(|pod| (text(&pod["metadata"]["name"]), text(&pod["status"]["podIP"]))).collect()
    }

    fn names(&self) -> BTreeSet<String> {
        self.pods().into_iter().map(|(name, _)| name).collect()
    }

    /// What the pods answer, by pod.
    fn answers(&self) -> Vec<(String, String)> {
        let pods = self.pods();
        let urls: Vec<_> = pods.iter().map(|(_, address)| format!("http://{address}:8080/")).collect();
        let names = pods.into_iter().map(|(name, _)| name);
        names.zip(self.namespace.ask_all(&urls)).collect()
    }

    fn all_stolen(&self) -> bool {
        let answers = self.answers();
        !answers.is_empty() && answers.iter().all(|(_, answer)| answer.starts_with("own "))
    }
}

/// Starts sessions whose command answers in its own name.
struct Clerks<'world> {
    world: &'world World,
    namespace: &'world Namespace,
    tool: String,
    kubeconfig: String,
}

impl<'world> Clerks<'world> {
    fn new(world: &'world World, namespace: &'world Namespace) -> Self {
        let tool = world.install(env!("CARGO_BIN_EXE_e2e-tool"));
        Self { world, namespace, tool, kubeconfig: namespace.cluster.kubeconfig_for(world) }
    }

    fn start(&self, options: &[&str], port: &str, name: &str) -> Session<'world> {
        let log = self.world.home().join(format!("{name}.log")).to_string_lossy().into_owned();
        let own = ["--kubeconfig", &self.kubeconfig, "-n", &self.namespace.name];
        self.world.exec(&[&own, options].concat(), &[&self.tool, "clerk", port, name, &log])
    }
}

fn pods_of(info: &Value) -> BTreeSet<String> {
    info["pods"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Waits until the session has an agent beside each of the workload's pods.
fn wait_pods(session: &Session<'_>, workload: &Workload) {
    wait_until("every pod has an agent", ROLLOUT, || {
        let names = workload.names();
        pods_of(&session.info()) == names
    });
}

#[test]
fn all_pods_of_a_workload_are_one_target() {
    let Some(workload) = Workload::new("all", 3) else { return };
    let world = World::new(User::Root);
    let options = ["-t", "deployment/api", "--all-pods", "-p", "8080", "--mirror"];
    let session = Clerks::new(&world, &workload.namespace).start(&options, "8080", "own");
    assert_eq!(pods_of(&session.info()), workload.names(), "all pods are there from the start");
    session.wait_mode(8080, "mirror");

    // The pods answer, and each request says whose it was.
    for (pod, answer) in workload.answers() {
        assert!(!answer.starts_with("own "), "{answer}");
        session.wait_event(&format!("the mirrored request of {pod}"), |event| {
            event["pod"] == pod.as_str() && request(event, "mirror", "/", 200)
        });
    }

    // Acknowledged only when all have it: nobody is asked after that who has not.
    session.mode(8080, "steal");
    for (pod, answer) in workload.answers() {
        assert!(answer.starts_with("own "), "{pod} answered {answer}");
        session.wait_event(&format!("the stolen request of {pod}"), |event| {
            event["pod"] == pod.as_str() && request(event, "steal", "/", 200)
        });
    }

    // A rollout: all pods are replaced, and so are their agents.
    let before = workload.names();
    workload.namespace.kubectl(&["rollout", "restart", "deployment/api"]);
    workload.namespace.kubectl(&["rollout", "status", "deployment/api", "--timeout=60s"]);
    wait_pods(&session, &workload);
    assert!(before.is_disjoint(&workload.names()));
    wait_until("all new pods are stolen from", GONE, || workload.all_stolen());
    for (what, text) in [("came", "has joined"), ("went", "is gone"), ("took over", "go through pod")] {
        session.wait_event(what, |event| {
            event["kind"] == "agent" && event["subject"].as_str().is_some_and(|it| it.contains(text))
        });
    }

    // Without any pod the session waits, and takes up the next one as if nothing had been.
    workload.namespace.kubectl(&["scale", "deployment/api", "--replicas=0"]);
    session.wait_event("it waits", |event| {
        event["subject"].as_str().is_some_and(|it| it.contains("no pod at the moment"))
    });
    assert_eq!(session.info()["state"], "running");
    workload.namespace.kubectl(&["scale", "deployment/api", "--replicas=1"]);
    workload.namespace.kubectl(&["rollout", "status", "deployment/api", "--timeout=60s"]);
    wait_pods(&session, &workload);
    wait_until("the only pod is stolen from", GONE, || workload.all_stolen());

    // The end of the target itself is the end of the session.
    workload.namespace.kubectl(&["delete", "deployment", "api", "--wait=false"]);
    let ended = session.wait();
    assert!(
        !ended.status.success() && ended.stderr.contains("the target, deployment/api, is gone"),
        "{}",
        ended.stderr
    );
    println!("gone after {:?}", workload.namespace.no_agents());
}

/// From the list of one namespace by the chooser to another, to its workload, to all of its pods.
#[test]
fn a_workload_is_found_and_launched_on_the_screen() {
    let Some(workload) = Workload::new("screen", 2) else { return };
    let world = World::new(User::Root);
    let clerks = Clerks::new(&world, &workload.namespace);
    let namespace = &workload.namespace.name;
    let window = world.command(["--kubeconfig", &clerks.kubeconfig, "-n", "default"]);
    let mut screen = Screen::run(User::Root, &window, 120, 40);
    screen.wait_text("default");
    assert!(!screen.text().contains("deployment/api"), "it is in another namespace: {}", screen.text());
    screen.keys("n");
    screen.wait_text(namespace);
    screen.keys(&format!("{namespace}\r"));
    screen.wait_text("deployment/api");
    screen.keys("/deployment/api\rL");
    screen.wait_text("Run in the context of deployment/api");
    let log = world.home().join("own.log");
    screen.keys(&format!("{} clerk 8080 own {}\t\tl\t8080", clerks.tool, log.display()));
    screen.wait_text("--all-pods");
    screen.keys("\r");
    screen.wait_text("running");
    let sessions = world.sessions();
    assert_eq!(pods_of(&sessions[0]), workload.names());
    for (pod, answer) in workload.answers() {
        assert!(!answer.starts_with("own "), "{pod} answers itself: {answer}");
        screen.keys(&format!("/\x15~pod {pod}\r"));
        screen.wait_text(&format!("pod: {pod}"));
    }
    screen.keys("Q");
    screen.wait_text("stop the session and leave");
    screen.keys("s");
    assert_eq!(screen.wait_end(), 0);
    screen.assert_as_before();
    wait_until("the session is gone", GONE, || world.sessions().is_empty());
    workload.namespace.no_agents();
}

#[test]
fn every_pod_gets_its_port_back() {
    let Some(workload) = Workload::new("back", 2) else { return };
    let world = World::new(User::Root);
    let options = ["-t", "label/app=api", "--all-pods", "--steal"];
    let session = Clerks::new(&world, &workload.namespace).start(&options, "8080", "own");
    session.wait_mode(8080, "steal");
    assert!(workload.all_stolen(), "{:?}", workload.answers());
    // The container of one pod is started again: its agent is as well, and the others go on.
    let agents = || {
        workload
            .namespace
            .agents()
            .into_iter()
            .filter(|agent| agent.starts_with("Pod "))
            .collect::<BTreeSet<_>>()
    };
    let first = agents();
    assert_eq!(first.len(), 2);
    let (pod, _) = workload.pods().remove(0);
    workload.namespace.crash(&pod);
    wait_until("the restarted container has another agent", ROLLOUT, || {
        let now = agents();
        now.len() == 2
            && now != first
            && pods_of(&session.info()) == workload.names()
            && workload.all_stolen()
    });
    session.stop();
    let answers = workload.answers();
    assert!(answers.iter().all(|(_, answer)| !answer.starts_with("own ")), "{answers:?}");
    println!("gone after {:?}", workload.namespace.no_agents());
}

/// As ephemeral containers of the pods, nothing else is created.
#[test]
fn agents_of_all_pods_can_be_ephemeral() {
    let Some(workload) = Workload::new("all-eph", 2) else { return };
    let world = World::new(User::Root);
    let agent = workload.namespace.cluster.ephemeral_agent(&world);
    let config = world.write("ephemeral.json", &json!({ "agent": agent }).to_string());
    let options = ["-t", "deployment/api", "--all-pods", "-p", "8080", "--steal", "-f", &config];
    let session = Clerks::new(&world, &workload.namespace).start(&options, "8080", "own");
    session.wait_mode(8080, "steal");
    assert_eq!(pods_of(&session.info()), workload.names());
    assert!(workload.all_stolen(), "{:?}", workload.answers());
    assert_eq!(workload.namespace.agents(), [""; 0], "no job, no pod, no ConfigMap");

    workload.namespace.kubectl(&["scale", "deployment/api", "--replicas=3"]);
    workload.namespace.kubectl(&["rollout", "status", "deployment/api", "--timeout=60s"]);
    wait_pods(&session, &workload);
    wait_until("the new pod is stolen from", GONE, || workload.all_stolen());
    session.stop();
    let answers = workload.answers();
    assert!(answers.iter().all(|(_, answer)| !answer.starts_with("own ")), "{answers:?}");
    wait_until("every agent has ended", GONE, || {
        let pods = workload.namespace.get(&["pods", "-l", "app=api"]);
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        pods.len() == 3
            && pods.iter().all(|pod| {
                let agents = pod["status"]["ephemeralContainerStatuses"].as_array();
                agents
                    .is_some_and(|agents| agents.iter().all(|agent| agent["state"]["terminated"].is_object()))
            })
    });
}

/// Sessions that are started at a time: the machine has two cores.
const AT_A_TIME: usize = 4;

#[test]
fn twenty_sessions_run_side_by_side() {
    const SESSIONS: usize = 20;
    let Some(cluster) = Cluster::get("twenty") else { return };
    let namespace = cluster.namespace("twenty");
    namespace.create(&format!(
        "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: shop}}\nspec:\n  replicas: {SESSIONS}\n  \
         podManagementPolicy: Parallel\n  serviceName: shop\n  selector: {{matchLabels: {{app: shop}}}}\n  template:\n    \
         metadata: {{labels: {{app: shop}}}}\n    spec:\n      terminationGracePeriodSeconds: 0\n      \
         containers: [{{name: web, image: 'registry.test/hello:1'}}]\n"
    ));
    namespace.customer();
    namespace.kubectl(&["rollout", "status", "statefulset/shop", "--timeout=120s"]);
    let world = World::new(User::Root);
    let clerks = Clerks::new(&world, &namespace);
    let start = Instant::now();
    let numbers: Vec<usize> = (0..SESSIONS).collect();
    let mut sessions = Vec::new();
    for some in numbers.chunks(AT_A_TIME) {
        thread::scope(|scope| {
            let started: Vec<_> = some
                .iter()
                .map(|number| {
                    let clerks = &clerks;
                    scope.spawn(move || {
                        let target = format!("pod/shop-{number}");
                        let options = ["-t", &target, "-p", "8080", "--steal"];
                        clerks.start(&options, "8080", &format!("own-{number}"))
                    })
                })
                .collect();
            sessions.extend(started.into_iter().map(|started| started.join().unwrap()));
        });
    }
    println!("{SESSIONS} sessions after {:?}", start.elapsed());
    for session in &sessions {
        session.wait_mode(8080, "steal");
    }
    let address = |number: &usize| {
        let pod = namespace.get(&["pod", &format!("shop-{number}")]);
        pod["status"]["podIP"].as_str().map(str::to_owned).unwrap()
    };
    let urls: Vec<_> = numbers.iter().map(|number| format!("http://{}:8080/", address(number))).collect();
    for (number, answer) in namespace.ask_all(&urls).into_iter().enumerate() {
        assert!(answer.starts_with(&format!("own-{number} ")), "pod {number} answered {answer}");
    }
    let start = Instant::now();
    thread::scope(|scope| {
        for session in sessions {
            scope.spawn(move || session.stop());
        }
    });
    println!("stopped after {:?}, gone after {:?}", start.elapsed(), namespace.no_agents());
    let answers = namespace.ask_all(&urls);
    assert!(answers.iter().all(|answer| !answer.starts_with("own")), "{answers:?}");
}

/// Serves five ports.
const FIVE: &str = "import http.server, threading
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b'pod')
    def log_message(self, *_): pass
for port in range(8081, 8086):
    threading.Thread(target=http.server.HTTPServer(('', port), Handler).serve_forever).start()";

#[test]
fn five_sessions_share_a_pod_and_none_takes_what_another_has() {
    let Some(cluster) = Cluster::get("five") else { return };
    let namespace = cluster.namespace("five");
    let address = namespace.pod("app", "python", &["python3", "-c", FIVE]);
    namespace.customer();
    let world = World::new(User::Root);
    let clerks = Clerks::new(&world, &namespace);
    let ports: Vec<u16> = (8081..8086).collect();
    let sessions: Vec<_> = ports
        .iter()
        .map(|port| {
            let port = port.to_string();
            let mode = if port == "8085" { "--mirror" } else { "--steal" };
            let options = ["-t", "pod/app", "-p", &port, mode];
            clerks.start(&options, &port, &format!("own-{port}"))
        })
        .collect();
    for (session, port) in sessions.iter().zip(&ports) {
        session.wait_mode(*port, if *port == 8085 { "mirror" } else { "steal" });
    }
    let urls: Vec<_> = ports.iter().map(|port| format!("http://{address}:{port}/")).collect();
    let answers = namespace.ask_all(&urls);
    for (port, answer) in ports.iter().zip(&answers) {
        let own = format!("own-{port} ");
        assert!(if *port == 8085 { answer == "pod" } else { answer.starts_with(&own) }, "{port}: {answer}");
    }

    // A port that is stolen is refused before anything is created, with who has it and since when.
    let kubeconfig = cluster.kubeconfig_for(&world);
    let refused = |port: &str| {
        let options =
            ["--kubeconfig", &kubeconfig, "-n", &namespace.name, "-t", "pod/app", "-p", port, "--steal"];
        let (done, _) = world.exec_to_end(&options, &["true"]);
        assert!(!done.status.success());
        let said = done.err();
        let wanted = format!("port {port} of the pod is already stolen by ");
        (said.contains(&wanted) && said.contains("since 2")).then_some(()).ok_or(said)
    };
    refused("8081").unwrap();

    // One that was switched while its session runs is no less stolen.
    sessions.last().unwrap().mode(8085, "steal");
    wait_for("colleagues know what is stolen now", GONE, || refused("8085").ok());
    let asked = namespace.ask(&urls[4]).unwrap();
    assert!(asked.starts_with("own-8085 "), "{asked}");

    // Whoever mirrors may, but cannot take it over: the agent says who has it.
    let sixth = clerks.start(&["-t", "pod/app", "-p", "8081", "--mirror"], "8081", "sixth");
    sixth.wait_mode(8081, "mirror");
    let done = world.run(["mode", &sixth.id, "8081", "steal"]);
    let said = done.err();
    assert!(
        !done.status.success() && said.contains("already stolen by ") && said.contains("since 2"),
        "{said}"
    );
    let asked = namespace.ask(&urls[0]).unwrap();
    assert!(asked.starts_with("own-8081 "), "{asked}");
    sixth.stop();
    for session in sessions {
        session.stop();
    }
    println!("gone after {:?}", namespace.no_agents());
    assert!(namespace.ask_all(&urls).iter().all(|answer| answer == "pod"));
}
