//! Laws of the event store.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn event(kind: wire::Kind, subject: &str) -> wire::Event {
    wire::Event { kind: kind.into(), subject: subject.to_owned(), ..wire::Event::default() }
}

fn small(events: usize) -> Events {
    Events::with_limits(Limits { events, bytes: usize::MAX, changes: 2 * events, pending: 4 })
}

fn seqs(reader: &mut Reader) -> Vec<u64> {
    match reader.take(usize::MAX) {
        Taken::Some(batch) => batch.events.iter().map(|event| event.seq).collect(),
        Taken::Nothing | Taken::Closed => Vec::new(),
    }
}

#[test]
fn a_reader_starts_where_it_wants_and_follows() {
    let events = small(100);
    for n in 0..5 {
        events.emit(event(wire::Kind::File, &n.to_string()));
    }
    let mut all = events.subscribe(0, &[]);
    let mut late = events.subscribe(4, &[]);
    assert_eq!(seqs(&mut all), [1, 2, 3, 4, 5]);
    assert_eq!(seqs(&mut late), [4, 5]);
    events.emit(event(wire::Kind::File, "new"));
    assert_eq!(seqs(&mut all), [6]);
    assert_eq!(seqs(&mut late), [6]);
    assert!(matches!(all.take(1), Taken::Nothing));
}

#[test]
fn a_changed_event_comes_again_once() {
    let events = small(100);
    let seq = events.emit(wire::Event { pending: true, ..event(wire::Kind::Request, "GET /") });
    let mut reader = events.subscribe(0, &[]);
    assert_eq!(seqs(&mut reader), [seq]);
    events.update(seq, |event| event.bytes = 1);
    events.update(seq, |event| event.pending = false);
    let Taken::Some(batch) = reader.take(10) else { panic!("a change") };
    assert_eq!(batch.events.len(), 1);
    assert!(!batch.events[0].pending && batch.events[0].bytes == 1);
    // New and changed within one batch: only once.
    let seq = events.emit(wire::Event { pending: true, ..event(wire::Kind::Request, "GET /b") });
    events.update(seq, |event| event.pending = false);
    assert_eq!(seqs(&mut reader), [seq]);
}

#[test]
fn a_slow_reader_knows_exactly_what_it_lost() {
    let events = small(10);
    let mut files = events.subscribe(0, &[wire::Kind::File]);
    let mut all = events.subscribe(0, &[]);
    for n in 0..100 {
        events.emit(event(if n % 4 == 0 { wire::Kind::File } else { wire::Kind::Dns }, ""));
    }
    let Taken::Some(batch) = all.take(100) else { panic!("events") };
    assert_eq!((batch.events.len(), batch.dropped, batch.last_seq), (10, 90, 100));
    let Taken::Some(batch) = files.take(100) else { panic!("events") };
    assert_eq!(batch.events.len() as u64 + batch.dropped, 25);
    let totals = events.totals();
    assert_eq!((totals.evicted, totals.first_seq, totals.last_seq), (90, 91, 100));
}

#[test]
fn bytes_bound_the_ring_and_one_event_always_fits() {
    let events = Events::with_limits(Limits { events: 100, bytes: 10_000, changes: 100, pending: 1 });
    for _ in 0..5 {
        events.emit(event(wire::Kind::Output, &"x".repeat(4_000)));
    }
    assert!(events.totals().ring_bytes <= 10_000);
    events.emit(event(wire::Kind::Output, &"x".repeat(40_000)));
    let totals = events.totals();
    assert_eq!((totals.first_seq, totals.last_seq), (6, 6));
}

#[test]
fn the_end_of_an_evicted_event_is_still_counted() {
    let events = small(2);
    let pending = wire::Event {
        pending: true,
        detail: Some(wire::event::Detail::Request(wire::Request {
            route: "GET /".to_owned(),
            ..Default::default()
        })),
        ..event(wire::Kind::Request, "GET /")
    };
    let mut follower = events.subscribe(0, &[wire::Kind::Request]);
    let seq = events.emit(pending);
    for _ in 0..10 {
        events.emit(event(wire::Kind::Dns, ""));
        if let Taken::Some(batch) = follower.take(10) {
            assert!(batch.events.iter().all(|event| event.seq == seq && event.pending));
        }
    }
    events.update(seq, |event| {
        event.pending = false;
        event.bytes = 77;
        event.latency_ns = 5_000_000;
        event.error = "HTTP 500".to_owned();
    });
    let Taken::Some(batch) = follower.take(10) else { panic!("who follows learns of the end") };
    assert!(matches!(batch.events.as_slice(), [event] if event.seq == seq && event.bytes == 77));
    let totals = events.totals();
    let requests = totals.kinds.iter().find(|total| total.kind() == wire::Kind::Request).unwrap();
    assert_eq!((requests.count, requests.errors, requests.bytes), (1, 1, 77));
    let histograms = events.histograms(&[wire::Kind::Request]);
    assert_eq!((histograms[1].key.as_str(), histograms[1].count, histograms[1].errors), ("GET /", 1, 1));
}

