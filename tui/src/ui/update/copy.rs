//! What of an event goes to the clipboard or to a file.

use bytes::Bytes;
use mirrord_protocol::session::v1::{Event, Request, event::Detail};

use super::{Effect, notice};
use crate::ui::{
    export,
    model::{
        Model,
        details::title,
        edit::LineEdit,
        notices::Level,
        overlay::{CopyWhat, Overlay, Purpose},
    },
};

pub(super) fn copy(model: &mut Model, what: CopyWhat) -> Vec<Effect> {
    let Some(event) = model.session.as_ref().and_then(|session| session.selected()) else {
        notice(model, Level::Info, "no row is chosen");
        return Vec::new();
    };
    match text(event, what) {
        Some((what, text)) => vec![Effect::Copy { what: what.to_owned(), text }],
        None => {
            notice(model, Level::Info, "the chosen row has none");
            Vec::new()
        }
    }
}

fn text(event: &Event, what: CopyWhat) -> Option<(&'static str, String)> {
    let request = match &event.detail {
        Some(Detail::Request(request)) => Some(request),
        _ => None,
    };
    Some(match what {
        CopyWhat::Curl => ("the curl command", export::curl::command(request?)),
        CopyWhat::Url => ("the URL", request.map_or_else(|| event.subject.clone(), export::url)),
        CopyWhat::Body => ("the body of the response", body_text(request?, true)?),
        CopyWhat::RequestBody => ("the body of the request", body_text(request?, false)?),
        CopyWhat::Headers => {
            let request = request?;
            let all = request.headers.iter().chain(&request.response_headers);
            let lines =
                all.map(|header| format!("{}: {}", header.name, String::from_utf8_lossy(&header.value)));
            ("the headers", lines.collect::<Vec<_>>().join("\n"))
        }
        CopyWhat::Json => ("the event", mirrord_session::jsonl::encode(event)),
        CopyWhat::Line => ("the line", title(event)),
    })
}

fn body_text(request: &Request, response: bool) -> Option<String> {
    let body = if response { request.response_body.as_ref() } else { request.body.as_ref() };
    body.filter(|body| !body.data.is_empty()).map(|body| String::from_utf8_lossy(&body.data).into_owned())
}

/// The body of the response, or that of the request when there is no other.
fn body(event: &Event) -> Option<Bytes> {
    let Some(Detail::Request(request)) = &event.detail else { return None };
    let held = |body: &Option<mirrord_protocol::session::v1::Body>| {
        body.as_ref().map(|body| body.data.clone()).filter(|data| !data.is_empty())
    };
    held(&request.response_body).or_else(|| held(&request.body))
}

pub(super) fn ask_save_body(model: &mut Model) -> Vec<Effect> {
    let event = model.session.as_ref().and_then(|session| session.selected());
    let Some(seq) = event.filter(|event| body(event).is_some()).map(|event| event.seq) else {
        notice(model, Level::Info, "the chosen row has no body");
        return Vec::new();
    };
    let edit = LineEdit::new(&format!("body-{seq}"));
    model.overlay = Some(Overlay::Path { edit, purpose: Purpose::Body { seq } });
    Vec::new()
}

/// What shall happen with the path that was asked for.
pub(super) fn path_given(model: &mut Model, path: &str, purpose: &Purpose) -> Vec<Effect> {
    let path = path.trim().to_owned();
    let Some(session) = model.session.as_ref().filter(|_| !path.is_empty()) else { return Vec::new() };
    match purpose {
        Purpose::Record => vec![Effect::Record { path: Some(path) }],
        Purpose::Body { seq } => {
            let data = session.store().event(*seq).and_then(body);
            data.map(|data| Effect::Write { path, data }).into_iter().collect()
        }
        Purpose::Export(form) => {
            let Some(stream) = session.stream() else { return Vec::new() };
            let events = stream.seqs().filter_map(|seq| session.store().event(seq)).cloned().collect();
            vec![Effect::Export { form: *form, events, path }]
        }
    }
}
