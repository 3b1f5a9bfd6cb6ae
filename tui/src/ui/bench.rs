//! What the UI costs: a picture with a full store, a storm of events, keys during the storm, and nothing at all. The parts are the
//! real ones: a host on a socket, the connection, the loop, pictures as bytes for a terminal. `cargo xtask bench ui` runs it, and
//! `cargo xtask bench storm` half an hour of storm that is watched for memory.

use std::{
    cell::RefCell,
    io::{self, Write},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crossterm::event::{Event as TerminalEvent, KeyCode, KeyEvent};
use ratatui::{Terminal, TerminalOptions, Viewport, backend::CrosstermBackend, layout::Rect};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    fake,
    io::{Io, fake_host::Storm},
    limits,
    model::{Model, store::Bounds},
    run::{self, Exit, Inputs, Screen},
    update::{self, Effect},
    view,
};

/// Set by `cargo xtask bench ui`: a measurement takes a minute and means something only in a release build.
const WANTED: &str = "MIRRORD_TUI_BENCH";
const COLUMNS: u16 = 200;
const ROWS: u16 = 60;
const EVENTS: u64 = 100_000;
const PICTURES: usize = 500;
const STORM: Duration = Duration::from_secs(20);
const QUIET: Duration = Duration::from_secs(10);
/// Between two keys of a person who is in a hurry.
const KEYS: Duration = Duration::from_millis(70);
/// Events of the test of memory: the store is filled and emptied a hundred times.
const LONG: u64 = 5_000_000;

#[test]
fn figures() {
    if std::env::var_os(WANTED).is_none() {
        return;
    }
    picture();
    let storm = live(Some(EVENTS), STORM);
    storm.print("100,000 events/s");
    let quiet = live(None, QUIET);
    quiet.print("nothing happens");
    memory();
    assert_eq!(quiet.draws, 0, "nothing is drawn when nothing changes");
    assert_eq!(storm.taken + storm.dropped, storm.sent, "each row has come or was counted as dropped");
}

/// Seconds of the long storm, set by `cargo xtask bench storm`.
const LONG_STORM: &str = "MIRRORD_TUI_STORM_SECONDS";
/// How often its memory is looked at.
const LOOKS: u32 = 20;
/// What a process may take more in the second half of the storm than in the first: pools of the allocator are never quite still.
const GROWTH: u64 = 8 << 20;

#[test]
fn long_storm() {
    let Ok(seconds) = std::env::var(LONG_STORM) else { return };
    let wall = Duration::from_secs(seconds.parse().expect("seconds"));
    let (done_tx, done) = std::sync::mpsc::channel::<()>();
    let watch = thread::spawn(move || {
        let mut looks = Vec::new();
        while done.recv_timeout(wall / LOOKS) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            looks.push(resident());
        }
        looks
    });
    let storm = live(Some(EVENTS), wall);
    drop(done_tx);
    let looks = watch.join().unwrap();
    storm.print(&format!("100,000 events/s for {} s", wall.as_secs()));
    println!(
        "  MiB taken by viewer and storm: {:?}",
        looks.iter().map(|bytes| bytes >> 20).collect::<Vec<_>>()
    );
    assert_eq!(storm.taken + storm.dropped, storm.sent, "each row has come or was counted as dropped");
    // The first looks see the store fill up.
    let (first, second) = looks.split_at(looks.len() / 2);
    let most = |looks: &[u64]| looks.iter().max().copied().unwrap_or(0);
    assert!(most(second) <= most(first) + GROWTH, "memory grows: {looks:?}");
}

