//! Sending a request to the local process again, as it was or edited.

use mirrord_protocol::session::v1::{Request, event::Detail};

use super::{Effect, commands, notice};
use crate::ui::model::{
    Model,
    details::title,
    draft,
    notices::Level,
    overlay::{Command, Confirm},
};

/// The chosen request, if it is one.
fn chosen(model: &Model) -> Option<(u64, &Request)> {
    let event = model.session.as_ref().and_then(|session| session.selected())?;
    match &event.detail {
        Some(Detail::Request(request)) => Some((event.seq, request)),
        _ => None,
    }
}

/// Requests that change nothing are sent at once, others after a question.
fn changes_nothing(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS")
}

pub(super) fn ask(model: &mut Model) -> Vec<Effect> {
    let Some((seq, request)) = chosen(model) else {
        notice(model, Level::Info, "only requests can be sent again");
        return Vec::new();
    };
    if changes_nothing(&request.method) {
        return commands::run(model, Command::Resend(seq));
    }
    let name = model.session.as_ref().and_then(|session| session.selected()).map(title).unwrap_or_default();
    let text = format!("{name} goes to the local process a second time.");
    model.overlay = Some(Confirm::ask("Send it again?", text, "Send", Command::Resend(seq)));
    Vec::new()
}

/// Gives the request to the user's editor; one that was not understood comes back as it was left.
pub(super) fn edit(model: &mut Model) -> Vec<Effect> {
    if model.session.as_ref().is_some_and(|session| session.is_recording()) {
        notice(model, Level::Info, "a recording has no local process to send it to");
        return Vec::new();
    }
    let Some((seq, request)) = chosen(model) else {
        notice(model, Level::Info, "only requests can be sent again");
        return Vec::new();
    };
    let text = match draft::write(request) {
        Ok(text) => text,
        Err(why) => {
            notice(model, Level::Info, why);
            return vec![Effect::Fetch { seq }];
        }
    };
    let text = model.draft.take().filter(|(of, _)| *of == seq).map_or(text, |(_, text)| text);
    vec![Effect::Edit { seq, text }]
}

/// What the editor has left.
pub(super) fn edited(
    model: &mut Model,
    seq: u64,
    before: &str,
    after: Result<String, String>,
) -> Vec<Effect> {
    model.dirty = true;
    let text = match after {
        Ok(text) => text,
        Err(reason) => {
            notice(model, Level::Error, reason);
            return Vec::new();
        }
    };
    if text == before {
        notice(model, Level::Info, "nothing was changed, nothing is sent; r sends it as it is");
        return Vec::new();
    }
    match draft::parse(&text) {
        Ok(None) => notice(model, Level::Info, "nothing is left, nothing is sent"),
        Ok(Some(draft)) if changes_nothing(&draft.method) => {
            return commands::run(model, Command::ResendEdited(seq, Box::new(draft)));
        }
        Ok(Some(draft)) => {
            let name = format!("{} {}, {} bytes", draft.method, draft.path, draft.body.len());
            let text = format!("{name}, goes to the local process.");
            let command = Command::ResendEdited(seq, Box::new(draft));
            model.overlay = Some(Confirm::ask("Send it?", text, "Send", command));
        }
        Err(reason) => {
            notice(model, Level::Error, format!("{reason}; e opens it again"));
            model.draft = Some((seq, text));
        }
    }
    Vec::new()
}
