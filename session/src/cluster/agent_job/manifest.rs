//! The manifest of the agent's Job: one pod on the target's node that sees the node's processes and has no right that the session's
//! features do not need.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        batch::v1::{Job, JobSpec},
        core::v1::{
            AppArmorProfile, Capabilities, ConfigMapProjection, Container, EnvVar, PodSpec, PodTemplateSpec,
            ProjectedVolumeSource, ResourceRequirements, SeccompProfile, SecurityContext, Toleration, Volume,
            VolumeMount, VolumeProjection,
        },
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};

use super::{AgentSpec, program};
use crate::{
    config::{Config, FileMode, Mode},
    limits::CLUSTER_AGENT_LIFE,
};

/// Port of the agent on the loopback of its own pod, where nobody else is.
pub(super) const PORT: u16 = 7777;
/// Label with the name of the job, by which its pod is found.
pub(super) const JOB_LABEL: &str = "mirrord-tui/agent";
/// Label that tells which program the objects belong to.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "mirrord-tui");
/// Label with the uid of the target's pod.
pub const TARGET_LABEL: &str = "mirrord-tui/target-uid";
/// Annotation: who has started the session, user@host.
pub const OWNER: &str = "mirrord-tui/owner";
/// Annotation: since when there is the session.
pub const SINCE: &str = "mirrord-tui/since";
/// Annotation: ports that the session steals, with commas; `*`: those that the command listens on. Those of the start on job and pod;
/// on the job kept up to date where that is allowed.
pub const STEAL_PORTS: &str = "mirrord-tui/steal-ports";
/// Labels and annotations by which service meshes leave a pod alone.
const NO_MESH: [(&str, &str); 3] = [
    ("sidecar.istio.io/inject", "false"),
    ("linkerd.io/inject", "disabled"),
    ("kuma.io/sidecar-injection", "disabled"),
];
/// Name of the volume with the agent, and where it is mounted: runc makes the folder, also on a read-only root.
const VOLUME: &str = "agent";
const MOUNT: &str = "/.agent";
/// Where an image has the agent.
const IN_IMAGE: &str = "/mirrord-agent";

/// The capabilities that a session with this configuration needs; modes change while it runs, so that both count.
pub(super) fn capabilities(config: &Config, disabled: &[String]) -> Vec<String> {
    let incoming = config.incoming.mode != Mode::Off || !config.incoming.ports.is_empty();
    let files = config.files.mode != FileMode::Local
        || !config.files.read_only.is_empty()
        || !config.files.read_write.is_empty();
    [
        // To look at the target's process and to enter its namespaces.
        ("SYS_ADMIN", true),
        ("SYS_PTRACE", true),
        // To redirect what is stolen, and to capture what is mirrored.
        ("NET_ADMIN", incoming),
        ("NET_RAW", incoming),
        // To read what only the target's own user may.
        ("DAC_READ_SEARCH", files || config.env.enabled),
    ]
    .into_iter()
    .filter(|(name, needed)| *needed && !disabled.iter().any(|disabled| disabled == name))
    .map(|(name, _)| name.to_owned())
    .collect()
}

/// What the session steals from the start, for [`STEAL_PORTS`].
pub(super) fn stolen(config: &Config) -> String {
    let incoming = &config.incoming;
    if incoming.ports.is_empty() {
        return if incoming.mode == Mode::Steal { "*".to_owned() } else { String::new() };
    }
    let stolen = incoming.ports.iter().filter(|port| port.mode == Mode::Steal);
    stolen.map(|port| port.remote.to_string()).collect::<Vec<_>>().join(",")
}

/// The labels of the job, its pod and its ConfigMaps.
pub(super) fn labels(name: &str, spec: &AgentSpec) -> BTreeMap<String, String> {
    let own = [MANAGED_BY, (JOB_LABEL, name), (TARGET_LABEL, &spec.target.uid)];
    let own = own.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
    spec.options.labels.clone().into_iter().chain(own).collect()
}

