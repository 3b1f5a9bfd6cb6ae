//! How often the loop draws, under paused time: never when nothing changes, at most once a frame under a storm, at once for keys.

use crossterm::event::{KeyCode, KeyEvent};
use mirrord_protocol::session::v1::EventBatch;
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::ui::{fake, update::HostMsg};

#[derive(Default)]
struct Counter {
    draws: std::rc::Rc<std::cell::Cell<usize>>,
}

impl Screen for Counter {
    fn draw(&mut self, _: &Model) -> io::Result<()> {
        self.draws.set(self.draws.get() + 1);
        Ok(())
    }

    fn perform(&mut self, _: &Effect) -> io::Result<()> {
        Ok(())
    }

    fn size(&self) -> (u16, u16) {
        (120, 40)
    }

    async fn edit(&mut self, text: &str) -> io::Result<String> {
        Ok(text.replace("page=2", "page=3"))
    }

    async fn failed(&self) {
        std::future::pending().await
    }
}

/// As crossterm's stream of keys: the first waker it is given stays until a key comes.
#[derive(Clone, Default)]
struct Keys(std::sync::Arc<std::sync::Mutex<(std::collections::VecDeque<char>, Option<std::task::Waker>)>>);

impl Keys {
    fn press(&self, sign: char) {
        let mut state = self.0.lock().unwrap();
        state.0.push_back(sign);
        state.1.take().into_iter().for_each(std::task::Waker::wake);
    }
}

impl Stream for Keys {
    type Item = io::Result<Event>;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> Poll<Option<Self::Item>> {
        let mut state = self.0.lock().unwrap();
        match state.0.pop_front() {
            Some(sign) => Poll::Ready(Some(Ok(Event::Key(KeyEvent::from(KeyCode::Char(sign)))))),
            None => {
                state.1.get_or_insert_with(|| context.waker().clone());
                Poll::Pending
            }
        }
    }
}

struct Ends {
    keys: mpsc::Sender<io::Result<Event>>,
    msgs: mpsc::Sender<Msg>,
    signals: mpsc::Sender<i32>,
    _effects: mpsc::Receiver<Effect>,
}

fn inputs() -> (Ends, Inputs<ReceiverStream<io::Result<Event>>>) {
    let (keys, events) = mpsc::channel(16);
    let (msgs_tx, msgs) = mpsc::channel(16);
    let (signals_tx, signals) = mpsc::channel(1);
    let (effects, effects_rx) = mpsc::channel(16);
    let ends = Ends { keys, msgs: msgs_tx, signals: signals_tx, _effects: effects_rx };
    let mut events = Some(ReceiverStream::new(events));
    let open = Box::new(move || events.take().expect("keys are opened once"));
    (ends, Inputs { open, msgs, effects, signals })
}

async fn press(ends: &Ends, sign: char) {
    ends.keys.send(Ok(Event::Key(KeyEvent::from(KeyCode::Char(sign))))).await.unwrap();
}

/// Runs the loop beside a script and returns why it ended, and the pictures.
async fn play<F: Future<Output = ()>>(
    script: impl FnOnce(Ends, std::rc::Rc<std::cell::Cell<usize>>) -> F,
) -> Exit {
    let mut model = fake::model(120, 40);
    let mut screen = Counter::default();
    let draws = std::rc::Rc::clone(&screen.draws);
    let (ends, inputs) = inputs();
    let (exit, ()) = tokio::join!(run(&mut model, &mut screen, inputs, Vec::new()), script(ends, draws));
    exit
}

#[tokio::test(start_paused = true)]
async fn nothing_is_drawn_when_nothing_changes() {
    let exit = play(async |ends, draws| {
        // The graphs of the last two minutes still move; after them nothing does.
        sleep_until(Instant::now() + Duration::from_secs(300)).await;
        let before = draws.get();
        assert!(before >= 1);
        sleep_until(Instant::now() + Duration::from_secs(60)).await;
        assert_eq!(draws.get(), before);
        ends.signals.send(15).await.unwrap();
    })
    .await;
    assert_eq!(exit, Exit::Signal(15));
}

#[tokio::test(start_paused = true)]
async fn a_storm_is_drawn_once_a_frame_and_keys_get_through() {
    let exit = play(async |ends, draws| {
        let before = draws.get();
        for turn in 0..100_u64 {
            let events = (0..1_000).map(|n| fake::event(100 + turn * 1_000 + n)).collect();
            let said = HostMsg::Events(EventBatch { events, ..EventBatch::default() });
            ends.msgs.send(Msg::Host { generation: 1, said }).await.unwrap();
            sleep_until(Instant::now() + Duration::from_millis(10)).await;
        }
        let drawn = draws.get() - before;
        assert!((10..=32).contains(&drawn), "{drawn} pictures in a second");
        press(&ends, 'Q').await;
        press(&ends, 'l').await;
    })
    .await;
    assert_eq!(exit, Exit::Quit);
}

#[tokio::test(start_paused = true)]
async fn an_edit_closes_the_keys_and_opens_them_again() {
    let mut model = fake::model(120, 40);
    let (mut ends, inputs) = inputs();
    let keys = Keys::default();
    let opened = std::rc::Rc::new(std::cell::Cell::new(0));
    let (typed, count) = (keys.clone(), std::rc::Rc::clone(&opened));
    let edits = Inputs {
        open: Box::new(move || {
            count.set(count.get() + 1);
            typed.clone()
        }),
        msgs: inputs.msgs,
        effects: inputs.effects,
        signals: inputs.signals,
    };
    // The first row is a GET with `page=2` in its path, which the screen's editor changes.
    "ge".chars().for_each(|sign| keys.press(sign));
    let mut screen = Counter::default();
    let script = async {
        let sent = loop {
            if let Effect::Resend { edited, .. } = ends._effects.recv().await.unwrap() {
                break edited.unwrap();
            }
        };
        "Ql".chars().for_each(|sign| keys.press(sign));
        sent
    };
    let (exit, sent) = tokio::join!(run(&mut model, &mut screen, edits, Vec::new()), script);
    assert_eq!((exit, sent.path.as_str(), opened.get()), (Exit::Quit, "/items/1?page=3", 2));
}

#[tokio::test(start_paused = true)]
async fn keys_are_noticed_on_a_quiet_screen() {
    let mut model = fake::model(120, 40);
    let (ends, inputs) = inputs();
    let keys = Keys::default();
    let typed = keys.clone();
    let quiet = Inputs {
        open: Box::new(move || typed.clone()),
        msgs: inputs.msgs,
        effects: inputs.effects,
        signals: inputs.signals,
    };
    let mut screen = Counter::default();
    // A task of its own: in one task with the loop, its timers would wake the loop as well.
    let mut script = tokio::task::JoinSet::new();
    script.spawn(async move {
        // Longer than any graph moves, so that nothing but a key can wake the loop.
        for sign in "23Ql".chars() {
            sleep_until(Instant::now() + Duration::from_secs(300)).await;
            keys.press(sign);
        }
    });
    let begin = Instant::now();
    let looped = run(&mut model, &mut screen, quiet, Vec::new());
    let exit = tokio::time::timeout(Duration::from_secs(3_600), looped).await.unwrap();
    assert_eq!(exit, Exit::Quit);
    // The deadline itself would let the loop look once more: it must have ended by the last key.
    assert!(begin.elapsed() < Duration::from_secs(1_300), "{:?}", begin.elapsed());
    drop(ends);
}
