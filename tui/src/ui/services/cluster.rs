//! Targets of the cluster as rows: the context's namespace is watched from the first time that targets are wanted.

use std::sync::OnceLock;

use mirrord_session::cluster::{ClusterConfig, ClusterTarget, Watching, client::is_configured};

use crate::ui::{model::targets::TargetRow, services::chain, tone::Tone};

/// The watch, once it is wanted.
#[derive(Debug, Default)]
pub(crate) struct ClusterTargets {
    /// `None` inside: there is no cluster to watch.
    watching: OnceLock<Option<Watching>>,
}

impl ClusterTargets {
    /// What is known now; nothing without a cluster and before its first answer.
    pub(crate) fn rows(&self) -> Option<Result<Vec<TargetRow>, String>> {
        let seen = self.watching.get_or_init(start).as_ref()?.seen();
        if let Some(problem) = &seen.problem {
            return Some(Err(format!("{}; {}", chain(problem.as_ref()), problem.hint())));
        }
        let context = seen.place.as_ref().map(|(context, _)| context.as_str()).unwrap_or_default();
        Some(Ok(seen.targets.as_ref()?.iter().map(|target| row(context, target)).collect()))
    }

    /// The cluster and namespace of the rows, for a session with one of them.
    pub(crate) fn config(&self) -> ClusterConfig {
        let place =
            self.watching.get().and_then(Option::as_ref).and_then(|watching| watching.seen().place.clone());
        match place {
            Some((context, namespace)) if context != mirrord_session::cluster::client::IN_CLUSTER => {
                ClusterConfig {
                    context: Some(context),
                    namespace: Some(namespace),
                    ..ClusterConfig::default()
                }
            }
            Some(_) | None => ClusterConfig::default(),
        }
    }
}

fn start() -> Option<Watching> {
    let config =
        ClusterConfig { context: std::env::var("MIRRORD_TUI_CONTEXT").ok(), ..ClusterConfig::default() };
    // Without a thread there are no targets of the cluster; whoever starts one sees the machine's error then.
    is_configured(&config).then(|| Watching::start(config).ok()).flatten()
}

fn row(context: &str, target: &ClusterTarget) -> TargetRow {
    let facts = [
        ("containers", target.containers.join(" ")),
        ("node", target.node.clone()),
        ("address", target.ip.clone()),
        ("mesh", target.mesh.map(|mesh| mesh.to_string()).unwrap_or_default()),
    ];
    let known = facts.into_iter().filter(|(_, value)| !value.is_empty());
    TargetRow {
        reference: target.target.clone(),
        kind: target.kind.clone(),
        name: target.name.clone(),
        place: format!("{context}/{}", target.namespace),
        ready: format!("{}/{}", target.ready, target.total),
        status: target.status.clone(),
        tone: match (target.unfit.is_empty(), target.ready == target.total) {
            (true, true) => Tone::Good,
            (true, false) => Tone::Warn,
            (false, _) => Tone::Bad,
        },
        restarts: target.restarts,
        started_ms: target.created_ms,
        ports: target.ports.clone(),
        command: String::new(),
        unfit: target.unfit.clone(),
        shared: true,
        facts: known.map(|(name, value)| (name.to_owned(), value)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_of_the_cluster_is_a_row() {
        let target = ClusterTarget {
            target: "deployment/api".to_owned(),
            kind: "deployment".to_owned(),
            name: "api".to_owned(),
            namespace: "shop".to_owned(),
            ready: 1,
            total: 2,
            status: "Running".to_owned(),
            ports: vec![8080],
            containers: vec!["app".to_owned(), "proxy".to_owned()],
            ..ClusterTarget::default()
        };
        let row = row("dev", &target);
        assert_eq!(
            (row.reference.as_str(), row.place.as_str(), row.ready.as_str()),
            ("deployment/api", "dev/shop", "1/2")
        );
        assert_eq!((row.tone, row.shared), (Tone::Warn, true));
        assert_eq!(row.facts, [("containers".to_owned(), "app proxy".to_owned())]);
    }
}
