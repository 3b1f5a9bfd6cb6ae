//! Where the user has been: screens and tabs, for going back and forward as in a browser.

use super::{Screen, session::Tab};
use crate::ui::limits;

/// A screen, and the tab that was shown on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) screen: Screen,
    pub(crate) tab: Tab,
}

/// The way so far.
#[derive(Debug, Default)]
pub(crate) struct Places {
    way: Vec<Place>,
    /// Where on the way the user is.
    at: usize,
    before: Option<Place>,
}

impl Places {
    /// The user is here now. Somewhere new ends the way forward.
    pub(crate) fn visit(&mut self, place: Place) {
        let now = self.way.get(self.at).copied();
        if now == Some(place) {
            return;
        }
        self.before = now;
        self.way.truncate(self.at + 1);
        self.way.push(place);
        if self.way.len() > limits::PLACES {
            self.way.remove(0);
        }
        self.at = self.way.len() - 1;
    }

    /// A step back or forward.
    pub(crate) fn go(&mut self, back: bool) -> Option<Place> {
        let to = if back { self.at.checked_sub(1)? } else { self.at + 1 };
        let place = self.way.get(to).copied()?;
        self.before = self.way.get(self.at).copied();
        self.at = to;
        Some(place)
    }

    /// Where the user was before, wherever on the way that is.
    pub(crate) fn last(&mut self) -> Option<Place> {
        let place = self.before?;
        self.visit(place);
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABS: [Tab; 3] = [Tab::Traffic, Tab::Files, Tab::Dns];

    fn place(tab: Tab) -> Place {
        Place { screen: Screen::Session, tab }
    }

    #[test]
    fn the_way_goes_back_and_forward_and_something_new_ends_it() {
        let mut places = Places::default();
        TABS.map(place).iter().chain([&place(Tab::Dns)]).for_each(|place| places.visit(*place));
        assert_eq!((places.go(true), places.go(true)), (Some(place(Tab::Files)), Some(place(Tab::Traffic))));
        assert_eq!((places.go(true), places.go(false)), (None, Some(place(Tab::Files))));
        places.visit(place(Tab::Conns));
        assert_eq!((places.go(false), places.go(true)), (None, Some(place(Tab::Files))));
    }

    #[test]
    fn the_last_place_and_back_again() {
        let mut places = Places::default();
        TABS.map(place).iter().for_each(|place| places.visit(*place));
        assert_eq!((places.last(), places.last()), (Some(place(Tab::Files)), Some(place(Tab::Dns))));
        (0..limits::PLACES * 2).for_each(|at| places.visit(place(TABS[at % 3])));
        assert_eq!(places.way.len(), limits::PLACES);
    }
}