/// A place for bytes that only counts them.
#[derive(Clone, Default)]
struct Sink(Rc<RefCell<u64>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        *self.0.borrow_mut() += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn terminal() -> Terminal<CrosstermBackend<Sink>> {
    let options = TerminalOptions { viewport: Viewport::Fixed(Rect::new(0, 0, COLUMNS, ROWS)) };
    Terminal::with_options(CrosstermBackend::new(Sink::default()), options).unwrap()
}

fn model() -> Model {
    let mut model = fake::model(COLUMNS, ROWS);
    model.options.bounds = Bounds { rows: usize::try_from(EVENTS).unwrap(), bytes: 1 << 30 };
    drop(update::attach(&mut model, "other"));
    model
}

/// A picture with 100,000 events in the store, while the user goes through the list.
fn picture() {
    let mut model = model();
    let events = (1..=EVENTS).map(fake::event).collect();
    let batch = mirrord_protocol::session::v1::EventBatch { events, dropped: 0, last_seq: EVENTS };
    fake::say(&mut model, update::HostMsg::Events(batch));
    let mut terminal = terminal();
    let mut costs = Vec::new();
    for at in 0..PICTURES {
        let key = if at % 3 == 0 { KeyCode::PageUp } else { KeyCode::Up };
        drop(update::update(&mut model, update::Msg::Key(KeyEvent::from(key))));
        let begin = Instant::now();
        model.prepare();
        terminal.draw(|frame| view::draw(&model, frame)).unwrap();
        costs.push(begin.elapsed());
    }
    let held = model.session.as_ref().unwrap().store().len();
    println!("picture at {COLUMNS}x{ROWS} with {held} events: {}", spread(&mut costs));
}

fn spread(values: &mut [Duration]) -> String {
    values.sort_unstable();
    let at = |percent: usize| values[(values.len() - 1) * percent / 100];
    format!("p50 {:?}, p99 {:?}, max {:?} (n {})", at(50), at(99), at(100), values.len())
}

/// What a run of the loop has cost.
#[derive(Debug)]
struct Run {
    wall: Duration,
    /// Processor time of the thread with the loop, and of the one with the connection.
    busy: [Duration; 2],
    draws: usize,
    keys: Vec<Duration>,
    taken: u64,
    dropped: u64,
    sent: u64,
}

impl Run {
    fn print(&self, what: &str) {
        let share = |busy: Duration| 100.0 * busy.as_secs_f64() / self.wall.as_secs_f64();
        println!(
            "{what}: loop {:.2} % of a core, connection {:.2} %, together {:.2} %; {:.1} pictures/s",
            share(self.busy[0]),
            share(self.busy[1]),
            share(self.busy[0] + self.busy[1]),
            self.draws as f64 / self.wall.as_secs_f64()
        );
        if self.sent > 0 {
            println!(
                "  {} events came, {} were dropped and counted, {} were sent",
                self.taken, self.dropped, self.sent
            );
        }
        if !self.keys.is_empty() {
            println!("  key to screen: {}", spread(&mut self.keys.clone()));
        }
    }
}

/// A screen that makes the bytes of each picture, and knows since when a key waits for it.
struct Watched {
    terminal: Terminal<CrosstermBackend<Sink>>,
    draws: Rc<RefCell<usize>>,
    pressed: std::sync::mpsc::Receiver<Instant>,
    keys: Rc<RefCell<Vec<Duration>>>,
    hints: bool,
}

impl Screen for Watched {
    fn draw(&mut self, model: &Model) -> io::Result<()> {
        self.terminal.draw(|frame| view::draw(model, frame))?;
        *self.draws.borrow_mut() += 1;
        // Each key shows or hides the hints: the picture that has changed in that is its answer. (Not the choice: rows that leave
        // the list move it as well.)
        if model.options.hints != self.hints {
            self.hints = model.options.hints;
            self.keys.borrow_mut().extend(self.pressed.try_iter().map(|at| at.elapsed()));
        }
        Ok(())
    }

    fn perform(&mut self, _: &Effect) -> io::Result<()> {
        Ok(())
    }

    fn size(&self) -> (u16, u16) {
        (COLUMNS, ROWS)
    }

    async fn edit(&mut self, text: &str) -> io::Result<String> {
        Ok(text.to_owned())
    }

    async fn failed(&self) {
        std::future::pending().await
    }
}

/// Runs the loop against a host that sends so many events a second, or nothing.
fn live(rate: Option<u64>, wall: Duration) -> Run {
    let storm = Storm::serve(rate.unwrap_or(0));
    let (msgs_tx, msgs) = mpsc::channel(limits::MESSAGES);
    let (effects, effects_rx) = mpsc::channel(limits::EFFECTS);
    let (signals_tx, signals) = mpsc::channel(1);
    let (keys_tx, keys_rx) = mpsc::channel(64);
    let (pressed_tx, pressed) = std::sync::mpsc::channel();
    let io_busy = Arc::new(AtomicU64::new(0));
    let (busy, services) = (Arc::clone(&io_busy), storm.services());
    let connection = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tokio::select! {
                () = Io::new(services, msgs_tx).run(effects_rx) => {}
                () = sample(&busy) => {}
            }
        });
        runtime.shutdown_timeout(limits::CLOSE);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut model = model();
    let begin_effects = update::attach(&mut model, "storm");
    let (draws, keys) = (Rc::new(RefCell::new(0)), Rc::new(RefCell::new(Vec::new())));
    let mut screen = Watched {
        terminal: terminal(),
        draws: Rc::clone(&draws),
        pressed,
        keys: Rc::clone(&keys),
        hints: model.options.hints,
    };
    let mut events = Some(ReceiverStream::new(keys_rx));
    let inputs = Inputs { open: Box::new(move || events.take().unwrap()), msgs, effects, signals };
    let leave = Arc::new(AtomicBool::new(false));
    let left = Arc::clone(&leave);
    let typist = thread::spawn(move || {
        // What the beginning costs, and the graphs of the time before, are not the figure.
        thread::sleep(Duration::from_secs(2));
        while rate.is_some() && !left.load(Ordering::Relaxed) {
            thread::sleep(KEYS);
            let code = KeyCode::Char('H');
            pressed_tx.send(Instant::now()).unwrap();
            if keys_tx.blocking_send(Ok(TerminalEvent::Key(KeyEvent::from(code)))).is_err() {
                return;
            }
        }
        // The loop ends when its keys do; it must not end before the signal.
        while !left.load(Ordering::Relaxed) {
            thread::sleep(KEYS);
        }
    });
    let (exit, figures) = runtime.block_on(async {
        let script = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let from = (Instant::now(), thread_time(), io_busy.load(Ordering::Relaxed), *draws.borrow());
            tokio::time::sleep(wall).await;
            let busy =
                [thread_time() - from.1, Duration::from_nanos(io_busy.load(Ordering::Relaxed) - from.2)];
            let figures = (from.0.elapsed(), busy, *draws.borrow() - from.3);
            storm.stop().await;
            signals_tx.send(15).await.unwrap();
            figures
        };
        tokio::join!(run::run(&mut model, &mut screen, inputs, begin_effects), script)
    });
    assert_eq!(exit, Exit::Signal(15));
    leave.store(true, Ordering::Relaxed);
    typist.join().unwrap();
    drop(screen);
    connection.join().unwrap();
    let session = model.session.as_ref().unwrap();
    let store = session.store();
    let keys = keys.borrow().clone();
    Run {
        wall: figures.0,
        busy: figures.1,
        draws: figures.2,
        keys,
        taken: u64::try_from(store.len()).unwrap() + store.evicted(),
        dropped: session.dropped,
        sent: storm.sent(),
    }
}

