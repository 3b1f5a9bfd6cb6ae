//! What effects ask of a session host, what becomes of a connection that breaks, and what the loop is told.

use std::sync::Mutex;

use super::{
    fake_host::{FakeMachine, Told, serve, spec},
    *,
};
use mirrord_protocol::session::v1::event::Detail;

use crate::ui::{fake, model::targets::Look};

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
        let machine = Arc::new(FakeMachine {
            socket,
            told: Arc::clone(&told),
            started: Mutex::default(),
            looked: Mutex::default(),
        });
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
    stage.does(Effect::SetMode { port: 80, mode: Mode::Steal }).await;
    let (mode, result) = stage.hears("the mode", mode_set).await;
    assert_eq!((mode, result.unwrap().unwrap().mode()), (Mode::Steal, Mode::Steal));
    stage.does(Effect::SetMode { port: 80, mode: Mode::Off }).await;
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
        if let Some(Detail::Request(request)) = &mut event.detail {
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

#[tokio::test]
async fn another_namespace_is_offered_and_looked_at() {
    let mut stage = Stage::new(&[]);
    stage.does(Effect::AskPlaces(PlaceKind::Namespace)).await;
    stage.does(Effect::AskPlaces(PlaceKind::Context)).await;
    let places = |msg| match msg {
        Msg::Places(kind, names) => Some((kind, names)),
        _ => None,
    };
    let mut found = [stage.hears("places", places).await, stage.hears("places", places).await];
    found.sort_by_key(|(kind, _)| *kind == PlaceKind::Context);
    let [(_, namespaces), (_, contexts)] = found;
    assert_eq!(namespaces.unwrap(), ["default", "shop"]);
    assert!(contexts.is_err());
    let place = |msg| match msg {
        Msg::Place(place) => Some(place),
        _ => None,
    };
    // Looking elsewhere lists at once.
    stage.does(Effect::LookAt(Look::Namespace("shop".to_owned()))).await;
    let found = stage.hears("the place", place).await.unwrap();
    assert_eq!((found.context.as_str(), found.namespace.as_deref()), ("dev", Some("shop")));
}

#[tokio::test]
async fn sessions_are_looked_up_before_a_port_is_stolen() {
    let mut stage = Stage::attached(&[]).await;
    stage.does(Effect::LookForOthers { port: 80, mode: Mode::Steal }).await;
    let found = stage
        .hears("the sessions", |msg| match msg {
            Msg::Others { port, mode, rows } => Some((port, mode, rows)),
            _ => None,
        })
        .await;
    assert_eq!((found.0, found.1, found.2.len()), (80, Mode::Steal, 1));
    assert_eq!(found.2[0].id, "k7m2p");
}
