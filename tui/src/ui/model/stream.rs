//! One list of events: which rows it has, which are seen, and which one is chosen.
//!
//! Three separate facts, never one flag: `follow` (stay at the newest), `frozen` (show nothing newer than this number; capture
//! goes on), and the filter. The chosen row and the first visible row are numbers of events, not of rows: rows may come and go.

use std::collections::VecDeque;

use mirrord_protocol::session::v1::{Event, Kind};

use super::store::Store;
use crate::ui::{
    filter::{self, Expr, FilterError, Subject},
    limits,
};

/// A list of events.
#[derive(Debug)]
pub(crate) struct Stream {
    kinds: &'static [Kind],
    filter: ListFilter,
    /// Numbers of the events of this list, ascending.
    matched: VecDeque<u64>,
    pub(crate) sort: Sort,
    /// Numbers in the order of `sort`; empty while that is time.
    sorted: Vec<u64>,
    sorted_at_ms: i64,
    stale_order: bool,
    follow: bool,
    frozen: Option<u64>,
    /// Rows that came while the list did not follow.
    unseen: usize,
    selected: Option<u64>,
    top: Option<u64>,
    /// Rows on screen at the last picture.
    height: usize,
}

/// The filter of a list, as typed, and whether it is switched off for the moment.
#[derive(Clone, Debug)]
pub(crate) struct ListFilter {
    pub(crate) text: String,
    expr: Expr,
    pub(crate) off: bool,
}

/// Order of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sort {
    pub(crate) by: SortBy,
    pub(crate) reverse: bool,
}

/// What a list is ordered by; equal ones by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SortBy {
    Time,
    Latency,
    Size,
    Status,
    Subject,
}

impl SortBy {
    pub(crate) const ALL: [Self; 5] = [Self::Time, Self::Latency, Self::Size, Self::Status, Self::Subject];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::Latency => "latency",
            Self::Size => "size",
            Self::Status => "status",
            Self::Subject => "name",
        }
    }
}

/// Where to go in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    Up(usize),
    Down(usize),
    Top,
    Bottom,
}

impl Stream {
    pub(crate) fn new(kinds: &'static [Kind]) -> Self {
        Self {
            kinds,
            filter: ListFilter { text: String::new(), expr: all(), off: false },
            matched: VecDeque::new(),
            sort: Sort { by: SortBy::Time, reverse: false },
            sorted: Vec::new(),
            sorted_at_ms: 0,
            stale_order: false,
            follow: true,
            frozen: None,
            unseen: 0,
            selected: None,
            top: None,
            height: 1,
        }
    }

    // ---- what comes in

    /// An event was added to the store, or has changed there.
    pub(crate) fn note(&mut self, store: &Store, event: &Event, added: bool) {
        if !self.kinds.contains(&event.kind()) {
            return;
        }
        let wanted = self.wants(store, event);
        let seq = event.seq;
        if added && self.matched.back().is_none_or(|last| *last < seq) {
            if wanted {
                self.matched.push_back(seq);
                self.came(seq);
            }
            return;
        }
        match (self.matched.binary_search(&seq), wanted) {
            (Err(at), true) => {
                self.matched.insert(at, seq);
                self.came(seq);
            }
            (Ok(at), false) => {
                self.matched.remove(at);
                self.left(seq);
            }
            (Ok(_), true) => self.stale_order = true,
            (Err(_), false) => {}
        }
    }

    fn came(&mut self, seq: u64) {
        self.stale_order = true;
        if !self.follow || self.frozen.is_some_and(|frozen| seq > frozen) {
            self.unseen += 1;
        }
    }

    /// Events have left the store.
    pub(crate) fn forget(&mut self, gone: &[u64]) {
        for seq in gone {
            // Mostly the oldest of all leave, which are the first row of one list and before the first of the others.
            match self.matched.front() {
                None => return,
                Some(first) if first > seq => continue,
                Some(_) => {}
            }
            if self.matched.front() == Some(seq) {
                self.matched.pop_front();
            } else if let Ok(at) = self.matched.binary_search(seq) {
                self.matched.remove(at);
            } else {
                continue;
            }
            self.left(*seq);
        }
    }

    /// Puts the choice on the nearest later row when its own has gone, else on the last one.
    fn left(&mut self, seq: u64) {
        self.stale_order = true;
        let nearest = |matched: &VecDeque<u64>| {
            let at = matched.partition_point(|other| *other < seq);
            matched.get(at).or_else(|| matched.back()).copied()
        };
        if self.selected == Some(seq) {
            self.selected = nearest(&self.matched);
        }
        if self.top == Some(seq) {
            self.top = nearest(&self.matched);
        }
    }

