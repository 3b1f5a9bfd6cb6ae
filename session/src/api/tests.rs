//! The API over a real unix socket, against a session of fakes.

use std::time::Duration;

use mirrord_protocol::session::v1::{self as wire, session_client::SessionClient};
use tokio::task::LocalSet;
use tonic::{Code, transport::Channel};

use super::*;
use crate::{
    api::serve::Served,
    host::fake::{Faults, Stage, stage},
    limits::{VIEWER_BATCH, VIEWER_LINGER},
    registry::connect_socket,
};

type Client = SessionClient<Channel>;

/// Runs a session of fakes behind a socket and a script with a viewer of it.
async fn play<F: Future<Output = ()>>(faults: Faults, script: impl FnOnce(Client, std::rc::Rc<Stage>) -> F) {
    let (stage, session) = stage(faults);
    let (stage, session) = (std::rc::Rc::new(stage), Box::pin(session));
    let (path, served) = served(&stage, None);
    let client = connect_socket("test", &path).await.unwrap();
    let local = LocalSet::new();
    local
        .run_until(async {
            let session = tokio::task::spawn_local(session);
            script(client, std::rc::Rc::clone(&stage)).await;
            stage.stop_tx.send(Stop::Asked { kill: true }).await.ok();
            session.await.unwrap();
        })
        .await;
    served.finish().await;
}

fn served(stage: &Stage, terminal: Option<Terminal>) -> (PathBuf, Served) {
    let path = stage.dir.path().join("host.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let api = Api {
        info: stage.info.clone(),
        events: stage.events.clone(),
        commands_tx: stage.commands_tx.clone(),
        stop_tx: stage.stop_tx.clone(),
        terminal,
    };
    (path, serve(api, listener).unwrap())
}

async fn running(client: &mut Client) {
    let mut infos = client.watch(wire::WatchRequest {}).await.unwrap().into_inner();
    while infos.message().await.unwrap().unwrap().state() != wire::State::Running {}
}

fn request(n: usize) -> wire::Event {
    wire::Event {
        kind: wire::Kind::Request.into(),
        subject: format!("GET /{n}"),
        latency_ns: 1_000_000,
        detail: Some(wire::event::Detail::Request(wire::Request {
            route: "GET /{n}".to_owned(),
            body: Some(wire::Body { data: "secret".into(), size: 6, truncated: false }),
            ..wire::Request::default()
        })),
        ..wire::Event::default()
    }
}

#[tokio::test]
async fn a_viewer_sees_the_session_and_its_end() {
    play(Faults::default(), |mut client, stage| async move {
        let mut infos = client.watch(wire::WatchRequest {}).await.unwrap().into_inner();
        let mut states = Vec::new();
        while let Some(info) = infos.message().await.unwrap() {
            if states.last() != Some(&info.state()) {
                states.push(info.state());
            }
            if info.state() == wire::State::Running && info.command_pid == 10 {
                stage.events.emit(request(1));
                let info = client.info(wire::InfoRequest {}).await.unwrap().into_inner();
                assert!(info.totals.is_some_and(|totals| totals.kinds.iter().any(|total| total.count > 0)));
                client.stop(wire::StopRequest { kill: false }).await.unwrap();
            }
        }
        // Only the latest is kept, so states that pass quickly may be missing; the last one never is.
        assert_eq!(states.last(), Some(&wire::State::Ended));
        // The numbers are still to be had.
        let histograms = client.histograms(wire::HistogramsRequest::default()).await.unwrap().into_inner();
        assert!(histograms.histograms.iter().any(|histogram| histogram.key == "GET /{n}"));
        assert!(stage.log.has("signal 15 tree"));
    })
    .await;
}

#[tokio::test]
async fn events_resume_follow_and_come_without_bodies() {
    play(Faults::default(), |mut client, stage| async move {
        running(&mut client).await;
        let first = stage.events.emit(request(0));
        let all = 3 * VIEWER_BATCH;
        for n in 1..all {
            stage.events.emit(request(n));
        }
        let kinds = vec![wire::Kind::Request.into()];
        let mut held = client
            .events(wire::EventsRequest { kinds: kinds.clone(), ..Default::default() })
            .await
            .unwrap()
            .into_inner();
        let mut rows = Vec::new();
        while let Some(batch) = held.message().await.unwrap() {
            assert!(batch.events.len() <= VIEWER_BATCH && batch.dropped == 0);
            rows.extend(batch.events);
        }
        assert_eq!(rows.len(), all);
        let body = |event: &wire::Event| match &event.detail {
            Some(wire::event::Detail::Request(request)) => request.body.clone().unwrap(),
            _ => panic!("a request"),
        };
        assert!(rows.iter().all(|row| body(row).data.is_empty() && body(row).size == 6));
        let whole = client.event(wire::EventRequest { seq: first }).await.unwrap().into_inner();
        assert_eq!(body(&whole).data, "secret");

        let from_seq = rows.last().unwrap().seq;
        let follow = wire::EventsRequest { from_seq, follow: true, kinds, bodies: false };
        let mut later = client.events(follow).await.unwrap().into_inner();
        assert_eq!(later.message().await.unwrap().unwrap().events[0].seq, from_seq);
        let pending = stage.events.emit(wire::Event { pending: true, ..request(9) });
        assert!(later.message().await.unwrap().unwrap().events[0].pending);
        stage.events.update(pending, |event| event.pending = false);
        let update = later.message().await.unwrap().unwrap();
        assert_eq!((update.events[0].seq, update.events[0].pending), (pending, false));
        stage.command_exits(0, 0).await;
        while later.message().await.unwrap().is_some() {}
    })
    .await;
}

