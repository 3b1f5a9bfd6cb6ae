//! What lies over the screen: prompts, choosers, questions, and texts to read.

use mirrord_protocol::session::v1::Mode;

use super::{draft::Draft, edit::LineEdit, pick::Pick, stream::SortBy};
use crate::ui::filter::FilterError;

/// One at a time; Esc takes it away.
#[derive(Debug)]
pub(crate) enum Overlay {
    Help {
        search: LineEdit,
        searching: bool,
        scroll: usize,
    },
    Palette {
        edit: LineEdit,
        chosen: usize,
    },
    Filter {
        edit: LineEdit,
        error: Option<FilterError>,
        before: String,
    },
    Search {
        edit: LineEdit,
    },
    /// Asks for a comment to an event.
    Comment {
        edit: LineEdit,
        seq: u64,
    },
    /// Asks for the path of a file.
    Path {
        edit: LineEdit,
        purpose: Purpose,
    },
    Chooser(Chooser),
    /// Asks for a namespace or a context.
    Pick(Pick),
    Confirm(Confirm),
    Text {
        kind: TextKind,
        scroll: usize,
    },
}

/// What a path is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Export(ExportForm),
    Body { seq: u64 },
    Record,
}

/// Form of exported rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExportForm {
    Har,
    Jsonl,
    Curl,
}

/// Texts that fill an overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TextKind {
    Messages,
    Settings,
    /// Why nothing arrives.
    Arrives,
}

/// One of some things.
#[derive(Debug)]
pub(crate) struct Chooser {
    pub(crate) title: String,
    pub(crate) items: Vec<Choice>,
    pub(crate) at: usize,
}

/// An item of a chooser, with the key that takes it at once.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    pub(crate) key: char,
    pub(crate) label: String,
    pub(crate) command: Command,
}

/// A question before something that cannot be taken back. The safe answer is chosen at first.
#[derive(Debug)]
pub(crate) struct Confirm {
    pub(crate) title: String,
    pub(crate) text: String,
    pub(crate) yes: &'static str,
    pub(crate) command: Command,
    pub(crate) on_yes: bool,
}

/// What choosers, questions and the palette set off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Asks which mode this port shall have.
    ChooseMode(u32),
    SetMode {
        port: u32,
        mode: Mode,
    },
    /// The same after the question that stealing asks.
    SetModeSure {
        port: u32,
        mode: Mode,
    },
    /// What the form asks for, after the same question.
    LaunchSure,
    Sort(SortBy),
    Copy(CopyWhat),
    Export(ExportForm),
    Resend(u64),
    /// The same, edited.
    ResendEdited(u64, Box<Draft>),
    /// All ports off.
    Pause,
    Restart,
    Stop(String),
    Clear,
    Quit,
    Leave,
}

/// What of an event is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CopyWhat {
    Curl,
    Url,
    RequestBody,
    Body,
    Headers,
    Json,
    Line,
}

impl Confirm {
    pub(crate) fn ask(title: &str, text: impl Into<String>, yes: &'static str, command: Command) -> Overlay {
        Overlay::Confirm(Self { title: title.to_owned(), text: text.into(), yes, command, on_yes: false })
    }
}

impl Chooser {
    pub(crate) fn offer(title: impl Into<String>, items: Vec<Choice>) -> Overlay {
        Overlay::Chooser(Self { title: title.into(), items, at: 0 })
    }
}

impl Choice {
    pub(crate) fn new(key: char, label: impl Into<String>, command: Command) -> Self {
        Self { key, label: label.into(), command }
    }
}
