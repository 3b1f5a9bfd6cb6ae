//! What can be impersonated, from all sources: local pods, processes, and whatever else delivers [`TargetRow`]s.

use std::collections::BTreeMap;

use mirrord_session::cluster::ClusterConfig;

use super::list::List;
use crate::ui::{fuzzy, tone::Tone};

/// One target, as its source describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TargetRow {
    /// What `exec -t` takes; unique in its place.
    pub(crate) reference: String,
    /// `local`, `pid`, `pod`, `deployment`, ...
    pub(crate) kind: String,
    pub(crate) name: String,
    /// Cluster and namespace, or the machine.
    pub(crate) place: String,
    pub(crate) ready: String,
    pub(crate) status: String,
    pub(crate) tone: Tone,
    pub(crate) restarts: u32,
    /// Milliseconds since the epoch; 0 when unknown.
    pub(crate) started_ms: i64,
    pub(crate) ports: Vec<u16>,
    pub(crate) command: String,
    /// Why it cannot be a target now; empty when it can.
    pub(crate) unfit: String,
    /// The cluster and namespace that `reference` means; `None` on this machine. What is in a cluster is shared with others.
    pub(crate) cluster: Option<ClusterConfig>,
    /// More for the details, name and value.
    pub(crate) facts: Vec<(String, String)>,
}

/// Where targets of a cluster are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) context: String,
    /// `None`: all of them.
    pub(crate) namespace: Option<String>,
    /// The cluster has said what there is.
    pub(crate) answered: bool,
}

/// Another place to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    Namespace(String),
    AllNamespaces,
    /// A context of the kubeconfig, and the namespace that it names.
    Context(String),
}

/// All targets.
#[derive(Debug, Default)]
pub(crate) struct Targets {
    by_source: BTreeMap<&'static str, Vec<TargetRow>>,
    /// What a source says instead of rows.
    failures: BTreeMap<&'static str, String>,
    rows: Vec<TargetRow>,
    pub(crate) list: List,
    /// Fuzzy text; empty: all.
    filter: String,
    pub(crate) filter_off: bool,
    /// A source has answered.
    pub(crate) known: bool,
    place: Option<Place>,
}

impl Place {
    /// As it is shown: the cluster and the namespace.
    pub(crate) fn text(&self) -> String {
        format!("{}/{}", self.context, self.namespace.as_deref().unwrap_or("all namespaces"))
    }
}

impl Targets {
    /// Takes what a source has found; true when that changes anything.
    pub(crate) fn set(&mut self, source: &'static str, found: Result<Vec<TargetRow>, String>) -> bool {
        let first = !std::mem::replace(&mut self.known, true);
        let changed = match found {
            Ok(rows) => {
                let mended = self.failures.remove(source).is_some();
                let before = self.by_source.insert(source, rows);
                mended || before.as_ref() != self.by_source.get(source)
            }
            // The rows of before stay: they are still the best that is known.
            Err(reason) => self.failures.insert(source, reason.clone()) != Some(reason),
        };
        if changed {
            self.filter_rows();
        }
        changed || first
    }

    /// Takes where targets of the cluster are looked for; true when that changes anything.
    pub(crate) fn set_place(&mut self, place: Option<Place>) -> bool {
        let changed = self.place != place;
        self.place = place;
        changed
    }

    pub(crate) fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// Targets of several namespaces are listed.
    pub(crate) fn all_namespaces(&self) -> bool {
        self.place.as_ref().is_some_and(|place| place.namespace.is_none())
    }

    pub(crate) fn set_filter(&mut self, text: &str) {
        text.trim().clone_into(&mut self.filter);
        self.filter_off = false;
        self.filter_rows();
    }

    pub(crate) fn toggle_filter(&mut self) {
        self.filter_off = !self.filter_off;
        self.filter_rows();
    }

    pub(crate) fn filter(&self) -> &str {
        &self.filter
    }

