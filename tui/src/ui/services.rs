//! What the UI needs of the machine: sessions, targets, and starting a session. A trait, so that tests need neither.

mod cluster;
mod processes;

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Mutex, PoisonError},
    time::{Instant, UNIX_EPOCH},
};

use mirrord_protocol::session::v1::session_client::SessionClient;
use mirrord_session::{
    cluster::ClusterConfig,
    config::{self, FileMode, Flags, Mode},
    local::{self, LocalPod, PodState},
    registry,
    spec::SessionSpec,
    starter,
};
use tonic::transport::Channel;

use super::{
    limits,
    model::{
        form::{Files, LaunchRequest},
        pick::PlaceKind,
        targets::{Look, Place, TargetRow},
    },
    text,
    tone::Tone,
};

/// A future that owns what it needs.
pub(crate) type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Client of a session host.
pub(crate) type Client = SessionClient<Channel>;

/// The machine. Failures are sentences for the user.
pub(crate) trait Services: Send + Sync + 'static {
    /// Connects to the session whose id begins so; `Err` with `gone` when there is none.
    fn connect<'a>(&'a self, id: &'a str) -> Boxed<'a, Result<Client, NoSession>>;
    /// Ids of the sessions of this user. May read a folder.
    fn sessions(&self) -> Result<Vec<String>, String>;
    /// Targets of each source. May block for a moment.
    fn targets(&self) -> Vec<(&'static str, Result<Vec<TargetRow>, String>)>;
    /// Where targets of a cluster are looked for; `None` without a cluster.
    fn place(&self) -> Option<Place>;
    /// Looks there from now on.
    fn look_at(&self, look: Look);
    /// Namespaces of the cluster, or contexts of the kubeconfig.
    fn places(&self, kind: PlaceKind) -> Boxed<'_, Result<Vec<String>, String>>;
    /// What the session whose id begins so was started with. May read a file.
    fn spec(&self, id: &str) -> Option<SessionSpec>;
    /// Starts a session and returns its id.
    fn start(&self, spec: SessionSpec) -> Boxed<'_, Result<String, String>>;
    /// Starts the session that the form asks for and returns its id.
    fn launch<'a>(&'a self, request: &'a LaunchRequest) -> Boxed<'a, Result<String, String>>;
}

/// Why there is no connection to a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NoSession {
    pub(crate) reason: String,
    /// It does not exist (any more): trying again is of no use.
    pub(crate) gone: bool,
}

/// This machine.
#[derive(Debug)]
pub(crate) struct Machine {
    /// Ends of the pipes by which owned sessions that were started here see that the window is there.
    owners: Mutex<Vec<OwnedFd>>,
    cluster: cluster::ClusterTargets,
    scan: Mutex<processes::Scan>,
}

impl Machine {
    /// This machine, with the cluster that is looked at first.
    pub(crate) fn new(cluster: ClusterConfig, all_namespaces: bool) -> Self {
        Self {
            owners: Mutex::default(),
            cluster: cluster::ClusterTargets::new(cluster, all_namespaces),
            scan: Mutex::default(),
        }
    }
}

impl Services for Machine {
    fn connect<'a>(&'a self, id: &'a str) -> Boxed<'a, Result<Client, NoSession>> {
        Box::pin(async move {
            registry::connect(id).await.map_err(|error| NoSession {
                reason: chain(&error),
                gone: matches!(
                    error,
                    registry::RegistryError::Unknown(_) | registry::RegistryError::Ambiguous { .. }
                ),
            })
        })
    }

    fn sessions(&self) -> Result<Vec<String>, String> {
        registry::list().map_err(|error| chain(&error))
    }

    fn targets(&self) -> Vec<(&'static str, Result<Vec<TargetRow>, String>)> {
        let mut scan = self.scan.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let pods = match local::list() {
            Ok(pods) => {
                let rows = pods.iter().map(|pod| pod_row(pod, scan.listening(pod.pid, now))).collect();
                Ok(rows)
            }
            Err(error) => Err(chain(&error)),
        };
        let cluster = self.cluster.rows().map(|rows| ("cluster", rows));
        [("local pods", pods), ("processes", Ok(scan.rows(now)))].into_iter().chain(cluster).collect()
    }

