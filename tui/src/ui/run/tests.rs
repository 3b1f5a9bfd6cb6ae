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

    async fn failed(&self) {
        std::future::pending().await
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
    (ends, Inputs { events: ReceiverStream::new(events), msgs, effects, signals })
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
