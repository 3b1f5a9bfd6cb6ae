//! Others who count on the pod's ports: sessions of colleagues, and the kubelet's probes.

use k8s_openapi::api::batch::v1::Job;
use kube::{Api, ResourceExt, api::ListParams};

use super::{Finding, Steals, Verdict, Wants};
use crate::cluster::{
    agent_job::{MANAGED_BY, OWNER, SINCE, STEAL_PORTS, TARGET_LABEL, session_of},
    client::Cluster,
    error::ClusterError,
    pod::TargetPod,
};

/// An agent of another session on the same pod.
#[derive(Debug, PartialEq, Eq)]
struct Other {
    owner: String,
    since: String,
    steals: Steals,
}

impl Other {
    /// What the agent's job says; `None` when it has ended.
    fn of(job: &Job) -> Option<Self> {
        let ended = job
            .status
            .as_ref()
            .is_some_and(|status| status.succeeded.unwrap_or(0) > 0 || status.failed.unwrap_or(0) > 0);
        if ended || job.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let annotation = |name: &str| job.annotations().get(name);
        let or_unknown = |name: &str| annotation(name).map_or_else(|| "unknown".to_owned(), Clone::clone);
        let ports = annotation(STEAL_PORTS).map(String::as_str).unwrap_or_default();
        let numbers: Vec<u16> = ports.split(',').filter_map(|port| port.trim().parse().ok()).collect();
        let steals = match ports.trim() {
            "*" => Steals::Listening,
            _ if numbers.is_empty() => Steals::None,
            _ => Steals::Ports(numbers),
        };
        Some(Self { owner: or_unknown(OWNER), since: or_unknown(SINCE), steals })
    }
}

/// Sessions of others, or of other windows, with the same pod.
pub(super) async fn other_sessions(
    cluster: &Cluster,
    target: &TargetPod,
    agent_namespace: &str,
    Wants { steals, session, .. }: &Wants,
) -> Result<Finding, ClusterError> {
    let jobs: Api<Job> = Api::namespaced(cluster.client.clone(), agent_namespace);
    let agents = ListParams::default()
        .labels(&format!("{}={},{TARGET_LABEL}={}", MANAGED_BY.0, MANAGED_BY.1, target.uid));
    let action = format!("list jobs in namespace `{agent_namespace}`");
    let answer = cluster.call(action, jobs.list(&agents)).await;
    // An agent of the same session is one that is about to be replaced.
    let other = |job: &&Job| session.is_empty() || session_of(&job.name_any()) != Some(session);
    Finding::asked(NAME, answer, |agents| {
        judge(&agents.items.iter().filter(other).filter_map(Other::of).collect::<Vec<_>>(), steals)
    })
}

const NAME: &str = "other sessions";
const NOBODY: &str = "none on this pod";

/// Whether the finding says that there are other sessions.
pub(super) fn tells_of_others(finding: &Finding) -> bool {
    finding.name == NAME && finding.detail != NOBODY && finding.verdict != Verdict::Unknown
}

fn judge(others: &[Other], steals: &Steals) -> Finding {
    let said = |other: &Other| {
        let does = match &other.steals {
            Steals::None => "steals nothing".to_owned(),
            Steals::Listening => "steals the ports that its command listens on".to_owned(),
            Steals::Ports(ports) => {
                format!("steals {}", ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
            }
        };
        format!("{} since {} {does}", other.owner, other.since)
    };
    if others.is_empty() {
        return Finding::fine(NAME, NOBODY);
    }
    for other in others {
        let (Steals::Ports(theirs), Steals::Ports(ours)) = (&other.steals, steals) else { continue };
        if let Some(port) = ours.iter().find(|port| theirs.contains(port)) {
            let detail =
                format!("port {port} of the pod is already stolen by {} since {}", other.owner, other.since);
            let hint = "mirror it, take another port or another pod of the workload, or ask them to stop";
            return Finding::new(NAME, Verdict::Refused, detail, hint);
        }
    }
    let all: Vec<String> = others.iter().map(said).collect();
    let both = *steals != Steals::None && others.iter().any(|other| other.steals != Steals::None);
    if both {
        let hint = "a port that is already stolen is refused; name ports with -p to know it before";
        return Finding::new(NAME, Verdict::Warning, all.join("; "), hint);
    }
    Finding::fine(NAME, all.join("; "))
}

/// Probes of the kubelet that a steal takes along with the rest of a port.
pub(super) fn probes(pod: &TargetPod, steals: &Steals) -> Option<Finding> {
    let all = pod.containers.iter().flat_map(|container| &container.probes);
    let taken: Vec<String> = all
        .filter(|probe| steals.may_have(probe.port))
        .map(|probe| format!("{} ({} on port {})", probe.kind, probe.how, probe.port))
        .collect();
    if taken.is_empty() {
        return None;
    }
    let detail = format!("a steal takes probes of the kubelet along: {}", taken.join(", "));
    let hint = "the command must answer them as the target does, or the kubelet takes the pod out of service or restarts it";
    Some(Finding::new("probes", Verdict::Warning, detail, hint))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::pod::{PodContainer, PortProbe};

    fn other(ports: &str) -> Other {
        let job = json!({ "metadata": { "annotations": {
            (OWNER): "ann@laptop", (SINCE): "2026-11-23T01:00:00Z", (STEAL_PORTS): ports,
        } } });
        Other::of(&serde_json::from_value(job).unwrap()).unwrap()
    }

    #[test]
    fn two_steals_of_one_port_are_refused_with_who_and_since_when() {
        let ours = Steals::Ports(vec![8080]);
        let refused = judge(&[other("80"), other("443, 8080")], &ours);
        assert_eq!(refused.verdict, Verdict::Refused);
        assert_eq!(
            refused.detail,
            "port 8080 of the pod is already stolen by ann@laptop since 2026-11-23T01:00:00Z"
        );
        assert_eq!(judge(&[other("80")], &ours).verdict, Verdict::Warning);
        assert_eq!(judge(&[other("*")], &ours).verdict, Verdict::Warning);
        assert_eq!(judge(&[other("")], &ours).verdict, Verdict::Fine);
        assert_eq!(judge(&[other("8080")], &Steals::None).verdict, Verdict::Fine);
        assert_eq!(judge(&[], &ours).verdict, Verdict::Fine);
        assert!(tells_of_others(&judge(&[other("")], &Steals::None)) && !tells_of_others(&judge(&[], &ours)));
    }

    #[test]
    fn an_agent_that_has_ended_does_not_count() {
        let ended = json!({ "status": { "failed": 1 } });
        assert_eq!(Other::of(&serde_json::from_value(ended).unwrap()), None);
    }

    #[test]
    fn a_steal_names_the_probes_it_takes() {
        let probe = PortProbe { kind: "liveness".to_owned(), port: 8080, how: "GET /healthz".to_owned() };
        let container = PodContainer { probes: vec![probe], ..PodContainer::default() };
        let pod = TargetPod { containers: vec![container], ..TargetPod::default() };
        let finding = probes(&pod, &Steals::Ports(vec![8080])).unwrap();
        assert!(finding.detail.ends_with("liveness (GET /healthz on port 8080)"), "{}", finding.detail);
        assert!(probes(&pod, &Steals::Listening).is_some());
        assert!(probes(&pod, &Steals::Ports(vec![80])).is_none());
        assert!(probes(&pod, &Steals::None).is_none());
    }
}