    fn launch<'a>(&'a self, request: &'a LaunchRequest) -> Boxed<'a, Result<String, String>> {
        Box::pin(async move {
            let mut spec = spec(request)?;
            spec.cluster = request.cluster.clone().unwrap_or_else(|| self.cluster.config());
            self.start(spec).await
        })
    }

    fn place(&self) -> Option<Place> {
        self.cluster.place()
    }

    fn look_at(&self, look: Look) {
        self.cluster.look_at(look);
    }

    fn places(&self, kind: PlaceKind) -> Boxed<'_, Result<Vec<String>, String>> {
        Box::pin(self.cluster.places(kind))
    }

    fn spec(&self, id: &str) -> Option<SessionSpec> {
        registry::spec(id).ok()
    }

    fn start(&self, spec: SessionSpec) -> Boxed<'_, Result<String, String>> {
        Box::pin(async move {
            let started = starter::start_session(&spec)
                .await
                .map_err(|error| format!("{}; {}", chain(&error), error.hint()))?;
            // An owned session lives as long as this end of its pipe, which is as long as the window.
            let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
            owners.extend(started.owner);
            Ok(started.id)
        })
    }
}

fn pod_row(pod: &LocalPod, ports: Vec<u16>) -> TargetRow {
    let runs = pod.state == PodState::Running;
    let command: Vec<_> = pod.command.iter().map(|part| part.to_string_lossy()).collect();
    let started = pod.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let published: Vec<_> = pod.ports_published.iter().map(|publish| format!("{publish:?}")).collect();
    TargetRow {
        reference: format!("local/{}", pod.name),
        kind: "local".to_owned(),
        name: pod.name.clone(),
        place: "this machine".to_owned(),
        ready: if runs { "1/1" } else { "0/1" }.to_owned(),
        status: pod.state.to_string(),
        tone: if runs { Tone::Good } else { Tone::Bad },
        restarts: 0,
        started_ms: i64::try_from(started).unwrap_or(0),
        ports,
        command: text::shell(&command),
        unfit: if runs {
            String::new()
        } else {
            "it does not run; `mirrord-tui local start` starts it again".to_owned()
        },
        cluster: None,
        facts: vec![
            ("address".to_owned(), pod.ip.to_string()),
            ("pid".to_owned(), pod.pid.to_string()),
            ("published".to_owned(), published.join(" ")),
        ],
    }
}

/// The form's request as what the session host needs.
fn spec(request: &LaunchRequest) -> Result<SessionSpec, String> {
    let target: mirrord_session::target::Target = request.target.parse().map_err(|error| chain(&error))?;
    let flags = Flags {
        target: Some(target.clone()),
        mode: Some(if request.steal { Mode::Steal } else { Mode::Mirror }),
        all_pods: request.all_pods,
        ports: request.ports.clone(),
        file_mode: match request.files {
            Files::ByRules => None,
            Files::Read => Some(FileMode::Read),
            Files::Local => Some(FileMode::Local),
            Files::LocalWithOverrides => Some(FileMode::LocalWithOverrides),
        },
        no_outgoing: !request.outgoing,
        no_remote_dns: !request.remote_dns,
        no_env: !request.target_env,
        env: request.env.clone(),
        ..Flags::default()
    };
    let resolved = config::resolve(config::file::FileConfig::default(), &flags, Path::new("."))
        .map_err(|error| chain(&error))?;
    let command = request.command.iter().map(Into::into).collect();
    let mut spec = SessionSpec::for_caller(target, resolved.config, command)
        .map_err(|error| format!("the working directory cannot be found: {error}"))?;
    spec.all_pods = resolved.all_pods;
    if !request.cwd.is_empty() {
        spec.cwd = PathBuf::from(&request.cwd);
    }
    spec.record = match request.record.as_str() {
        "" => None,
        path => Some(std::path::absolute(spec.cwd.join(path)).map_err(|error| error.to_string())?),
    };
    // The command gets a terminal of the host's, and the session outlives this window.
    spec.terminal =
        Some((request.terminal.0.max(limits::CHILD_COLUMNS), request.terminal.1.max(limits::CHILD_ROWS)));
    spec.process_group = None;
    spec.owned = false;
    spec.equal_command = request.equal_command();
    Ok(spec)
}

/// An error with its causes, as one sentence.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(&format!(": {next}"));
        cause = next.source();
    }
    text
}
