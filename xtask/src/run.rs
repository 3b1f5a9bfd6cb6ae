//! Starts other programs from the root of the checkout.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

/// Root of the checkout.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_owned)
}

/// `cargo`, by the name that a person calls it: by the path in `CARGO`, it would take the compiler for another one and build all that
/// the person has built again.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(args).current_dir(root());
    command
}

/// Runs to the end and fails when the command does.
pub(crate) fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start {:?}", command.get_program()))?;
    if status.success() {
        Ok(())
    } else {
        bail!("{:?} {:?} failed: {status}", command.get_program(), command.get_args())
    }
}