    fn filter_rows(&mut self) {
        let all = self.by_source.values().flatten();
        let filter = if self.filter_off { "" } else { self.filter.as_str() };
        // As in k9s: `!text` shows what does not have it.
        let mut scored: Vec<_> = match filter.strip_prefix('!') {
            Some(unwanted) => all
                .filter(|row| unwanted.is_empty() || !row.searched().contains(unwanted))
                .map(|row| (0, row.clone()))
                .collect(),
            None => {
                all.filter_map(|row| Some((fuzzy::score(filter, &row.searched())?, row.clone()))).collect()
            }
        };
        scored.sort_by(|(a, x), (b, y)| b.cmp(a).then_with(|| rank(x).cmp(&rank(y))));
        self.rows = scored.into_iter().map(|(_, row)| row).collect();
        self.list.set(self.rows.iter().map(TargetRow::id).collect());
    }

    /// Rows that pass the filter, best first.
    pub(crate) fn rows(&self) -> &[TargetRow] {
        &self.rows
    }

    /// Rows of all sources.
    pub(crate) fn all(&self) -> usize {
        self.by_source.values().map(Vec::len).sum()
    }

    pub(crate) fn failures(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.failures.iter().map(|(source, reason)| (*source, reason.as_str()))
    }

    pub(crate) fn selected(&self) -> Option<&TargetRow> {
        let id = self.list.selected()?;
        self.rows.iter().find(|row| row.id() == id)
    }

    /// The first that is called so; those of the namespace that is looked at are the only ones of their name.
    pub(crate) fn by_reference(&self, reference: &str) -> Option<&TargetRow> {
        self.by_source.values().flatten().find(|row| row.reference == reference)
    }

    /// The row of a target in its cluster and namespace.
    pub(crate) fn row(&self, reference: &str, cluster: Option<&ClusterConfig>) -> Option<&TargetRow> {
        let mut rows = self.by_source.values().flatten();
        rows.find(|row| row.reference == reference && row.cluster.as_ref() == cluster)
    }
}

impl TargetRow {
    /// What it is known by among all rows.
    fn id(&self) -> String {
        let namespace = self.namespace();
        if namespace.is_empty() { self.reference.clone() } else { format!("{namespace}:{}", self.reference) }
    }

    /// Namespace of the cluster; empty on this machine.
    pub(crate) fn namespace(&self) -> &str {
        self.cluster.as_ref().and_then(|cluster| cluster.namespace.as_deref()).unwrap_or_default()
    }

    fn searched(&self) -> String {
        format!("{} {} {} {}", self.reference, self.name, self.place, self.command)
    }
}

/// Order of rows that match equally well: pods before bare processes, then by name.
fn rank(row: &TargetRow) -> (bool, &str, &str) {
    (row.kind == "pid", &row.place, &row.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(reference: &str) -> TargetRow {
        let (kind, name) = reference.split_once('/').unwrap();
        TargetRow {
            reference: reference.to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            ..TargetRow::default()
        }
    }

    fn shown(targets: &Targets) -> Vec<&str> {
        targets.rows().iter().map(|row| row.reference.as_str()).collect()
    }

    #[test]
    fn sources_are_shown_together_and_fail_apart() {
        let mut targets = Targets::default();
        assert!(targets.set("local", Ok(vec![row("local/shop"), row("local/orders")])));
        assert!(!targets.set("local", Ok(vec![row("local/shop"), row("local/orders")])));
        assert!(targets.set("kube", Err("no kubeconfig".to_owned())));
        assert!(targets.set("process", Ok(vec![row("pid/12")])));
        assert_eq!(shown(&targets), ["local/orders", "local/shop", "pid/12"]);
        assert_eq!(targets.failures().collect::<Vec<_>>(), [("kube", "no kubeconfig")]);
        assert!(targets.set("local", Err("gone".to_owned())));
        assert_eq!(targets.rows().len(), 3, "what was known stays");
    }

    #[test]
    fn the_filter_is_fuzzy_and_keeps_the_choice() {
        let mut targets = Targets::default();
        targets.set("local", Ok(vec![row("local/shop"), row("local/orders"), row("local/cart")]));
        targets.list.select("local/shop");
        targets.set_filter("lshp");
        assert_eq!(shown(&targets), ["local/shop"]);
        targets.set_filter("!shop");
        assert_eq!(shown(&targets), ["local/cart", "local/orders"]);
        targets.toggle_filter();
        assert_eq!(targets.rows().len(), 3);
    }
}
