//! Laws of a list: the choice stays on its event, following never fights scrolling, freezing hides and loses nothing.

use proptest::prelude::*;

use super::*;
use crate::ui::model::store::Bounds;

const KINDS: &[Kind] = &[Kind::File];

fn event(seq: u64) -> Event {
    let subject = if seq.is_multiple_of(3) { "three" } else { "other" };
    Event {
        seq,
        kind: Kind::File.into(),
        subject: subject.to_owned(),
        latency_ns: seq * 7919 % 1000,
        ..Event::default()
    }
}

struct Both {
    store: Store,
    stream: Stream,
}

impl Both {
    fn new(rows: usize) -> Self {
        Self { store: Store::new(Bounds { rows, bytes: usize::MAX }), stream: Stream::new(KINDS) }
    }

    fn add(&mut self, seq: u64) {
        let event = event(seq);
        self.store.put(event.clone());
        self.stream.note(&self.store, &event, true);
        let gone = self.store.evict();
        self.stream.forget(&gone);
        self.draw();
    }

    fn draw(&mut self) {
        self.stream.prepare(&self.store, 0, 10);
    }

    fn window(&self) -> Vec<u64> {
        self.stream.window(10).collect()
    }
}

#[test]
fn following_shows_the_newest_until_the_user_goes_up() {
    let mut both = Both::new(1000);
    (1..=30).for_each(|seq| both.add(seq));
    assert_eq!(both.window(), (21..=30).collect::<Vec<_>>());
    assert_eq!(both.stream.selected(), Some(30));
    both.stream.go(Move::Up(2));
    both.draw();
    assert!(!both.stream.follow());
    (31..=40).for_each(|seq| both.add(seq));
    assert_eq!((both.stream.selected(), both.stream.unseen()), (Some(28), 10));
    assert_eq!(both.window(), (21..=30).collect::<Vec<_>>(), "the window stands still");
    both.stream.go(Move::Bottom);
    both.draw();
    assert_eq!((both.stream.selected(), both.stream.unseen(), both.stream.follow()), (Some(40), 0, true));
}

#[test]
fn a_frozen_list_shows_nothing_newer_and_loses_nothing() {
    let mut both = Both::new(1000);
    (1..=5).for_each(|seq| both.add(seq));
    both.stream.toggle_freeze(5);
    (6..=9).for_each(|seq| both.add(seq));
    assert_eq!((both.stream.len(), both.stream.unseen()), (5, 4));
    both.stream.toggle_freeze(0);
    both.draw();
    assert_eq!((both.stream.len(), both.stream.unseen()), (9, 0));
}

#[test]
fn another_filter_moves_the_choice_to_the_nearest_later_row() {
    let mut both = Both::new(1000);
    (1..=30).for_each(|seq| both.add(seq));
    assert!(both.stream.select(13));
    both.stream.set_filter("three", &both.store).unwrap();
    assert_eq!(both.stream.selected(), Some(15));
    assert_eq!(both.stream.len(), 10);
    both.stream.toggle_filter(&both.store);
    assert_eq!((both.stream.selected(), both.stream.len()), (Some(15), 30));
    assert!(both.stream.set_filter("~c x", &both.store).is_err());
    assert_eq!(both.stream.filter().text, "three", "a wrong filter changes nothing");
}

#[test]
fn a_change_brings_a_row_in_and_takes_it_out() {
    let mut both = Both::new(1000);
    (1..=9).for_each(|seq| both.add(seq));
    both.stream.set_filter("three", &both.store).unwrap();
    let changed = Event { subject: "three".to_owned(), ..event(4) };
    both.store.put(changed.clone());
    both.stream.note(&both.store, &changed, false);
    assert_eq!(both.stream.seqs().collect::<Vec<_>>(), [3, 4, 6, 9]);
    let back = Event { subject: "x".to_owned(), ..event(6) };
    both.store.put(back.clone());
    both.stream.note(&both.store, &back, false);
    assert_eq!(both.stream.seqs().collect::<Vec<_>>(), [3, 4, 9]);
}

#[test]
fn a_sorted_list_keeps_the_choice_on_its_event() {
    let mut both = Both::new(1000);
    (1..=50).for_each(|seq| both.add(seq));
    both.stream.select(20);
    both.stream.set_sort(Sort { by: SortBy::Latency, reverse: true });
    both.draw();
    let latencies: Vec<_> = both.stream.seqs().map(|seq| seq * 7919 % 1000).collect();
    assert!(latencies.is_sorted_by(|a, b| a >= b));
    assert_eq!(both.stream.selected(), Some(20));
    assert!(both.window().contains(&20));
}

#[derive(Clone, Debug)]
enum Step {
    Add,
    Go(Move),
    Freeze,
    Filter(bool),
    Select(u64),
    Reverse,
    Follow,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Add),
        1 => (1..15_usize).prop_map(|rows| Step::Go(Move::Up(rows))),
        1 => (1..15_usize).prop_map(|rows| Step::Go(Move::Down(rows))),
        1 => Just(Step::Go(Move::Top)),
        1 => Just(Step::Go(Move::Bottom)),
        1 => Just(Step::Freeze),
        1 => any::<bool>().prop_map(Step::Filter),
        1 => (1..200_u64).prop_map(Step::Select),
        1 => Just(Step::Reverse),
        1 => Just(Step::Follow),
    ]
}

proptest! {
    #[test]
    fn the_choice_is_moved_by_nobody_else(steps in prop::collection::vec(step(), 1..150)) {
        let mut both = Both::new(40);
        let mut next = 1;
        for step in steps {
            let before = both.stream.selected();
            let followed = both.stream.follow() && !both.stream.frozen();
            match step {
                Step::Add => {
                    both.add(next);
                    next += 1;
                    if let Some(before) = before.filter(|_| !followed) {
                        let gone = both.store.event(before).is_none();
                        prop_assert!(both.stream.selected() == Some(before) || gone);
                    }
                }
                Step::Go(to) => {
                    both.stream.go(to);
                    let up = matches!(to, Move::Up(_));
                    prop_assert!(!(up && both.stream.follow() && both.stream.len() > 0));
                }
                Step::Freeze => both.stream.toggle_freeze(both.store.last_seq()),
                Step::Filter(on) => both.stream.set_filter(if on { "three" } else { "" }, &both.store).unwrap(),
                Step::Select(seq) => drop(both.stream.select(seq)),
                Step::Reverse => {
                    let sort = both.stream.sort;
                    both.stream.set_sort(Sort { reverse: !sort.reverse, ..sort });
                }
                Step::Follow => both.stream.set_follow(true),
            }
            both.draw();
            let window = both.window();
            prop_assert!(window.len() <= 10);
            prop_assert_eq!(window.len(), both.stream.len().min(10), "no row is wasted");
            if let Some(selected) = both.stream.selected().filter(|seq| both.stream.index_of(*seq).is_some()) {
                prop_assert!(window.contains(&selected), "the choice is visible");
            }
            for seq in &window {
                prop_assert!(both.store.event(*seq).is_some(), "no row without its event");
            }
        }
    }
}
