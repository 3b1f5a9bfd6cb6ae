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

/// Why the pod is not or will not be running; `None`: it runs, or may yet.
pub(super) fn ended(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let container = container(pod);
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
    pod.metadata.deletion_timestamp.as_ref().map(|_| "somebody has deleted the pod".to_owned())
}

/// What it waits for, for when that took too long.
pub(super) fn waiting(pod: &Pod) -> String {
    let waiting = container(pod).and_then(|container| container.state.as_ref()?.waiting.as_ref());
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

fn container(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()
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

/// The error in the last line that the agent has logged, which is JSON; the line itself when it is something else.
fn last_words(log: &str) -> Option<String> {
    let line = log.lines().rev().find(|line| !line.trim().is_empty())?;
    let parsed: Option<serde_json::Value> = serde_json::from_str(line).ok();
    let error = parsed.as_ref().and_then(|value| value.pointer("/fields/error")?.as_str());
    Some(error.unwrap_or(line).to_owned())
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
            assert_eq!(ended(&pod), None);
        }
        let waiting = waiting(&with_state(&json!({"waiting": {"reason": "ContainerCreating"}})));
        assert_eq!(waiting, "its pod is Pending, ContainerCreating");
    }

    #[test]
    fn a_pod_without_hope_is_explained() {
        let failed = |state| ended(&with_state(&state)).unwrap();
        let pull = json!({"waiting": {"reason": "ErrImagePull", "message": "not found"}});
        assert_eq!(failed(pull), "ErrImagePull: not found");
        let log = "{}\n{\"level\":\"ERROR\",\"fields\":{\"error\":\"no process of container x\"}}\n";
        let ended_at_once = json!({"terminated": {"exitCode": 1, "reason": "Error", "message": log}});
        assert_eq!(failed(ended_at_once), "no process of container x (Error, exit code 1)");
        let oom = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
        assert_eq!(failed(oom), "OOMKilled, exit code 137");
        let full =
            pod(&json!({"phase": "Failed", "reason": "OutOfmemory", "message": "Node didn't have enough"}));
        assert_eq!(ended(&full).unwrap(), "OutOfmemory: Node didn't have enough");
    }
}
