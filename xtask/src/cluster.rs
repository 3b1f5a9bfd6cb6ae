//! `cargo xtask cluster up|down|status`: the Kubernetes of the end-to-end tests, by hand.

use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::run::{root, succeed};

/// What to do with the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Order {
    /// Start it; does nothing when it runs.
    Up,
    /// Stop it and remove what it was made of.
    Down,
    /// Say what runs, and where its kubeconfig is.
    Status,
}

/// Does it.
pub(crate) fn run(order: Order) -> Result<()> {
    let word = match order {
        Order::Up => "up",
        Order::Down => "down",
        Order::Status => "status",
    };
    succeed(script().arg(word))?;
    if order != Order::Down {
        succeed(script().arg("kubeconfig"))?;
    }
    Ok(())
}

/// Does work that starts the cluster when it first needs it. One that ran before goes on.
pub(crate) fn stopped_after(work: impl FnOnce() -> Result<()>) -> Result<()> {
    let ran = is_up()?;
    let done = work();
    if !ran && is_up()? {
        run(Order::Down)?;
    }
    done
}

/// Whether it runs.
fn is_up() -> Result<bool> {
    let output = script().arg("status").output().context("run cluster.sh")?;
    Ok(output.status.success())
}

fn script() -> Command {
    Command::new(root().join("tests/cluster/cluster.sh"))
}
