//! `doctor`: what this machine and a target allow, and what would improve it.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::Args;
use mirrord_session::{
    cluster::{
        Which, agent_job,
        preflight::{self, Verdict, Wants},
        resolve,
    },
    config::{Flags, Mode, Resolved},
    doctor, registry,
    target::Target,
};

use super::{
    cluster::{ClusterArgs, ask},
    exec::{port_pair, resolve_config},
    ls::Form,
};
use crate::output::print;

/// How long a cluster may take, credentials included.
const CLUSTER_LIMIT: Duration = Duration::from_secs(60);

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Look at this target as well: would a session with it work?
    #[arg(short, long, env = "MIRRORD_TUI_TARGET")]
    target: Option<Target>,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// As `exec` would be called: all pods of the target, each of which is looked at.
    #[arg(long, requires = "target")]
    all_pods: bool,
    /// As `exec` would be called: ports are taken over.
    #[arg(long, requires = "target")]
    steal: bool,
    /// As `exec` would be called: these ports.
    #[arg(short, long = "port", value_name = "REMOTE[:LOCAL]", value_parser = port_pair, requires = "target")]
    ports: Vec<(u16, u16)>,
    /// Configuration file, as `exec` would be given it.
    #[arg(short = 'f', long, env = "MIRRORD_TUI_CONFIG")]
    config_file: Option<PathBuf>,
    /// Remove what agents have left in the cluster: jobs of sessions of yours that do not live any more, and finished ones of anybody.
    #[arg(long, conflicts_with = "target")]
    clean: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
}

/// Probes this machine and looks at the target; the exit code is 1 when no session could run.
pub(crate) fn run(args: &DoctorArgs) -> Result<ExitCode> {
    if args.clean {
        return clean(args);
    }
    let report = doctor::examine();
    let targets = target_reports(args)?;
    match args.output {
        Form::Json => {
            let mut whole = serde_json::to_value(&report)?;
            if let Some(fields) = whole.as_object_mut() {
                fields.insert("targets".to_owned(), serde_json::to_value(&targets)?);
            }
            print(&format!("{}\n", serde_json::to_string_pretty(&whole)?))?;
        }
        Form::Table => {
            for probe in &report.probes {
                let mark = if probe.works { "✓" } else { "✗" };
                print(&format!("{mark} {:<26} {}\n", probe.name, probe.detail))?;
                if !probe.works && !probe.hint.is_empty() {
                    print(&format!("  {:<26} hint: {}\n", "", probe.hint))?;
                }
            }
            print(&format!("\nattachment: {}\n{}\n", report.attachment, report.reason))?;
            for target in &targets {
                print(&target_text(target))?;
            }
        }
    }
    let fit = targets.iter().all(|target| target.refusals().next().is_none());
    Ok(if report.usable && fit { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Removes agents whose session is gone.
fn clean(args: &DoctorArgs) -> Result<ExitCode> {
    let resolved = resolve_config(
        &Flags { cluster: args.cluster.config(), ..Flags::default() },
        args.config_file.as_deref(),
    )?;
    let alive = registry::list()?;
    let removed = ask("remove what agents have left", &resolved.cluster, CLUSTER_LIMIT, async |cluster| {
        let owner = agent_job::owner_of_this_process();
        let lives = |session: &str| alive.iter().any(|alive| alive == session);
        let left = agent_job::left_behind(cluster, &owner, lives).await?;
        for job in &left {
            agent_job::remove(cluster, &job.namespace, &job.name).await?;
        }
        Ok(left)
    })??;
    for job in &removed {
        print(&format!("removed {}/{}, of {} since {}\n", job.namespace, job.name, job.owner, job.since))?;
    }
    if removed.is_empty() {
        print("nothing is left of any agent\n")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What there is to say about each pod that a session would use; of a target on this machine, whether it is there.
fn target_reports(args: &DoctorArgs) -> Result<Vec<preflight::Report>> {
    let flags = Flags {
        target: args.target.clone(),
        all_pods: args.all_pods,
        mode: args.steal.then_some(Mode::Steal),
        ports: args.ports.clone(),
        cluster: args.cluster.config(),
        ..Flags::default()
    };
    let resolved = resolve_config(&flags, args.config_file.as_deref())?;
    let Some(target) = resolved.target.clone() else { return Ok(Vec::new()) };
    if !matches!(target, Target::Cluster { .. }) {
        return Ok(vec![doctor::examine_local(&target)]);
    }
    let Resolved { cluster, agent, config, all_pods, .. } = resolved;
    let which = if all_pods { Which::All } else { Which::One };
    let wants = Wants::of(&agent, &config);
    let reports = ask("say what a session needs to know", &cluster, CLUSTER_LIMIT, async |cluster| {
        let pods = resolve(cluster, &target, which).await?;
        preflight::check_all(cluster, &pods, &wants).await
    })??;
    Ok(reports)
}

/// The same marks as for the machine.
fn target_text(report: &preflight::Report) -> String {
    let mut text = format!("\n{}\n", report.target);
    for finding in &report.findings {
        let mark = match finding.verdict {
            Verdict::Fine => '✓',
            Verdict::Unknown => '?',
            Verdict::Warning => '!',
            Verdict::Refused => '✗',
        };
        text.push_str(&format!("{mark} {:<26} {}\n", finding.name, finding.detail));
        if !finding.hint.is_empty() {
            let hint = finding.hint.replace('\n', &format!("\n  {:<26} ", ""));
            text.push_str(&format!("  {:<26} hint: {hint}\n", ""));
        }
    }
    text
}
