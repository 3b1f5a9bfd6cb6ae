//! Targets of the cluster as rows: the chosen namespaces are watched from the first time that targets are wanted.

use std::sync::{Mutex, MutexGuard, PoisonError};

use mirrord_session::cluster::{
    self, ClusterConfig, ClusterError, ClusterTarget, Scope, Watching,
    client::{IN_CLUSTER, is_configured},
};

use crate::ui::{
    model::{
        pick::PlaceKind,
        targets::{Look, Place, TargetRow},
    },
    services::chain,
    tone::Tone,
};

/// The watch, once it is wanted.
#[derive(Debug)]
pub(crate) struct ClusterTargets(Mutex<State>);

#[derive(Debug)]
struct State {
    wanted: ClusterConfig,
    all_namespaces: bool,
    watch: Watch,
}

#[derive(Debug)]
enum Watch {
    NotYet,
    /// There is no cluster to watch.
    None,
    On(Watching),
}

impl ClusterTargets {
    pub(crate) fn new(wanted: ClusterConfig, all_namespaces: bool) -> Self {
        Self(Mutex::new(State { wanted, all_namespaces, watch: Watch::NotYet }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known now; nothing without a cluster. Before the first answer there are no rows: those of another place are not kept.
    pub(crate) fn rows(&self) -> Option<Result<Vec<TargetRow>, String>> {
        let mut state = self.state();
        if matches!(state.watch, Watch::NotYet) {
            state.watch = start(&state.wanted, state.all_namespaces);
        }
        let Watch::On(watching) = &state.watch else { return None };
        let seen = watching.seen();
        if let Some(problem) = &seen.problem {
            return Some(Err(sentence(problem)));
        }
        let context = seen.place.as_ref().map(|place| place.context.as_str()).unwrap_or_default();
        let targets = seen.targets.as_deref().unwrap_or_default();
        Some(Ok(targets.iter().map(|target| row(&state.wanted, context, target)).collect()))
    }

    pub(crate) fn place(&self) -> Option<Place> {
        let state = self.state();
        let Watch::On(watching) = &state.watch else { return None };
        let seen = watching.seen();
        let place = seen.place.as_ref()?;
        let namespace = match &place.scope {
            Scope::Namespace(namespace) => Some(namespace.clone()),
            Scope::All => None,
        };
        let answered = seen.targets.is_some() || seen.problem.is_some();
        Some(Place { context: place.context.clone(), namespace, answered })
    }

    /// Looks somewhere else; the watch of before ends.
    pub(crate) fn look_at(&self, look: Look) {
        let mut state = self.state();
        match look {
            Look::Namespace(name) => (state.wanted.namespace, state.all_namespaces) = (Some(name), false),
            Look::AllNamespaces => state.all_namespaces = true,
            Look::Context(name) => {
                (state.wanted.context, state.wanted.namespace) = (Some(name), None);
                state.all_namespaces = false;
            }
        }
        state.watch = Watch::NotYet;
    }

    /// What there is to choose from.
    pub(crate) async fn places(&self, kind: PlaceKind) -> Result<Vec<String>, String> {
        let wanted = self.state().wanted.clone();
        let names = match kind {
            PlaceKind::Context => cluster::contexts(&wanted),
            PlaceKind::Namespace => match cluster::connect_quietly(&wanted).await {
                Ok(cluster) => cluster::namespaces(&cluster).await,
                Err(error) => Err(error),
            },
        };
        names.map_err(|error| sentence(&error))
    }

    /// Where a target is that was named without its place.
    pub(crate) fn config(&self) -> ClusterConfig {
        self.state().wanted.clone()
    }
}

fn sentence(error: &ClusterError) -> String {
    format!("{}; {}", chain(error), error.hint())
}

fn start(wanted: &ClusterConfig, all_namespaces: bool) -> Watch {
    if !is_configured(wanted) {
        return Watch::None;
    }
    // Without a thread there are no targets of the cluster; whoever starts one sees the machine's error then.
    Watching::start(wanted.clone(), all_namespaces).map_or(Watch::None, Watch::On)
}

fn row(wanted: &ClusterConfig, context: &str, target: &ClusterTarget) -> TargetRow {
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
        // Named, so that a session does not follow a kubeconfig that is changed later.
        cluster: Some(ClusterConfig {
            context: Some(context.to_owned()).filter(|context| context != IN_CLUSTER),
            namespace: Some(target.namespace.clone()),
            ..wanted.clone()
        }),
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
        let row = row(&ClusterConfig::default(), "dev", &target);
        assert_eq!(
            (row.reference.as_str(), row.place.as_str(), row.ready.as_str()),
            ("deployment/api", "dev/shop", "1/2")
        );
        assert_eq!((row.tone, row.namespace()), (Tone::Warn, "shop"));
        assert_eq!(row.cluster.unwrap().context.as_deref(), Some("dev"));
        assert_eq!(row.facts, [("containers".to_owned(), "app proxy".to_owned())]);
    }
}
