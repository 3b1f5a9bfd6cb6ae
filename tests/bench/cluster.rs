//! What the way through a cluster costs: the parts of a start, and the agent against a bare `kubectl port-forward` to the same pod.

use std::{
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use mirrord_tests::{Cluster, Namespace, World};
use serde_json::{Value, json};

use crate::{
    cases::{ROUNDS, json_of, number, tool},
    report::{Goal, Report},
};

/// Bytes of one measurement of throughput: with fewer it would be over while the cluster is still busy with the agent's pod, which shares
/// the cores of this machine and would be far away elsewhere. And how many measurements there are.
const BYTES: u64 = 1 << 30;
const TRANSFERS: usize = 3;
/// Seconds of one load measurement.
const LOAD_SECONDS: &str = "2";

/// Runs what follows with the programs and libraries of the node, which are those of this machine.
const ON_NODE: [&str; 3] = ["busybox", "chroot", "/node"];

/// A pod that serves, sinks and sends, and one from which it is asked.
struct Place<'world> {
    world: &'world World,
    namespace: Namespace,
    kubeconfig: String,
    tool: String,
    address: String,
}

/// The group's lines.
pub(crate) fn run(world: &World, report: &mut Report) -> Result<()> {
    let Some(cluster) = Cluster::get("bench cluster") else { return Ok(()) };
    let namespace = cluster.namespace("bench");
    let tool = tool()?;
    namespace.create(&pod("web", &tool, &[&["server", "80"], &["exchange", "7000"]]));
    namespace.create(&pod("client", &tool, &[&["exchange", "7000"]]));
    let address = namespace.ready("web");
    namespace.ready("client");
    let place = Place { world, kubeconfig: cluster.kubeconfig_for(world), namespace, tool, address };
    place.start(report)?;
    place.throughput(report)?;
    place.latency(report)
}

/// A pod with a container for each call of the tool.
fn pod(name: &str, tool: &str, calls: &[&[&str]]) -> String {
    let containers = calls.iter().map(|call| {
        let command = [&ON_NODE[..], &[tool], call].concat();
        json!({
            "name": call.first(), "image": "registry.test/busybox:1", "command": command,
            "volumeMounts": [{"name": "node", "mountPath": "/node", "readOnly": true}],
        })
    });
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "containers": containers.collect::<Vec<_>>(),
            "volumes": [{"name": "node", "hostPath": {"path": "/", "type": "Directory"}}],
        },
    })
    .to_string()
}

