//! What can be impersonated, from all sources: local pods, processes, and whatever else delivers [`TargetRow`]s.

use std::collections::BTreeMap;

use super::list::List;
use crate::ui::{fuzzy, tone::Tone};

/// One target, as its source describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TargetRow {
    /// What `exec -t` takes; unique.
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
    /// Others use it, too: stealing takes their traffic away.
    pub(crate) shared: bool,
    /// More for the details, name and value.
    pub(crate) facts: Vec<(String, String)>,
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
        self.list.set(self.rows.iter().map(|row| row.reference.clone()).collect());
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
        let reference = self.list.selected()?;
        self.rows.iter().find(|row| row.reference == reference)
    }

    pub(crate) fn by_reference(&self, reference: &str) -> Option<&TargetRow> {
        self.by_source.values().flatten().find(|row| row.reference == reference)
    }
}

impl TargetRow {
    fn searched(&self) -> String {
        format!("{} {} {}", self.reference, self.place, self.command)
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
