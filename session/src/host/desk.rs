//! What the driver works with beside the parts of the session, from its first step to its last: viewers' requests, status, events,
//! recording.

use std::path::PathBuf;

use mirrord_protocol::session::v1 as wire;
use tokio::{sync::mpsc, time::timeout};

use super::{
    requests::{Admission, Command, Denied, Reason},
    status::Status,
    world::Failure,
};
use crate::{events::Events, http::HttpTaps, jsonl::Header, limits::STEP_TIMEOUT, recording::Recorder};

/// Why the session shall end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// A viewer asked; `kill`: without SIGTERM first.
    Asked { kill: bool },
    /// A signal came.
    Signal,
    /// The one for whom the session runs has gone.
    OwnerGone,
}

/// What the driver needs beside the parts.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) status: Status,
    pub(crate) events: Events,
    pub(crate) taps: HttpTaps,
    /// viewers --requests--> driver
    pub(crate) commands_rx: mpsc::Receiver<Command>,
    /// viewers, signals, owner --stop--> driver
    pub(crate) stop_rx: mpsc::Receiver<Stop>,
    /// The command line, for the process list.
    pub(crate) command: Vec<bytes::Bytes>,
    /// First line of recordings.
    pub(crate) header: Header,
    /// Recording from the start.
    pub(crate) record: Option<PathBuf>,
    /// The recording that is being written.
    pub(crate) recorder: Option<Recorder>,
    /// Removed at the end, before the last word to viewers.
    pub(crate) dir: PathBuf,
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    /// Nothing of the command is left.
    Done,
    /// Somebody wanted it.
    Stopped(Stop),
    /// Something went wrong.
    Failed(Failure),
}

/// A request before there is anything that could carry it out.
pub(super) fn refuse_early(command: Command, admission: &mut Admission) {
    let denied = admission
        .admit(command.kind())
        .err()
        .unwrap_or_else(|| Denied::new(Reason::NotNow, "the session is not running yet"));
    command.deny(denied);
}

impl Desk {
    /// Begins to record.
    pub(super) fn start_recording(&mut self, path: PathBuf) -> Result<wire::RecordReply, Denied> {
        if let Some(running) = &self.recorder {
            let text = format!("the session is being recorded to {} already", running.path().display());
            return Err(Denied::new(Reason::NotNow, text));
        }
        let recorder = Recorder::start(&path, &self.header, &self.events)
            .map_err(|error| Denied::new(Reason::Failed, Failure::caused(&error, "").text))?;
        self.recorder = Some(recorder);
        self.status.change(|info| info.recording = path.display().to_string());
        Ok(wire::RecordReply { path: path.into_os_string().into_encoded_bytes().into(), events: 0 })
    }

    /// Ends a recording, if there is one.
    pub(super) async fn finish_recording(&mut self) -> Result<wire::RecordReply, Denied> {
        let Some(recorder) = self.recorder.take() else {
            return Err(Denied::new(Reason::NotFound, "the session is not being recorded"));
        };
        let path = recorder.path().to_owned();
        let finished = timeout(STEP_TIMEOUT, recorder.finish()).await;
        self.status.change(|info| info.recording.clear());
        match finished {
            Ok(Ok(events)) => {
                Ok(wire::RecordReply { path: path.into_os_string().into_encoded_bytes().into(), events })
            }
            Ok(Err(error)) => Err(Denied::new(Reason::Failed, Failure::caused(&error, "").text)),
            Err(_) => {
                let text = format!("the last events could not be written to {} in time", path.display());
                Err(Denied::new(Reason::Failed, text))
            }
        }
    }
}
