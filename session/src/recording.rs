//! A session's events in a file: written while it runs, read by `open`.
//!
//! The format is [`crate::jsonl`]. The writer is a reader of the event store like any viewer, so a slow disk costs the session
//! nothing: what leaves the ring unwritten is marked by a gap line with its count. Every row is written when the event comes and
//! again when it has changed, so the file is whole up to its last line whatever happens to the host.

use std::{
    fs::{File, OpenOptions, Permissions},
    io::{self, BufRead, BufReader, BufWriter, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use mirrord_protocol::session::v1 as wire;
use thiserror::Error;
use tokio::{runtime::Handle, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    events::{Batch, Events, Reader},
    jsonl::{self, DecodeError, Header, Line},
    limits::{RECORDING_LINE_BYTES, VIEWER_BATCH},
};

/// Why a recording cannot be written or read.
#[derive(Debug, Error)]
pub enum RecordingError {
    /// The file cannot be made.
    #[error("the recording {} cannot be created", path.display())]
    Create {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A row could not be written.
    #[error("the recording {} cannot be written", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file cannot be read.
    #[error("the recording {} cannot be read", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line makes no sense.
    #[error("line {number} of {} is not a line of a recording", path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        number: u64,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// It is some other file.
    #[error("{} is not a recording: its first line does not say so", path.display())]
    NotOne {
        /// Which file.
        path: PathBuf,
    },
    /// The writer ended by a panic.
    #[error("the writer of the recording {} broke down", path.display())]
    Broken {
        /// Which file.
        path: PathBuf,
    },
}

/// A recording that is being written.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    stop: CancellationToken,
    writer: JoinHandle<Result<u64, RecordingError>>,
}

impl Recorder {
    /// Creates the file with mode 0600 and begins with everything that the store still holds.
    ///
    /// # Errors
    /// [`RecordingError::Create`], [`RecordingError::Write`].
    pub fn start(path: &Path, header: &Header, events: &Events) -> Result<Self, RecordingError> {
        let file = create(path).map_err(|source| RecordingError::Create { path: path.to_owned(), source })?;
        let mut writer = BufWriter::new(file);
        writeln!(writer, "{}", jsonl::encode_header(header))
            .and_then(|()| writer.flush())
            .map_err(|source| RecordingError::Write { path: path.to_owned(), source })?;
        let stop = CancellationToken::new();
        let (reader, events) = (events.subscribe(0, &[]), events.clone());
        let (token, owned) = (stop.clone(), path.to_owned());
        // Writing blocks, and may do so for long.
        let writer = Handle::current().spawn_blocking(move || {
            let written = write(writer, reader, &token, &Handle::current());
            written.map_err(|source| {
                events.warn(
                    format!("the recording {} has ended: {source}", owned.display()),
                    "free some space or record to another file",
                );
                RecordingError::Write { path: owned, source }
            })
        });
        Ok(Self { path: path.to_owned(), stop, writer })
    }

    /// Where it goes.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes what has happened up to now, closes the file and says how many rows it holds.
    ///
    /// # Errors
    /// The one that ended the recording before.
    pub async fn finish(self) -> Result<u64, RecordingError> {
        self.stop.cancel();
        let path = self.path;
        self.writer.await.unwrap_or(Err(RecordingError::Broken { path }))
    }
}

fn create(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    // The mode above counts for new files only.
    if file.metadata()?.is_file() {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

/// Writes until the store is closed or `stop`, then what is left.
fn write(
    mut to: BufWriter<File>,
    mut reader: Reader,
    stop: &CancellationToken,
    runtime: &Handle,
) -> io::Result<u64> {
    let (mut rows, mut lost) = (0, 0);
    loop {
        let next = runtime.block_on(async {
            tokio::select! {
                biased;
                () = stop.cancelled() => None,
                batch = reader.next(VIEWER_BATCH) => batch,
            }
        });
        let Some(batch) = next else { break };
        write_batch(&mut to, &batch, &mut rows, &mut lost)?;
    }
    while let crate::events::Taken::Some(batch) = reader.take(VIEWER_BATCH) {
        write_batch(&mut to, &batch, &mut rows, &mut lost)?;
    }
    Ok(rows)
}

fn write_batch(to: &mut BufWriter<File>, batch: &Batch, rows: &mut u64, lost: &mut u64) -> io::Result<()> {
    if batch.dropped > *lost {
        writeln!(to, "{}", jsonl::encode_gap(batch.dropped - *lost))?;
        *lost = batch.dropped;
    }
    for event in &batch.events {
        writeln!(to, "{}", jsonl::encode(event))?;
    }
    *rows += batch.events.len() as u64;
    to.flush()
}

/// The lines of a recording, one after the other.
#[derive(Debug)]
pub struct Lines {
    path: PathBuf,
    file: BufReader<File>,
    number: u64,
    buffer: Vec<u8>,
}

/// Opens a recording and reads its first line.
///
/// # Errors
/// [`RecordingError::Read`], [`RecordingError::NotOne`], [`RecordingError::Line`] for a later version.
pub fn open(path: &Path) -> Result<(Header, Lines), RecordingError> {
    let file = File::open(path).map_err(|source| RecordingError::Read { path: path.to_owned(), source })?;
    let mut lines =
        Lines { path: path.to_owned(), file: BufReader::new(file), number: 0, buffer: Vec::new() };
    match lines.next() {
        Some(Ok(Line::Header(header))) => Ok((header, lines)),
        Some(Err(
            error @ (RecordingError::Read { .. }
            | RecordingError::Line { source: DecodeError::Version { .. }, .. }),
        )) => Err(error),
        _ => Err(RecordingError::NotOne { path: path.to_owned() }),
    }
}

impl Iterator for Lines {
    type Item = Result<Line, RecordingError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.buffer.clear();
        self.number += 1;
        let mut limited = io::Read::take(&mut self.file, RECORDING_LINE_BYTES);
        match limited.read_until(b'\n', &mut self.buffer) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(source) => return Some(Err(RecordingError::Read { path: self.path.clone(), source })),
        }
        let whole = self.buffer.last() == Some(&b'\n');
        match jsonl::decode(&String::from_utf8_lossy(&self.buffer)) {
            Ok(line) => Some(Ok(line)),
            // The host was killed while it wrote the last line.
            Err(DecodeError::Json(_)) if !whole && self.number > 1 => None,
            Err(source) => {
                Some(Err(RecordingError::Line { path: self.path.clone(), number: self.number, source }))
            }
        }
    }
}

/// A recording in memory.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// What was recorded.
    pub header: Header,
    /// The events in their last form, in order.
    pub events: Vec<wire::Event>,
    /// Events that the recording has lost.
    pub lost: u64,
}

/// Reads a whole recording.
///
/// # Errors
/// [`RecordingError`].
pub fn load(path: &Path) -> Result<Recording, RecordingError> {
    let (header, lines) = open(path)?;
    let mut recording = Recording { header, ..Recording::default() };
    for line in lines {
        match line? {
            Line::Header(_) => {}
            Line::Gap(events) => recording.lost += events,
            Line::Event(event) => {
                let events = &mut recording.events;
                match events.binary_search_by_key(&event.seq, |known| known.seq) {
                    Ok(known) => {
                        if let Some(known) = events.get_mut(known) {
                            *known = *event;
                        }
                    }
                    Err(place) => events.insert(place, *event),
                }
            }
        }
    }
    Ok(recording)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Limits;

    fn header() -> Header {
        Header { recording: jsonl::VERSION, session: "a1".to_owned(), ..Header::default() }
    }

    fn event(subject: &str) -> wire::Event {
        wire::Event { kind: wire::Kind::File.into(), subject: subject.to_owned(), ..wire::Event::default() }
    }

    #[tokio::test]
    async fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        std::fs::write(&path, "something older that others may read").unwrap();
        let events = Events::new();
        let pending = events.emit(wire::Event { pending: true, ..event("first") });
        let recorder = Recorder::start(&path, &header(), &events).unwrap();
        for n in 0..5_000 {
            events.emit(event(&n.to_string()));
        }
        events.update(pending, |event| event.pending = false);
        let rows = recorder.finish().await.unwrap();
        assert!((5_001..=5_002).contains(&rows));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let recording = load(&path).unwrap();
        assert_eq!((recording.header, recording.lost), (header(), 0));
        let held: Vec<_> =
            (1..=5_001).filter_map(|seq| events.event(seq)).map(|event| (*event).clone()).collect();
        assert!(recording.events == held);
    }

    #[tokio::test]
    async fn what_is_lost_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let events = Events::with_limits(Limits { events: 10, ..Limits::default() });
        // A single-threaded runtime: the writer's first look comes after all of these.
        for n in 0..100 {
            events.emit(event(&n.to_string()));
        }
        let recorder = Recorder::start(&path, &header(), &events).unwrap();
        for n in 0..100 {
            events.emit(event(&n.to_string()));
        }
        let rows = recorder.finish().await.unwrap();
        let recording = load(&path).unwrap();
        assert_eq!((recording.events.len() as u64, rows + recording.lost), (rows, 110));
    }

    #[tokio::test]
    async fn the_end_of_the_session_ends_it_and_a_cut_line_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let events = Events::new();
        let recorder = Recorder::start(&path, &header(), &events).unwrap();
        events.emit(event("one"));
        events.emit(event("two"));
        events.close();
        assert_eq!(recorder.finish().await.unwrap(), 2);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 9]).unwrap();
        assert_eq!(load(&path).unwrap().events.len(), 1);
        std::fs::write(&path, "{\"a\":1}\n").unwrap();
        assert!(matches!(load(&path), Err(RecordingError::NotOne { .. })));
        std::fs::write(&path, "{\"recording\":99}\n").unwrap();
        assert!(matches!(load(&path), Err(RecordingError::Line { number: 1, .. })));
        assert!(matches!(load(dir.path()), Err(RecordingError::Read { .. })));
        assert!(matches!(
            Recorder::start(dir.path(), &header(), &events),
            Err(RecordingError::Create { .. })
        ));
    }
}
