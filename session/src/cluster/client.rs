//! The connection to an API server: kubeconfig or in-cluster settings, credentials, and calls with a deadline.

use std::{
    error::Error,
    fmt,
    io::IsTerminal,
    path::{Path, PathBuf},
    time::Duration,
};

use hyper::{
    Uri,
    rt::{Read, Write},
};
use hyper_util::{
    client::legacy::{
        Client as HttpClient,
        connect::{Connection, HttpConnector},
    },
    rt::TokioExecutor,
};
use kube::{
    Client, Config,
    client::{AuthError, Body, ClientBuilder, ConfigExt, retry::RetryPolicy},
    config::{ExecInteractiveMode, KubeConfigOptions, Kubeconfig},
};
use serde::{Deserialize, Serialize};
use tokio::{sync::oneshot, time::timeout};
use tower::{BoxError, Service, ServiceBuilder, retry::RetryLayer};

use super::{error::ClusterError, proxy};
use crate::{
    limits::{
        CLUSTER_CALL, CLUSTER_CONNECT, CLUSTER_CREDENTIALS, CLUSTER_KEEP_ALIVE, CLUSTER_KEEP_ALIVE_GAP,
        CLUSTER_KEEP_ALIVE_TRIES,
    },
    spec::own_process_group,
};

/// Name of the context where there is no kubeconfig.
pub const IN_CLUSTER: &str = "in-cluster";

/// Which cluster, and where in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterConfig {
    /// Kubeconfig file; `None`: those in `KUBECONFIG`, else `~/.kube/config`, else the settings of the pod this runs in.
    pub kubeconfig: Option<PathBuf>,
    /// Context in it; `None`: the current one.
    pub context: Option<String>,
    /// Namespace; `None`: that of the context.
    pub namespace: Option<String>,
    /// The API server's certificate is not checked.
    pub accept_invalid_certificates: bool,
}

impl ClusterConfig {
    /// These settings, and where they say nothing, the others.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            kubeconfig: self.kubeconfig.or(other.kubeconfig),
            context: self.context.or(other.context),
            namespace: self.namespace.or(other.namespace),
            accept_invalid_certificates: self.accept_invalid_certificates
                || other.accept_invalid_certificates,
        }
    }
}

/// A cluster that can be asked. Cloning is cheap.
#[derive(Clone)]
pub struct Cluster {
    /// Client of the API.
    pub client: Client,
    /// Namespace that names without one mean.
    pub namespace: String,
    /// Name of the context; [`IN_CLUSTER`] when there is no kubeconfig.
    pub context: String,
    /// Address of the API server.
    pub server: String,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client: _, namespace, context, server } = self;
        f.debug_struct("Cluster")
            .field("namespace", namespace)
            .field("context", context)
            .field("server", server)
            .finish_non_exhaustive()
    }
}

/// Prepares the connection. Programs that give credentials run here; the API server is not asked yet.
///
/// # Errors
/// When there are no usable settings, or no credentials within [`CLUSTER_CREDENTIALS`].
pub async fn connect(wanted: &ClusterConfig) -> Result<Cluster, ClusterError> {
    connect_as(wanted, may_ask()).await
}

/// As [`connect`], but programs that give credentials can ask nothing: the terminal belongs to somebody else.
///
/// # Errors
/// When there are no usable settings, or no credentials within [`CLUSTER_CREDENTIALS`].
pub async fn connect_quietly(wanted: &ClusterConfig) -> Result<Cluster, ClusterError> {
    connect_as(wanted, false).await
}

/// Whether a program may ask the user something: on a terminal that belongs to this process group. Another group that reads from it is
/// stopped by the kernel (SIGTTIN), and would be waited for in vain.
fn may_ask() -> bool {
    let terminal = std::io::stdin();
    terminal.is_terminal()
        && rustix::termios::tcgetpgrp(&terminal).is_ok_and(|group| own_process_group() == Some(group))
}

