//! `ls`: the targets of this machine.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use mirrord_session::local;

use crate::output::{print, table};

/// Arguments of `ls`.
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
}

/// Form of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// Columns.
    Table,
    /// One JSON array.
    Json,
}

/// Lists local pods; processes are targets as well (pid/N) but a list of them is `ps`.
pub(crate) fn run(args: &LsArgs) -> Result<ExitCode> {
    let pods = local::list()?;
    match args.output {
        Form::Json => {
            let names: Vec<_> = pods.iter().map(|pod| serde_json::json!({ "target": format!("local/{}", pod.name), "pid": pod.pid, "ip": pod.ip })).collect();
            print(&format!("{}\n", serde_json::to_string_pretty(&names)?))?;
        }
        Form::Table if pods.is_empty() => {
            print(
                "no local pods; `mirrord-tui local start NAME -- CMD` makes one, `mirrord-tui demo` a whole shop; pid/N works for any process\n",
            )?;
        }
        Form::Table => {
            let header = ["TARGET", "PID", "IP"].map(str::to_owned).to_vec();
            let rows = pods
                .iter()
                .map(|pod| vec![format!("local/{}", pod.name), pod.pid.to_string(), pod.ip.to_string()]);
            print(&table(&std::iter::once(header).chain(rows).collect::<Vec<_>>()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