/// The job called `name`.
pub(super) fn job(name: &str, spec: &AgentSpec) -> Job {
    let mut labels = labels(name, spec);
    let mut annotations = spec.options.annotations.clone();
    let stolen = stolen(&spec.config);
    for (key, value) in [(OWNER, spec.owner.clone()), (SINCE, spec.since.clone()), (STEAL_PORTS, stolen)] {
        annotations.insert(key.to_owned(), value);
    }
    let on_job = (labels.clone(), annotations.clone());
    for (key, value) in NO_MESH {
        annotations.entry(key.to_owned()).or_insert_with(|| value.to_owned());
        labels.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    }
    Job {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(on_job.0),
            annotations: Some(on_job.1),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            backoff_limit: Some(0),
            active_deadline_seconds: seconds(CLUSTER_AGENT_LIFE).into(),
            ttl_seconds_after_finished: i32::try_from(spec.options.ttl.as_secs()).ok(),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels),
                    annotations: Some(annotations),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(name, spec)),
            },
            ..JobSpec::default()
        }),
        ..Job::default()
    }
}

fn seconds(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

fn pod(name: &str, spec: &AgentSpec) -> PodSpec {
    let options = &spec.options;
    let everywhere = || vec![Toleration { operator: Some("Exists".to_owned()), ..Toleration::default() }];
    PodSpec {
        // Not the scheduler's choice: the agent must be where the target is, also on a node that takes no new pods.
        node_name: Some(spec.target.node.clone()),
        tolerations: Some(options.tolerations.clone().unwrap_or_else(everywhere)),
        restart_policy: Some("Never".to_owned()),
        host_pid: Some(true),
        termination_grace_period_seconds: Some(0),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        service_account_name: options.service_account.clone(),
        priority_class_name: options.priority_class.clone(),
        image_pull_secrets: (!options.image_pull_secrets.is_empty())
            .then(|| options.image_pull_secrets.clone()),
        containers: vec![container(spec)],
        volumes: options.image.is_none().then(|| vec![volume(name)]),
        ..PodSpec::default()
    }
}

/// The agent's command line.
pub(super) fn command(spec: &AgentSpec, port: u16) -> Vec<String> {
    let options = &spec.options;
    let mut command: Vec<String> = if options.image.is_some() {
        vec![IN_IMAGE.to_owned()]
    } else {
        [&format!("{MOUNT}/{}", program::STAGE_NAME), MOUNT, program::HASH].map(str::to_owned).to_vec()
    };
    command.extend(
        [
            "--listen",
            &format!("tcp:127.0.0.1:{port}"),
            "--container-id",
            &spec.target.container_id,
            "--token-sha256",
            &spec.token_hash,
            "--client",
            &format!("{} since {}", spec.owner, spec.since),
            "--idle-timeout",
            &options.idle.as_secs().to_string(),
        ]
        .map(str::to_owned),
    );
    command
}

/// The agent's own environment: the target's image may set variables for programs that this is none of.
pub(super) fn environment(spec: &AgentSpec) -> Option<Vec<EnvVar>> {
    let variable = |level: &String| EnvVar {
        name: "MIRRORD_AGENT_LOG".to_owned(),
        value: Some(level.clone()),
        ..EnvVar::default()
    };
    spec.log_level.as_ref().map(|level| vec![variable(level)])
}

fn container(spec: &AgentSpec) -> Container {
    let options = &spec.options;
    Container {
        name: "mirrord-agent".to_owned(),
        image: Some(options.image.clone().unwrap_or_else(|| spec.target.container_image.clone())),
        image_pull_policy: Some(pull_policy(spec)),
        command: Some(command(spec, PORT)),
        env: environment(spec),
        working_dir: Some("/".to_owned()),
        resources: Some(options.resources.clone().unwrap_or_else(resources)),
        security_context: Some(security(capabilities(&spec.config, &options.disabled_capabilities))),
        volume_mounts: options.image.is_none().then(|| {
            vec![VolumeMount {
                name: VOLUME.to_owned(),
                mount_path: MOUNT.to_owned(),
                read_only: Some(true),
                ..VolumeMount::default()
            }]
        }),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

/// When the image is pulled.
pub(super) fn pull_policy(spec: &AgentSpec) -> String {
    spec.options.image_pull_policy.clone().unwrap_or_else(|| "IfNotPresent".to_owned())
}

/// Root, for Kubernetes gives others no capabilities, and nothing else.
pub(super) fn security(capabilities: Vec<String>) -> SecurityContext {
    SecurityContext {
        run_as_user: Some(0),
        run_as_non_root: Some(false),
        privileged: Some(false),
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            ..SeccompProfile::default()
        }),
        // The runtime's own profile lets nobody look at processes of another one.
        app_armor_profile: Some(AppArmorProfile {
            type_: "Unconfined".to_owned(),
            ..AppArmorProfile::default()
        }),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: Some(capabilities) }),
        ..SecurityContext::default()
    }
}

