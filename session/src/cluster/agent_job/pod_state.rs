//! What the state of the agent's pod means: whether it can still become an agent, and if not, why, in words.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};

/// Reasons of a waiting container that waiting does not cure within a session's patience.
const HOPELESS: [&str; 8] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "ImageInspectError",
];

/// Why the agent is not or will not be running; `None`: it runs, or may yet. `ephemeral` names its container in the target's pod, which
/// otherwise is one of its own.
pub(super) fn ended(pod: &Pod, ephemeral: Option<&str>) -> Option<String> {
    let status = pod.status.as_ref()?;
    let container = container(pod, ephemeral);
    let terminated = container.and_then(|container| container.state.as_ref()?.terminated.as_ref());
    if let Some(terminated) = terminated {
        return Some(termination(terminated));
    }
    if matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")) {
        let reason = status.reason.as_deref().unwrap_or("it has ended");
        return Some(with(reason, status.message.as_deref()));
    }
    let waiting = container.and_then(|container| container.state.as_ref()?.waiting.as_ref());
    if let Some(reason) = waiting.and_then(|waiting| waiting.reason.as_deref())
        && HOPELESS.contains(&reason)
    {
        return Some(with(reason, waiting.and_then(|waiting| waiting.message.as_deref())));
    }
    // A target that is being deleted serves until its containers end, and its agent with it.
    let deleted = pod.metadata.deletion_timestamp.as_ref().filter(|_| ephemeral.is_none());
    deleted.map(|_| "somebody has deleted the pod".to_owned())
}

/// What it waits for, for when that took too long.
pub(super) fn waiting(pod: &Pod, ephemeral: Option<&str>) -> String {
    let waiting = container(pod, ephemeral).and_then(|container| container.state.as_ref()?.waiting.as_ref());
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("unknown");
    waiting.and_then(|waiting| waiting.reason.as_deref()).map_or_else(
        || format!("its pod is {phase}"),
        |reason| {
            with(
                &format!("its pod is {phase}, {reason}"),
                waiting.and_then(|waiting| waiting.message.as_deref()),
            )
        },
    )
}

fn container<'pod>(pod: &'pod Pod, ephemeral: Option<&str>) -> Option<&'pod ContainerStatus> {
    let status = pod.status.as_ref()?;
    match ephemeral {
        Some(name) => status.ephemeral_container_statuses.iter().flatten().find(|of| of.name == name),
        None => status.container_statuses.as_ref()?.first(),
    }
}

fn termination(terminated: &ContainerStateTerminated) -> String {
    let reason = terminated.reason.as_deref().unwrap_or("Error");
    let code = terminated.exit_code;
    let said = terminated.message.as_deref().and_then(last_words);
    match (said, code) {
        (_, 0) => "it has ended".to_owned(),
        (Some(said), _) => format!("{said} ({reason}, exit code {code})"),
        (None, _) => format!("{reason}, exit code {code}"),
    }
}

/// The error in the last line that the agent has logged, which is JSON; the line itself when it is something else. Any other line of its
/// log says nothing of its end: it was killed.
fn last_words(log: &str) -> Option<String> {
    let line = log.lines().rev().find(|line| !line.trim().is_empty())?;
    match serde_json::from_str::<serde_json::Value>(line) {
        Ok(logged) => Some(logged.pointer("/fields/error")?.as_str()?.to_owned()),
        Err(_) => Some(line.to_owned()),
    }
}

fn with(reason: &str, message: Option<&str>) -> String {
    match message.filter(|message| !message.is_empty()) {
        Some(message) => format!("{reason}: {message}"),
        None => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(status: &serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "a"}, "status": status})).unwrap()
    }

    fn with_state(state: &serde_json::Value) -> Pod {
        pod(&json!({"phase": "Pending", "containerStatuses": [
            {"name": "a", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state}]}))
    }

    #[test]
    fn a_pod_that_comes_up_is_waited_for() {
        for pod in [
            pod(&json!({})),
            pod(&json!({"phase": "Pending"})),
            with_state(&json!({"waiting": {"reason": "ContainerCreating"}})),
            with_state(&json!({"running": {}})),
        ] {
            assert_eq!(ended(&pod, None), None);
        }
        let waiting = waiting(&with_state(&json!({"waiting": {"reason": "ContainerCreating"}})), None);
        assert_eq!(waiting, "its pod is Pending, ContainerCreating");
    }

    #[test]
    fn a_pod_without_hope_is_explained() {
        let failed = |state| ended(&with_state(&state), None).unwrap();
        let pull = json!({"waiting": {"reason": "ErrImagePull", "message": "not found"}});
        assert_eq!(failed(pull), "ErrImagePull: not found");
        let log = "{}\n{\"level\":\"ERROR\",\"fields\":{\"error\":\"no process of container x\"}}\n";
        let ended_at_once = json!({"terminated": {"exitCode": 1, "reason": "Error", "message": log}});
        assert_eq!(failed(ended_at_once), "no process of container x (Error, exit code 1)");
        let oom = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
        assert_eq!(failed(oom), "OOMKilled, exit code 137");
        let log = "{\"level\":\"INFO\",\"fields\":{\"message\":\"the agent is ready\"}}\n";
        let later = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled", "message": log}});
        assert_eq!(failed(later), "OOMKilled, exit code 137");
        let full =
            pod(&json!({"phase": "Failed", "reason": "OutOfmemory", "message": "Node didn't have enough"}));
        assert_eq!(ended(&full, None).unwrap(), "OutOfmemory: Node didn't have enough");
    }

    #[test]
    fn only_the_agents_own_container_of_a_target_counts() {
        let status = |name: &str, state: serde_json::Value| json!({"name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state});
        let over = json!({"terminated": {"exitCode": 1, "reason": "Error"}});
        let mut pod = pod(&json!({
            "phase": "Running", "containerStatuses": [status("app", over.clone())],
            "ephemeralContainerStatuses": [status("earlier", over), status("agent", json!({"running": {}}))],
        }));
        assert_eq!(ended(&pod, Some("agent")), None);
        assert_eq!(ended(&pod, Some("later")), None);
        assert_eq!(ended(&pod, Some("earlier")).unwrap(), "Error, exit code 1");
        pod.metadata.deletion_timestamp = serde_json::from_value(json!("2026-11-23T02:00:00Z")).unwrap();
        assert_eq!(ended(&pod, Some("agent")), None);
    }
}
