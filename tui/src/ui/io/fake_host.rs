//! A session host that only answers as it is told, on a socket, and a machine with one such session. Also a storm of events for the
//! benchmark.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use mirrord_protocol::session::v1::{
    self as wire, Event, EventBatch, EventRequest, InfoRequest, RecordRequest, ReplayRequest, SessionInfo,
    SetModeRequest, StopRequest, TerminalInput,
    session_server::{Session, SessionServer},
};
use mirrord_session::{config::Config, spec::SessionSpec, target::Target};
use tokio::{
    sync::{Notify, mpsc},
    time::interval,
};
use tokio_stream::{
    Stream, StreamExt,
    wrappers::{ReceiverStream, UnixListenerStream},
};
use tonic::{Request, Response, Status, Streaming, transport::Server};

use crate::ui::{
    fake,
    model::{
        form::LaunchRequest,
        pick::PlaceKind,
        targets::{Look, Place, TargetRow},
    },
    services::{Boxed, Client, NoSession, Services},
};

type Answers<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What the fake host has been asked, and what it shall say.
#[derive(Default)]
pub(super) struct Told {
    /// In words, in order.
    pub(super) asked: Mutex<Vec<String>>,
    /// The first `Events` streams end with an error after so many events each.
    pub(super) breaks: Mutex<VecDeque<usize>>,
    /// Its streams end as those of a host that ends in order do.
    pub(super) over: Notify,
    pub(super) ended: AtomicBool,
    /// Events a second, for the benchmark; 0: those of the tests.
    pub(super) storm: u64,
    pub(super) calm: AtomicBool,
    pub(super) sent: AtomicU64,
}

impl Told {
    fn note(&self, what: String) {
        self.asked.lock().unwrap().push(what);
    }
}

#[derive(Clone)]
struct FakeHost(Arc<Told>);

#[tonic::async_trait]
impl Session for FakeHost {
    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<SessionInfo>, Status> {
        Ok(Response::new(fake::info(wire::Mode::Mirror)))
    }

    type WatchStream = Answers<SessionInfo>;

