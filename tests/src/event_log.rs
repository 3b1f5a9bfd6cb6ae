//! The events of a session as its file of JSON lines grows.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use serde_json::Value;

/// Reads what is new in a file of events. A later line with the same number replaces the earlier one.
#[derive(Debug)]
pub(crate) struct EventLog {
    path: PathBuf,
    read: u64,
    /// The beginning of a line of which the end is not written yet.
    partial: Vec<u8>,
    events: BTreeMap<u64, Value>,
    /// Rows that the stream says it left out.
    lost: u64,
}

impl EventLog {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), read: 0, partial: Vec::new(), events: BTreeMap::new(), lost: 0 }
    }

    /// Rows that were left out so far because the session was too busy for its reader.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// All events until now, by number.
    ///
    /// # Panics
    /// When a line is not an event: whoever reads the stream would stumble as well.
    pub(crate) fn update(&mut self) -> &BTreeMap<u64, Value> {
        let mut new = Vec::new();
        if let Ok(mut file) = File::open(&self.path)
            && file.seek(SeekFrom::Start(self.read)).is_ok()
        {
            let bytes = file.read_to_end(&mut new).expect("read the events");
            self.read += bytes as u64;
        }
        self.partial.extend(new);
        let end = self.partial.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines: Vec<u8> = self.partial.drain(..end).collect();
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let event: Value = serde_json::from_slice(line)
                .unwrap_or_else(|error| panic!("{error} in the event {}", String::from_utf8_lossy(line)));
            if let Some(lost) = event["gap"].as_u64() {
                self.lost += lost;
                continue;
            }
            let seq = event["seq"].as_u64().expect("an event has a number");
            self.events.insert(seq, event);
        }
        &self.events
    }
}

/// Whether `event` is of `kind` and its details have all of `fields`.
#[must_use]
pub fn is(event: &Value, kind: &str, fields: &[(&str, &str)]) -> bool {
    event["kind"] == kind && fields.iter().all(|(name, value)| text(&event[kind][*name]) == *value)
}

/// Whether `event` is an answered request of this mode, method, path and status.
#[must_use]
pub fn request(event: &Value, mode: &str, path: &str, status: u16) -> bool {
    let status = status.to_string();
    is(event, "request", &[("mode", mode), ("path", path), ("status", &status)])
}

/// A text as it is, a number as text, nothing as an empty text.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
