//! `ls`: the targets of this machine, and those of the cluster when there is a kubeconfig.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Args, ValueEnum};
use mirrord_session::{
    cluster::{self, ClusterConfig, ClusterError, ClusterTarget, Scope},
    local::{self, LocalPod},
};
use serde_json::{Value, json};

use super::cluster::{ClusterArgs, ask};
use crate::{
    failure,
    output::{print, table},
};

/// How long a cluster may take that nobody has named: the targets of this machine are waiting.
const UNASKED: Duration = Duration::from_secs(5);
/// How long a named cluster may take, credentials and all pages of a large one included.
const ASKED: Duration = Duration::from_secs(60);

/// Arguments of `ls`.
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Targets of all namespaces of the cluster; needs the right to list pods in all.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
}

/// Form of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// Columns.
    Table,
    /// One JSON array.
    Json,
}

/// Targets of a cluster, or that there is none.
type Found = Result<Option<Vec<ClusterTarget>>, ClusterError>;

/// Lists local pods and the cluster's targets; processes are targets as well (pid/N) but a list of them is `ps`.
pub(crate) fn run(args: &LsArgs) -> Result<ExitCode> {
    let pods = local::list()?;
    let config = args.cluster.config();
    let asked = args.all_namespaces || config != ClusterConfig::default();
    let found = if asked || cluster::client::is_configured(&config) {
        let limit = if asked { ASKED } else { UNASKED };
        ask("list the targets", &config, limit, async |cluster| {
            let here = Scope::Namespace(cluster.namespace.clone());
            let scope = if args.all_namespaces { Scope::All } else { here };
            cluster::list(cluster, &scope).await.map(Some)
        })?
    } else {
        Ok(None)
    };
    show(args, &pods, &found)?;
    match found {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(error) if asked => Err(error.into()),
        Err(error) => {
            failure::warn(&error.into());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn show(args: &LsArgs, pods: &[LocalPod], found: &Found) -> Result<()> {
    let targets = found.as_ref().ok().and_then(Option::as_deref).unwrap_or_default();
    match args.output {
        Form::Json => {
            let local = pods.iter().map(|pod| Ok(local_json(pod)));
            let all: Vec<Value> =
                local.chain(targets.iter().map(serde_json::to_value)).collect::<Result<_, _>>()?;
            print(&format!("{}\n", serde_json::to_string_pretty(&all)?))?;
        }
        Form::Table if pods.is_empty() && targets.is_empty() => {
            if matches!(found, Ok(Some(_))) {
                print("no pods in this namespace of the cluster; -n names another one, -A lists all\n")?;
            }
            print(
                "no local pods; `mirrord-tui local start NAME -- CMD` makes one, `mirrord-tui demo` a whole shop; pid/N works for any process\n",
            )?;
        }
        Form::Table => {
            let mut rows =
                vec![row(args, ["TARGET", "NAMESPACE", "READY", "STATUS", "RESTARTS", "PORTS", "IP"])];
            rows.extend(pods.iter().map(|pod| {
                let (target, state, ip) =
                    (format!("local/{}", pod.name), pod.state.to_string(), pod.ip.to_string());
                row(args, [&target, "-", "-", &state, "-", "", &ip])
            }));
            rows.extend(targets.iter().map(|target| cluster_row(args, target)));
            print(&table(&rows))?;
        }
    }
    Ok(())
}

fn local_json(pod: &LocalPod) -> Value {
    json!({ "target": format!("local/{}", pod.name), "pid": pod.pid, "ip": pod.ip })
}

fn cluster_row(args: &LsArgs, target: &ClusterTarget) -> Vec<String> {
    let ready = format!("{}/{}", target.ready, target.total);
    let ports: Vec<String> = target.ports.iter().map(ToString::to_string).collect();
    let restarts = target.restarts.to_string();
    row(
        args,
        [&target.target, &target.namespace, &ready, &target.status, &restarts, &ports.join(","), &target.ip],
    )
}

/// The columns that are wanted.
fn row(args: &LsArgs, cells: [&str; 7]) -> Vec<String> {
    let cells = cells.into_iter().enumerate().filter(|(column, _)| args.all_namespaces || *column != 1);
    cells.map(|(_, cell)| cell.to_owned()).collect()
}
