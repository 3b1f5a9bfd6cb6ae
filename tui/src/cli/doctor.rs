//! `doctor`: what this machine allows and what would improve it.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use mirrord_session::doctor;

use super::ls::Form;
use crate::output::print;

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
}

/// Probes this machine; the exit code is 1 when no session could run here.
pub(crate) fn run(args: &DoctorArgs) -> Result<ExitCode> {
    let report = doctor::examine();
    match args.output {
        Form::Json => print(&format!("{}\n", serde_json::to_string_pretty(&report)?))?,
        Form::Table => {
            for probe in &report.probes {
                let mark = if probe.works { "✓" } else { "✗" };
                print(&format!("{mark} {:<26} {}\n", probe.name, probe.detail))?;
                if !probe.works && !probe.hint.is_empty() {
                    print(&format!("  {:<26} hint: {}\n", "", probe.hint))?;
                }
            }
            print(&format!("\nattachment: {}\n{}\n", report.attachment, report.reason))?;
        }
    }
    Ok(if report.usable { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
