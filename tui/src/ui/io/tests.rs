//! The side that does I/O against a session host that only answers as it is told: what effects ask of it, what becomes of a
//! connection that breaks, and what the loop is told.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Mutex, atomic::AtomicBool},
};

use mirrord_protocol::session::v1::{
    self as wire, SessionInfo,
    session_server::{Session, SessionServer},
};
use mirrord_session::{config::Config, target::Target};
use tokio::sync::Notify;
use tokio_stream::{
    Stream, StreamExt,
    wrappers::{ReceiverStream, UnixListenerStream},
};
use tonic::{Request, Response, Status, Streaming, transport::Server};

use super::*;
use crate::ui::{
    fake,
    model::targets::TargetRow,
    services::{Boxed, NoSession},
};

type Answers<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What the fake host has been asked, and what it shall say.
#[derive(Default)]
struct Told {
    /// In words, in order.
    asked: Mutex<Vec<String>>,
    /// The first `Events` streams end with an error after so many events each.
    breaks: Mutex<VecDeque<usize>>,
    /// Its streams end as those of a host that ends in order do.
    over: Notify,
    ended: AtomicBool,
    /// Events a second, for the benchmark; 0: those of the tests.
    storm: u64,
    calm: AtomicBool,
    sent: AtomicU64,
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
                    told.ended.store(true, std::sync::atomic::Ordering::Relaxed);
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

