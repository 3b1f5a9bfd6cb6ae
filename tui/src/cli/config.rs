//! `verify-config` and `schema`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::Args;
use mirrord_session::config::{self, Flags, file::FileConfig};

use crate::output::print;

/// Arguments of `verify-config`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The file: .json, .toml, .yaml or .yml; mirrord's files work as they are.
    file: PathBuf,
    /// Print the effective configuration as JSON.
    #[arg(long)]
    resolved: bool,
}

/// Reads and resolves the file; warnings go to stdout, errors are the program's failure.
pub(crate) fn verify(args: &VerifyArgs) -> Result<ExitCode> {
    let file = config::load(&args.file, |name| std::env::var(name).ok())?;
    let base = args.file.parent().unwrap_or_else(|| std::path::Path::new("."));
    let resolved =
        config::resolve(file, &Flags::default(), base).with_context(|| args.file.display().to_string())?;
    for warning in &resolved.warnings {
        print(&format!("warning: {warning}\n"))?;
    }
    if args.resolved {
        print(&format!("{}\n", serde_json::to_string_pretty(&resolved.config)?))?;
    } else {
        let target = resolved.target.map_or_else(|| "none".to_owned(), |target| target.to_string());
        print(&format!(
            "{}: valid, target {target}, {} warnings\n",
            args.file.display(),
            resolved.warnings.len()
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the schema.
pub(crate) fn schema() -> Result<ExitCode> {
    let schema = config::shapes::schema_of::<FileConfig>();
    print(&format!("{}\n", serde_json::to_string_pretty(&schema)?))?;
    Ok(ExitCode::SUCCESS)
}