    // ---- filter and order

    pub(crate) fn filter(&self) -> &ListFilter {
        &self.filter
    }

    /// Takes another filter and looks through the whole store.
    pub(crate) fn set_filter(&mut self, text: &str, store: &Store) -> Result<(), FilterError> {
        let expr = filter::parse(text)?;
        self.filter = ListFilter { text: text.trim().to_owned(), expr, off: false };
        self.refilter(store);
        Ok(())
    }

    /// Switches the filter off, or on again.
    pub(crate) fn toggle_filter(&mut self, store: &Store) {
        self.filter.off = !self.filter.off;
        self.refilter(store);
    }

    /// Builds the list anew, e.g. when marks have changed.
    pub(crate) fn refilter(&mut self, store: &Store) {
        self.matched = store
            .events()
            .filter(|event| self.kinds.contains(&event.kind()) && self.wants(store, event))
            .map(|event| event.seq)
            .collect();
        self.stale_order = true;
        self.sorted.clear();
        self.unseen = 0;
        for seq in [self.selected, self.top].into_iter().flatten() {
            if self.matched.binary_search(&seq).is_err() {
                self.left(seq);
            }
        }
    }

    fn wants(&self, store: &Store, event: &Event) -> bool {
        self.filter.off
            || self.filter.expr.is_all()
            || self.filter.expr.matches(Subject {
                event,
                marked: store.is_marked(event.seq),
                comment: store.comment(event.seq).unwrap_or_default(),
            })
    }

    pub(crate) fn set_sort(&mut self, sort: Sort) {
        self.sort = sort;
        self.sorted.clear();
        self.sorted_at_ms = 0;
        self.stale_order = true;
        self.top = None;
    }

