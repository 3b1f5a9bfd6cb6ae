//! Whether a session with a pod will work, asked before anything is created.
//!
//! Everything is asked at once. What may not be asked is said to be unknown and does not hold up a session.

mod places;
mod rights;
mod sharing;

use std::fmt;

use serde::Serialize;

use super::{
    agent_job::{AgentOptions, Form},
    client::Cluster,
    error::ClusterError,
    pod::TargetPod,
};
use crate::{
    config::{Config, Mode},
    limits::PODS,
};

/// What a session wants of its target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// Namespace of the agent; `None`: the target's.
    pub agent_namespace: Option<String>,
    /// What the agent will be.
    pub form: Form,
    /// Ports that are taken over from the start.
    pub steals: Steals,
    /// The session, whose own agents are no others; empty: none is meant.
    pub session: String,
}

impl Wants {
    /// What a configuration says.
    #[must_use]
    pub fn of(agent: &AgentOptions, config: &Config) -> Self {
        Self {
            agent_namespace: agent.namespace.clone(),
            form: agent.form(),
            steals: Steals::of(config),
            session: String::new(),
        }
    }
}

/// Ports that a session takes over from the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Steals {
    /// None.
    #[default]
    None,
    /// Those that the command will listen on.
    Listening,
    /// These.
    Ports(Vec<u16>),
}

impl Steals {
    /// What a configuration says.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let incoming = &config.incoming;
        let stolen = incoming.ports.iter().filter(|port| port.mode == Mode::Steal);
        let ports: Vec<u16> = stolen.map(|port| port.remote).collect();
        match (incoming.ports.is_empty(), incoming.mode) {
            (true, Mode::Steal) => Self::Listening,
            (true, Mode::Mirror | Mode::Off) => Self::None,
            (false, _) if ports.is_empty() => Self::None,
            (false, _) => Self::Ports(ports),
        }
    }

    /// Whether the port may be among them.
    fn may_have(&self, port: u16) -> bool {
        match self {
            Self::None => false,
            Self::Listening => true,
            Self::Ports(ports) => ports.contains(&port),
        }
    }
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Fine,
    /// It may not be asked.
    Unknown,
    /// It works, but somebody should know this.
    Warning,
    /// It cannot work.
    Refused,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub name: &'static str,
    /// How bad it is.
    pub verdict: Verdict,
    /// What was found.
    pub detail: String,
    /// What to do about it; empty when there is nothing to do.
    pub hint: String,
}

impl Finding {
    fn new(name: &'static str, verdict: Verdict, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { name, verdict, detail: detail.into(), hint: hint.into() }
    }

    fn fine(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, Verdict::Fine, detail, "")
    }

    /// What came of asking for something that not everybody may ask for.
    fn asked<T>(
        name: &'static str,
        answer: Result<T, ClusterError>,
        judge: impl FnOnce(T) -> Self,
    ) -> Result<Self, ClusterError> {
        match answer {
            Ok(answer) => Ok(judge(answer)),
            Err(ClusterError::Forbidden { action, .. }) => {
                Ok(Self::new(name, Verdict::Unknown, format!("not known: you may not {action}"), ""))
            }
            Err(other) => Err(other),
        }
    }
}

/// What was found, in the order of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The target: pod and container.
    pub target: String,
    /// One per thing that was looked at.
    pub findings: Vec<Finding>,
}

impl Report {
    /// The findings for which no session can be; empty when one can.
    pub fn refusals(&self) -> impl Iterator<Item = &Finding> {
        self.with(Verdict::Refused)
    }

    /// What the user should know although a session can be.
    pub fn warnings(&self) -> impl Iterator<Item = &Finding> {
        self.with(Verdict::Warning)
    }

    /// Who else counts on the ports of the pod, in sentences: what a user wants to know before stealing one.
    #[must_use]
    pub fn sharing(&self, pod: &TargetPod) -> Vec<String> {
        let others = self.findings.iter().filter(|finding| sharing::tells_of_others(finding));
        let others = others.map(|finding| format!("{}: {}", finding.name, finding.detail));
        let probes = sharing::probes(pod, &Steals::Listening).map(|finding| finding.detail);
        others.chain(probes).collect()
    }

    fn with(&self, verdict: Verdict) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| finding.verdict == verdict)
    }

    /// As a failure, when no session can be.
    ///
    /// # Errors
    /// The refusals.
    pub fn into_result(self) -> Result<Self, ClusterError> {
        if self.refusals().next().is_none() {
            return Ok(self);
        }
        let refusals =
            self.findings.into_iter().filter(|finding| finding.verdict == Verdict::Refused).collect();
        Err(ClusterError::Preflight { target: self.target, refusals })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.detail)
    }
}

