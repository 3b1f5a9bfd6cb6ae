//! What the screen shows, as plain data: no terminal, no clock, no I/O. Only `update` changes it; `view` reads it.
//!
//! It holds no truth of its own: sessions live in their hosts, and everything here can be built again by attaching.

pub(crate) mod body;
pub(crate) mod details;
pub(crate) mod draft;
pub(crate) mod edit;
pub(crate) mod form;
pub(crate) mod graph;
pub(crate) mod latency;
pub(crate) mod list;
pub(crate) mod notices;
pub(crate) mod overlay;
pub(crate) mod pick;
mod places;
pub(crate) mod process;
pub(crate) mod session;
pub(crate) mod store;
pub(crate) mod stream;
pub(crate) mod targets;

use self::{
    edit::History,
    form::LaunchForm,
    list::Sessions,
    notices::Notices,
    overlay::Overlay,
    places::{Place, Places},
    session::{Session, Tab},
    targets::Targets,
};
use super::{config::Options, keys::Context};

/// Everything that the screen shows.
#[derive(Debug)]
pub(crate) struct Model {
    /// The stack of screens; the last is shown. Never empty while the program runs.
    screens: Vec<Screen>,
    pub(crate) columns: u16,
    pub(crate) rows: u16,
    /// Wall time of the last clock message, milliseconds since the epoch.
    pub(crate) now_ms: i64,
    pub(crate) options: Options,
    pub(crate) targets: Targets,
    pub(crate) sessions: Sessions,
    pub(crate) form: LaunchForm,
    /// The session that is shown; `None` before any was opened.
    pub(crate) session: Option<Box<Session>>,
    pub(crate) overlay: Option<Overlay>,
    pub(crate) notices: Notices,
    pub(crate) palette_history: History,
    pub(crate) filter_history: History,
    places: Places,
    /// A request that was edited and could not be understood: the editor gets it again.
    pub(crate) draft: Option<(u64, String)>,
    /// Something that is visible has changed since the last picture.
    pub(crate) dirty: bool,
    /// The session ends with this window.
    pub(crate) owned: bool,
    /// The program shall end.
    pub(crate) quit: bool,
    /// Number of the connection to a session; messages of earlier ones are ignored.
    pub(crate) generation: u64,
}

/// What fills the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Screen {
    Targets,
    Sessions,
    Launch,
    Session,
}

impl Model {
    pub(crate) fn new(options: Options, first: Screen) -> Self {
        Self {
            screens: vec![first],
            columns: 80,
            rows: 24,
            now_ms: 0,
            options,
            targets: Targets::default(),
            sessions: Sessions::default(),
            form: LaunchForm::default(),
            session: None,
            overlay: None,
            notices: Notices::default(),
            palette_history: History::default(),
            filter_history: History::default(),
            places: Places::default(),
            draft: None,
            dirty: true,
            owned: false,
            quit: false,
            generation: 0,
        }
    }

    /// The screen on top.
    pub(crate) fn screen(&self) -> Screen {
        self.screens.last().copied().unwrap_or(Screen::Targets)
    }

    /// All screens below and the one on top: the crumbs of the header.
    pub(crate) fn crumbs(&self) -> &[Screen] {
        &self.screens
    }

    /// Shows a screen; one that is on the stack already comes back to the top without those above it.
    pub(crate) fn show(&mut self, screen: Screen) {
        match self.screens.iter().position(|known| *known == screen) {
            Some(at) => self.screens.truncate(at + 1),
            None => self.screens.push(screen),
        }
    }

    /// Takes the screen on top away; false when it is the only one.
    pub(crate) fn pop(&mut self) -> bool {
        if self.screens.len() > 1 {
            self.screens.pop();
            return true;
        }
        false
    }

    fn place(&self) -> Place {
        let tab = self.session.as_ref().map(|session| session.tab).unwrap_or_default();
        Place {
            screen: self.screen(),
            tab: if self.screen() == Screen::Session { tab } else { Tab::default() },
        }
    }

    /// Remembers where the user is, for the way back.
    pub(crate) fn visit(&mut self) {
        self.places.visit(self.place());
    }

    /// Back or forward to where the user was; false when there is nothing more that way.
    pub(crate) fn travel(&mut self, back: bool) -> bool {
        self.places.visit(self.place());
        self.places.go(back).is_some_and(|place| self.go_to(place))
    }

    /// To where the user was before this; again: back here.
    pub(crate) fn last_place(&mut self) -> bool {
        self.places.visit(self.place());
        self.places.last().is_some_and(|place| self.go_to(place))
    }

    fn go_to(&mut self, place: Place) -> bool {
        // A form that was left is not filled in any more.
        if place.screen == Screen::Launch || (place.screen == Screen::Session && self.session.is_none()) {
            return false;
        }
        self.show(place.screen);
        if let Some(session) = self.session.as_mut().filter(|_| place.screen == Screen::Session) {
            session.tab = place.tab;
            session.in_details = false;
        }
        true
    }

    /// Where a key is pressed now, most specific first.
    pub(crate) fn contexts(&self) -> Vec<Context> {
        match (self.screen(), &self.session) {
            (Screen::Targets | Screen::Sessions, _) => vec![Context::Home, Context::List],
            (Screen::Launch, _) => Vec::new(),
            (Screen::Session, None) => vec![Context::Session],
            (Screen::Session, Some(session)) => session.contexts(),
        }
    }

    /// Whether the screen changes as time passes though nothing happens.
    pub(crate) fn shows_time(&self) -> bool {
        self.notices.toast(self.now_ms).is_some()
            || match self.screen() {
                Screen::Session => {
                    self.session.as_ref().is_some_and(|session| session.shows_time(self.now_ms))
                }
                Screen::Targets => self.targets.rows().iter().any(|row| row.started_ms > 0),
                Screen::Sessions => !self.sessions.rows().is_empty(),
                Screen::Launch => false,
            }
    }

    /// Brings what is computed from the rest up to date; called before each picture.
    pub(crate) fn prepare(&mut self) {
        let areas = super::layout::session(self);
        let now = self.now_ms;
        if let Some(session) = &mut self.session {
            session.prepare(now, usize::from(areas.list_rows()), (areas.details.width, areas.details.height));
        }
        let rows = usize::from(super::layout::home(self).list_rows());
        self.targets.list.keep_visible(rows);
        self.sessions.list.keep_visible(rows);
    }
}