    async fn restart(
        &self,
        _: Request<wire::RestartRequest>,
    ) -> Result<Response<wire::RestartReply>, Status> {
        Err(Status::unimplemented("a session runs its command once"))
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
struct FakeMachine {
    socket: PathBuf,
    told: Arc<Told>,
    started: Mutex<Vec<SessionSpec>>,
}

fn spec() -> SessionSpec {
    let target = Target::Local("shop-orders".to_owned());
    let mut spec = SessionSpec::for_caller(target, Config::default(), vec!["node".into()]).unwrap();
    spec.id = "k7m2p".to_owned();
    spec
}

impl Services for FakeMachine {
    fn connect<'a>(&'a self, id: &'a str) -> Boxed<'a, Result<Client, NoSession>> {
        Box::pin(async move {
            let gone = self.told.ended.load(std::sync::atomic::Ordering::Relaxed)
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
        let ended = self.told.ended.load(std::sync::atomic::Ordering::Relaxed);
        Ok(if ended { Vec::new() } else { vec!["k7m2p".to_owned()] })
    }

    fn targets(&self) -> Vec<(&'static str, Result<Vec<TargetRow>, String>)> {
        vec![(
            "local pods",
            Ok(vec![TargetRow { reference: "local/shop".to_owned(), ..TargetRow::default() }]),
        )]
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

/// I/O beside a fake host: effects go in, messages come out.
struct Stage {
    told: Arc<Told>,
    machine: Arc<FakeMachine>,
    effects: mpsc::Sender<Effect>,
    msgs: mpsc::Receiver<Msg>,
    folder: tempfile::TempDir,
    _tasks: JoinSet<()>,
}

impl Stage {
    fn new(breaks: &[usize]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("host.sock");
        let told = Arc::new(Told { breaks: Mutex::new(breaks.iter().copied().collect()), ..Told::default() });
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(Arc::clone(&told), listener));
        let machine = Arc::new(FakeMachine { socket, told: Arc::clone(&told), started: Mutex::default() });
        let (msgs_tx, msgs) = mpsc::channel(limits::MESSAGES);
        let (effects, effects_rx) = mpsc::channel(limits::EFFECTS);
        tasks.spawn(Io::new(Arc::clone(&machine) as Arc<dyn Services>, msgs_tx).run(effects_rx));
        Self { told, machine, effects, msgs, folder, _tasks: tasks }
    }

    async fn attached(breaks: &[usize]) -> Self {
        let stage = Self::new(breaks);
        stage.does(Effect::Attach { generation: 1, id: "k7m2p".to_owned() }).await;
        stage
    }

    async fn does(&self, effect: Effect) {
        self.effects.send(effect).await.unwrap();
    }

    /// The next message that `wanted` takes something from.
    async fn hears<T>(&mut self, what: &str, mut wanted: impl FnMut(Msg) -> Option<T>) -> T {
        let hearing = async {
            loop {
                if let Some(found) = wanted(self.msgs.recv().await.unwrap()) {
                    return found;
                }
            }
        };
        timeout(limits::SLOW_CALL, hearing).await.unwrap_or_else(|_| panic!("no message: {what}"))
    }

    async fn notice(&mut self, level: Level) -> String {
        self.hears("a notice", |msg| match msg {
            Msg::Notice(found, text) if found == level => Some(text),
            _ => None,
        })
        .await
    }

    fn asked(&self) -> Vec<String> {
        self.told.asked.lock().unwrap().clone()
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }
}

fn events(msg: Msg) -> Option<Vec<u64>> {
    match msg {
        Msg::Host { said: HostMsg::Events(batch), .. } => {
            Some(batch.events.iter().map(|event| event.seq).collect())
        }
        _ => None,
    }
}

#[tokio::test]
async fn a_session_is_shown_from_its_beginning() {
    let mut stage = Stage::attached(&[]).await;
    stage
        .hears("the connection", |msg| {
            matches!(msg, Msg::Host { generation: 1, said: HostMsg::Connected }).then_some(())
        })
        .await;
    assert_eq!(stage.hears("events", events).await, (1..=40).collect::<Vec<_>>());
    assert_eq!(stage.asked(), ["events from 0"]);
}

#[tokio::test]
async fn a_broken_connection_goes_on_where_it_broke() {
    let mut stage = Stage::attached(&[10, 5]).await;
    assert_eq!(stage.hears("events", events).await, (1..=10).collect::<Vec<_>>());
    let attempt = stage
        .hears("that it is tried again", |msg| match msg {
            Msg::Host { said: HostMsg::Retrying { attempt, reason }, .. } => Some((attempt, reason)),
            _ => None,
        })
        .await;
    assert_eq!(attempt.0, 1);
    assert!(attempt.1.contains("the line was cut"), "{attempt:?}");
    // Events before the break may have changed meanwhile: they come again, and the store takes them as changes.
    assert_eq!(stage.hears("events", events).await, (1..=5).collect::<Vec<_>>());
    assert_eq!(stage.hears("events", events).await.last(), Some(&40));
}

#[tokio::test]
async fn a_session_that_is_not_there_is_not_waited_for() {
    let mut stage = Stage::new(&[]);
    stage.does(Effect::Attach { generation: 3, id: "zzz".to_owned() }).await;
    let reason = stage
        .hears("that it is gone", |msg| match msg {
            Msg::Host { generation: 3, said: HostMsg::Gone { reason } } => Some(reason),
            _ => None,
        })
        .await;
    assert_eq!(reason, "there is no session `zzz`");
}

#[tokio::test]
async fn what_is_typed_goes_to_the_command_and_its_answer_comes_back() {
    let mut stage = Stage::attached(&[]).await;
    stage
        .hears("the terminal", |msg| {
            matches!(msg, Msg::Host { said: HostMsg::TerminalOpened, .. }).then_some(())
        })
        .await;
    stage.does(Effect::TerminalSize(100, 30)).await;
    stage.does(Effect::Type(b"ls\r".to_vec())).await;
    let mut output = Vec::new();
    stage
        .hears("the echo", |msg| {
            if let Msg::Host { said: HostMsg::Output(data), .. } = msg {
                output.extend_from_slice(&data);
            }
            output.ends_with(b"ls\r").then_some(())
        })
        .await;
    assert_eq!(output, b"$ ls\r");
    let typed: Vec<_> = stage.asked().into_iter().filter(|what| what.starts_with("typed")).collect();
    assert_eq!(typed, ["typed b\"\" 100x30", "typed b\"ls\\r\" 0x0"]);
}

#[tokio::test]
async fn calls_tell_what_became_of_them() {
    let mut stage = Stage::attached(&[]).await;
    let mode_set = |msg| match msg {
        Msg::Host { said: HostMsg::ModeSet { mode, result, .. }, .. } => Some((mode, result)),
        _ => None,
    };
    stage.does(Effect::SetMode { port: 80, mode: wire::Mode::Steal }).await;
    let (mode, result) = stage.hears("the mode", mode_set).await;
    assert_eq!((mode, result.unwrap().unwrap().mode()), (wire::Mode::Steal, wire::Mode::Steal));
    stage.does(Effect::SetMode { port: 80, mode: wire::Mode::Off }).await;
    assert_eq!(stage.hears("the mode", mode_set).await.1, Err("the agent said no".to_owned()));

    stage.does(Effect::Resend { seq: 3, edited: None }).await;
    assert_eq!(stage.notice(Level::Done).await, "sent again as #41, answered 201");
    let draft = Draft {
        method: "PUT".to_owned(),
        path: "/x".to_owned(),
        headers: vec![("a".to_owned(), "b".to_owned())],
        body: "new".to_owned(),
    };
    stage.does(Effect::Resend { seq: 3, edited: Some(Box::new(draft)) }).await;
    stage.notice(Level::Done).await;
    let asked = stage.asked();
    assert!(asked.contains(&"replay 3 false   [] b\"\"".to_owned()), "{asked:?}");
    assert!(asked.contains(&"replay 3 true PUT /x [\"a\"] b\"new\"".to_owned()), "{asked:?}");

    let path = stage.path("all.jsonl");
    stage.does(Effect::Record { path: Some(path.clone()) }).await;
    assert_eq!(stage.notice(Level::Done).await, format!("recording to {path}"));
    stage.does(Effect::Record { path: None }).await;
    assert!(stage.notice(Level::Done).await.starts_with("recorded 7 events"));
}

#[tokio::test]
async fn rows_are_exported_with_the_bodies_that_the_host_has() {
    let mut stage = Stage::attached(&[]).await;
    let without = |seq: u64| {
        let mut event = fake::event(seq);
        if let Some(wire::event::Detail::Request(request)) = &mut event.detail {
            (request.body, request.response_body) = (None, None);
        }
        event
    };
    for form in [ExportForm::Har, ExportForm::Jsonl, ExportForm::Curl] {
        let path = stage.path(&format!("{form:?}"));
        stage.does(Effect::Export { form, events: vec![without(3), without(6)], path: path.clone() }).await;
        assert!(stage.notice(Level::Done).await.starts_with("wrote 2 rows"));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("A-113"), "the body of the host is there: {text}");
        // What is there already is not overwritten.
        stage.does(Effect::Export { form, events: Vec::new(), path }).await;
        assert!(stage.notice(Level::Error).await.contains("exists already"));
    }
}

#[tokio::test]
async fn a_restart_ends_the_session_and_starts_an_equal_one() {
    let mut stage = Stage::attached(&[]).await;
    stage.hears("events", events).await;
    stage.does(Effect::Restart).await;
    let id = stage
        .hears("the restart", |msg| match msg {
            Msg::Restarted(result) => Some(result.unwrap()),
            _ => None,
        })
        .await;
    assert!(stage.asked().contains(&"stop".to_owned()));
    let started = stage.machine.started.lock().unwrap();
    assert_eq!(started.len(), 1);
    assert_eq!((&started[0].id, &started[0].command), (&id, &spec().command));
    assert_ne!(id, "k7m2p");
}

#[tokio::test]
async fn targets_and_sessions_are_looked_for_while_they_are_shown() {
    let mut stage = Stage::new(&[]);
    stage.does(Effect::Listing(true)).await;
    let (mut targets, mut sessions) = (0, 0);
    stage
        .hears("both lists", |msg| {
            match msg {
                Msg::Targets { found, .. } => targets = found.unwrap().len(),
                Msg::Sessions(found) => sessions = found.len(),
                _ => {}
            }
            (targets == 1 && sessions == 1).then_some(())
        })
        .await;
    stage.does(Effect::Launch(Box::default())).await;
    let launched = stage
        .hears("the launch", |msg| match msg {
            Msg::Launched(result) => Some(result),
            _ => None,
        })
        .await;
    assert_eq!(launched, Err("the pod is gone".to_owned()));
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
        let machine = Arc::new(FakeMachine { socket, told: Arc::clone(&told), started: Mutex::default() });
        Self { machine, told, runtime: Some(runtime), _folder: folder }
    }

    pub(in crate::ui) fn services(&self) -> Arc<dyn Services> {
        Arc::clone(&self.machine) as Arc<dyn Services>
    }

    /// No more events; what is under way arrives.
    pub(in crate::ui) async fn stop(&self) {
        self.told.calm.store(true, std::sync::atomic::Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }

    /// Events sent or left out so far.
    pub(in crate::ui) fn sent(&self) -> u64 {
        self.told.sent.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve(told: Arc<Told>, listener: tokio::net::UnixListener) {
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
    while !told.calm.load(std::sync::atomic::Ordering::Relaxed) {
        ticks.tick().await;
        let numbers = seq + 1..=seq + per_tick;
        seq += per_tick;
        told.sent.store(seq, std::sync::atomic::Ordering::Relaxed);
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
