//! Events of a session as far as this viewer holds them: in order of their numbers, bounded, marked ones kept longest.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mirrord_protocol::session::v1::{Event, event::Detail};

use crate::ui::limits;

/// The events held.
#[derive(Debug)]
pub(crate) struct Store {
    held: VecDeque<Held>,
    bytes: usize,
    bounds: Bounds,
    /// Rows that have left to make room.
    evicted: u64,
    /// Every number up to here has left or was never held; a late change of one is ignored.
    floor: u64,
    marked: BTreeSet<u64>,
    /// What the user has written to events; they are kept like marked ones.
    comments: BTreeMap<u64, String>,
}

#[derive(Debug)]
struct Held {
    event: Event,
    bytes: usize,
}

/// How much a store may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) rows: usize,
    pub(crate) bytes: usize,
}

/// What became of an event that was put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    Added,
    Changed,
    /// It has left already.
    Late,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { rows: limits::ROWS, bytes: limits::ROW_BYTES }
    }
}

impl Store {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            held: VecDeque::new(),
            bytes: 0,
            bounds,
            evicted: 0,
            floor: 0,
            marked: BTreeSet::new(),
            comments: BTreeMap::new(),
        }
    }

    /// Takes an event, or the new form of one that is held.
    pub(crate) fn put(&mut self, event: Event) -> Put {
        let bytes = weight(&event);
        let seq = event.seq;
        match self.position(seq) {
            Ok(at) => {
                if let Some(held) = self.held.get_mut(at) {
                    self.bytes = self.bytes - held.bytes + bytes;
                    *held = Held { event, bytes };
                }
                Put::Changed
            }
            Err(_) if seq <= self.floor => Put::Late,
            Err(at) => {
                self.bytes += bytes;
                self.held.insert(at, Held { event, bytes });
                Put::Added
            }
        }
    }

    /// Lets the oldest unmarked events go until the bounds hold, and names them.
    pub(crate) fn evict(&mut self) -> Vec<u64> {
        let mut gone = Vec::new();
        while self.held.len() > self.bounds.rows.max(1)
            || (self.bytes > self.bounds.bytes && self.held.len() > 1)
        {
            let oldest = self.held.iter().position(|held| !self.is_kept(held.event.seq)).unwrap_or(0);
            let Some(held) = self.held.remove(oldest) else { break };
            self.bytes -= held.bytes;
            self.evicted += 1;
            self.floor = self.floor.max(held.event.seq);
            self.marked.remove(&held.event.seq);
            self.comments.remove(&held.event.seq);
            gone.push(held.event.seq);
        }
        gone
    }

    /// The event of this number, if it is held.
    pub(crate) fn event(&self, seq: u64) -> Option<&Event> {
        let at = self.position(seq).ok()?;
        self.held.get(at).map(|held| &held.event)
    }

    /// All events, oldest first.
    pub(crate) fn events(&self) -> impl DoubleEndedIterator<Item = &Event> {
        self.held.iter().map(|held| &held.event)
    }

    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The highest number held.
    pub(crate) fn last_seq(&self) -> u64 {
        self.held.back().map_or(self.floor, |held| held.event.seq)
    }

    pub(crate) fn is_marked(&self, seq: u64) -> bool {
        self.marked.contains(&seq)
    }

    fn is_kept(&self, seq: u64) -> bool {
        self.marked.contains(&seq) || self.comments.contains_key(&seq)
    }

    /// What the user has written to an event.
    pub(crate) fn comment(&self, seq: u64) -> Option<&str> {
        self.comments.get(&seq).map(String::as_str)
    }

    /// Writes to an event; an empty text takes away what was written. False when there are too many comments.
    pub(crate) fn set_comment(&mut self, seq: u64, text: &str) -> bool {
        let text = text.trim();
        if text.is_empty() {
            self.comments.remove(&seq);
            return true;
        }
        let room = self.comments.len() < limits::MARKS || self.comments.contains_key(&seq);
        if self.event(seq).is_some() && room {
            self.comments.insert(seq, text.to_owned());
            return true;
        }
        false
    }

    /// Marks an event or takes its mark away; false when there are too many marks.
    pub(crate) fn toggle_mark(&mut self, seq: u64) -> bool {
        if self.marked.remove(&seq) {
            return true;
        }
        self.event(seq).is_some() && self.marked.len() < limits::MARKS && self.marked.insert(seq)
    }

    /// Takes all marks away and names the events that had one.
    pub(crate) fn unmark_all(&mut self) -> BTreeSet<u64> {
        std::mem::take(&mut self.marked)
    }

    /// Forgets everything held; later changes of it are ignored.
    pub(crate) fn clear(&mut self) {
        self.floor = self.last_seq();
        self.held.clear();
        self.marked.clear();
        self.comments.clear();
        self.bytes = 0;
    }

    fn position(&self, seq: u64) -> Result<usize, usize> {
        let key = |held: &Held| held.event.seq;
        // Events come in order: the end first, then the place where it stands when none is missing.
        match self.held.back().map(key) {
            None => return Err(0),
            Some(last) if last < seq => return Err(self.held.len()),
            Some(last) if last == seq => return Ok(self.held.len() - 1),
            Some(_) => {}
        }
        let first = self.held.front().map_or(0, key);
        let guess = usize::try_from(seq.saturating_sub(first)).unwrap_or(usize::MAX);
        match self.held.get(guess).map(key) {
            Some(found) if found == seq => Ok(guess),
            _ => self.held.binary_search_by_key(&seq, key),
        }
    }
}

