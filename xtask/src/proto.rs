//! Generates session/protocol/src/generated from session/protocol/proto.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};

const FILES: [&str; 3] = ["agent.proto", "session.proto", "layer.proto"];

/// Writes the generated files, or with `check` fails when they differ from what is there.
pub(crate) fn run(check: bool) -> Result<()> {
    let protocol = Path::new(env!("CARGO_MANIFEST_DIR")).join("../session/protocol");
    let target = protocol.join("src/generated");
    let fresh = tempfile::tempdir().context("make a folder for the generated code")?;
    let descriptors = protox::compile(FILES, [protocol.join("proto")]).context("compile the .proto files")?;
    tonic_prost_build::configure()
        .bytes(".")
        .out_dir(fresh.path())
        .compile_fds(descriptors)
        .context("generate Rust from the .proto files")?;
    let mut differs = Vec::new();
    for entry in fs::read_dir(fresh.path())? {
        let entry = entry?;
        // The generator has no option for the codec.
        let new = fs::read_to_string(entry.path())?
            .replace("tonic_prost::ProstCodec::default()", "crate::codec::SmallCodec::default()")
            .into_bytes();
        let old_path = target.join(entry.file_name());
        if fs::read(&old_path).ok().as_deref() == Some(new.as_slice()) {
            continue;
        }
        if check {
            differs.push(old_path.display().to_string());
        } else {
            fs::create_dir_all(&target)?;
            fs::write(&old_path, new).with_context(|| format!("write {}", old_path.display()))?;
        }
    }
    if differs.is_empty() {
        Ok(())
    } else {
        bail!("out of date, run `cargo xtask proto`: {}", differs.join(", "))
    }
}