async fn connect_as(wanted: &ClusterConfig, interactive: bool) -> Result<Cluster, ClusterError> {
    let (mut config, context) = settings(wanted).await?;
    if let Some(exec) = config.auth_info.exec.as_mut().filter(|_| !interactive) {
        exec.interactive_mode = Some(ExecInteractiveMode::Never);
    }
    config.accept_invalid_certs |= wanted.accept_invalid_certificates;
    let command = config.auth_info.exec.as_ref().and_then(|exec| exec.command.clone());
    let namespace = wanted.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    let runtime = tokio::runtime::Handle::current();
    // kube runs the program that gives credentials and blocks meanwhile. A thread of its own, and not one of the runtime's, may be
    // left behind at the deadline without holding up the end of the process.
    let (done_tx, done_rx) = oneshot::channel();
    std::thread::spawn(move || {
        let _guard = runtime.enter();
        // The receiver has gone at the deadline.
        drop(done_tx.send(client(config)));
    });
    let built = match timeout(CLUSTER_CREDENTIALS, done_rx).await {
        Ok(Ok(built)) => built,
        Ok(Err(gone)) => Err(gone.into()),
        Err(_) => {
            let server = command.unwrap_or_else(|| "the preparation of the connection".to_owned());
            let action = format!("give credentials for context `{context}`");
            return Err(ClusterError::Deadline { action, server, limit: CLUSTER_CREDENTIALS });
        }
    };
    match (built, command) {
        (Ok(client), _) => Ok(Cluster { client, namespace, context, server }),
        (Err(source), Some(command)) => {
            Err(ClusterError::Credentials { context, command, source: said_by_program(source) })
        }
        (Err(source), None) => Err(ClusterError::Prepare { context, source }),
    }
}

impl Cluster {
    /// Waits for an answer of the API server, at most [`CLUSTER_CALL`]. `action` completes "the API server did not ...".
    ///
    /// # Errors
    /// What went wrong, sorted by what the user can do about it.
    pub async fn call<T>(
        &self,
        action: impl fmt::Display + Send,
        answer: impl Future<Output = kube::Result<T>> + Send,
    ) -> Result<T, ClusterError> {
        self.call_within(CLUSTER_CALL, action, answer).await
    }

    /// As [`Self::call`], with another deadline.
    ///
    /// # Errors
    /// What went wrong, sorted by what the user can do about it.
    pub async fn call_within<T>(
        &self,
        limit: Duration,
        action: impl fmt::Display + Send,
        answer: impl Future<Output = kube::Result<T>> + Send,
    ) -> Result<T, ClusterError> {
        match timeout(limit, answer).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(self.failed(action.to_string(), error)),
            Err(_) => {
                Err(ClusterError::Deadline { action: action.to_string(), server: self.server.clone(), limit })
            }
        }
    }

    /// Sorts an error of the client.
    pub(crate) fn failed(&self, action: String, error: kube::Error) -> ClusterError {
        let (server, context) = (self.server.clone(), self.context.clone());
        match error {
            kube::Error::Api(status) => {
                let code = status.code;
                let source = status.message.into();
                match code {
                    401 => ClusterError::Unauthorized { server, context, source },
                    403 => ClusterError::Forbidden { action, context, source },
                    _ => ClusterError::Api { action, server, source },
                }
            }
            kube::Error::Service(source) => ClusterError::Unreachable { action, server, source },
            kube::Error::HyperError(source) => {
                ClusterError::Unreachable { action, server, source: source.into() }
            }
            auth @ kube::Error::Auth(_) => ClusterError::Credentials {
                context,
                command: "the credentials program".to_owned(),
                source: said_by_program(auth.into()),
            },
            other => ClusterError::Api { action, server, source: other.into() },
        }
    }
}

/// Names of the contexts that can be chosen, the current one first; none where there is no kubeconfig. Reads files.
///
/// # Errors
/// When a file cannot be read or understood.
pub fn contexts(wanted: &ClusterConfig) -> Result<Vec<String>, ClusterError> {
    let Some((kubeconfig, _)) = kubeconfig(wanted)? else { return Ok(Vec::new()) };
    let current = kubeconfig.current_context.unwrap_or_default();
    let mut names: Vec<String> = kubeconfig.contexts.into_iter().map(|context| context.name).collect();
    names.sort_by(|a, b| (*a != current).cmp(&(*b != current)).then_with(|| a.cmp(b)));
    Ok(names)
}

/// Reads the settings; gives the context's name along.
async fn settings(wanted: &ClusterConfig) -> Result<(Config, String), ClusterError> {
    let Some((kubeconfig, files)) = kubeconfig(wanted)? else {
        return match Config::incluster() {
            Ok(config) => Ok((config, IN_CLUSTER.to_owned())),
            Err(source) => {
                let looked = kubeconfig_files(None);
                Err(ClusterError::NoKubeconfig { looked, source: source.into() })
            }
        };
    };
    let known: Vec<String> = kubeconfig.contexts.iter().map(|context| context.name.clone()).collect();
    let current = kubeconfig.current_context.clone().filter(|context| !context.is_empty());
    let Some(context) = wanted.context.clone().or(current) else {
        return Err(ClusterError::NoContext { files, known });
    };
    if !known.contains(&context) {
        return Err(ClusterError::UnknownContext { files, context, known });
    }
    let proxy = proxy::named(&kubeconfig, &context);
    let options = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .map_err(|source| ClusterError::Kubeconfig { files, source: Box::new(source) })?;
    // kube looks into the environment as well, but not for the servers that it excepts.
    config.proxy_url = proxy;
    Ok((config, context))
}