/// Keeps the processor time of this thread where others can read it.
#[expect(clippy::infinite_loop, reason = "it is dropped at the end of the run")]
async fn sample(busy: &AtomicU64) {
    loop {
        busy.store(u64::try_from(thread_time().as_nanos()).unwrap(), Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Processor time of this thread, as the scheduler counts it (proc_pid_schedstat(5)).
fn thread_time() -> Duration {
    let counts = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(counts.split_whitespace().next().unwrap().parse().unwrap())
}

/// The memory of a long storm: what is held, and what the process takes, after a tenth of it and at its end.
fn memory() {
    let mut model = fake::model(COLUMNS, ROWS);
    let mut said = Vec::new();
    for first in (1..LONG).step_by(1_024) {
        let events = (first..first + 1_024).map(|n| fake::event(n + 100)).collect();
        let batch = mirrord_protocol::session::v1::EventBatch { events, dropped: 0, last_seq: first + 1_123 };
        fake::say(&mut model, update::HostMsg::Events(batch));
        model.prepare();
        let part = first / (LONG / 10);
        if usize::try_from(part).unwrap() >= said.len() {
            said.push(resident());
        }
    }
    let store = model.session.as_ref().unwrap().store();
    println!(
        "memory: {} of {} events held, {} MiB counted; the process took {} MiB after a tenth and {} MiB at the end",
        store.len(),
        LONG,
        store.bytes() >> 20,
        said.get(1).copied().unwrap_or(0) >> 20,
        resident() >> 20
    );
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}
