//! The lines of the benchmark.

use std::{path::PathBuf, process::Command, time::Instant};

use anyhow::{Context, Result, bail};
use mirrord_tests::World;
use serde_json::Value;

use crate::{
    cluster, layers,
    report::{Goal, Report},
};

/// Rounds of each line.
pub(crate) const ROUNDS: usize = 5;
/// Seconds of one load measurement.
const LOAD_SECONDS: &str = "2";

/// A named group of lines.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&World, &mut Report) -> Result<()>,
}

/// All, in the order of printing.
pub(crate) fn all() -> [Case; 9] {
    [
        Case { name: "mirror", run: mirror },
        Case { name: "steal", run: steal },
        Case { name: "start", run: start },
        Case { name: "outgoing", run: outgoing },
        Case { name: "dns", run: dns },
        Case { name: "files", run: files },
        Case { name: "syscall", run: syscall },
        Case { name: "layers", run: layers::run },
        Case { name: "cluster", run: cluster::run },
    ]
}

/// The target's request rate with and without a mirror, and with a relay that copies.
fn mirror(world: &World, report: &mut Report) -> Result<()> {
    let tool = tool()?;
    let pod = world.pod("bench-web", &[], &[&tool, "server", "80"]);
    let address = format!("{}:80", pod.ip);
    let load = |address: &str, connections: &str| node(world, &["load", address, connections, LOAD_SECONDS]);
    for connections in ["1", "10", "100"] {
        let mut rate = Vec::new();
        let mut p50 = Vec::new();
        let mut p99 = Vec::new();
        for _ in 0..ROUNDS {
            let bare = load(&address, connections)?;
            let session =
                world.exec(&["-t", "local/bench-web", "--mirror", "-p", "80:8080"], &["sleep", "600"]);
            let mirrored = load(&address, connections)?;
            session.stop();
            rate.push((number(&bare, "rate")?, number(&mirrored, "rate")?));
            p50.push((number(&bare, "p50_us")?, number(&mirrored, "p50_us")?));
            p99.push((number(&bare, "p99_us")?, number(&mirrored, "p99_us")?));
        }
        let goal = if connections == "100" { Goal::AtLeast(0.85) } else { Goal::None };
        report.line(&format!("mirror: requests/s, {connections} connections"), "/s", &rate, goal);
        report.line(&format!("mirror: p50, {connections} connections"), "us", &p50, Goal::None);
        report.line(&format!("mirror: p99, {connections} connections"), "us", &p99, Goal::None);
    }
    let relay = world.pod("bench-relay", &[], &[&tool, "relay", "80", &address]);
    let relay = format!("{}:80", relay.ip);
    let rounds =
        pairs(|| Ok((number(&load(&address, "100")?, "rate")?, number(&load(&relay, "100")?, "rate")?)))?;
    report.line("for comparison: a relay that copies, 100", "/s", &rounds, Goal::None);
    world.ok(["local", "stop", "bench-relay"]);
    world.ok(["local", "stop", "bench-web"]);
    Ok(())
}

/// Requests answered by the local process instead of the pod, and bytes through a stolen connection.
fn steal(world: &World, report: &mut Report) -> Result<()> {
    let tool = tool()?;
    let pod = world.pod("bench-web", &[], &[&tool, "server", "80"]);
    let sink = world.pod("bench-sink", &[], &[&tool, "sink", "7000"]);
    let (web, sink) = (format!("{}:80", pod.ip), format!("{}:7000", sink.ip));
    let mut requests = Vec::new();
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        let bare = node(world, &["load", &web, "1", LOAD_SECONDS])?;
        let session = world.exec(&["-t", "local/bench-web", "--steal", "-p", "80"], &[&tool, "server", "80"]);
        session.wait_info("stealing", |info| {
            info["ports"][0]["waiting"] == "" && info["ports"][0]["mode"] == "steal"
        });
        let stolen = node(world, &["load", &web, "1", LOAD_SECONDS])?;
        session.stop();
        requests.push((number(&bare, "p50_us")?, number(&stolen, "p50_us")?));
        rates.push((number(&bare, "rate")?, number(&stolen, "rate")?));
    }
    report.line("steal: request on a kept connection, p50", "us", &requests, Goal::AtMost(1.6));
    report.line("steal: requests/s, 1 connection", "/s", &rates, Goal::None);
    let bytes = (1_u64 << 30).to_string();
    let mut throughput = Vec::new();
    for _ in 0..ROUNDS.min(3) {
        let bare = node(world, &["send", &sink, &bytes])?;
        let session =
            world.exec(&["-t", "local/bench-sink", "--steal", "-p", "7000"], &[&tool, "sink", "7000"]);
        session.wait_info("stealing", |info| {
            info["ports"][0]["waiting"] == "" && info["ports"][0]["mode"] == "steal"
        });
        let stolen = node(world, &["send", &sink, &bytes])?;
        session.stop();
        throughput.push((number(&bare, "mb_per_s")?, number(&stolen, "mb_per_s")?));
    }
    report.line("steal: 1 GiB through one connection", "MB/s", &throughput, Goal::AtLeast(0.8));
    world.ok(["local", "stop", "bench-web"]);
    world.ok(["local", "stop", "bench-sink"]);
    Ok(())
}

