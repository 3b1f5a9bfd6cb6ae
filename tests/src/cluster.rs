//! A real Kubernetes for the tests (`tests/cluster`): started once, one namespace per test, which must be empty of agents afterwards.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{World, finish::text, skip, wait_for, wait_until};

/// Within this time nothing of an agent may be left in the cluster, however its session has ended.
pub const GONE: Duration = Duration::from_secs(30);
/// A pod becomes ready in 1.5 s; the rest is for a loaded machine.
const READY: Duration = Duration::from_secs(60);
/// What `cluster.sh up` ends with where something is missing that it needs.
const MISSING: i32 = 77;

/// The running cluster.
#[derive(Debug)]
pub struct Cluster {
    kubeconfig: PathBuf,
}

impl Cluster {
    /// Where the API server listens (`tests/cluster/README.md`).
    pub const SERVER: &str = "10.243.0.2:6443";

    /// The cluster of this run; `None`: it cannot be had here, and this was said aloud.
    ///
    /// # Panics
    /// When it should start and does not.
    #[must_use]
    pub fn get(test: &str) -> Option<&'static Self> {
        static CLUSTER: OnceLock<Result<Cluster, String>> = OnceLock::new();
        match CLUSTER.get_or_init(Self::start) {
            Ok(cluster) => Some(cluster),
            Err(reason) => {
                skip(test, reason);
                None
            }
        }
    }

    fn start() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("only root can start a cluster".to_owned());
        }
        let started = Command::new(script()).arg("up").output().expect("run cluster.sh");
        let said = text(&started.stderr);
        if started.status.code() == Some(MISSING) {
            return Err(format!("no cluster on this machine: {}", said.trim()));
        }
        assert!(started.status.success(), "the cluster does not start: {said}");
        let kubeconfig = Command::new(script()).arg("kubeconfig").output().expect("run cluster.sh");
        Ok(Self { kubeconfig: text(&kubeconfig.stdout).trim().into() })
    }

    /// A namespace of its own for one test, named after it.
    #[must_use]
    pub fn namespace(&'static self, name: &str) -> Namespace {
        let name = format!("{name}-{}", std::process::id());
        self.kubectl(&["create", "namespace", &name]);
        // Pods are refused until it is there.
        wait_until("the namespace's service account", READY, || {
            self.try_kubectl(&["-n", &name, "get", "serviceaccount", "default"]).is_ok()
        });
        Namespace { cluster: self, name }
    }

    /// The kubeconfig of the cluster's administrator.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A copy of the kubeconfig that the world's user may read.
    #[must_use]
    pub fn kubeconfig_for(&self, world: &World) -> String {
        let content = fs::read_to_string(&self.kubeconfig).expect("read the kubeconfig");
        world.file("kubeconfig", &content).to_string_lossy().into_owned()
    }

    /// Runs kubectl and gives what it prints.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn kubectl(&self, args: &[&str]) -> String {
        self.try_kubectl(args).unwrap_or_else(|said| panic!("kubectl {args:?}: {said}"))
    }

    /// Runs kubectl; the error is what it complains about.
    ///
    /// # Errors
    /// When it fails.
    pub fn try_kubectl(&self, args: &[&str]) -> Result<String, String> {
        self.kubectl_with(args, "")
    }

    fn kubectl_command(&self) -> Command {
        let bin =
            self.kubeconfig.parent().and_then(Path::parent).map_or_else(PathBuf::new, |dir| dir.join("bin"));
        let mut command = Command::new(bin.join("kubectl"));
        command.env("KUBECONFIG", &self.kubeconfig);
        command
    }

    fn kubectl_with(&self, args: &[&str], input: &str) -> Result<String, String> {
        let mut child = self
            .kubectl_command()
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start kubectl");
        child.stdin.take().expect("stdin is a pipe").write_all(input.as_bytes()).expect("write to kubectl");
        let output = child.wait_with_output().expect("wait for kubectl");
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
}

impl Cluster {
    /// Kills one component of the cluster and starts it again; returns when the process is there, which says nothing of its service.
    ///
    /// # Panics
    /// When it does not run.
    #[track_caller]
    pub fn restart(&self, component: &str) {
        let done = Command::new(script()).args(["restart", component]).stdin(Stdio::null()).output();
        let done = done.expect("run cluster.sh");
        assert!(done.status.success(), "{component} is not restarted: {}", text(&done.stderr));
    }

    /// Gives the node an image `registry.test/NAME:1` with nothing but one static program, `/NAME`.
    ///
    /// # Panics
    /// When it cannot be made or imported.
    #[track_caller]
    pub fn image(&self, world: &World, name: &str, program: &Path) {
        let folder = world.home();
        let images = script().with_file_name("images.py");
        let mut make = Command::new("/usr/bin/python3");
        make.arg(images).args(["--one", name]).arg(program).arg(&folder);
        let made = make.output().expect("run images.py");
        assert!(made.status.success(), "no image {name}: {}", text(&made.stderr));
        let archive = folder.join(format!("{name}.tar")).to_string_lossy().into_owned();
        self.on_node(&["ctr", "-n", "k8s.io", "images", "import", &archive]);
    }

