//! A list to choose one name from by typing a part of it: namespaces and contexts. What is typed can also be taken as it is, for
//! those who may use a namespace but not list them.

use super::edit::LineEdit;
use crate::ui::fuzzy;

/// What is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlaceKind {
    Namespace,
    Context,
}

/// The list, and what was typed.
#[derive(Debug)]
pub(crate) struct Pick {
    pub(crate) kind: PlaceKind,
    pub(crate) edit: LineEdit,
    pub(crate) names: Names,
    /// Row among those that are shown.
    at: usize,
}

/// What there is to choose from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Names {
    Asked,
    Known(Vec<String>),
    /// Why they are not known.
    Failed(String),
}

impl PlaceKind {
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Context => "Context",
        }
    }
}

impl Pick {
    pub(crate) fn new(kind: PlaceKind) -> Self {
        Self { kind, edit: LineEdit::default(), names: Names::Asked, at: 0 }
    }

    /// The names that fit what was typed, best first; in their own order when nothing was.
    pub(crate) fn shown(&self) -> Vec<&str> {
        let Names::Known(names) = &self.names else { return Vec::new() };
        let typed = self.edit.text();
        let scored = names.iter().filter_map(|name| Some((fuzzy::score(typed.trim(), name)?, name.as_str())));
        let mut scored: Vec<_> = scored.collect();
        // A stable order: equals stay as they are.
        scored.sort_by_key(|(score, _)| std::cmp::Reverse(*score));
        scored.into_iter().map(|(_, name)| name).collect()
    }

    pub(crate) fn at(&self) -> usize {
        self.at.min(self.shown().len().saturating_sub(1))
    }

    pub(crate) fn step(&mut self, down: bool) {
        let last = self.shown().len().saturating_sub(1);
        self.at = if down { (self.at() + 1).min(last) } else { self.at().saturating_sub(1) };
    }

    /// After a key that changed the text: the best is chosen.
    pub(crate) fn typed(&mut self) {
        self.at = 0;
    }

    /// The chosen name; what was typed when none fits.
    pub(crate) fn answer(&self) -> Option<String> {
        let typed = self.edit.text();
        let chosen = self.shown().get(self.at()).map(|name| (*name).to_owned());
        chosen.or_else(|| Some(typed.trim().to_owned()).filter(|typed| !typed.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_by_a_part_of_it_or_taken_as_typed() {
        let mut pick = Pick::new(PlaceKind::Namespace);
        assert_eq!(pick.answer(), None);
        pick.edit.set("team-x");
        assert_eq!(pick.answer().as_deref(), Some("team-x"), "before the list is there");
        pick.names = Names::Known(["default", "kube-system", "shop"].map(str::to_owned).to_vec());
        assert_eq!(pick.answer().as_deref(), Some("team-x"), "a namespace that is not listed");
        pick.edit.set("s");
        pick.typed();
        pick.step(true);
        assert_eq!(pick.shown().len(), 2);
        pick.edit.set("");
        pick.typed();
        pick.step(true);
        assert_eq!(pick.answer().as_deref(), Some("kube-system"));
        (0..9).for_each(|_| pick.step(true));
        assert_eq!(pick.answer().as_deref(), Some("shop"));
    }
}
