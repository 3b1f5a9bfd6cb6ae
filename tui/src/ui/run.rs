//! The loop: signals, keys, messages, pictures, in this order of importance. At most one picture per frame, and none when nothing
//! that is visible has changed.

use std::{
    io,
    task::Poll,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crossterm::event::Event;
use futures_util::{Stream, StreamExt};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    clipboard, limits,
    model::{Model, Screen as ScreenName, notices::Level},
    update::{Effect, Msg, update},
};

/// What the loop draws on.
pub(crate) trait Screen {
    /// Draws a picture.
    fn draw(&mut self, model: &Model) -> io::Result<()>;
    /// Does what only the owner of the terminal can do.
    fn perform(&mut self, effect: &Effect) -> io::Result<()>;
    /// Columns and rows of the window.
    fn size(&self) -> (u16, u16);
    /// Lends the terminal to the user's editor; what is left of the text. When dropped before its end, the editor is ended.
    fn edit(&mut self, text: &str) -> impl Future<Output = io::Result<String>>;
    /// Returns when the screen has been lost, e.g. to a panic of another thread.
    fn failed(&self) -> impl Future<Output = ()>;
}

/// Why the loop has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The user left.
    Quit,
    /// A signal asked for it.
    Signal(i32),
    /// The terminal has gone, or another thread has panicked.
    ScreenLost,
}

/// What the loop listens to.
pub(crate) struct Inputs<S> {
    /// Opens the stream terminal --keys, mouse, paste, size--> loop. It is closed while the user's editor has the terminal: two
    /// readers of one terminal share its keys.
    pub(crate) open: Box<dyn FnMut() -> S>,
    /// I/O --what has happened--> loop; when full, I/O waits
    pub(crate) msgs: mpsc::Receiver<Msg>,
    /// loop --what shall be done--> I/O; a full queue is told to the user
    pub(crate) effects: mpsc::Sender<Effect>,
    /// signal handlers --number--> loop
    pub(crate) signals: mpsc::Receiver<i32>,
}

/// Runs until the user leaves.
pub(crate) async fn run<S: Stream<Item = io::Result<Event>> + Unpin>(
    model: &mut Model,
    screen: &mut impl Screen,
    mut inputs: Inputs<S>,
    begin: Vec<Effect>,
) -> Exit {
    let mut last_picture = Instant::now() - limits::FRAME;
    let mut next_picture = last_picture;
    let mut buffer = Vec::with_capacity(limits::MESSAGES_PER_TURN);
    let mut listing = None;
    let mut effects = begin;
    let mut keys = Some((inputs.open)());
    loop {
        effects.extend(listing_effect(model, &mut listing));
        if let Some((seq, text)) = take_edit(&mut effects) {
            // Closed before the editor begins, or it would not get all keys.
            drop(keys.take());
            match lend(model, screen, &mut inputs, &text).await {
                Ok((after, meanwhile)) => {
                    effects.extend(meanwhile);
                    effects.extend(update(model, Msg::Edited { seq, before: text, after }));
                }
                Err(exit) => return exit,
            }
            effects.extend(resized(model, screen));
        }
        let keys = keys.get_or_insert_with(|| (inputs.open)());
        perform(model, screen, &inputs.effects, std::mem::take(&mut effects));
        if model.quit {
            return Exit::Quit;
        }
        if model.dirty && Instant::now() >= next_picture {
            model.prepare();
            let wanted = model.session.as_mut().and_then(|session| session.body_to_fetch());
            perform(
                model,
                screen,
                &inputs.effects,
                wanted.map(|seq| Effect::Fetch { seq }).into_iter().collect(),
            );
            if screen.draw(model).is_err() {
                return Exit::ScreenLost;
            }
            model.dirty = false;
            last_picture = Instant::now();
            next_picture = last_picture + limits::FRAME;
        }
        let shows_time = model.shows_time();
        tokio::select! {
            // In order of importance: leaving outranks keys, keys outrank data. The time of the next picture is looked at
            // above, so that data that never stops cannot keep it back. All branches are cancel safe.
            biased;
            () = screen.failed() => return Exit::ScreenLost,
            Some(signal) = inputs.signals.recv() => return Exit::Signal(signal),
            event = keys.next() => {
                let Some(Ok(event)) = event else { return Exit::ScreenLost };
                model.now_ms = now_ms();
                effects.extend(on_event(model, event));
                // All that wait are taken before the next picture: a held key must not queue.
                while let Poll::Ready(Some(Ok(event))) = poll_once(keys).await {
                    effects.extend(on_event(model, event));
                }
                next_picture = last_picture + limits::KEY_GAP;
            }
            taken = inputs.msgs.recv_many(&mut buffer, limits::MESSAGES_PER_TURN) => {
                if taken == 0 {
                    return Exit::ScreenLost;
                }
                model.now_ms = now_ms();
                for msg in buffer.drain(..) {
                    effects.extend(update(model, msg));
                }
            }
            () = sleep_until(next_picture), if model.dirty => {}
            () = tokio::time::sleep(limits::CLOCK), if shows_time && !model.dirty => {
                effects.extend(update(model, Msg::Clock(now_ms())));
            }
        }
    }
}