    /// Whether the API server answers, and the kubelet through it.
    #[must_use]
    pub fn serves(&self) -> bool {
        let kubelet = self.try_kubectl(&["get", "--raw", "/api/v1/nodes/node1/proxy/healthz"]);
        self.try_kubectl(&["get", "--raw", "/readyz"]).is_ok() && kubelet.is_ok_and(|said| said == "ok")
    }

    /// Runs a command on the node and gives what it prints.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn on_node(&self, command: &[&str]) -> String {
        let done = Command::new(script()).arg("exec").args(command).stdin(Stdio::null()).output();
        let done = done.expect("run cluster.sh");
        assert!(done.status.success(), "on the node, {command:?}: {}", text(&done.stderr));
        text(&done.stdout)
    }
}

/// The script that starts and stops the cluster.
fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/cluster.sh")
}

/// A namespace of one test. Its drop checks that no agent is left, and removes it.
#[derive(Debug)]
pub struct Namespace {
    /// The cluster it is in.
    pub cluster: &'static Cluster,
    /// Its name.
    pub name: String,
}

impl Namespace {
    /// Runs kubectl in this namespace.
    #[track_caller]
    pub fn kubectl(&self, args: &[&str]) -> String {
        self.cluster.kubectl(&[&["-n", &self.name], args].concat())
    }

    /// Creates what a manifest says.
    ///
    /// # Panics
    /// When the cluster refuses.
    #[track_caller]
    pub fn create(&self, manifest: &str) {
        let created = self.cluster.kubectl_with(&["-n", &self.name, "create", "-f", "-"], manifest);
        created.unwrap_or_else(|said| panic!("{said}"));
    }

    /// Starts a pod of one of the cluster's images and waits until it is ready; its address.
    #[track_caller]
    pub fn pod(&self, name: &str, image: &str, command: &[&str]) -> String {
        self.start(name, image, command);
        self.ready(name)
    }

    /// Starts a pod and waits for nothing.
    #[track_caller]
    pub(crate) fn start(&self, name: &str, image: &str, command: &[&str]) {
        let image = format!("--image=registry.test/{image}:1");
        let mut args = vec!["run", name, &image, "--restart=Always"];
        if !command.is_empty() {
            args.extend(["--command", "--"]);
            args.extend(command);
        }
        self.kubectl(&args);
    }

    /// Waits until a pod is ready; its address.
    #[track_caller]
    pub fn ready(&self, name: &str) -> String {
        wait_for(&format!("pod {name} is ready"), READY, || {
            let pod = self.get(&["pod", name]);
            let ready = pod["status"]["conditions"]
                .as_array()?
                .iter()
                .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
            ready.then(|| pod["status"]["podIP"].as_str().map(str::to_owned))?
        })
    }

    /// `kubectl get -o json`; null when there is none.
    #[must_use]
    pub fn get(&self, what: &[&str]) -> Value {
        let args = [&["-n", &self.name, "get", "-o", "json"], what].concat();
        let found = self.cluster.try_kubectl(&args).unwrap_or_default();
        serde_json::from_str(&found).unwrap_or_default()
    }

    /// Everything of agents that there is: jobs, pods, ConfigMaps.
    #[must_use]
    pub fn agents(&self) -> Vec<String> {
        let query = ["jobs,pods,configmaps", "-l", "app.kubernetes.io/managed-by=mirrord-tui"];
        // An API server that is away says nothing, which is not that there is nothing.
        let items = wait_for("a list of agents", READY, || self.get(&query)["items"].as_array().cloned());
        items
            .iter()
            .map(|item| format!("{} {}", item["kind"], item["metadata"]["name"]).replace('"', ""))
            .collect()
    }

    /// The agent's pod, once it runs.
    #[track_caller]
    pub fn agent_pod(&self) -> String {
        wait_for("the agent's pod", READY, || {
            let agents = self.agents();
            agents.iter().find_map(|agent| agent.strip_prefix("Pod ").map(str::to_owned))
        })
    }