    async fn watch(&self, _: Request<wire::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let told = Arc::clone(&self.0);
        let (tx, rx) = mpsc::channel(4);
        #[expect(
            clippy::disallowed_methods,
            reason = "it ends with its stream, and the test with its runtime"
        )]
        tokio::task::spawn(async move {
            let mut info = fake::info(wire::Mode::Mirror);
            drop(tx.send(Ok(info.clone())).await);
            tokio::select! {
                () = told.over.notified() => {
                    told.ended.store(true, Ordering::Relaxed);
                    info.set_state(wire::State::Ended);
                    drop(tx.send(Ok(info)).await);
                }
                () = tx.closed() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
    }

    type EventsStream = Answers<EventBatch>;

    async fn events(
        &self,
        request: Request<wire::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let from = request.into_inner().from_seq;
        self.0.note(format!("events from {from}"));
        if self.0.storm > 0 {
            let (tx, rx) = mpsc::channel(4);
            #[expect(
                clippy::disallowed_methods,
                reason = "it ends with its stream, and the test with its runtime"
            )]
            tokio::task::spawn(storm(Arc::clone(&self.0), tx));
            return Ok(Response::new(Box::pin(ReceiverStream::new(rx))));
        }
        let breaks_after = self.0.breaks.lock().unwrap().pop_front();
        let count = breaks_after.unwrap_or(40);
        let events: Vec<_> = (1..=40).filter(|seq| *seq >= from).take(count).map(fake::event).collect();
        let last_seq = events.last().map_or(0, |event| event.seq);
        let batch = Ok(EventBatch { events, dropped: 0, last_seq });
        let rest: Answers<EventBatch> = match breaks_after {
            Some(_) => Box::pin(tokio_stream::once(Err(Status::unavailable("the line was cut")))),
            None => Box::pin(tokio_stream::pending()),
        };
        Ok(Response::new(Box::pin(tokio_stream::once(batch).chain(rest))))
    }

    async fn event(&self, request: Request<EventRequest>) -> Result<Response<Event>, Status> {
        let seq = request.into_inner().seq;
        self.0.note(format!("event {seq}"));
        Ok(Response::new(fake::event(seq)))
    }

    async fn histograms(
        &self,
        _: Request<wire::HistogramsRequest>,
    ) -> Result<Response<wire::HistogramsReply>, Status> {
        Ok(Response::new(wire::HistogramsReply::default()))
    }

    async fn set_mode(
        &self,
        request: Request<SetModeRequest>,
    ) -> Result<Response<wire::SetModeReply>, Status> {
        let request = request.into_inner();
        self.0.note(format!("port {} to {:?}", request.port, request.mode()));
        match request.mode() {
            wire::Mode::Off => Err(Status::aborted("the agent said no")),
            mode => Ok(Response::new(wire::SetModeReply { port: fake::info(mode).ports.pop() })),
        }
    }

    async fn signal(&self, _: Request<wire::SignalRequest>) -> Result<Response<wire::SignalReply>, Status> {
        Ok(Response::new(wire::SignalReply {}))
    }

    async fn record(&self, request: Request<RecordRequest>) -> Result<Response<wire::RecordReply>, Status> {
        let request = request.into_inner();
        self.0.note(format!("record {} {}", String::from_utf8_lossy(&request.path), request.stop));
        Ok(Response::new(wire::RecordReply { path: request.path, events: 7 }))
    }

    async fn replay(&self, request: Request<ReplayRequest>) -> Result<Response<wire::ReplayReply>, Status> {
        let request = request.into_inner();
        let headers: Vec<_> = request.headers.iter().map(|header| header.name.as_str()).collect();
        self.0.note(format!(
            "replay {} {:?} {} {} {headers:?} {:?}",
            request.seq, request.edited, request.method, request.path, request.body
        ));
        Ok(Response::new(wire::ReplayReply { seq: 41, status: 201 }))
    }

    type TerminalStream = Answers<wire::TerminalOutput>;

    async fn terminal(
        &self,
        request: Request<Streaming<TerminalInput>>,
    ) -> Result<Response<Self::TerminalStream>, Status> {
        let told = Arc::clone(&self.0);
        // What is typed comes back, as a terminal with echo does it.
        let echo = request.into_inner().map(move |input| {
            let input = input?;
            told.note(format!("typed {:?} {}x{}", input.data, input.columns, input.rows));
            Ok(wire::TerminalOutput { data: input.data, ended: false })
        });
        let greeting = wire::TerminalOutput { data: "$ ".into(), ended: false };
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(greeting)).chain(echo))))
    }

    async fn stop(&self, _: Request<StopRequest>) -> Result<Response<wire::StopReply>, Status> {
        self.0.note("stop".to_owned());
        self.0.over.notify_one();
        Ok(Response::new(wire::StopReply {}))
    }
}

/// A machine with one session, whose host listens on `socket`.
pub(super) struct FakeMachine {
    pub(super) socket: PathBuf,
    pub(super) told: Arc<Told>,
    pub(super) started: Mutex<Vec<SessionSpec>>,
    pub(super) looked: Mutex<Option<Place>>,
}

pub(super) fn spec() -> SessionSpec {
    let target = Target::Local("shop-orders".to_owned());
    let mut spec = SessionSpec::for_caller(target, Config::default(), vec!["node".into()]).unwrap();
    spec.id = "k7m2p".to_owned();
    spec
}

impl Services for FakeMachine {
    fn connect<'a>(&'a self, id: &'a str) -> Boxed<'a, Result<Client, NoSession>> {
        Box::pin(async move {
            let gone = self.told.ended.load(Ordering::Relaxed)
                || !["k7m2p", "storm"].iter().any(|own| own.starts_with(id));
            if gone {
                return Err(NoSession { reason: format!("there is no session `{id}`"), gone: true });
            }
            let socket = self.socket.clone();
            let connector = tower::service_fn(move |_| {
                let socket = socket.clone();
                async move { tokio::net::UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
            });
            let endpoint = tonic::transport::Endpoint::from_static("http://session.local");
            let connected = endpoint.connect_with_connector(connector).await;
            connected.map(Client::new).map_err(|error| NoSession { reason: error.to_string(), gone: false })
        })
    }

    fn sessions(&self) -> Result<Vec<String>, String> {
        let ended = self.told.ended.load(Ordering::Relaxed);
        Ok(if ended { Vec::new() } else { vec!["k7m2p".to_owned()] })
    }

    fn targets(&self) -> Vec<(&'static str, Result<Vec<TargetRow>, String>)> {
        vec![(
            "local pods",
            Ok(vec![TargetRow { reference: "local/shop".to_owned(), ..TargetRow::default() }]),
        )]
    }

    fn place(&self) -> Option<Place> {
        self.looked.lock().unwrap().clone()
    }

    fn look_at(&self, look: Look) {
        let namespace = match look {
            Look::Namespace(name) => Some(name),
            Look::AllNamespaces | Look::Context(_) => None,
        };
        let place = Place { context: "dev".to_owned(), namespace, answered: true };
        *self.looked.lock().unwrap() = Some(place);
    }

    fn places(&self, kind: PlaceKind) -> Boxed<'_, Result<Vec<String>, String>> {
        Box::pin(async move {
            match kind {
                PlaceKind::Namespace => Ok(vec!["default".to_owned(), "shop".to_owned()]),
                PlaceKind::Context => Err("there is no kubeconfig".to_owned()),
            }
        })
    }