/// Little is asked for, so that the agent fits a full node; the limit holds its largest queues (`agent/src/limits.rs`).
fn resources() -> ResourceRequirements {
    let quantities = |cpu: &str, memory: &str| {
        let of = |name: &str, amount: &str| (name.to_owned(), Quantity(amount.to_owned()));
        Some(BTreeMap::from([of("cpu", cpu), of("memory", memory)]))
    };
    ResourceRequirements {
        requests: quantities("10m", "32Mi"),
        limits: quantities("1", "256Mi"),
        ..ResourceRequirements::default()
    }
}

/// All parts of the agent in one folder, executable.
fn volume(job: &str) -> Volume {
    let source = |index| VolumeProjection {
        config_map: Some(ConfigMapProjection {
            name: program::name(job, index),
            ..ConfigMapProjection::default()
        }),
        ..VolumeProjection::default()
    };
    Volume {
        name: VOLUME.to_owned(),
        projected: Some(ProjectedVolumeSource {
            default_mode: Some(0o555),
            sources: Some((0..program::count()).map(source).collect()),
        }),
        ..Volume::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cluster::pod::TargetPod, config::PortSpec};

    fn spec() -> AgentSpec {
        AgentSpec {
            target: TargetPod {
                uid: "u-1".to_owned(),
                node: "node1".to_owned(),
                container_id: "ab".repeat(32),
                container_image: "registry.test/hello:1".to_owned(),
                ..TargetPod::default()
            },
            owner: "me@here".to_owned(),
            token_hash: "cd".repeat(32),
            ..AgentSpec::default()
        }
    }

    #[test]
    fn the_pod_may_only_what_the_session_needs() {
        let job = serde_json::to_value(job("j", &spec())).unwrap();
        let pod = &job["spec"]["template"]["spec"];
        assert_eq!(pod["nodeName"], "node1");
        assert_eq!(pod["hostPID"], true);
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert!(pod.get("hostNetwork").is_none());
        let container = &pod["containers"][0];
        let security = &container["securityContext"];
        assert_eq!(security["privileged"], false);
        assert_eq!(security["capabilities"]["drop"], serde_json::json!(["ALL"]));
        assert_eq!(container["image"], "registry.test/hello:1");
        assert_eq!(container["command"][0], "/.agent/stage");
        assert_eq!(pod["volumes"][0]["projected"]["defaultMode"], 0o555);
        let template = &job["spec"]["template"]["metadata"];
        assert_eq!(template["annotations"]["linkerd.io/inject"], "disabled");
        assert_eq!(template["labels"]["sidecar.istio.io/inject"], "false");
        assert_eq!(job["metadata"]["labels"][MANAGED_BY.0], MANAGED_BY.1);
        assert_eq!(job["metadata"]["labels"][TARGET_LABEL], "u-1");
        assert_eq!(job["metadata"]["annotations"][OWNER], "me@here");
    }

    #[test]
    fn an_image_brings_the_agent_along() {
        let mut spec = spec();
        spec.options.image = Some("x/agent:1".to_owned());
        let job = serde_json::to_value(job("j", &spec)).unwrap();
        let pod = &job["spec"]["template"]["spec"];
        assert_eq!(pod["containers"][0]["command"][0], IN_IMAGE);
        assert!(pod.get("volumes").is_none());
    }

    #[test]
    fn capabilities_follow_the_features() {
        let mut config = Config::default();
        let all = ["SYS_ADMIN", "SYS_PTRACE", "NET_ADMIN", "NET_RAW", "DAC_READ_SEARCH"];
        assert_eq!(capabilities(&config, &[]), all);
        assert_eq!(
            capabilities(&config, &["NET_RAW".to_owned()]),
            ["SYS_ADMIN", "SYS_PTRACE", "NET_ADMIN", "DAC_READ_SEARCH"]
        );
        config.incoming.mode = Mode::Off;
        config.files.mode = FileMode::Local;
        config.env.enabled = false;
        assert_eq!(capabilities(&config, &[]), ["SYS_ADMIN", "SYS_PTRACE"]);
    }

    #[test]
    fn what_is_stolen_is_said() {
        let mut config = Config::default();
        assert_eq!(stolen(&config), "");
        config.incoming.mode = Mode::Steal;
        assert_eq!(stolen(&config), "*");
        let port = |remote, mode| PortSpec { remote, local: remote, mode };
        config.incoming.ports = vec![port(80, Mode::Steal), port(81, Mode::Mirror), port(8080, Mode::Steal)];
        assert_eq!(stolen(&config), "80,8080");
    }
}
