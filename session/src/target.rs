//! What is impersonated, as a user writes it: `local/shop`, `pid/4711`, `container/ID`, `pod/NAME`, ...

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A target as named on the command line or in a config file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Target {
    /// A local pod: namespaces on this machine.
    Local(String),
    /// A process on this machine.
    Pid(u32),
    /// A container on this machine, by id or unique prefix of it.
    Container(String),
    /// Something in a cluster, `KIND/NAME[/container/NAME]`; resolved by the cluster part.
    Cluster {
        /// pod, deployment, statefulset, ... in lower case.
        kind: String,
        /// Name of the object.
        name: String,
        /// Container in it; `None`: chosen by rule.
        container: Option<String>,
    },
}

/// Why a text is not a target.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("`{text}` is not a target: {reason}")]
pub struct TargetError {
    text: String,
    reason: &'static str,
}

/// Kinds of cluster objects that can be targets, with mirrord's short forms.
const CLUSTER_KINDS: [(&str, &str); 26] = [
    ("pod", "pod"),
    ("po", "pod"),
    ("deployment", "deployment"),
    ("deploy", "deployment"),
    ("statefulset", "statefulset"),
    ("sts", "statefulset"),
    ("daemonset", "daemonset"),
    ("ds", "daemonset"),
    ("replicaset", "replicaset"),
    ("rs", "replicaset"),
    ("job", "job"),
    ("cronjob", "cronjob"),
    ("cj", "cronjob"),
    ("service", "service"),
    ("svc", "service"),
    ("rollout", "rollout"),
    ("pods", "pod"),
    ("deployments", "deployment"),
    ("statefulsets", "statefulset"),
    ("daemonsets", "daemonset"),
    ("replicasets", "replicaset"),
    ("jobs", "job"),
    ("cronjobs", "cronjob"),
    ("services", "service"),
    ("rollouts", "rollout"),
    ("label", "label"),
];

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let error = |reason| TargetError { text: text.to_owned(), reason };
        let Some((kind, rest)) = text.split_once('/').filter(|(_, rest)| !rest.is_empty()) else {
            return Err(error("write KIND/NAME, for example local/shop, pid/4711 or pod/api-0"));
        };
        let kind = kind.to_ascii_lowercase();
        if kind == "label" {
            return label(rest)
                .ok_or_else(|| error("after label/ a selector must follow, for example app=shop"));
        }
        let mut parts = rest.split('/');
        let name = parts.next().unwrap_or_default();
        let rest: Vec<&str> = parts.collect();
        let container = match rest.as_slice() {
            [] => None,
            ["container", container] if !container.is_empty() => Some((*container).to_owned()),
            _ => return Err(error("after KIND/NAME only /container/NAME may follow")),
        };
        if name.is_empty() {
            return Err(error("after the kind and / a name must follow"));
        }
        if let Some((_, kind)) = CLUSTER_KINDS.iter().find(|(short, _)| *short == kind) {
            return Ok(Self::Cluster { kind: (*kind).to_owned(), name: name.to_owned(), container });
        }
        if container.is_some() {
            return Err(error("only a cluster target has containers"));
        }
        match kind.as_str() {
            "local" => Ok(Self::Local(name.to_owned())),
            "container" => Ok(Self::Container(name.to_owned())),
            "pid" => name
                .parse()
                .ok()
                .filter(|pid| *pid > 0)
                .map(Self::Pid)
                .ok_or_else(|| error("after pid/ a process number must follow")),
            _ => Err(error(
                "the kind before / must be local, pid, container, pod, deployment, statefulset, daemonset, replicaset, job, cronjob, service, rollout or label",
            )),
        }
    }
}

/// `SELECTOR[/container/NAME]`; keys of labels hold slashes themselves.
fn label(text: &str) -> Option<Target> {
    let (name, container) = match text.rsplit_once("/container/") {
        Some((name, container)) => (name, Some(container)),
        None => (text, None),
    };
    let fits = !name.is_empty()
        && container.is_none_or(|container| !container.is_empty() && !container.contains('/'));
    let (name, container) = (name.to_owned(), container.map(str::to_owned));
    fits.then(|| Target::Cluster { kind: "label".to_owned(), name, container })
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(name) => write!(f, "local/{name}"),
            Self::Pid(pid) => write!(f, "pid/{pid}"),
            Self::Container(id) => write!(f, "container/{id}"),
            Self::Cluster { kind, name, container: None } => write!(f, "{kind}/{name}"),
            Self::Cluster { kind, name, container: Some(container) } => {
                write!(f, "{kind}/{name}/container/{container}")
            }
        }
    }
}

impl TryFrom<String> for Target {
    type Error = TargetError;

    fn try_from(text: String) -> Result<Self, TargetError> {
        text.parse()
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_parses_to_the_same() {
        for text in [
            "local/shop",
            "pid/12",
            "container/ab12",
            "pod/api-0",
            "deployment/api/container/web",
            "label/app.kubernetes.io/name=shop,tier!=db/container/web",
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        assert_eq!("deploy/api".parse::<Target>().unwrap().to_string(), "deployment/api");
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        for text in [
            "",
            "shop",
            "local/",
            "pid/0",
            "pid/x",
            "disk/1",
            "pod/a/b",
            "pod/a/container/",
            "local/a/container/b",
            "label/",
            "label/a=b/container/",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
