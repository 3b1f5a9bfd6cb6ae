//! Builds the agent as a static executable and lays it into OUT_DIR, where `agent_process.rs` embeds it; and, for the cluster, packs
//! it and builds the first stage that unpacks it there, which `cluster/agent_job/program.rs` embeds. Builds the layer's library, which
//! `library.rs` embeds.
//!
//! `MIRRORD_AGENT_BIN` names an executable to embed instead of building one; `MIRRORD_AGENT_TARGET_DIR` moves the nested build's
//! folder, which several checkouts may share. A debug build embeds an agent of profile `agent-dev`, which builds in a fraction of
//! the time, so that `cargo check` and clippy stay quick.

use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use lzma_rust2::{LzmaOptions, LzmaWriter};
use sha2::{Digest, Sha256};

/// Relative to this crate: what the agent, its first stage and the library are made of.
const SOURCES: [&str; 13] = [
    "../layer/preload/src",
    "../layer/preload/Cargo.toml",
    "../agent/src",
    "../agent/Cargo.toml",
    "../agent/stage/src",
    "../agent/stage/Cargo.toml",
    "../agent/stage/Cargo.lock",
    "netns/src",
    "netns/Cargo.toml",
    "protocol/src",
    "protocol/Cargo.toml",
    "../Cargo.toml",
    "../Cargo.lock",
];

/// The first stage has its own entry and no libc, and lies at fixed addresses: nobody relocates it.
const STAGE_FLAGS: [&str; 6] = [
    "-Crelocation-model=static",
    "-Clink-arg=-nostartfiles",
    "-Clink-arg=-nostdlib",
    "-Clink-arg=-static",
    "-Clink-arg=-Wl,--build-id=none",
    "-Clink-arg=-Wl,-z,noexecstack",
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
    let agent = fs::read(&built).map_err(|error| format!("read {}: {error}", built.display()))?;
    let stage = build_stage(&out)?;
    let stage = fs::read(&stage).map_err(|error| format!("read {}: {error}", stage.display()))?;
    let library = build_library(&out)?;
    let library = fs::read(&library).map_err(|error| format!("read {}: {error}", library.display()))?;
    let hash = format!("{:x}", Sha256::digest(&agent));
    let packed = pack(&agent).map_err(|error| format!("pack the agent: {error}"))?;
    for (name, content) in [
        ("mirrord-agent", &*agent),
        ("mirrord-agent.lzma", &*packed),
        ("mirrord-agent.sha256", hash.as_bytes()),
        ("mirrord-agent-stage", &*stage),
        ("libmirrord_layer.so", &*library),
    ] {
        write(&out.join(name), content)?;
    }
    Ok(())
}

/// Leaves a file alone that holds the same already: its time makes cargo compile what includes it.
fn write(path: &Path, content: &[u8]) -> Result<(), String> {
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    fs::write(path, content).map_err(|error| format!("write {}: {error}", path.display()))
}

/// LZMA: the smallest of what there is in Rust alone, and the smallest to unpack. Two ConfigMaps hold the result.
fn pack(agent: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    // Debug builds shall be quick: 1.4 s instead of 5, for a tenth more bytes.
    let preset = if variable("PROFILE")? == "release" { 9 } else { 1 };
    let size = u64::try_from(agent.len())?;
    let mut options = LzmaOptions::with_preset(preset);
    // No more than there is: the first stage has to hold it.
    options.dict_size = options.dict_size.min(u32::try_from(size.next_power_of_two())?);
    let mut writer = LzmaWriter::new_use_header(Vec::new(), &options, Some(size))?;
    writer.write_all(agent)?;
    Ok(writer.finish()?)
}

/// A workspace of its own, so another cargo; it takes five seconds once.
fn build_stage(out: &Path) -> Result<PathBuf, String> {
    let target = variable("TARGET")?;
    let target_dir = match env::var_os("MIRRORD_AGENT_TARGET_DIR") {
        Some(given) => PathBuf::from(given).join("stage"),
        None => out.ancestors().nth(4).ok_or("OUT_DIR is no folder of cargo's")?.join("agent-stage"),
    };
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .args(["build", "--locked", "--release", "--target", &target, "--target-dir"])
        .arg(&target_dir)
        .current_dir(Path::new(&variable("CARGO_MANIFEST_DIR")?).join("../agent/stage"))
        .env("CARGO_ENCODED_RUSTFLAGS", STAGE_FLAGS.join("\x1f"));
    run(cargo, "first stage")?;
    Ok(target_dir.join(target).join("release/mirrord-agent-stage"))
}

/// A cargo of its own: the agent needs other flags, another profile, and no wrapper of the outer build.
fn build(out: &Path) -> Result<PathBuf, String> {
    let profile = if variable("PROFILE")? == "release" { "agent" } else { "agent-dev" };
    let arguments = ["build", "--package", "mirrord-agent", "--profile", profile];
    // With --target given they hold for the agent only and not for build scripts and macros, which cannot be static.
    let folder = nested(out, &arguments, "-Ctarget-feature=+crt-static")?;
    Ok(folder.join(profile).join("mirrord-agent"))
}

/// The library, which is a normal crate for everybody else, becomes a shared object here. It is small: always the same profile.
fn build_library(out: &Path) -> Result<PathBuf, String> {
    let package = ["rustc", "--package", "mirrord-preload", "--profile", "preload"];
    let gum = env::var_os("CARGO_FEATURE_FRIDA_GUM").is_some();
    let features = if gum { "standalone,frida-gum" } else { "standalone" };
    let kind = ["--features", features, "--crate-type", "cdylib"];
    let folder = nested(out, &[package.as_slice(), &kind].concat(), "")?;
    Ok(folder.join("preload/libmirrord_preload.so"))
}

/// Runs cargo on this workspace with a target folder of its own; the part of it that belongs to the target.
fn nested(out: &Path, arguments: &[&str], flags: &str) -> Result<PathBuf, String> {
    let target = variable("TARGET")?;
    let target_dir = match env::var_os("MIRRORD_AGENT_TARGET_DIR") {
        Some(given) => PathBuf::from(given),
        // OUT_DIR is TARGET_DIR/PROFILE/build/PACKAGE/out. A folder of its own: the outer cargo holds the lock of TARGET_DIR.
        None => out.ancestors().nth(4).ok_or("OUT_DIR is no folder of cargo's")?.join("agent"),
    };
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .args(arguments)
        .args(["--locked", "--target", &target, "--target-dir"])
        .arg(&target_dir)
        .current_dir(Path::new(&variable("CARGO_MANIFEST_DIR")?).join(".."))
        .env("CARGO_ENCODED_RUSTFLAGS", flags);
    run(cargo, arguments.get(2).copied().unwrap_or_default())?;
    Ok(target_dir.join(target))
}

/// Runs a nested cargo without what the outer one was told.
fn run(mut cargo: Command, what: &str) -> Result<(), String> {
    for foreign in
        ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET", "CLIPPY_ARGS"]
    {
        cargo.env_remove(foreign);
    }
    let status = cargo.status().map_err(|error| format!("start cargo for the {what}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("the build of the {what} failed: {status}")) }
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}
