//! Events as JSON lines: `--output jsonl`, recordings and whatever reads them. The format is described in `assets/recording.md`.
//!
//! Names are stable and only grow; what is empty is left out. Bytes are text when they are UTF-8, else `{"base64": ".."}`.

mod detail;
mod scalar;

use mirrord_protocol::session::v1 as wire;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use self::{
    detail::Detail,
    scalar::{Data, is_default, kind_name, kind_of},
};

/// Version of the format, in the first line of a recording.
pub const VERSION: u32 = 1;

/// One line of a recording.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// The first line.
    Header(Header),
    /// An event; a later line with the same `seq` replaces it.
    Event(Box<wire::Event>),
    /// So many events are missing here.
    Gap(u64),
}

/// First line of a recording: what was recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the format.
    pub recording: u32,
    /// Version of the program.
    #[serde(default)]
    pub program: String,
    /// Id of the session.
    #[serde(default)]
    pub session: String,
    /// Its target.
    #[serde(default)]
    pub target: String,
    /// Command and arguments, secrets masked.
    #[serde(default)]
    pub command: Vec<String>,
    /// Start of the session, milliseconds since the epoch.
    #[serde(default)]
    pub started_ms: i64,
}

/// Why a text is not a line of a recording.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// Not JSON, or a field has the wrong type.
    #[error("the line is not an event in JSON")]
    Json(#[source] serde_json::Error),
    /// Written by a later version.
    #[error("the recording has format {found}, this program reads up to {VERSION}")]
    Version {
        /// What the first line says.
        found: u32,
    },
    /// The kind of the event is not known.
    #[error("`{0}` is not a kind of event")]
    Kind(String),
}

/// The event as one line of JSON, without the line end.
#[must_use]
pub fn encode(event: &wire::Event) -> String {
    to_line(&Row::from(event))
}

/// The first line of a recording.
#[must_use]
pub fn encode_header(header: &Header) -> String {
    to_line(header)
}

/// The line that says that events are missing.
#[must_use]
pub fn encode_gap(events: u64) -> String {
    to_line(&Gap { gap: events })
}

/// What a line of a recording says.
///
/// # Errors
/// [`DecodeError`]; fields that are not known are skipped.
pub fn decode(line: &str) -> Result<Line, DecodeError> {
    let form: Form = serde_json::from_str(line).map_err(DecodeError::Json)?;
    match form {
        Form { recording: Some(found), .. } if found > VERSION => Err(DecodeError::Version { found }),
        Form { recording: Some(_), .. } => {
            serde_json::from_str(line).map(Line::Header).map_err(DecodeError::Json)
        }
        Form { gap: Some(events), .. } => Ok(Line::Gap(events)),
        Form { .. } => {
            let row: Row = serde_json::from_str(line).map_err(DecodeError::Json)?;
            Ok(Line::Event(Box::new(row.try_into()?)))
        }
    }
}

fn to_line(value: &impl Serialize) -> String {
    // Only maps with keys that are no strings, and failing writers, make this fail.
    serde_json::to_string(value).unwrap_or_default()
}

/// What tells the three forms of a line apart.
#[derive(Deserialize)]
struct Form {
    recording: Option<u32>,
    gap: Option<u64>,
}

#[derive(Serialize)]
struct Gap {
    gap: u64,
}

/// An event as it is written.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Row {
    seq: u64,
    time_ns: i64,
    #[serde(skip_serializing_if = "is_default")]
    monotonic_ns: u64,
    kind: String,
    subject: String,
    #[serde(skip_serializing_if = "is_default")]
    error: String,
    #[serde(skip_serializing_if = "is_default")]
    pending: bool,
    #[serde(skip_serializing_if = "is_default")]
    latency_ns: u64,
    #[serde(skip_serializing_if = "is_default")]
    bytes: u64,
    #[serde(skip_serializing_if = "is_default")]
    pid: u32,
    #[serde(skip_serializing_if = "is_default")]
    tid: u32,
    #[serde(skip_serializing_if = "is_default")]
    comm: Data,
    #[serde(skip_serializing_if = "is_default")]
    connection_id: u64,
    #[serde(skip_serializing_if = "is_default")]
    pod: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision: Option<Decision>,
    #[serde(flatten)]
    detail: Option<Detail>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Decision {
    #[serde(rename = "where")]
    place: scalar::Where,
    #[serde(skip_serializing_if = "is_default")]
    rule: String,
}

impl From<&wire::Event> for Row {
    fn from(event: &wire::Event) -> Self {
        Self {
            seq: event.seq,
            time_ns: event.time_ns,
            monotonic_ns: event.monotonic_ns,
            kind: kind_name(event.kind()).to_owned(),
            subject: event.subject.clone(),
            error: event.error.clone(),
            pending: event.pending,
            latency_ns: event.latency_ns,
            bytes: event.bytes,
            pid: event.pid,
            tid: event.tid,
            comm: Data::from(&event.comm),
            connection_id: event.connection,
            pod: event.pod.clone(),
            decision: event
                .decision
                .as_ref()
                .map(|decision| Decision { place: decision.r#where().into(), rule: decision.rule.clone() }),
            detail: event.detail.as_ref().map(Detail::from),
        }
    }
}

impl TryFrom<Row> for wire::Event {
    type Error = DecodeError;

    fn try_from(row: Row) -> Result<Self, DecodeError> {
        Ok(Self {
            seq: row.seq,
            time_ns: row.time_ns,
            monotonic_ns: row.monotonic_ns,
            kind: kind_of(&row.kind).ok_or(DecodeError::Kind(row.kind))?.into(),
            subject: row.subject,
            error: row.error,
            pending: row.pending,
            latency_ns: row.latency_ns,
            bytes: row.bytes,
            pid: row.pid,
            tid: row.tid,
            comm: row.comm.into(),
            connection: row.connection_id,
            pod: row.pod,
            decision: row.decision.map(|decision| wire::Decision {
                r#where: wire::Where::from(decision.place).into(),
                rule: decision.rule,
            }),
            detail: row.detail.map(Detail::into),
        })
    }
}

#[cfg(test)]
mod tests;
