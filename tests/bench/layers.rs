//! The two attachments on the same lines: bare, under the syscall attachment and under the libc attachment, in turn in each round.

use anyhow::Result;
use mirrord_tests::World;

use crate::{
    cases::{ROUNDS, inside_with, number, outside, pod, tool},
    report::{Goal, Report},
};

const PATH: &str = "/bench/small";

/// What each attachment adds to a start, a path call, a file, a connection and a name.
pub(crate) fn run(world: &World, report: &mut Report) -> Result<()> {
    let tool = tool()?;
    let web = world.pod("bench-web", &[], &[&tool, "server", "80"]);
    world.pod("bench-client", &[], &["sleep", "3600"]);
    let web = format!("{}:80", web.ip);
    let make = "mkdir /bench && head -c 4096 /dev/zero >/bench/small";
    world.ok(["local", "exec", "bench-client", "--", "sh", "-c", make]);
    let small = world.path().join("small");
    std::fs::write(&small, vec![b'x'; 4096])?;
    let small = small.to_string_lossy();
    // What is bare for files and starts is this machine, for the network the pod itself.
    let here = |args: &[&str]| outside(world, args);
    let there = |args: &[&str]| pod(world, "bench-client", args);
    let start = ["spawn", "200", "/bin/true"];
    compare(world, report, "/bin/true", Goal::AtMost(2.0), || here(&start), &start)?;
    let stat = ["stat", PATH, "1000"];
    compare(world, report, "stat, p50", Goal::None, || here(&["stat", &small, "1000"]), &stat)?;
    let read = ["open-read", PATH, "1000"];
    let bare = || here(&["open-read", &small, "1000"]);
    compare(world, report, "open + read + close of 4 KiB, p50", Goal::None, bare, &read)?;
    let get = ["connect-get", &web, "500"];
    compare(world, report, "connect + GET, p50", Goal::None, || there(&get), &get)?;
    let resolve = ["resolve", "bench-client", "300"];
    compare(world, report, "getaddrinfo, p50", Goal::None, || there(&resolve), &resolve)?;
    for name in ["bench-web", "bench-client"] {
        world.ok(["local", "stop", name]);
    }
    Ok(())
}

/// Two lines of one measurement; the goal is that of the libc attachment.
fn compare(
    world: &World,
    report: &mut Report,
    what: &str,
    goal: Goal,
    bare: impl Fn() -> Result<serde_json::Value>,
    args: &[&str],
) -> Result<()> {
    let (mut syscall, mut libc) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let bare = number(&bare()?, "p50_us")?;
        let time = |layer| number(&inside_with(world, layer, "local/bench-client", args)?, "p50_us");
        syscall.push((bare, time("syscall")?));
        libc.push((bare, time("libc")?));
    }
    report.line(&format!("syscall: {what}"), "us", &syscall, Goal::None);
    report.line(&format!("libc: {what}"), "us", &libc, goal);
    Ok(())
}