/// Start-up of a program under the layer, and of a whole session.
fn start(world: &World, report: &mut Report) -> Result<()> {
    world.pod("bench-idle", &[], &["sleep", "3600"]);
    let rounds = pairs(|| {
        let bare = outside(world, &["spawn", "200", "/bin/true"])?;
        let layered = inside(world, "local/bench-idle", &["spawn", "200", "/bin/true"])?;
        Ok((number(&bare, "p50_us")? / 1e3, number(&layered, "p50_us")? / 1e3))
    })?;
    report.line("start: /bin/true in a session", "ms", &rounds, Goal::None);
    let extra: Vec<_> = rounds.iter().map(|(bare, layered)| (1.0, layered - bare)).collect();
    report.line("start: /bin/true in a session, what is added", "ms", &extra, Goal::ValueAtMost(2.0));
    let wall = |command: &mut Command| -> Result<f64> {
        let start = Instant::now();
        let status = command.status()?;
        if status.success() {
            Ok(start.elapsed().as_secs_f64() * 1e3)
        } else {
            bail!("{command:?}: {status}")
        }
    };
    let rounds = pairs(|| {
        let mut bare = Command::new("/bin/true");
        let mut session =
            world.command(["exec", "-t", "local/bench-idle", "--output", "silent", "--", "/bin/true"]);
        Ok((wall(&mut bare)?, wall(&mut session)?))
    })?;
    report.line("start: exec -- /bin/true in all", "ms", &rounds, Goal::ValueAtMost(60.0));
    world.ok(["local", "stop", "bench-idle"]);
    Ok(())
}

/// Connections that leave from the target.
fn outgoing(world: &World, report: &mut Report) -> Result<()> {
    let tool = tool()?;
    let web = world.pod("bench-web", &[], &[&tool, "server", "80"]);
    let sink = world.pod("bench-sink", &[], &[&tool, "sink", "7000"]);
    world.pod("bench-client", &[], &["sleep", "3600"]);
    let (web, sink) = (format!("{}:80", web.ip), format!("{}:7000", sink.ip));
    let rounds = pairs(|| {
        let bare = pod(world, "bench-client", &["connect-get", &web, "500"])?;
        let ours = inside(world, "local/bench-client", &["connect-get", &web, "500"])?;
        Ok((number(&bare, "p50_us")?, number(&ours, "p50_us")?))
    })?;
    report.line("outgoing: connect + GET, p50", "us", &rounds, Goal::AtMost(1.6));
    let bytes = (1_u64 << 30).to_string();
    let rounds = pairs(|| {
        let bare = pod(world, "bench-client", &["send", &sink, &bytes])?;
        let ours = inside(world, "local/bench-client", &["send", &sink, &bytes])?;
        Ok((number(&bare, "mb_per_s")?, number(&ours, "mb_per_s")?))
    })?;
    report.line("outgoing: 1 GiB through one connection", "MB/s", &rounds, Goal::AtLeast(0.8));
    for name in ["bench-web", "bench-sink", "bench-client"] {
        world.ok(["local", "stop", name]);
    }
    Ok(())
}

/// Names that only the pods' resolver knows.
fn dns(world: &World, report: &mut Report) -> Result<()> {
    world.pod("bench-client", &[], &["sleep", "3600"]);
    let rounds = pairs(|| {
        let bare = pod(world, "bench-client", &["resolve", "bench-client", "300"])?;
        let ours = inside(world, "local/bench-client", &["resolve", "bench-client", "300"])?;
        Ok((number(&bare, "p50_us")?, number(&ours, "p50_us")?))
    })?;
    report.line("dns: getaddrinfo of a pod's name, p50", "us", &rounds, Goal::None);
    world.ok(["local", "stop", "bench-client"]);
    Ok(())
}

