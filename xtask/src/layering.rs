//! Proves the direction of dependencies in ARCHITECTURE.md: who may know whom.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run::cargo;

/// Package, and those that must not be among its dependencies however deep.
const FORBIDDEN: [(&str, &[&str]); 7] = [
    (
        "mirrord-protocol",
        &["mirrord-netns", "mirrord-layer", "mirrord-session", "mirrord-agent", "mirrord-tui"],
    ),
    ("mirrord-netns", &["mirrord-session", "mirrord-layer", "mirrord-agent", "kube", "ratatui"]),
    ("mirrord-preload", &["mirrord-protocol", "mirrord-netns", "mirrord-session", "mirrord-layer"]),
    ("mirrord-layer", &["mirrord-netns", "mirrord-session", "mirrord-agent", "kube", "ratatui"]),
    ("mirrord-agent", &["mirrord-session", "mirrord-layer", "kube", "ratatui", "clap"]),
    ("mirrord-session", &["mirrord-agent", "mirrord-tui", "ratatui", "crossterm", "clap"]),
    ("mirrord-tui", &["mirrord-agent", "aws-lc-rs", "openssl"]),
];

/// Fails with each wrong edge.
pub(crate) fn check() -> Result<()> {
    let mut wrong = Vec::new();
    for (package, forbidden) in FORBIDDEN {
        let names = dependencies(package)?;
        wrong.extend(
            forbidden
                .iter()
                .filter(|name| names.iter().any(|known| known == *name))
                .map(|name| format!("{package} -> {name}")),
        );
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        bail!("dependencies against ARCHITECTURE.md: {}", wrong.join(", "))
    }
}

fn dependencies(package: &str) -> Result<Vec<String>> {
    // A binary crate cannot be named with --package by a path; the tree of normal dependencies is what ships.
    let mut command: Command =
        cargo(&["tree", "--package", package, "--edges", "normal", "--prefix", "none", "--format", "{p}"]);
    let output = command.output().context("run cargo tree")?;
    if !output.status.success() {
        bail!("cargo tree --package {package}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().skip(1).filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}
