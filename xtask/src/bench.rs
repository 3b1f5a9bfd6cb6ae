//! `cargo xtask bench`: builds program and benchmark in release and runs it.

use anyhow::{Context, Result};

use crate::{
    run::{cargo, succeed},
    test::Stage,
};

/// The group that is measured inside of the terminal UI: the others run the built program.
const UI: &str = "ui";

/// Runs the groups that are named, or all.
pub(crate) fn run(groups: &[String]) -> Result<()> {
    let (own, others): (Vec<_>, Vec<_>) = groups.iter().partition(|group| *group == UI);
    if groups.is_empty() || !own.is_empty() {
        ui()?;
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
    succeed(bench.args(others).env("MIRRORD_TUI_BIN", &stage.program).env("MIRRORD_TUI_BENCH_TOOL", tool))
}

/// The terminal UI measures itself, as a test of its own that does nothing otherwise.
fn ui() -> Result<()> {
    let mut test =
        cargo(&["test", "--release", "--quiet", "--package", "mirrord-tui", "--bin", "mirrord-tui"]);
    succeed(test.args(["ui::bench", "--", "--nocapture"]).env("MIRRORD_TUI_BENCH", "1"))
}