#[tokio::test]
async fn nonsense_is_refused_with_a_sentence() {
    play(Faults { mode_fails: true, ..Faults::default() }, |mut client, _stage| async move {
        running(&mut client).await;
        let mode = |port, mode: wire::Mode| wire::SetModeRequest { port, mode: mode.into() };
        for (request, code) in [
            (mode(0, wire::Mode::Steal), Code::InvalidArgument),
            (mode(65_536, wire::Mode::Steal), Code::InvalidArgument),
            (mode(80, wire::Mode::Unspecified), Code::InvalidArgument),
            (mode(80, wire::Mode::Steal), Code::Aborted),
        ] {
            let status = client.set_mode(request).await.unwrap_err();
            assert!(status.code() == code && !status.message().is_empty(), "{status:?}");
        }
        for signal in [0, 65] {
            let status = client.signal(wire::SignalRequest { signal }).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
        }
        let relative = wire::RecordRequest { path: "a.jsonl".into(), stop: false };
        assert_eq!(client.record(relative).await.unwrap_err().code(), Code::InvalidArgument);
        let none = wire::RecordRequest { stop: true, ..wire::RecordRequest::default() };
        assert_eq!(client.record(none).await.unwrap_err().code(), Code::NotFound);
        let event = client.event(wire::EventRequest { seq: 99_999 }).await.unwrap_err();
        assert_eq!(event.code(), Code::NotFound);
        let unknown = wire::EventsRequest { kinds: vec![77], ..Default::default() };
        assert_eq!(client.events(unknown).await.unwrap_err().code(), Code::InvalidArgument);
        let terminal = client.terminal(tokio_stream::empty()).await.unwrap_err();
        assert_eq!(terminal.code(), Code::FailedPrecondition);
    })
    .await;
}

#[tokio::test]
async fn the_terminal_is_shown_and_typed_into() {
    let (stage, session) = stage(Faults::default());
    drop(session);
    let (terminal, command_end) = Terminal::open(80, 24).unwrap();
    let (path, served) = served(&stage, Some(terminal.clone()));
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(terminal.pump());
    let mut client = connect_socket("test", &path).await.unwrap();
    let (input_tx, input_rx) = mpsc::channel(4);
    let input = tokio_stream::wrappers::ReceiverStream::new(input_rx);
    let mut output = client.terminal(input).await.unwrap().into_inner();
    input_tx.send(wire::TerminalInput { data: "hi\n".into(), columns: 100, rows: 30 }).await.unwrap();
    // The terminal's echo.
    assert_eq!(output.message().await.unwrap().unwrap().data, "hi\r\n");
    assert_eq!(rustix::termios::tcgetwinsize(&command_end).unwrap().ws_col, 100);
    drop(command_end);
    let mut last = wire::TerminalOutput::default();
    while let Some(message) = output.message().await.unwrap() {
        last = message;
    }
    assert!(last.ended);
    drop((client, output, input_tx));
    served.finish().await;
}

#[tokio::test]
async fn a_viewer_that_comes_late_still_hears_the_end() {
    let (stage, session) = stage(Faults { step_fails: Some(0), ..Faults::default() });
    drop(Box::pin(session).await);
    let (path, served) = served(&stage, None);
    let (info, ()) = tokio::join!(
        async {
            let mut client = connect_socket("test", &path).await.unwrap();
            let mut infos = client.watch(wire::WatchRequest {}).await.unwrap().into_inner();
            infos.message().await.unwrap().unwrap()
        },
        served.finish()
    );
    assert_eq!((info.state(), info.hint.as_str()), (wire::State::Failed, "mend it"));
}

#[tokio::test]
async fn a_viewer_that_stays_does_not_keep_the_host() {
    let (stage, session) = stage(Faults::default());
    drop(session);
    let (path, served) = served(&stage, None);
    let mut client = connect_socket("test", &path).await.unwrap();
    let mut events =
        client.events(wire::EventsRequest { follow: true, ..Default::default() }).await.unwrap().into_inner();
    let started = std::time::Instant::now();
    served.finish().await;
    assert!(started.elapsed() < VIEWER_LINGER + Duration::from_secs(2));
    let end = tokio::time::timeout(Duration::from_secs(2), events.message()).await;
    assert!(!matches!(end, Ok(Ok(Some(_)))), "the stream is over or silent: {end:?}");
}
