//! Builds the agent as a static executable and lays it into OUT_DIR, where `agent_process.rs` embeds it.
//!
//! `MIRRORD_AGENT_BIN` names an executable to embed instead of building one; `MIRRORD_AGENT_TARGET_DIR` moves the nested build's
//! folder, which several checkouts may share. A debug build embeds an agent of profile `agent-dev`, which builds in a fraction of
//! the time, so that `cargo check` and clippy stay quick.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Relative to this crate: what the agent is made of.
const SOURCES: [&str; 8] = [
    "../agent/src",
    "../agent/Cargo.toml",
    "netns/src",
    "netns/Cargo.toml",
    "protocol/src",
    "protocol/Cargo.toml",
    "../Cargo.toml",
    "../Cargo.lock",
];

fn main() -> Result<(), String> {
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    for variable in ["MIRRORD_AGENT_BIN", "MIRRORD_AGENT_TARGET_DIR"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let out = PathBuf::from(variable("OUT_DIR")?);
    let built = match env::var_os("MIRRORD_AGENT_BIN") {
        Some(given) => {
            println!("cargo::rerun-if-changed={}", given.display());
            PathBuf::from(given)
        }
        None => build(&out)?,
    };
    fs::copy(&built, out.join("mirrord-agent"))
        .map_err(|error| format!("copy {}: {error}", built.display()))?;
    Ok(())
}

/// Runs a cargo of its own: the agent needs other flags, another profile, and no wrapper of the outer build.
fn build(out: &Path) -> Result<PathBuf, String> {
    let target = variable("TARGET")?;
    let profile = if variable("PROFILE")? == "release" { "agent" } else { "agent-dev" };
    let target_dir = match env::var_os("MIRRORD_AGENT_TARGET_DIR") {
        Some(given) => PathBuf::from(given),
        // OUT_DIR is TARGET_DIR/PROFILE/build/PACKAGE/out. A folder of its own: the outer cargo holds the lock of TARGET_DIR.
        None => out.ancestors().nth(4).ok_or("OUT_DIR is no folder of cargo's")?.join("agent"),
    };
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .args(["build", "--locked", "--package", "mirrord-agent", "--profile", profile, "--target", &target])
        .arg("--target-dir")
        .arg(&target_dir)
        .current_dir(Path::new(&variable("CARGO_MANIFEST_DIR")?).join(".."))
        // With --target given they hold for the agent only and not for build scripts and macros, which cannot be static.
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    for foreign in
        ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET", "CLIPPY_ARGS"]
    {
        cargo.env_remove(foreign);
    }
    let status = cargo.status().map_err(|error| format!("start cargo for the agent: {error}"))?;
    if !status.success() {
        return Err(format!("the build of the agent failed: {status}"));
    }
    Ok(target_dir.join(target).join(profile).join("mirrord-agent"))
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}
