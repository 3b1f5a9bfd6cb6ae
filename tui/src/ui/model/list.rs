//! A list of named things with one chosen, and the list of sessions.

use mirrord_protocol::session::v1::SessionInfo;

use super::targets::TargetRow;

/// Which row is chosen, by name, and which rows are seen.
#[derive(Debug, Default)]
pub(crate) struct List {
    names: Vec<String>,
    selected: Option<String>,
    /// Row of the choice when it was last known: where the choice goes when its row has gone.
    row: usize,
    top: usize,
    height: usize,
    /// The user has chosen a row; until then the first one is.
    touched: bool,
}

impl List {
    /// Takes the names of the rows; the choice stays on its name, else on its place.
    pub(crate) fn set(&mut self, names: Vec<String>) {
        self.names = names;
        if !self.touched {
            self.selected = None;
            self.row = 0;
        }
        let found = self.selected.as_ref().and_then(|name| self.names.iter().position(|known| known == name));
        self.row = found.unwrap_or(self.row).min(self.names.len().saturating_sub(1));
        self.selected = self.names.get(self.row).cloned();
        self.keep_visible(self.height);
    }

    pub(crate) fn keep_visible(&mut self, height: usize) {
        self.height = height.max(1);
        let last_top = self.names.len().saturating_sub(self.height);
        self.top = self.top.clamp((self.row + 1).saturating_sub(self.height), self.row).min(last_top);
    }

    pub(crate) fn go(&mut self, row: usize) {
        self.touched = true;
        self.row = row.min(self.names.len().saturating_sub(1));
        self.selected = self.names.get(self.row).cloned();
        self.keep_visible(self.height);
    }

    pub(crate) fn select(&mut self, name: &str) {
        if let Some(row) = self.names.iter().position(|known| known == name) {
            self.go(row);
        }
    }

    pub(crate) fn row(&self) -> usize {
        self.row
    }

    pub(crate) fn top(&self) -> usize {
        self.top
    }

    pub(crate) fn height(&self) -> usize {
        self.height
    }

    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    pub(crate) fn selected(&self) -> Option<&str> {
        self.selected.as_deref()
    }
}

/// Sessions of this user.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    rows: Vec<SessionInfo>,
    pub(crate) list: List,
    /// A first listing has come: an empty list means that there are none.
    pub(crate) known: bool,
}

impl Sessions {
    pub(crate) fn set(&mut self, mut rows: Vec<SessionInfo>) -> bool {
        rows.sort_by(|a, b| a.started_ms.cmp(&b.started_ms).then_with(|| a.id.cmp(&b.id)));
        let changed = !self.known || self.rows != rows;
        self.known = true;
        self.list.set(rows.iter().map(|row| row.id.clone()).collect());
        self.rows = rows;
        changed
    }

    pub(crate) fn rows(&self) -> &[SessionInfo] {
        &self.rows
    }

    /// The session in the chosen row.
    pub(crate) fn selected(&self) -> Option<&SessionInfo> {
        let id = self.list.selected()?;
        self.rows.iter().find(|row| row.id == id)
    }

    /// Sessions on this target.
    pub(crate) fn on<'a>(&'a self, target: &'a TargetRow) -> impl Iterator<Item = &'a SessionInfo> {
        let place = if target.cluster.is_some() { target.place.as_str() } else { "" };
        self.with(&target.reference, place)
    }

    /// Sessions with what is called so in that place of a cluster; an empty one is this machine.
    pub(crate) fn with<'a>(
        &'a self,
        target: &'a str,
        place: &'a str,
    ) -> impl Iterator<Item = &'a SessionInfo> {
        self.rows.iter().filter(move |row| row.target == target && row.place == place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &str) -> Vec<String> {
        names.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn the_first_row_is_chosen_until_the_user_chooses() {
        let mut list = List::default();
        list.set(names("m n"));
        list.set(names("a b m n"));
        assert_eq!(list.selected(), Some("a"));
        list.go(1);
        list.set(names("0 a b"));
        assert_eq!((list.selected(), list.row()), (Some("b"), 2));
    }

    #[test]
    fn the_choice_stays_on_its_name() {
        let mut list = List::default();
        list.set(names("a b c d"));
        list.keep_visible(2);
        list.select("c");
        assert_eq!((list.row(), list.top()), (2, 1));
        list.set(names("0 1 a b c d"));
        assert_eq!((list.selected(), list.row()), (Some("c"), 4));
        list.set(names("a b d"));
        assert_eq!(list.selected(), Some("d"), "its row has gone: the nearest takes its place");
        list.set(Vec::new());
        assert_eq!((list.selected(), list.top()), (None, 0));
    }
}
