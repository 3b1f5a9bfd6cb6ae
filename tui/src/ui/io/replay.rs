//! Reads a recording and says it as a session host would.

use std::path::Path;

use bytes::Bytes;
use mirrord_protocol::session::v1::{EventBatch, SessionInfo};
use mirrord_session::recording;
use tokio::sync::mpsc;

use crate::ui::{
    export,
    model::notices::Level,
    services::chain,
    update::{HostMsg, Msg},
};

/// Events of a recording in one message.
const RECORDING_BATCH: usize = 1_024;

pub(super) fn read(path: &str, generation: u64, msgs: &mpsc::Sender<Msg>) {
    let say = |said| msgs.blocking_send(Msg::Host { generation, said }).is_ok();
    let fail = |reason: String| {
        // Told in both places: as a message, and on the screen that stays empty.
        drop(msgs.blocking_send(Msg::Notice(Level::Error, reason.clone())));
        say(HostMsg::Loaded);
        say(HostMsg::Gone { reason });
    };
    let recording = match recording::load(Path::new(path)) {
        Ok(recording) => recording,
        Err(error) => return fail(chain(&error)),
    };
    let info = SessionInfo {
        id: recording.header.session.clone(),
        target: recording.header.target.clone(),
        command: recording.header.command.iter().map(|part| Bytes::from(part.clone().into_bytes())).collect(),
        started_ms: recording.header.started_ms,
        ..Default::default()
    };
    let last_seq = recording.events.last().map_or(0, |event| event.seq);
    if !say(HostMsg::Info(Box::new(info))) || !say(HostMsg::Histograms(export::latencies(&recording.events)))
    {
        return;
    }
    let mut events = recording.events.into_iter().peekable();
    while events.peek().is_some() {
        let part = events.by_ref().take(RECORDING_BATCH).collect();
        if !say(HostMsg::Events(EventBatch { events: part, dropped: recording.lost, last_seq })) {
            return;
        }
    }
    say(HostMsg::Loaded);
}