/// Looks at everything at once. Nothing is created or changed.
///
/// # Errors
/// When the API server does not answer.
pub async fn check(cluster: &Cluster, pod: &TargetPod, wants: &Wants) -> Result<Report, ClusterError> {
    let agent = wants.agent_namespace.as_deref().unwrap_or(&pod.namespace);
    // Calls of the client are large futures: on the heap they stay out of every caller's.
    let (rights, security, room, sessions) = tokio::try_join!(
        Box::pin(rights::check(cluster, &pod.namespace, agent, wants.form)),
        Box::pin(places::pod_security(cluster, agent, wants.form)),
        Box::pin(room(cluster, pod, agent, wants.form)),
        Box::pin(sharing::other_sessions(cluster, pod, agent, wants)),
    )?;
    let mut findings = vec![state(pod), places::system(pod), rights, security];
    findings.extend(room);
    findings.push(sessions);
    findings.extend(sharing::probes(pod, &wants.steals));
    findings.push(mesh(pod));
    if pod.host_network {
        findings.push(Finding::new(
            "network",
            Verdict::Warning,
            "the pod uses the network of its node",
            "ports of other pods and programs of the node are visible, too; a steal takes a port of the whole node",
        ));
    }
    Ok(Report { target: name(pod), findings })
}

/// Whether there is room for an agent. In the target's own pod there always is; it only cannot be had back.
async fn room(
    cluster: &Cluster,
    pod: &TargetPod,
    agent: &str,
    form: Form,
) -> Result<Vec<Finding>, ClusterError> {
    if form == Form::Ephemeral {
        let detail = "the agent becomes a container of the pod itself, which Kubernetes cannot remove: when the session has ended it \
                      stays in the pod's list, terminated, as long as the pod";
        let hint = "without `agent.ephemeral` the agent is a Job of its own, of which nothing stays";
        return Ok(vec![Finding::new("ephemeral container", Verdict::Warning, detail, hint)]);
    }
    let (capacity, quota) =
        tokio::try_join!(places::capacity(cluster, &pod.node), places::quota(cluster, agent, form))?;
    Ok(vec![capacity, quota])
}

/// Looks at what differs from pod to pod of one workload: for all but the first of them.
///
/// # Errors
/// When the API server does not answer.
pub async fn check_pod(cluster: &Cluster, pod: &TargetPod, wants: &Wants) -> Result<Report, ClusterError> {
    let agent = wants.agent_namespace.as_deref().unwrap_or(&pod.namespace);
    let (capacity, sessions) = tokio::try_join!(
        Box::pin(places::capacity(cluster, &pod.node)),
        Box::pin(sharing::other_sessions(cluster, pod, agent, wants)),
    )?;
    let mut findings = vec![state(pod), places::system(pod)];
    findings.extend((wants.form != Form::Ephemeral).then_some(capacity));
    findings.extend([sessions, mesh(pod)]);
    Ok(Report { target: name(pod), findings })
}

/// Looks at each pod that a session would use, best first: a session with all pods has at most [`PODS`].
///
/// # Errors
/// When the API server does not answer.
pub async fn check_all(
    cluster: &Cluster,
    pods: &[TargetPod],
    wants: &Wants,
) -> Result<Vec<Report>, ClusterError> {
    let Some((first, others)) = pods.split_first() else { return Ok(Vec::new()) };
    let mut reports = vec![check(cluster, first, wants).await?];
    for pod in others.iter().take(PODS - 1) {
        reports.push(check_pod(cluster, pod, wants).await?);
    }
    Ok(reports)
}

fn name(pod: &TargetPod) -> String {
    format!("pod/{}/container/{}", pod.name, pod.container)
}

fn state(pod: &TargetPod) -> Finding {
    let place = format!("{}/{} on node {}, container {}", pod.namespace, pod.name, pod.node, pod.container);
    let chosen = pod.containers.iter().find(|container| container.name == pod.container);
    if chosen.is_some_and(|container| container.ready) {
        return Finding::fine("pod", format!("{place}, runs and is ready"));
    }
    let hint =
        "services send it no traffic until its readiness probe succeeds, so none can be mirrored or stolen";
    Finding::new("pod", Verdict::Warning, format!("{place}, runs but is not ready"), hint)
}

fn mesh(pod: &TargetPod) -> Finding {
    match pod.mesh {
        None => Finding::fine("mesh", "no proxy takes the traffic of the pod"),
        Some(mesh) => {
            Finding::fine("mesh", format!("{mesh}: traffic is taken between its proxy and the application"))
        }
    }
}