    /// Waits until nothing of any agent is left; how long it took.
    #[track_caller]
    pub fn no_agents(&self) -> Duration {
        let start = Instant::now();
        let mut left = Vec::new();
        let deadline = start + GONE;
        while Instant::now() < deadline {
            left = self.agents();
            if left.is_empty() {
                return start.elapsed();
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("after {GONE:?} there are still: {}", left.join(", "));
    }

    /// `kubectl port-forward` to a port of a pod, from any port of this machine.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    #[track_caller]
    pub fn port_forward(&self, pod: &str, port: u16) -> PortForward {
        let mut kubectl = self.cluster.kubectl_command();
        kubectl.args(["-n", &self.name, "port-forward", &format!("pod/{pod}"), &format!(":{port}")]);
        let mut child = kubectl.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("start kubectl");
        let mut said = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        // `Forwarding from 127.0.0.1:40000 -> 80`
        stdout.read_line(&mut said).expect("read what kubectl says");
        let address = said.split(' ').find(|word| word.starts_with("127."));
        let address = address.unwrap_or_else(|| panic!("kubectl port-forward says: {said}")).to_owned();
        PortForward { child, _stdout: stdout, address }
    }

    /// Starts a pod from which [`Self::ask`] asks.
    #[track_caller]
    pub fn customer(&self) {
        self.pod("customer", "python", &["busybox", "sleep", "3600"]);
    }

    /// Asks a server as another pod does; what it answered, `None` when it did not.
    #[must_use]
    pub fn ask(&self, url: &str) -> Option<String> {
        let script = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=5).read().decode(), end='')";
        let args = ["-n", &self.name, "exec", "customer", "--", "python3", "-c", script, url];
        self.cluster.try_kubectl(&args).ok()
    }

    /// Asks several servers, one after the other; a text for each, `-` for one that did not answer.
    ///
    /// # Panics
    /// When nobody can be asked.
    #[must_use]
    #[track_caller]
    pub fn ask_all(&self, urls: &[String]) -> Vec<String> {
        const SCRIPT: &str = "import sys, urllib.request as r
for url in sys.argv[1:]:
    try: print(r.urlopen(url, timeout=5).read().decode().replace(chr(10), ' '))
    except OSError as error: print('-', error)";
        let mut args = vec!["exec", "customer", "--", "python3", "-c", SCRIPT];
        args.extend(urls.iter().map(String::as_str));
        self.kubectl(&args).lines().map(str::to_owned).collect()
    }

    /// Kills the processes of a pod's container on its node, so that the kubelet starts it again.
    ///
    /// # Panics
    /// When it cannot be found.
    #[track_caller]
    pub fn crash(&self, pod: &str) {
        let id = self.container_id(pod);
        self.cluster.on_node(&["ctr", "-n", "k8s.io", "tasks", "kill", "-s", "SIGKILL", &id]);
    }

    /// Takes the memory that a pod's container may have, so that the kernel kills what runs there.
    ///
    /// # Panics
    /// When it cannot be found.
    #[track_caller]
    pub fn starve(&self, pod: &str) {
        // Two take half of it each: with so little none of them is the one that the kernel would rather kill. Both cgroup versions.
        const TAKE: &str = "import os, socket, sys
[pid] = [line.split()[1] for line in os.popen('ctr -n k8s.io tasks ls') if line.split()[0] == sys.argv[1]]
lines = [line.strip().split(':', 2) for line in open(f'/proc/{pid}/cgroup')]
first = [path for _, kinds, path in lines if 'memory' in kinds.split(',')]
folder = '/sys/fs/cgroup/memory' + first[0] if first else '/sys/fs/cgroup' + lines[0][2]
limit = int(open(folder + ('/memory.limit_in_bytes' if first else '/memory.max')).read())
open(folder + '/cgroup.procs', 'w').write(str(os.getpid()))
ours, other = socket.socketpair()
child = os.fork()
if not child: ours = other
if child: ours.recv(1)
half = b'x' * (limit // 2)
ours.send(b'.')
if child: os.wait()
else: ours.recv(1)";
        // The runtime kills whoever is left of the container.
        const RUN: &str = "python3 -c \"$1\" \"$2\"; ended=$?; [ $ended = 0 ] || [ $ended = 137 ]";
        let id = self.container_id(pod);
        self.cluster.on_node(&["sh", "-c", RUN, "sh", TAKE, &id]);
    }

    /// Id of a pod's first container at the runtime, once it runs.
    #[track_caller]
    fn container_id(&self, pod: &str) -> String {
        wait_for(&format!("the container of pod {pod}"), READY, || {
            let found = self.get(&["pod", pod]);
            let id = found["status"]["containerStatuses"][0]["containerID"].as_str()?;
            id.rsplit('/').next().map(str::to_owned)
        })
    }
}

/// A running `kubectl port-forward`; its drop ends it.
#[derive(Debug)]
pub struct PortForward {
    child: Child,
    /// It says more, and would end if nobody listened.
    _stdout: BufReader<ChildStdout>,
    /// Where it listens.
    pub address: String,
}

impl Drop for PortForward {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.no_agents();
        }
        drop(self.cluster.try_kubectl(&["delete", "namespace", &self.name, "--wait=false"]));
    }
}
