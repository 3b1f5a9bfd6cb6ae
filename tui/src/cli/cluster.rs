//! Flags that say which cluster is meant, and where in it; and asking it.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use clap::Args;
use mirrord_session::cluster::{Cluster, ClusterConfig, ClusterError, connect};
use tokio::time::timeout;

/// Which cluster is meant.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ClusterArgs {
    /// Kubeconfig file [default: those in KUBECONFIG, else ~/.kube/config, else the pod's own settings]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context in the kubeconfig [default: its current one]
    #[arg(long, env = "MIRRORD_TUI_CONTEXT")]
    context: Option<String>,
    /// Namespace of the target [default: that of the context]
    #[arg(short, long)]
    namespace: Option<String>,
    /// Do not check the certificate of the API server.
    #[arg(long)]
    accept_invalid_certificates: bool,
}

impl ClusterArgs {
    /// What the flags say.
    pub(crate) fn config(&self) -> ClusterConfig {
        ClusterConfig {
            // Whoever reads it may have another working directory.
            kubeconfig: self
                .kubeconfig
                .as_ref()
                .map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone())),
            context: self.context.clone(),
            namespace: self.namespace.clone(),
            accept_invalid_certificates: self.accept_invalid_certificates,
        }
    }
}

/// Connects and asks, at most `limit` long in all; the inner result is the cluster's. `action` completes "did not ...".
pub(crate) fn ask<T>(
    action: &str,
    config: &ClusterConfig,
    limit: Duration,
    question: impl AsyncFnOnce(&Cluster) -> Result<T, ClusterError>,
) -> Result<Result<T, ClusterError>> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let answer = runtime.block_on(async {
        let mut server = "the cluster".to_owned();
        let asked = async {
            let cluster = connect(config).await?;
            server.clone_from(&cluster.server);
            question(&cluster).await
        };
        match timeout(limit, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(ClusterError::Deadline { action: action.to_owned(), server, limit }),
        }
    });
    // A name service that hangs is left behind.
    runtime.shutdown_background();
    Ok(answer)
}