    fn spec(&self, _: &str) -> Option<SessionSpec> {
        Some(spec())
    }

    fn start(&self, spec: SessionSpec) -> Boxed<'_, Result<String, String>> {
        let id = spec.id.clone();
        self.started.lock().unwrap().push(spec);
        Box::pin(async move { Ok(id) })
    }

    fn launch<'a>(&'a self, _: &'a LaunchRequest) -> Boxed<'a, Result<String, String>> {
        Box::pin(async move { Err("the pod is gone".to_owned()) })
    }
}

/// A host for the benchmark, on a thread of its own: it sends events at a steady rate, and counts what the connection leaves out.
pub(in crate::ui) struct Storm {
    machine: Arc<FakeMachine>,
    told: Arc<Told>,
    runtime: Option<tokio::runtime::Runtime>,
    _folder: tempfile::TempDir,
}

impl Storm {
    /// Listens, and sends `rate` events a second to whoever watches.
    pub(in crate::ui) fn serve(rate: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("host.sock");
        let told = Arc::new(Told { storm: rate, ..Told::default() });
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = {
            let _runtime = runtime.enter();
            tokio::net::UnixListener::bind(&socket).unwrap()
        };
        runtime.spawn(serve(Arc::clone(&told), listener));
        let machine = Arc::new(FakeMachine {
            socket,
            told: Arc::clone(&told),
            started: Mutex::default(),
            looked: Mutex::default(),
        });
        Self { machine, told, runtime: Some(runtime), _folder: folder }
    }

    pub(in crate::ui) fn services(&self) -> Arc<dyn Services> {
        Arc::clone(&self.machine) as Arc<dyn Services>
    }

    /// No more events; what is under way arrives.
    pub(in crate::ui) async fn stop(&self) {
        self.told.calm.store(true, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }

    /// Events sent or left out so far.
    pub(in crate::ui) fn sent(&self) -> u64 {
        self.told.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub(super) async fn serve(told: Arc<Told>, listener: tokio::net::UnixListener) {
    let host = SessionServer::new(FakeHost(told));
    Server::builder().serve_with_incoming(host, UnixListenerStream::new(listener)).await.unwrap();
}

/// Batches at a steady rate. Rows that find the queue to the viewer full are left out and counted, as the real host does it.
async fn storm(told: Arc<Told>, tx: mpsc::Sender<Result<EventBatch, Status>>) {
    const TICK: Duration = Duration::from_millis(10);
    let (mut seq, mut dropped) = (0, 0);
    let mut ticks = interval(TICK);
    let per_tick = told.storm * 10 / 1_000;
    let samples: Vec<_> = (1..=1_000).map(fake::event).collect();
    while !told.calm.load(Ordering::Relaxed) {
        ticks.tick().await;
        let numbers = seq + 1..=seq + per_tick;
        seq += per_tick;
        told.sent.store(seq, Ordering::Relaxed);
        let Ok(place) = tx.try_reserve() else {
            dropped += per_tick;
            continue;
        };
        let events = numbers.zip(samples.iter().cycle()).map(|(seq, event)| Event { seq, ..event.clone() });
        place.send(Ok(EventBatch { events: events.collect(), dropped, last_seq: seq }));
    }
    // The last batch says what was left out before it.
    drop(tx.send(Ok(EventBatch { events: Vec::new(), dropped, last_seq: seq })).await);
    tx.closed().await;
}
