//! `cargo xtask bench`: builds program and benchmark in release and runs it.

use anyhow::{Context, Result};

use crate::{
    run::{cargo, succeed},
    test::Stage,
};

/// Runs the groups that are named, or all.
pub(crate) fn run(groups: &[String]) -> Result<()> {
    succeed(&mut cargo(&["build", "--release"]))?;
    succeed(&mut cargo(&["build", "--release", "--package", "mirrord-tests", "--bins"]))?;
    let stage = Stage::new()?;
    let tool = stage.also("bench-tool").context("copy bench-tool to where every user can run it")?;
    let mut bench =
        cargo(&["run", "--release", "--quiet", "--package", "mirrord-tests", "--bin", "bench", "--"]);
    succeed(bench.args(groups).env("MIRRORD_TUI_BIN", &stage.program).env("MIRRORD_TUI_BENCH_TOOL", tool))
}