#[tokio::test]
async fn a_waiting_reader_is_woken_and_ends_with_the_store() {
    let events = small(10);
    let mut reader = events.subscribe(0, &[]);
    let writer = events.clone();
    let (batch, ()) = tokio::join!(reader.next(10), async move {
        tokio::task::yield_now().await;
        writer.emit(event(wire::Kind::File, "a"));
    });
    assert_eq!(batch.unwrap().events.len(), 1);
    let writer = events.clone();
    let (end, ()) = tokio::join!(reader.next(10), async move {
        tokio::task::yield_now().await;
        writer.close();
    });
    assert!(end.is_none());
}

/// One step of a history.
#[derive(Clone, Debug)]
enum Step {
    Emit(bool),
    Change(usize),
    Read(usize, usize),
    Subscribe(u64, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<bool>().prop_map(Step::Emit),
        3 => (0..20usize).prop_map(Step::Change),
        2 => (0..3usize, 1..8usize).prop_map(|(reader, max)| Step::Read(reader, max)),
        1 => (0..30u64, any::<bool>()).prop_map(|(from, files)| Step::Subscribe(from, files)),
    ]
}

/// A reader and what it ought to know.
struct Model {
    reader: Reader,
    files: bool,
    from: u64,
    seen: BTreeMap<u64, u64>,
    new: BTreeSet<u64>,
    dropped: u64,
}

proptest! {
    /// Whatever happens: new events come in order and once, nothing is lost without being counted, and after reading to the
    /// end a reader knows the last form of every event that is held.
    #[test]
    fn readers_lose_nothing_uncounted(steps in prop::collection::vec(step(), 1..120)) {
        let events = small(8);
        let mut truth: BTreeMap<u64, (bool, u64)> = BTreeMap::new();
        let mut models: Vec<Model> = Vec::new();
        let read = |model: &mut Model, max: usize| -> Result<bool, TestCaseError> {
            let Taken::Some(batch) = model.reader.take(max) else { return Ok(false) };
            prop_assert!(batch.events.len() <= max && batch.dropped >= model.dropped);
            model.dropped = batch.dropped;
            for event in &batch.events {
                // Changes of events before the start come, too: a viewer that resumes may hold them as pending.
                if event.seq >= model.from && !model.new.contains(&event.seq) {
                    prop_assert!(model.new.last().is_none_or(|last| *last < event.seq), "new events come in order");
                    model.new.insert(event.seq);
                }
                let before = model.seen.insert(event.seq, event.bytes).unwrap_or(0);
                prop_assert!(before <= event.bytes, "an event never goes back");
            }
            Ok(true)
        };
        for step in steps {
            match step {
                Step::Emit(file) => {
                    let kind = if file { wire::Kind::File } else { wire::Kind::Dns };
                    let seq = events.emit(event(kind, ""));
                    truth.insert(seq, (file, 0));
                }
                Step::Change(back) => {
                    let Some((seq, (_, bytes))) = truth.iter_mut().rev().nth(back) else { continue };
                    if events.event(*seq).is_some() {
                        *bytes += 1;
                        let bytes = *bytes;
                        events.update(*seq, |event| event.bytes = bytes);
                    }
                }
                Step::Read(which, max) => {
                    if let Some(model) = models.get_mut(which) {
                        read(model, max)?;
                    }
                }
                Step::Subscribe(from, files) if models.len() < 3 => {
                    let kinds: &[wire::Kind] = if files { &[wire::Kind::File] } else { &[] };
                    let first = events.totals().first_seq.max(1);
                    let last = events.totals().last_seq;
                    let reader = events.subscribe(from, kinds);
                    // Asked for something that was gone: counted as lost, but how much of it was wanted is not known.
                    let from = if from == 0 { first } else { from.min(last + 1) };
                    if from >= first {
                        models.push(Model { reader, files, from, seen: BTreeMap::new(), new: BTreeSet::new(), dropped: 0 });
                    }
                }
                Step::Subscribe(..) => {}
            }
        }
        let first = events.totals().first_seq.max(1);
        for mut model in models {
            while read(&mut model, 3)? {}
            let wanted = truth.iter().filter(|(seq, (file, _))| **seq >= model.from && (*file || !model.files));
            let wanted: Vec<_> = wanted.collect();
            prop_assert_eq!(model.new.len() as u64 + model.dropped, wanted.len() as u64);
            for (seq, (_, bytes)) in wanted.into_iter().filter(|(seq, _)| **seq >= first) {
                prop_assert_eq!(model.seen.get(seq), Some(bytes));
            }
        }
    }
}

/// Speed of the hot path, for release builds: `cargo test --release -p mirrord-session emit_speed -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, not a check"]
fn emit_speed() {
    const COUNT: u32 = 1_000_000;
    let events = Events::new();
    let mut reader = events.subscribe(0, &[]);
    let start = Instant::now();
    for n in 0..COUNT {
        events.emit(wire::Event {
            pid: 4711,
            subject: "/etc/resolv.conf".to_owned(),
            latency_ns: u64::from(n % 5_000) * 100 + 2_000,
            detail: Some(wire::event::Detail::File(wire::File {
                operation: "openat".to_owned(),
                path: bytes::Bytes::from_static(b"/etc/resolv.conf"),
                ..wire::File::default()
            })),
            ..event(wire::Kind::File, "")
        });
    }
    let each = start.elapsed() / COUNT;
    let start = Instant::now();
    let mut rows = 0;
    while let Taken::Some(batch) = reader.take(1024) {
        rows += batch.events.len();
    }
    println!("emit {each:?} each; {rows} rows read in {:?}", start.elapsed());
}
