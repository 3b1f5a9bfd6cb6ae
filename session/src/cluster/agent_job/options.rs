//! How the agent is started in a cluster, as the `agent` section of the configuration says it.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::{LocalObjectReference, ResourceRequirements, Toleration};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use thiserror::Error;

use crate::{
    config::file::AgentSection,
    limits::{AGENT_STARTUP, CLUSTER_AGENT_IDLE, CLUSTER_AGENT_TTL},
};

/// Settings of the agent's job; what is `None` or empty has a default in the manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentOptions {
    /// Image with the agent in it; `None`: the agent comes in ConfigMaps and runs on the target's image.
    pub image: Option<String>,
    /// The agent is a container of the target's pod.
    pub ephemeral: bool,
    /// Namespace of the agent; `None`: the target's.
    pub namespace: Option<String>,
    /// `Always`, `IfNotPresent` or `Never`.
    pub image_pull_policy: Option<String>,
    /// Secrets for pulling the image.
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// How long a finished agent stays.
    pub ttl: Duration,
    /// How long the agent lives without its client.
    pub idle: Duration,
    /// How long the agent may take to start.
    pub startup: Duration,
    /// Tolerations; `None`: all.
    pub tolerations: Option<Vec<Toleration>>,
    /// Resources of the container.
    pub resources: Option<ResourceRequirements>,
    /// More labels.
    pub labels: BTreeMap<String, String>,
    /// More annotations.
    pub annotations: BTreeMap<String, String>,
    /// Service account.
    pub service_account: Option<String>,
    /// Priority class.
    pub priority_class: Option<String>,
    /// Capabilities that the agent does without, without `CAP_`.
    pub disabled_capabilities: Vec<String>,
}

impl Default for AgentOptions {
    fn default() -> Self {
        Self {
            image: None,
            ephemeral: false,
            namespace: None,
            image_pull_policy: None,
            image_pull_secrets: Vec::new(),
            ttl: CLUSTER_AGENT_TTL,
            idle: CLUSTER_AGENT_IDLE,
            startup: AGENT_STARTUP,
            tolerations: None,
            resources: None,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            service_account: None,
            priority_class: None,
            disabled_capabilities: Vec::new(),
        }
    }
}

/// What is wrong in the `agent` section.
#[derive(Debug, Error)]
pub enum AgentOptionsError {
    /// A value that Kubernetes would not understand.
    #[error("`agent.{key}` is not what Kubernetes expects there")]
    Value {
        /// The key.
        key: &'static str,
        /// What serde said.
        source: serde_json::Error,
    },
    /// An ephemeral container without an image.
    #[error(
        "`agent.ephemeral` needs `agent.image`: an ephemeral container has no volumes that could bring the agent; without `agent.ephemeral` the agent runs as a job, which needs no image"
    )]
    NoImage,
    /// A policy that does not exist.
    #[error("`{0}` is no `agent.image_pull_policy`; there are Always, IfNotPresent and Never")]
    PullPolicy(String),
}

/// What the agent is in the cluster, and how its program comes there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// A job; ConfigMaps bring the program.
    #[default]
    Job,
    /// A job of an image.
    ImageJob,
    /// An ephemeral container of the target's pod, of an image.
    Ephemeral,
}

impl AgentOptions {
    /// What the agent is.
    #[must_use]
    pub const fn form(&self) -> Form {
        match (self.ephemeral, self.image.is_some()) {
            (true, _) => Form::Ephemeral,
            (false, true) => Form::ImageJob,
            (false, false) => Form::Job,
        }
    }
}

impl AgentSection {
    /// Keys that are set and mean nothing for an ephemeral container, which is part of a pod that exists.
    pub(crate) fn without_effect_on_ephemeral(&self) -> Vec<String> {
        let keys = [
            ("namespace", self.namespace.is_some()),
            ("image_pull_secrets", self.image_pull_secrets.is_some()),
            ("ttl", self.ttl.is_some()),
            ("tolerations", self.tolerations.is_some()),
            ("resources", self.resources.is_some()),
            ("labels", self.labels.is_some()),
            ("annotations", self.annotations.is_some()),
            ("service_account", self.service_account.is_some()),
            ("priority_class", self.priority_class.is_some()),
        ];
        let set = keys.into_iter().filter(|(_, set)| *set && self.ephemeral == Some(true));
        set.map(|(key, _)| format!("agent.{key} with agent.ephemeral")).collect()
    }
}

/// An image as an object: registry and tag apart.
#[derive(Default, Deserialize)]
struct ImageParts {
    registry: String,
    tag: Option<String>,
}

