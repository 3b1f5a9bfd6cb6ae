//! The server of `session.proto`: what viewers may ask, translated for the driver and the event store.
//!
//! It holds no state of the session: information is the latest of a watch, events come from readers of the store, and everything
//! that changes something is a request to the driver. `serve` accepts the connections and knows when the last viewer has gone.

mod serve;
mod stream;
#[cfg(test)]
mod tests;

use std::{os::unix::ffi::OsStringExt, path::PathBuf, pin::Pin};

use mirrord_protocol::session::v1::{self as wire, session_server};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

pub(crate) use self::serve::serve;
use crate::{
    config::Mode,
    events::{Events, strip_bodies},
    host::{Command, Denied, Reason, Reply, Stop, Terminal},
};

/// The server's end of a session.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    pub(crate) info: watch::Receiver<wire::SessionInfo>,
    pub(crate) events: Events,
    /// viewers --requests--> driver
    pub(crate) commands_tx: mpsc::Sender<Command>,
    /// viewers --stop--> driver
    pub(crate) stop_tx: mpsc::Sender<Stop>,
    /// The terminal of the command, when it has one.
    pub(crate) terminal: Option<Terminal>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Api {
    /// Asks the driver.
    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Status> {
        let (reply, answer) = oneshot::channel();
        let gone = || Status::unavailable("the session has ended");
        self.commands_tx.send(command(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?.map_err(Status::from)
    }

    /// The information with the newest counts.
    fn latest(&self) -> wire::SessionInfo {
        let mut info = self.info.borrow().clone();
        info.totals = Some(self.events.totals());
        info
    }
}

#[tonic::async_trait]
impl session_server::Session for Api {
    async fn info(&self, _: Request<wire::InfoRequest>) -> Result<Response<wire::SessionInfo>, Status> {
        Ok(Response::new(self.latest()))
    }

    type WatchStream = Answers<wire::SessionInfo>;

    async fn watch(&self, _: Request<wire::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(Box::pin(stream::infos(self.info.clone()))))
    }

    type EventsStream = Answers<wire::EventBatch>;

    async fn events(
        &self,
        request: Request<wire::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let request = request.into_inner();
        let kinds: Vec<_> = request.kinds().collect();
        if kinds.len() != request.kinds.len() {
            return Err(Status::invalid_argument("a kind of events is not known to this version"));
        }
        let reader = self.events.subscribe(request.from_seq, &kinds);
        Ok(Response::new(Box::pin(stream::events(reader, request.follow, request.bodies))))
    }

    async fn event(&self, request: Request<wire::EventRequest>) -> Result<Response<wire::Event>, Status> {
        let seq = request.into_inner().seq;
        let event = self.events.event(seq);
        let event = event.ok_or_else(|| Status::not_found(format!("event {seq} is not held any more")))?;
        Ok(Response::new((*event).clone()))
    }

    async fn histograms(
        &self,
        request: Request<wire::HistogramsRequest>,
    ) -> Result<Response<wire::HistogramsReply>, Status> {
        let kinds: Vec<_> = request.get_ref().kinds().collect();
        Ok(Response::new(wire::HistogramsReply { histograms: self.events.histograms(&kinds) }))
    }

    async fn set_mode(
        &self,
        request: Request<wire::SetModeRequest>,
    ) -> Result<Response<wire::SetModeReply>, Status> {
        let request = request.into_inner();
        let port = u16::try_from(request.port).ok().filter(|port| *port > 0);
        let port = port
            .ok_or_else(|| Status::invalid_argument(format!("{} is not a port, 1 to 65535", request.port)))?;
        let mode = match request.mode() {
            wire::Mode::Mirror => Mode::Mirror,
            wire::Mode::Steal => Mode::Steal,
            wire::Mode::Off => Mode::Off,
            wire::Mode::Unspecified => {
                return Err(Status::invalid_argument("the mode must be mirror, steal or off"));
            }
        };
        let port = self.ask(|reply| Command::SetMode { port, mode, reply }).await?;
        Ok(Response::new(wire::SetModeReply { port: Some(port) }))
    }

    async fn signal(
        &self,
        request: Request<wire::SignalRequest>,
    ) -> Result<Response<wire::SignalReply>, Status> {
        let number = request.into_inner().signal;
        // Linux has 64.
        let signal = i32::try_from(number).ok().filter(|signal| (1..=64).contains(signal));
        let signal =
            signal.ok_or_else(|| Status::invalid_argument(format!("{number} is not a signal, 1 to 64")))?;
        self.ask(|reply| Command::Signal { signal, reply }).await?;
        Ok(Response::new(wire::SignalReply {}))
    }

    async fn record(
        &self,
        request: Request<wire::RecordRequest>,
    ) -> Result<Response<wire::RecordReply>, Status> {
        let request = request.into_inner();
        let reply = if request.stop {
            self.ask(|reply| Command::StopRecording { reply }).await?
        } else {
            let path = PathBuf::from(std::ffi::OsString::from_vec(request.path.to_vec()));
            if !path.is_absolute() {
                // The host's working directory is not the viewer's.
                return Err(Status::invalid_argument("the path of a recording must be absolute"));
            }
            self.ask(|reply| Command::Record { path, reply }).await?
        };
        Ok(Response::new(reply))
    }

    async fn replay(
        &self,
        request: Request<wire::ReplayRequest>,
    ) -> Result<Response<wire::ReplayReply>, Status> {
        let request = Box::new(request.into_inner());
        self.ask(|reply| Command::Replay { request, reply }).await.map(Response::new)
    }

    type TerminalStream = Answers<wire::TerminalOutput>;

    async fn terminal(
        &self,
        request: Request<Streaming<wire::TerminalInput>>,
    ) -> Result<Response<Self::TerminalStream>, Status> {
        let Some(terminal) = &self.terminal else {
            return Err(Status::failed_precondition(
                "the command runs in the terminal that it was started from",
            ));
        };
        Ok(Response::new(Box::pin(stream::terminal(terminal, request.into_inner()))))
    }

    async fn stop(&self, request: Request<wire::StopRequest>) -> Result<Response<wire::StopReply>, Status> {
        let kill = request.into_inner().kill;
        // A full queue or a closed one: it is ending already.
        self.stop_tx.try_send(Stop::Asked { kill }).ok();
        Ok(Response::new(wire::StopReply {}))
    }
}

impl From<Denied> for Status {
    fn from(denied: Denied) -> Self {
        let code = match denied.reason {
            Reason::NotNow => tonic::Code::FailedPrecondition,
            Reason::NotFound => tonic::Code::NotFound,
            Reason::Invalid => tonic::Code::InvalidArgument,
            Reason::Failed => tonic::Code::Aborted,
        };
        Self::new(code, denied.text)
    }
}

/// An event for a list: bodies are asked for one by one.
fn row(event: &wire::Event) -> wire::Event {
    let mut event = event.clone();
    strip_bodies(&mut event);
    event
}