/// Files that only the pod has, against the same files on this machine. They lie at the top: /etc, /tmp and home are local by default.
fn files(world: &World, report: &mut Report) -> Result<()> {
    let small = world.path().join("small");
    std::fs::write(&small, vec![b'x'; 4096])?;
    let big = world.path().join("big");
    std::fs::write(&big, vec![b'x'; 100 << 20])?;
    let (small, big) = (small.to_string_lossy().into_owned(), big.to_string_lossy().into_owned());
    world.pod("bench-files", &[], &["sleep", "3600"]);
    let make =
        "mkdir /bench && head -c 4096 /dev/zero >/bench/small && head -c 104857600 /dev/zero >/bench/big";
    world.ok(["local", "exec", "bench-files", "--", "sh", "-c", make]);
    let both = |ours: &[&str], bare: &[&str], key: &'static str| {
        pairs(|| {
            Ok((
                number(&outside(world, bare)?, key)?,
                number(&inside(world, "local/bench-files", ours)?, key)?,
            ))
        })
    };
    let rounds = both(&["open-read", "/bench/small", "1000"], &["open-read", &small, "1000"], "p50_us")?;
    report.line("files: open + read + close of 4 KiB, p50", "us", &rounds, Goal::ValueAtMost(120.0));
    let rounds = both(&["stat", "/bench/small", "1000"], &["stat", &small, "1000"], "p50_us")?;
    report.line("files: stat, p50", "us", &rounds, Goal::ValueAtMost(60.0));
    let rounds = both(&["read-all", "/bench/big"], &["read-all", &big], "mb_per_s")?;
    report.line("files: read of 100 MiB", "MB/s", &rounds, Goal::None);
    let rounds = both(&["stat", "/usr/bin/env", "2000"], &["stat", "/usr/bin/env", "2000"], "p50_us")?;
    report.line("files: stat of a local path, p50", "us", &rounds, Goal::None);
    world.ok(["local", "stop", "bench-files"]);
    Ok(())
}

/// What every system call pays that is none of our business.
fn syscall(world: &World, report: &mut Report) -> Result<()> {
    world.pod("bench-idle", &[], &["sleep", "3600"]);
    let rounds = pairs(|| {
        let bare = outside(world, &["syscall", "2000000"])?;
        let ours = inside(world, "local/bench-idle", &["syscall", "2000000"])?;
        Ok((number(&bare, "mean_us")? * 1e3, number(&ours, "mean_us")? * 1e3))
    })?;
    report.line("an untrapped system call", "ns", &rounds, Goal::None);
    world.ok(["local", "stop", "bench-idle"]);
    Ok(())
}

fn pairs(mut round: impl FnMut() -> Result<(f64, f64)>) -> Result<Vec<(f64, f64)>> {
    (0..ROUNDS).map(|_| round()).collect()
}

/// The tool beside this program, at a place that every user can reach.
pub(crate) fn tool() -> Result<String> {
    let path = std::env::var_os("MIRRORD_TUI_BENCH_TOOL").map_or_else(
        || std::env::current_exe().map(|exe| exe.with_file_name("bench-tool")),
        |path| Ok(PathBuf::from(path)),
    )?;
    path.into_os_string().into_string().ok().context("the path of bench-tool is not UTF-8")
}

/// Runs the tool in the node's namespaces, as another pod would.
fn node(world: &World, args: &[&str]) -> Result<Value> {
    json_of(world.command(["local", "node-exec", "--"]).arg(tool()?).args(args))
}

/// Runs the tool inside of a pod.
pub(crate) fn pod(world: &World, name: &str, args: &[&str]) -> Result<Value> {
    json_of(world.command(["local", "exec", name, "--"]).arg(tool()?).args(args))
}

/// Runs the tool in a session.
fn inside(world: &World, target: &str, args: &[&str]) -> Result<Value> {
    json_of(world.command(["exec", "-t", target, "--output", "silent", "--"]).arg(tool()?).args(args))
}

/// Runs the tool in a session with this attachment.
pub(crate) fn inside_with(world: &World, layer: &str, target: &str, args: &[&str]) -> Result<Value> {
    let options = ["exec", "-t", target, "--layer", layer, "--output", "silent", "--"];
    json_of(world.command(options).arg(tool()?).args(args))
}

/// Runs the tool as the same user without us.
pub(crate) fn outside(world: &World, args: &[&str]) -> Result<Value> {
    let mut command = Command::new(tool()?);
    command.args(args).env_clear().envs(world.environment());
    world.user().apply(&mut command);
    json_of(&mut command)
}

pub(crate) fn json_of(command: &mut Command) -> Result<Value> {
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().unwrap_or_default();
    serde_json::from_str(line).with_context(|| {
        format!("{command:?}: {}: {}{}", output.status, text, String::from_utf8_lossy(&output.stderr))
    })
}

pub(crate) fn number(value: &Value, key: &str) -> Result<f64> {
    value.get(key).and_then(Value::as_f64).with_context(|| format!("no {key} in {value}"))
}