/// Bytes that an event takes, about: its texts and bodies, and the record itself.
fn weight(event: &Event) -> usize {
    let detail = match &event.detail {
        Some(Detail::Request(request)) => {
            let headers = request.headers.iter().chain(&request.response_headers);
            let bodies = request.body.iter().chain(&request.response_body);
            headers.map(|header| header.name.len() + header.value.len() + 88).sum::<usize>()
                + bodies.map(|body| body.data.len()).sum::<usize>()
                + request.path.len()
        }
        Some(Detail::Output(output)) => output.data.len(),
        Some(Detail::File(file)) => file.path.len(),
        _ => 0,
    };
    size_of::<Held>() + event.subject.len() + event.error.len() + detail
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(seq: u64) -> Event {
        Event { seq, subject: format!("{seq}"), ..Event::default() }
    }

    fn seqs(store: &Store) -> Vec<u64> {
        store.events().map(|event| event.seq).collect()
    }

    #[test]
    fn the_oldest_unmarked_leave_first() {
        let mut store = Store::new(Bounds { rows: 3, bytes: usize::MAX });
        (1..=3).for_each(|seq| assert_eq!(store.put(event(seq)), Put::Added));
        assert!(store.toggle_mark(1));
        store.put(event(4));
        assert_eq!(store.evict(), [2]);
        assert_eq!(seqs(&store), [1, 3, 4]);
        assert_eq!(store.put(event(2)), Put::Late, "what has left does not come back");
        assert_eq!((store.put(event(3)), store.evicted()), (Put::Changed, 1));
        assert_eq!(store.unmark_all(), BTreeSet::from([1]));
        assert!(store.set_comment(1, " the first ") && !store.set_comment(2, "gone"));
        store.put(event(5));
        assert_eq!((store.evict(), store.comment(1)), (vec![3], Some("the first")));
        assert!(store.set_comment(1, ""));
        store.put(event(6));
        assert_eq!(store.evict(), [1]);
    }

    #[test]
    fn bytes_are_bounded_and_one_event_always_fits() {
        let mut store = Store::new(Bounds { rows: 100, bytes: 1 });
        store.put(event(1));
        assert!(store.evict().is_empty());
        store.put(event(2));
        assert_eq!(store.evict(), [1]);
        store.clear();
        assert_eq!((store.len(), store.bytes(), store.last_seq()), (0, 0, 2));
    }

    proptest! {
        #[test]
        fn any_order_of_arrival_ends_in_order(mut order in prop::collection::vec(1..60_u64, 0..200)) {
            let mut store = Store::new(Bounds { rows: 1000, bytes: usize::MAX });
            for seq in &order {
                store.put(event(*seq));
            }
            order.sort_unstable();
            order.dedup();
            prop_assert_eq!(seqs(&store), order.clone());
            for seq in order {
                prop_assert_eq!(store.event(seq).map(|event| event.seq), Some(seq));
            }
        }
    }
}