/// The first wish for an editor among the effects.
fn take_edit(effects: &mut Vec<Effect>) -> Option<(u64, String)> {
    let at = effects.iter().position(|effect| matches!(effect, Effect::Edit { .. }))?;
    match effects.remove(at) {
        Effect::Edit { seq, text } => Some((seq, text)),
        _ => None,
    }
}

/// Who is not in the foreground is not told of a new size, so it is asked for afterwards.
fn resized(model: &mut Model, screen: &impl Screen) -> Vec<Effect> {
    let (columns, rows) = screen.size();
    update(model, Msg::Resize(columns, rows))
}

/// Waits for the user's editor. What I/O says meanwhile is taken, so that no row is lost by a long edit.
async fn lend<S>(
    model: &mut Model,
    screen: &mut impl Screen,
    inputs: &mut Inputs<S>,
    text: &str,
) -> Result<(Result<String, String>, Vec<Effect>), Exit> {
    let interrupt = tokio::signal::unix::SignalKind::interrupt().as_raw_value();
    let mut buffer = Vec::with_capacity(limits::MESSAGES_PER_TURN);
    let mut effects = Vec::new();
    let mut editing = std::pin::pin!(screen.edit(text));
    loop {
        tokio::select! {
            // Leaving outranks the editor, which outranks data. All branches are cancel safe: the editor's future is kept.
            biased;
            // Ctrl-C is the editor's business, as with a shell.
            Some(signal) = inputs.signals.recv() => if signal != interrupt {
                return Err(Exit::Signal(signal));
            },
            edited = &mut editing => return Ok((edited.map_err(|error| error.to_string()), effects)),
            taken = inputs.msgs.recv_many(&mut buffer, limits::MESSAGES_PER_TURN) => {
                if taken == 0 {
                    return Err(Exit::ScreenLost);
                }
                model.now_ms = now_ms();
                for msg in buffer.drain(..) {
                    effects.extend(update(model, msg));
                }
            }
        }
    }
}

/// What the stream has now, without waiting. Asked with the waker of the loop: crossterm's stream keeps the first waker that it is
/// given until a key comes, so that with another one (as `now_or_never` has) the next key would wake nobody.
async fn poll_once<S: Stream + Unpin>(events: &mut S) -> Poll<Option<S::Item>> {
    std::future::poll_fn(|context| Poll::Ready(events.poll_next_unpin(context))).await
}

fn on_event(model: &mut Model, event: Event) -> Vec<Effect> {
    match event {
        Event::Key(key) => update(model, Msg::Key(key)),
        Event::Mouse(mouse) => update(model, Msg::Mouse(mouse)),
        Event::Paste(text) => update(model, Msg::Paste(text)),
        Event::Resize(columns, rows) => update(model, Msg::Resize(columns, rows)),
        Event::FocusGained | Event::FocusLost => Vec::new(),
    }
}

/// Targets and sessions are looked for only while they are shown.
fn listing_effect(model: &Model, before: &mut Option<bool>) -> Option<Effect> {
    let on = model.screen() != ScreenName::Session;
    (before.replace(on) != Some(on)).then_some(Effect::Listing(on))
}

fn perform(model: &mut Model, screen: &mut impl Screen, to: &mpsc::Sender<Effect>, effects: Vec<Effect>) {
    for effect in effects {
        let own = matches!(effect, Effect::Suspend | Effect::Redraw | Effect::Mouse(_) | Effect::Copy { .. });
        if !own {
            if to.try_send(effect).is_err() {
                model.notices.add(Level::Error, "too much at once; press the key again", model.now_ms);
                model.dirty = true;
            }
            continue;
        }
        model.dirty = true;
        let result = screen.perform(&effect);
        let (level, text) = match (&effect, result) {
            (Effect::Copy { what, text }, Ok(())) => {
                let cut =
                    if clipboard::cut(text).len() < text.len() { ", cut to what terminals take" } else { "" };
                // Inside of tmux the escape is not enough: it is dropped by tmux's default settings.
                drop(to.try_send(effect.clone()));
                (Level::Done, format!("copied {what}{cut}"))
            }
            (Effect::Suspend, Ok(())) => {
                for effect in resized(model, screen) {
                    // The command's terminal: a size that does not get there comes with the next one.
                    drop(to.try_send(effect));
                }
                continue;
            }
            (_, Ok(())) => continue,
            (_, Err(error)) => (Level::Error, format!("the terminal refused: {error}")),
        };
        model.notices.add(level, text, model.now_ms);
    }
}

/// Milliseconds since the epoch.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
