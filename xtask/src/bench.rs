//! `cargo xtask bench`: builds program and benchmark in release and runs it.

use anyhow::{Context, Result};

use crate::{
    cluster,
    run::{cargo, succeed},
    test::Stage,
};

/// The group that is measured inside of the terminal UI: the others run the built program.
const UI: &str = "ui";
/// The terminal UI under a storm of events for half an hour; only when it is asked for.
const STORM: &str = "storm";
/// Its length, unless `MIRRORD_TUI_STORM_SECONDS` says another.
const STORM_SECONDS: &str = "1800";

/// Runs the groups that are named, or all.
pub(crate) fn run(groups: &[String]) -> Result<()> {
    let (own, others): (Vec<_>, Vec<_>) =
        groups.iter().partition(|group| [UI, STORM].contains(&group.as_str()));
    if groups.is_empty() || own.iter().any(|group| *group == UI) {
        ui("figures", "MIRRORD_TUI_BENCH", "1")?;
    }
    if own.iter().any(|group| *group == STORM) {
        let name = "MIRRORD_TUI_STORM_SECONDS";
        ui("long_storm", name, &std::env::var(name).unwrap_or_else(|_| STORM_SECONDS.to_owned()))?;
    }
    if others.is_empty() && !groups.is_empty() {
        return Ok(());
    }
    succeed(&mut cargo(&["build", "--release"]))?;
    succeed(&mut cargo(&["build", "--release", "--package", "mirrord-tests", "--bins"]))?;
    let stage = Stage::new()?;
    let tool = stage.also("bench-tool").context("copy bench-tool to where every user can run it")?;
    let mut bench =
        cargo(&["run", "--release", "--quiet", "--package", "mirrord-tests", "--bin", "bench", "--"]);
    bench.args(others).env("MIRRORD_TUI_BIN", &stage.program).env("MIRRORD_TUI_BENCH_TOOL", tool);
    cluster::stopped_after(|| succeed(&mut bench))
}

/// The terminal UI measures itself, in tests of its own that do nothing unless the variable asks for it.
fn ui(test_name: &str, variable: &str, value: &str) -> Result<()> {
    let mut test =
        cargo(&["test", "--release", "--quiet", "--package", "mirrord-tui", "--bin", "mirrord-tui"]);
    let name = format!("ui::bench::{test_name}");
    succeed(test.args([&name, "--", "--exact", "--nocapture"]).env(variable, value))
}
