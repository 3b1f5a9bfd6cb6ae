//! The events of a session as its file of JSON lines grows.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use serde_json::Value;

/// Reads what is new in a file of events. A later line with the same number replaces the earlier one.
#[derive(Debug)]
pub(crate) struct EventLog {
    path: PathBuf,
    read: u64,
    /// Only lines with this text are kept.
    only: Option<&'static str>,
    events: BTreeMap<u64, Value>,
    /// Rows that the stream says it left out.
    lost: u64,
}

impl EventLog {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), read: 0, only: None, events: BTreeMap::new(), lost: 0 }
    }

    /// From now on only lines with this text are kept.
    pub(crate) fn keep_only(&mut self, text: &'static str) {
        self.only = Some(text);
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
        if let Ok(mut file) = File::open(&self.path)
            && file.seek(SeekFrom::Start(self.read)).is_ok()
        {
            let mut reader = BufReader::new(file);
            let mut line = Vec::new();
            loop {
                line.clear();
                let bytes = reader.read_until(b'\n', &mut line).expect("read the events");
                // What the program has not written to its end is read the next time.
                let Some(event) = line.strip_suffix(b"\n") else { break };
                self.read += bytes as u64;
                self.take(std::str::from_utf8(event).expect("events are UTF-8"));
            }
        }
        &self.events
    }

    fn take(&mut self, line: &str) {
        if self.only.is_some_and(|only| !line.contains(only) && !line.starts_with("{\"gap\"")) {
            return;
        }
        let event: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in the event {line}"));
        if let Some(lost) = event["gap"].as_u64() {
            self.lost += lost;
            return;
        }
        let seq = event["seq"].as_u64().expect("an event has a number");
        self.events.insert(seq, event);
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