impl TryFrom<AgentSection> for AgentOptions {
    type Error = AgentOptionsError;

    fn try_from(section: AgentSection) -> Result<Self, AgentOptionsError> {
        if let Some(policy) = &section.image_pull_policy
            && !["Always", "IfNotPresent", "Never"].contains(&policy.as_str())
        {
            return Err(AgentOptionsError::PullPolicy(policy.clone()));
        }
        let image = match section.image {
            None | Some(Value::Null) => None,
            Some(Value::String(image)) => Some(image),
            Some(parts) => {
                let ImageParts { registry, tag } = read("image", Some(parts))?;
                Some(tag.map_or_else(|| registry.clone(), |tag| format!("{registry}:{tag}")))
            }
        };
        let ephemeral = section.ephemeral == Some(true);
        if ephemeral && image.is_none() {
            return Err(AgentOptionsError::NoImage);
        }
        let seconds =
            |given: Option<u32>, default| given.map_or(default, |given| Duration::from_secs(given.into()));
        Ok(Self {
            image,
            ephemeral,
            namespace: section.namespace.filter(|_| !ephemeral),
            image_pull_policy: section.image_pull_policy,
            image_pull_secrets: read("image_pull_secrets", section.image_pull_secrets)?,
            ttl: seconds(section.ttl, CLUSTER_AGENT_TTL),
            idle: seconds(section.communication_timeout, CLUSTER_AGENT_IDLE),
            startup: seconds(section.startup_timeout, AGENT_STARTUP),
            tolerations: read("tolerations", section.tolerations)?,
            resources: read("resources", section.resources)?,
            labels: section.labels.unwrap_or_default(),
            annotations: section.annotations.unwrap_or_default(),
            service_account: section.service_account,
            priority_class: section.priority_class,
            disabled_capabilities: section
                .disabled_capabilities
                .unwrap_or_default()
                .into_iter()
                .map(|name| name.to_ascii_uppercase().trim_start_matches("CAP_").to_owned())
                .collect(),
        })
    }
}

/// Nothing is the default of the type.
fn read<T: DeserializeOwned + Default>(
    key: &'static str,
    value: Option<Value>,
) -> Result<T, AgentOptionsError> {
    value.filter(|value| !value.is_null()).map_or_else(
        || Ok(T::default()),
        |value| serde_json::from_value(value).map_err(|source| AgentOptionsError::Value { key, source }),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn options(section: Value) -> Result<AgentOptions, AgentOptionsError> {
        AgentOptions::try_from(serde_json::from_value::<AgentSection>(section).unwrap())
    }

    #[test]
    fn mirrords_keys_are_understood() {
        let options = options(json!({
            "image": {"registry": "ghcr.io/x/agent", "tag": "3"},
            "tolerations": [{"operator": "Exists"}],
            "resources": {"limits": {"memory": "1Gi"}},
            "image_pull_secrets": [{"name": "regcred"}],
            "disabled_capabilities": ["CAP_NET_RAW", "net_admin"],
            "communication_timeout": 60,
        }))
        .unwrap();
        assert_eq!(options.image.as_deref(), Some("ghcr.io/x/agent:3"));
        assert_eq!(options.disabled_capabilities, ["NET_RAW", "NET_ADMIN"]);
        assert_eq!(options.idle, Duration::from_secs(60));
        assert_eq!(options.ttl, CLUSTER_AGENT_TTL);
        assert_eq!(options.tolerations.as_ref().map(Vec::len), Some(1));
        let back: AgentOptions = serde_json::from_value(serde_json::to_value(&options).unwrap()).unwrap();
        assert_eq!(back, options);
    }

    #[test]
    fn an_ephemeral_container_needs_an_image_and_takes_no_settings_of_pods() {
        let section = json!({"ephemeral": true, "image": "x/agent:1", "namespace": "other", "ttl": 3});
        let section: AgentSection = serde_json::from_value(section).unwrap();
        let ignored = section.without_effect_on_ephemeral();
        assert_eq!(ignored, ["agent.namespace with agent.ephemeral", "agent.ttl with agent.ephemeral"]);
        let options = AgentOptions::try_from(section).unwrap();
        assert_eq!((options.form(), options.namespace), (Form::Ephemeral, None));
    }

    #[test]
    fn mistakes_are_named() {
        for (section, said) in [
            (json!({"tolerations": "all"}), "agent.tolerations"),
            (json!({"ephemeral": true}), "agent.ephemeral"),
            (json!({"image_pull_policy": "Sometimes"}), "Sometimes"),
            (json!({"image": 3}), "agent.image"),
        ] {
            let error = options(section).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