/// The kubeconfig and the files that it is made of; `None` when there is none and nothing asks for one.
fn kubeconfig(wanted: &ClusterConfig) -> Result<Option<(Kubeconfig, Vec<PathBuf>)>, ClusterError> {
    let files = kubeconfig_files(wanted.kubeconfig.as_deref());
    let existing: Vec<PathBuf> = files.iter().filter(|file| file.exists()).cloned().collect();
    if existing.is_empty() {
        if wanted.kubeconfig.is_none() && wanted.context.is_none() {
            return Ok(None);
        }
        let source = Kubeconfig::read_from(files.first().cloned().unwrap_or_default());
        let source = source.err().unwrap_or(kube::config::KubeconfigError::FindPath);
        return Err(ClusterError::Kubeconfig { files, source: source.into() });
    }
    // As kubectl does it: files that do not exist are passed over, and the first to name a thing wins.
    let merge = |all: Kubeconfig, file: &PathBuf| all.merge(Kubeconfig::read_from(file)?);
    match existing.iter().try_fold(Kubeconfig::default(), merge) {
        Ok(merged) => Ok(Some((merged, existing))),
        Err(source) => Err(ClusterError::Kubeconfig { files: existing, source: Box::new(source) }),
    }
}

/// The files of the kubeconfig, whether they exist or not.
fn kubeconfig_files(named: Option<&Path>) -> Vec<PathBuf> {
    if let Some(path) = named {
        return vec![path.to_owned()];
    }
    let listed: Vec<PathBuf> = std::env::var_os("KUBECONFIG")
        .map(|list| std::env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()).collect())
        .unwrap_or_default();
    if listed.is_empty() {
        std::env::home_dir().map(|home| home.join(".kube/config")).into_iter().collect()
    } else {
        listed
    }
}

/// Whether there are settings of a cluster at all, without reading them.
#[must_use]
pub fn is_configured(wanted: &ClusterConfig) -> bool {
    wanted.kubeconfig.is_some()
        || wanted.context.is_some()
        || kubeconfig_files(None).iter().any(|file| file.exists())
        || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

/// What a program that gave no credentials said on stderr. kube shows its stdout as well, where secrets may be.
fn said_by_program(error: Box<dyn Error + Send + Sync>) -> Box<dyn Error + Send + Sync> {
    match error.downcast_ref::<kube::Error>() {
        Some(kube::Error::Auth(AuthError::AuthExecRun { out, .. })) => {
            let said = String::from_utf8_lossy(&out.stderr);
            format!("it ended with {}: {}", out.status, said.trim()).into()
        }
        _ => error,
    }
}

/// kube's own stack of layers, but over a connector with TCP_NODELAY: without it each new port-forward waits 40 ms for an
/// acknowledgement that the kernel of the API server delays.
fn client(config: Config) -> Result<Client, BoxError> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CLUSTER_CONNECT));
    connector.set_keepalive(Some(CLUSTER_KEEP_ALIVE));
    connector.set_keepalive_interval(Some(CLUSTER_KEEP_ALIVE_GAP));
    connector.set_keepalive_retries(Some(CLUSTER_KEEP_ALIVE_TRIES));
    match proxy::of(&config)? {
        None => client_over(config, connector),
        Some(proxy) if proxy.uri().scheme_str() == Some("http") => {
            client_over(config, proxy::tunnel(&proxy, connector))
        }
        Some(proxy) => client_over(config, proxy::socks(&proxy, connector)),
    }
}

/// A client whose connections are opened by `connector`.
fn client_over<C>(config: Config, connector: C) -> Result<Client, BoxError>
where
    C: Service<Uri, Response: Connection + Read + Write + Send + Unpin + 'static, Future: Send + 'static>
        + Clone
        + Send
        + Sync
        + 'static,
    C::Error: Error + Send + Sync + 'static,
{
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .layer(RetryLayer::new(RetryPolicy::server_retry()))
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}
