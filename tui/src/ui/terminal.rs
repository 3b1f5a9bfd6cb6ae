//! The terminal that the UI has taken over, and its way back to what it was: after quit, panic (also in a task), signals, Ctrl-Z.
//!
//! One process has one terminal, so what has been changed is kept in one flag; whoever comes first restores it, once.

use std::{
    io::{self, Stdout, Write},
    mem::ManuallyDrop,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crossterm::{
    cursor, event, execute,
    terminal::{self, EnterAlternateScreen, LeaveAlternateScreen},
};
use ratatui::{Terminal as Ratatui, backend::CrosstermBackend, layout::Rect};
use tokio::sync::Notify;

use super::{clipboard, editor, model::Model, run::Screen, update::Effect, view};

/// The screen is ours: raw mode and alternate screen are on.
static TAKEN: AtomicBool = AtomicBool::new(false);
/// A thread has panicked; nothing more is drawn.
static PANICKED: AtomicBool = AtomicBool::new(false);
/// Held while a picture is written, so that restoring does not fall into the middle of one.
static WRITING: Mutex<()> = Mutex::new(());
static HOOK: OnceLock<()> = OnceLock::new();
/// panic hook --the program must end--> loop
static PANIC: Notify = Notify::const_new();

/// How long a panic waits for a picture that another thread is writing.
const PICTURE: Duration = Duration::from_millis(50);

/// The terminal while the UI runs. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Terminal {
    /// Never dropped: its own drop writes to the terminal, and when that has gone it complains on stderr, which has gone as well, and
    /// panics. [`restore`] does all that is needed.
    inner: ManuallyDrop<Ratatui<CrosstermBackend<Stdout>>>,
    mouse: bool,
}

impl Terminal {
    /// Takes the terminal over.
    ///
    /// # Errors
    /// When standard output is no terminal; nothing is changed then.
    pub(crate) fn take(mouse: bool) -> io::Result<Self> {
        HOOK.get_or_init(install_hook);
        enter(mouse)?;
        match Ratatui::new(CrosstermBackend::new(io::stdout())) {
            Ok(inner) => Ok(Self { inner: ManuallyDrop::new(inner), mouse }),
            Err(error) => {
                restore();
                Err(error)
            }
        }
    }

    /// To the shell; returns when the shell has brought the program to the front again.
    fn suspend(&mut self) -> io::Result<()> {
        restore();
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TSTP)?;
        enter(self.mouse)?;
        self.redraw()
    }

    /// Lets the next picture draw every cell. Ratatui's `clear` would ask the terminal where its cursor stands, and the answer goes
    /// to the stream of keys; its `resize` does the same without asking.
    fn redraw(&mut self) -> io::Result<()> {
        let (width, height) = self.size();
        self.inner.resize(Rect::new(0, 0, width, height))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        restore();
    }
}

impl Screen for Terminal {
    fn draw(&mut self, model: &Model) -> io::Result<()> {
        let _writing = WRITING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !TAKEN.load(Ordering::Acquire) {
            return Ok(());
        }
        self.inner.draw(|frame| view::draw(model, frame)).map(|_| ())
    }

    fn perform(&mut self, effect: &Effect) -> io::Result<()> {
        match effect {
            Effect::Suspend => self.suspend(),
            Effect::Redraw => self.redraw(),
            Effect::Mouse(on) => {
                self.mouse = *on;
                let mut out = io::stdout();
                if *on {
                    execute!(out, event::EnableMouseCapture)
                } else {
                    execute!(out, event::DisableMouseCapture)
                }
            }
            Effect::Copy { text, .. } => {
                let sequence = clipboard::sequence(text, |name| std::env::var(name).ok());
                let mut out = io::stdout();
                out.write_all(sequence.as_bytes())?;
                out.flush()
            }
            _ => Ok(()),
        }
    }

    fn size(&self) -> (u16, u16) {
        self.inner.size().map_or((80, 24), |size| (size.width, size.height))
    }

    async fn edit(&mut self, text: &str) -> io::Result<String> {
        restore();
        let edited = editor::edit(text).await;
        enter(self.mouse)?;
        self.redraw()?;
        edited
    }

    async fn failed(&self) {
        while !has_panicked() {
            PANIC.notified().await;
        }
    }
}

/// Whether any thread has panicked since the terminal was taken.
pub(crate) fn has_panicked() -> bool {
    PANICKED.load(Ordering::Acquire)
}

fn enter(mouse: bool) -> io::Result<()> {
    terminal::enable_raw_mode()?;
    TAKEN.store(true, Ordering::Release);
    let mut out = io::stdout();
    let entered = execute!(out, EnterAlternateScreen, event::EnableBracketedPaste, cursor::Hide);
    let entered =
        entered.and_then(|()| if mouse { execute!(out, event::EnableMouseCapture) } else { Ok(()) });
    if entered.is_err() {
        restore();
    }
    entered
}

/// Gives the terminal back; does nothing when it has been given back already.
pub(crate) fn restore() {
    if !TAKEN.swap(false, Ordering::AcqRel) {
        return;
    }
    // A terminal that has gone cannot be restored; there is nobody to tell.
    drop(execute!(
        io::stdout(),
        event::DisableMouseCapture,
        event::DisableBracketedPaste,
        LeaveAlternateScreen,
        cursor::Show
    ));
    drop(terminal::disable_raw_mode());
}

/// Before the report of a panic is printed the terminal is given back, whichever thread it was.
fn install_hook() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICKED.store(true, Ordering::Release);
        for _ in 0..PICTURE.as_millis() {
            // The thread that draws may be the one that panics, and holds this for good: wait, but not for ever.
            if WRITING.try_lock().is_ok() {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        restore();
        report(panic);
        PANIC.notify_waiters();
        PANIC.notify_one();
    }));
}

#[cfg(test)]
mod tests;