    /// Brings the order and the first visible row up to date; called before each picture.
    pub(crate) fn prepare(&mut self, store: &Store, now_ms: i64, height: usize) {
        self.height = height.max(1);
        let due = now_ms - self.sorted_at_ms >= limits::SORT_MS || self.sorted.is_empty();
        if self.sort.by != SortBy::Time && self.stale_order && due {
            let shown = self.matched.iter().take(self.shown());
            let mut keyed: Vec<_> =
                shown.filter_map(|seq| Some((sort_key(self.sort.by, store.event(*seq)?), *seq))).collect();
            keyed.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.cmp(&b.1)));
            self.sorted = keyed.into_iter().map(|(_, seq)| seq).collect();
            (self.sorted_at_ms, self.stale_order) = (now_ms, false);
        }
        if self.follow && self.frozen.is_none() {
            self.selected = self.newest();
        } else if self.selected.is_none() {
            self.selected = self.seq_at(self.len().saturating_sub(1));
        }
        self.scroll_to_selected();
    }

    fn scroll_to_selected(&mut self) {
        let last_top = self.len().saturating_sub(self.height);
        let mut top = match self.top {
            _ if self.follow && self.frozen.is_none() => {
                if self.newest_first() {
                    0
                } else {
                    last_top
                }
            }
            Some(seq) => self.index_of(seq).unwrap_or(last_top),
            None => last_top,
        };
        if let Some(at) = self.selected.and_then(|seq| self.index_of(seq)) {
            top = top.clamp((at + 1).saturating_sub(self.height), at);
        }
        self.top = self.seq_at(top.min(last_top));
    }

    // ---- rows

    /// Rows of the list as it is shown.
    pub(crate) fn len(&self) -> usize {
        if self.sort.by != SortBy::Time && !self.sorted.is_empty() { self.sorted.len() } else { self.shown() }
    }

    /// Rows that have matched, frozen or not.
    pub(crate) fn matched(&self) -> usize {
        self.matched.len()
    }

    /// How many of the matched ones a frozen list shows.
    fn shown(&self) -> usize {
        match self.frozen {
            None => self.matched.len(),
            Some(frozen) => self.matched.partition_point(|seq| *seq <= frozen),
        }
    }

    fn newest_first(&self) -> bool {
        self.sort == Sort { by: SortBy::Time, reverse: true }
    }

    fn newest(&self) -> Option<u64> {
        let last = self.len().checked_sub(1)?;
        if self.newest_first() { self.seq_at(0) } else { self.seq_at(last) }
    }

    /// The event in a row.
    pub(crate) fn seq_at(&self, row: usize) -> Option<u64> {
        let len = self.len();
        let at = if self.sort.reverse { len.checked_sub(row + 1)? } else { row };
        if self.sort.by != SortBy::Time && !self.sorted.is_empty() {
            self.sorted.get(at).copied()
        } else {
            self.matched.get(at).copied().filter(|_| at < len)
        }
    }

    /// The row of an event.
    pub(crate) fn index_of(&self, seq: u64) -> Option<usize> {
        let at = if self.sort.by != SortBy::Time && !self.sorted.is_empty() {
            self.sorted.iter().position(|other| *other == seq)?
        } else {
            self.matched.binary_search(&seq).ok().filter(|at| *at < self.shown())?
        };
        if self.sort.reverse { self.len().checked_sub(at + 1) } else { Some(at) }
    }

    /// Events on screen, from the first visible row on.
    pub(crate) fn window(&self, height: usize) -> impl Iterator<Item = u64> {
        let top = self.top.and_then(|seq| self.index_of(seq)).unwrap_or(0);
        (top..top + height).map_while(|row| self.seq_at(row))
    }

    /// All events of the list, in its order.
    pub(crate) fn seqs(&self) -> impl Iterator<Item = u64> {
        (0..self.len()).filter_map(|row| self.seq_at(row))
    }

    pub(crate) fn selected(&self) -> Option<u64> {
        self.selected
    }

    // ---- what the user does

    /// Moves the choice. Any upward move, and choosing a row, ends following; only going to the end begins it.
    pub(crate) fn go(&mut self, to: Move) {
        let len = self.len();
        if len == 0 {
            return;
        }
        let at = self.selected.and_then(|seq| self.index_of(seq)).unwrap_or(len - 1);
        let target = match to {
            Move::Up(rows) => at.saturating_sub(rows),
            Move::Down(rows) => (at + rows).min(len - 1),
            Move::Top => 0,
            Move::Bottom => len - 1,
        };
        let toward_newest = matches!(to, Move::Bottom) != self.newest_first();
        match to {
            Move::Bottom | Move::Top if toward_newest => self.set_follow(true),
            Move::Down(_) if !self.newest_first() && self.follow => {}
            _ => self.follow = false,
        }
        self.selected = self.seq_at(target);
        self.scroll_to_selected();
    }

    /// Chooses an event, if it is in the list.
    pub(crate) fn select(&mut self, seq: u64) -> bool {
        if self.index_of(seq).is_none() {
            return false;
        }
        self.follow = false;
        self.selected = Some(seq);
        self.scroll_to_selected();
        true
    }

    pub(crate) fn follow(&self) -> bool {
        self.follow
    }

    pub(crate) fn set_follow(&mut self, follow: bool) {
        self.follow = follow && self.frozen.is_none();
        if self.follow {
            self.unseen = 0;
        }
    }

    pub(crate) fn frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// Stands still at `at`, or goes on.
    pub(crate) fn toggle_freeze(&mut self, at: u64) {
        self.frozen = if self.frozen.is_some() { None } else { Some(at) };
        self.stale_order = true;
        self.sorted_at_ms = 0;
        if self.frozen.is_none() && self.follow {
            self.unseen = 0;
        }
    }

    /// Shows nothing newer than `at`: the position in a recording.
    pub(crate) fn freeze_at(&mut self, at: Option<u64>) {
        self.frozen = at;
        self.stale_order = true;
        self.sorted_at_ms = 0;
        self.selected = None;
        self.top = None;
    }

    /// Rows that came and were not shown.
    pub(crate) fn unseen(&self) -> usize {
        self.unseen
    }
}

fn all() -> Expr {
    // An empty text is everything; the parser's own test says so.
    filter::parse("").unwrap_or_else(|_| Expr::And(Vec::new()))
}

fn sort_key(by: SortBy, event: &Event) -> (u64, String) {
    use mirrord_protocol::session::v1::event::Detail;
    match by {
        SortBy::Time => (event.seq, String::new()),
        SortBy::Latency => (event.latency_ns, String::new()),
        SortBy::Size => (event.bytes, String::new()),
        SortBy::Status => match &event.detail {
            Some(Detail::Request(request)) => (u64::from(request.status), String::new()),
            _ => (u64::from(!event.error.is_empty()), event.error.clone()),
        },
        SortBy::Subject => (0, event.subject.clone()),
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
