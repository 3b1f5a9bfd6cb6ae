//! What the program tells the user at the foot of the screen. Errors stay until Esc; all of it can be read again later.

use std::collections::VecDeque;

use crate::ui::limits::{NOTICES, TOAST_MS};

/// Messages so far.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    all: VecDeque<Notice>,
    /// The one at the foot of the screen.
    shown: Option<Notice>,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) level: Level,
    pub(crate) text: String,
    pub(crate) at_ms: i64,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Info,
    Done,
    Error,
}

impl Notices {
    pub(crate) fn add(&mut self, level: Level, text: impl Into<String>, now_ms: i64) {
        let notice = Notice { level, text: text.into(), at_ms: now_ms };
        self.all.push_back(notice.clone());
        if self.all.len() > NOTICES {
            self.all.pop_front();
        }
        self.shown = Some(notice);
    }

    /// The message that is shown now.
    pub(crate) fn toast(&self, now_ms: i64) -> Option<&Notice> {
        self.shown.as_ref().filter(|notice| notice.level == Level::Error || now_ms - notice.at_ms < TOAST_MS)
    }

    /// Takes the shown message away; false when there is none.
    pub(crate) fn dismiss(&mut self, now_ms: i64) -> bool {
        let was = self.toast(now_ms).is_some();
        self.shown = None;
        was
    }

    pub(crate) fn all(&self) -> impl DoubleEndedIterator<Item = &Notice> {
        self.all.iter()
    }
}
