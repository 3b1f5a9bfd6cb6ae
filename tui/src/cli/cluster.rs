//! Flags that say which cluster is meant, and where in it.

use std::path::PathBuf;

use clap::Args;
use mirrord_session::cluster::ClusterConfig;

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