impl Place<'_> {
    /// `exec` with options and a call of the tool.
    fn exec(&self, call: &[&str]) -> Command {
        let options = [
            "exec",
            "--kubeconfig",
            &self.kubeconfig,
            "-n",
            &self.namespace.name,
            "-t",
            "pod/web/container/server",
        ];
        let mut command = self.world.command(options);
        command.args(["--output", "silent", "--"]).arg(&self.tool).args(call);
        command
    }

    /// From the start of `exec` to the first instruction of the command, with an agent that is not there yet, and the parts of it.
    fn start(&self, report: &mut Report) -> Result<()> {
        let logs = self.world.home().join("logs");
        let mut whole = Vec::new();
        let mut parts: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
        for _ in 0..ROUNDS {
            std::fs::create_dir(&logs).context("make a folder for the host's log")?;
            self.world.give(&logs);
            let begin = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
            let done = json_of(self.exec(&["now"]).env("MIRRORD_TUI_LOG_DIR", &logs))?;
            whole.push((1.0, (number(&done, "unix")? - begin) * 1e3));
            let log = std::fs::read_dir(&logs)?.next().context("the host keeps no log")??.path();
            for (name, ms) in steps(&std::fs::read_to_string(log)?) {
                match parts.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, rounds)) => rounds.push((1.0, ms)),
                    None => parts.push((name, vec![(1.0, ms)])),
                }
            }
            std::fs::remove_dir_all(&logs)?;
        }
        report.line("cluster: exec to the first instruction", "ms", &whole, Goal::ValueAtMost(2500.0));
        for (name, rounds) in parts {
            report.line(&format!("  {name}"), "ms", &rounds, Goal::None);
        }
        Ok(())
    }

    /// One stream from this machine into the pod and back.
    fn throughput(&self, report: &mut Report) -> Result<()> {
        let bytes = BYTES.to_string();
        for call in ["upload", "download"] {
            let mut rounds = Vec::new();
            for _ in 0..TRANSFERS {
                let forward = self.namespace.port_forward("web", 7000);
                let bare = json_of(Command::new(&self.tool).args([call, &forward.address, &bytes]))?;
                drop(forward);
                let direct = format!("{}:7000", self.address);
                let ours = json_of(&mut self.exec(&[call, &direct, &bytes]))?;
                rounds.push((number(&bare, "mb_per_s")?, number(&ours, "mb_per_s")?));
            }
            report.line(
                &format!("cluster: {call} of 1 GiB, to port-forward"),
                "MB/s",
                &rounds,
                Goal::AtLeast(0.8),
            );
        }
        Ok(())
    }

    /// A request that is stolen passes the port-forward once, as one that is sent through a bare one does.
    fn latency(&self, report: &mut Report) -> Result<()> {
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let forward = self.namespace.port_forward("web", 80);
            let bare = json_of(Command::new(&self.tool).args(["load", &forward.address, "1", LOAD_SECONDS]))?;
            drop(forward);
            let options = [
                "--kubeconfig",
                &self.kubeconfig,
                "-n",
                &self.namespace.name,
                "-t",
                "pod/web/container/server",
                "--steal",
                "-p",
                "80",
            ];
            let session = self.world.exec(&options, &[&self.tool, "server", "80"]);
            session.wait_mode(80, "steal");
            let address = format!("{}:80", self.address);
            let load =
                [&["exec", "client", "--"], &ON_NODE[..], &[&self.tool, "load", &address, "1", LOAD_SECONDS]];
            let stolen = self.namespace.kubectl(&load.concat());
            session.stop();
            let stolen: Value = serde_json::from_str(stolen.trim()).context("the load in the cluster")?;
            rounds.push((number(&bare, "p50_us")? / 1e3, number(&stolen, "p50_us")? / 1e3));
        }
        report.line("cluster: stolen request, to port-forward, p50", "ms", &rounds, Goal::None);
        let added: Vec<_> = rounds.iter().map(|(bare, stolen)| (1.0, stolen - bare)).collect();
        report.line("cluster: stolen request, what is added", "ms", &added, Goal::ValueAtMost(1.0));
        Ok(())
    }
}

/// The steps of a bring-up and how many milliseconds each took, from the host's log.
fn steps(log: &str) -> Vec<(String, f64)> {
    let mut steps = Vec::new();
    let mut open: Option<(String, f64)> = None;
    for line in log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let fields = &line["fields"];
        let message = fields["message"].as_str().unwrap_or_default();
        let at = time_of_day(line["timestamp"].as_str().unwrap_or_default());
        if let Some(ms) = fields["ms"].as_str().and_then(|ms| ms.parse().ok())
            && ["the agent's objects are created", "waited for the agent"].contains(&message)
        {
            steps.push((format!("of it: {message}"), ms));
        }
        if message == "bring-up" || (message == "session" && fields["phase"] == "Running") {
            steps.extend(open.take().map(|(name, since)| (name, (at - since) * 1e3)));
            open = fields["step"].as_str().map(|step| (step.to_owned(), at));
        }
    }
    steps
}

/// Seconds since midnight of `2026-01-01T12:34:56.789Z`.
fn time_of_day(stamp: &str) -> f64 {
    let time = stamp.split('T').nth(1).unwrap_or_default().trim_end_matches('Z');
    time.split(':').filter_map(|part| part.parse::<f64>().ok()).fold(0.0, |sum, part| sum * 60.0 + part)
}
