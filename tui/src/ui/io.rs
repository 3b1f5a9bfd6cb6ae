//! The side that does I/O, on a thread of its own: runs effects, and says as messages what became of them.

#[cfg(test)]
pub(in crate::ui) mod fake_host;
mod files;
mod listing;
mod replay;
#[cfg(test)]
mod tests;

use std::{
    process::Stdio,
    sync::{Arc, OnceLock, atomic::AtomicU64},
    time::Duration,
};

use bytes::Bytes;
use mirrord_protocol::session::v1::{
    Event, EventRequest, Header, Kind, Mode, RecordRequest, ReplayRequest, SetModeRequest, StopRequest,
    TerminalInput,
};
use mirrord_session::spec::SessionSpec;
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use super::{
    client::{Connection, TERMINAL_QUEUE},
    limits,
    model::{draft::Draft, form::LaunchRequest, notices::Level, overlay::ExportForm, pick::PlaceKind},
    services::{Client, Services},
    update::{Effect, HostMsg, Msg},
};

/// Does effects until the loop has gone.
pub(crate) struct Io {
    services: Arc<dyn Services>,
    /// I/O --what has happened--> loop; waits when full
    msgs: mpsc::Sender<Msg>,
    calls: JoinSet<()>,
    attached: Option<Attached>,
    listing: Option<JoinSet<()>>,
}

/// The session that is shown. Dropping it ends its connection.
struct Attached {
    id: String,
    generation: u64,
    /// keys --typed--> connection --> command's terminal
    terminal_tx: mpsc::Sender<TerminalInput>,
    /// What it was started with, once it is known: it cannot be asked for any more when the session has ended.
    spec: Arc<OnceLock<Box<SessionSpec>>>,
    _tasks: JoinSet<()>,
}

impl Io {
    pub(crate) fn new(services: Arc<dyn Services>, msgs: mpsc::Sender<Msg>) -> Self {
        Self { services, msgs, calls: JoinSet::new(), attached: None, listing: None }
    }

    /// Runs effects until no more can come, then lets calls that are under way end.
    pub(crate) async fn run(mut self, mut effects: mpsc::Receiver<Effect>) {
        self.say(Msg::Recent(files::load_recent())).await;
        loop {
            tokio::select! {
                // Finished calls are collected first, so that the set stays small.
                biased;
                Some(_) = self.calls.join_next(), if !self.calls.is_empty() => {}
                effect = effects.recv() => match effect {
                    Some(effect) => self.perform(effect).await,
                    None => break,
                },
            }
        }
        let rest = async { while self.calls.join_next().await.is_some() {} };
        // Stopping a session or a recording on the way out takes a moment; more is not waited for.
        drop(timeout(limits::CLOSE, rest).await);
    }

    async fn say(&self, msg: Msg) {
        // Without a loop nobody wants to know.
        drop(self.msgs.send(msg).await);
    }

    async fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Attach { generation, id } => self.attach(generation, id),
            Effect::Open { generation, path } => self.open(generation, path),
            Effect::Listing(on) => self.list(on),
            Effect::LookAt(look) => {
                self.services.look_at(look);
                self.list(true);
            }
            Effect::AskPlaces(kind) => self.ask_places(kind),
            Effect::LookForOthers { port, mode } => self.look_for_others(port, mode),
            Effect::Type(data) => {
                self.to_terminal(TerminalInput { data: data.into(), ..TerminalInput::default() })
            }
            Effect::TerminalSize(columns, rows) => self.to_terminal(TerminalInput {
                data: Bytes::new(),
                columns: columns.into(),
                rows: rows.into(),
            }),
            Effect::SetMode { port, mode } => {
                let generation = self.attached.as_ref().map_or(0, |attached| attached.generation);
                self.call(move |mut client, msgs| async move {
                    let request = SetModeRequest { port, mode: mode.into() };
                    let result = match client.set_mode(request).await {
                        Ok(reply) => Ok(reply.into_inner().port),
                        Err(status) => Err(status.message().to_owned()),
                    };
                    drop(
                        msgs.send(Msg::Host { generation, said: HostMsg::ModeSet { port, mode, result } })
                            .await,
                    );
                    Ok(None)
                });
            }
            Effect::Stop { id } => self.call_session(id, limits::SLOW_CALL, |mut client, _| async move {
                client.stop(StopRequest { kill: false }).await.map_err(sentence)?;
                Ok(Some("the session ends".to_owned()))
            }),
            Effect::Fetch { seq } => {
                let generation = self.attached.as_ref().map_or(0, |attached| attached.generation);
                self.call(move |mut client, msgs| async move {
                    // One that has left the host's memory stays without bodies.
                    if let Ok(reply) = client.event(EventRequest { seq }).await {
                        let said = HostMsg::Whole(Box::new(reply.into_inner()));
                        msgs.send(Msg::Host { generation, said }).await.ok();
                    }
                    Ok(None)
                });
            }
            Effect::Restart => self.restart(),
            Effect::Resend { seq, edited } => {
                self.call_within(limits::RESEND_CALL, move |mut client, _| async move {
                    let request = replay_request(seq, edited);
                    let reply = client.replay(request).await.map_err(sentence)?.into_inner();
                    Ok(Some(format!("sent again as #{}, answered {}", reply.seq, reply.status)))
                })
            }
            Effect::Record { path } => self.record(path.as_deref()),
            Effect::Launch(request) => self.launch(request),
            Effect::SaveRecent(recent) => self.blocking(move || files::save_recent(&recent).map(|()| None)),
            Effect::Write { path, data } => self.blocking(move || {
                files::write_new(&path, &data)?;
                Ok(Some(format!("wrote {} bytes to {path}", data.len())))
            }),
            Effect::Export { form, events, path } => self.export(form, events, path),
            Effect::Copy { text, .. } => self.copy_in_tmux(text),
            Effect::Edit { .. } | Effect::Suspend | Effect::Redraw | Effect::Mouse(_) => {}
        }
    }

    fn attach(&mut self, generation: u64, id: String) {
        let (terminal_tx, terminal_rx) = mpsc::channel(TERMINAL_QUEUE);
        let spec = Arc::new(OnceLock::new());
        let connection = Connection {
            spec: Arc::clone(&spec),
            services: Arc::clone(&self.services),
            id: id.clone(),
            generation,
            msgs: self.msgs.clone(),
            last_seq: Arc::new(AtomicU64::new(0)),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(connection.run(terminal_rx));
        self.attached = Some(Attached { id, generation, terminal_tx, spec, _tasks: tasks });
    }

    fn to_terminal(&self, input: TerminalInput) {
        if let Some(attached) = &self.attached {
            // A full queue means that the command reads nothing; what is typed then is lost, as on a line without flow control.
            drop(attached.terminal_tx.try_send(input));
        }
    }

    // ---- calls

    /// Calls the host of the attached session.
    fn call<F, T>(&mut self, work: F)
    where
        F: FnOnce(Client, mpsc::Sender<Msg>) -> T + Send + 'static,
        T: Future<Output = Result<Option<String>, String>> + Send + 'static,
    {
        self.call_within(limits::SLOW_CALL, work);
    }

    fn call_within<F, T>(&mut self, limit: Duration, work: F)
    where
        F: FnOnce(Client, mpsc::Sender<Msg>) -> T + Send + 'static,
        T: Future<Output = Result<Option<String>, String>> + Send + 'static,
    {
        if let Some(id) = self.attached.as_ref().map(|attached| attached.id.clone()) {
            self.call_session(id, limit, work);
        }
    }

    /// Calls the host of a session under a deadline; what comes back is told to the user.
    fn call_session<F, T>(&mut self, id: String, limit: Duration, work: F)
    where
        F: FnOnce(Client, mpsc::Sender<Msg>) -> T + Send + 'static,
        T: Future<Output = Result<Option<String>, String>> + Send + 'static,
    {
        let (services, msgs) = (Arc::clone(&self.services), self.msgs.clone());
        self.calls.spawn(async move {
            let called = async {
                let client = services.connect(&id).await.map_err(|none| none.reason)?;
                work(client, msgs.clone()).await
            };
            let result = timeout(limit, called).await;
            tell(&msgs, result.unwrap_or_else(|_| Err(format!("session {id} did not answer in time")))).await;
        });
    }

    fn blocking(&mut self, work: impl FnOnce() -> Result<Option<String>, String> + Send + 'static) {
        let msgs = self.msgs.clone();
        self.calls.spawn(async move {
            let result = tokio::task::spawn_blocking(work).await;
            tell(&msgs, result.unwrap_or_else(|error| Err(error.to_string()))).await;
        });
    }

    /// Writes rows to a file. Bodies that are still at the host are fetched first.
    fn export(&mut self, form: ExportForm, mut events: Vec<Event>, path: String) {
        let (services, msgs) = (Arc::clone(&self.services), self.msgs.clone());
        let id = self.attached.as_ref().map(|attached| attached.id.clone());
        self.calls.spawn(async move {
            let fetching = async {
                let Some(Ok(mut client)) = (match &id {
                    Some(id) => Some(services.connect(id).await),
                    None => None,
                }) else {
                    return;
                };
                for event in events.iter_mut().filter(|event| event.kind() == Kind::Request) {
                    match client.event(EventRequest { seq: event.seq }).await {
                        Ok(whole) => *event = whole.into_inner(),
                        Err(status) if status.code() == tonic::Code::NotFound => {}
                        Err(_) => return,
                    }
                }
            };
            // What did not come in time is written without bodies; the file says their sizes.
            timeout(limits::SLOW_CALL, fetching).await.ok();
            let result = tokio::task::spawn_blocking(move || files::export_to(form, &events, &path)).await;
            tell(&msgs, result.unwrap_or_else(|error| Err(error.to_string()))).await;
        });
    }

    fn record(&mut self, path: Option<&str>) {
        let absolute = match path.map(std::path::absolute).transpose() {
            Ok(absolute) => absolute,
            Err(error) => {
                self.blocking(move || Err(format!("the recording cannot be made: {error}")));
                return;
            }
        };
        self.call(move |mut client, _| async move {
            let stop = absolute.is_none();
            let path = absolute.map(|path| path.into_os_string().into_encoded_bytes()).unwrap_or_default();
            let request = RecordRequest { path: path.into(), stop };
            let reply = client.record(request).await.map_err(sentence)?.into_inner();
            let path = String::from_utf8_lossy(&reply.path).into_owned();
            Ok(Some(if stop {
                format!("recorded {} events in {path}; `mirrord-tui open {path}` shows them", reply.events)
            } else {
                format!("recording to {path}")
            }))
        });
    }

    /// Ends the session, if it lives still, and starts an equal one.
    fn restart(&mut self) {
        let Some(attached) = &self.attached else { return };
        let (id, spec) = (attached.id.clone(), attached.spec.clone());
        let (services, msgs) = (Arc::clone(&self.services), self.msgs.clone());
        self.calls.spawn(async move {
            let started = timeout(2 * limits::SLOW_CALL, start_again(services.as_ref(), &id, spec)).await;
            let result = started.unwrap_or_else(|_| Err("the session did not begin in time".to_owned()));
            drop(msgs.send(Msg::Restarted(result)).await);
        });
    }

    /// tmux keeps what is copied, and gives it to the terminal around it; silent when that fails, the escape has been written as well.
    fn copy_in_tmux(&mut self, text: String) {
        if std::env::var_os("TMUX").is_none() {
            return;
        }
        self.calls.spawn(async move {
            drop(timeout(limits::CALL, load_buffer(&text)).await);
        });
    }

    fn launch(&mut self, request: Box<LaunchRequest>) {
        let (services, msgs) = (Arc::clone(&self.services), self.msgs.clone());
        self.calls.spawn(async move {
            let started = timeout(limits::SLOW_CALL, services.launch(&request)).await;
            let result = started.unwrap_or_else(|_| Err("the session did not start in time".to_owned()));
            drop(msgs.send(Msg::Launched(result)).await);
        });
    }

    // ---- lists

    /// Looks for targets and sessions once a second, or not at all.
    fn list(&mut self, on: bool) {
        self.listing = on.then(|| {
            let mut tasks = JoinSet::new();
            tasks.spawn(listing::targets(Arc::clone(&self.services), self.msgs.clone()));
            tasks.spawn(listing::sessions(Arc::clone(&self.services), self.msgs.clone()));
            tasks
        });
    }

    fn ask_places(&mut self, kind: PlaceKind) {
        let (services, msgs) = (Arc::clone(&self.services), self.msgs.clone());
        self.calls.spawn(async move {
            let names = timeout(limits::SLOW_CALL, services.places(kind)).await;
            let names = names.unwrap_or_else(|_| Err("the cluster did not answer in time".to_owned()));
            drop(msgs.send(Msg::Places(kind, names)).await);
        });
    }

    /// Tells which sessions there are. When they cannot be read, nothing is known of others.
    fn look_for_others(&mut self, port: u32, mode: Mode) {
        let (services, msgs) = (Arc::clone(&self.services), self.msgs.clone());
        self.calls.spawn(async move {
            let reader = Arc::clone(&services);
            let ids = tokio::task::spawn_blocking(move || reader.sessions()).await;
            let ids = ids.ok().and_then(Result::ok).unwrap_or_default();
            let rows = listing::infos(services.as_ref(), ids).await;
            drop(msgs.send(Msg::Others { port, mode, rows }).await);
        });
    }

    // ---- recordings

    fn open(&mut self, generation: u64, path: String) {
        let msgs = self.msgs.clone();
        let mut tasks = JoinSet::new();
        let reading = path.clone();
        tasks.spawn_blocking(move || replay::read(&reading, generation, &msgs));
        let (terminal_tx, _) = mpsc::channel(1);
        let spec = Arc::default();
        self.attached = Some(Attached { id: path, generation, terminal_tx, spec, _tasks: tasks });
    }
}

async fn tell(msgs: &mpsc::Sender<Msg>, result: Result<Option<String>, String>) {
    let notice = match result {
        Ok(None) => return,
        Ok(Some(text)) => Msg::Notice(Level::Done, text),
        Err(text) => Msg::Notice(Level::Error, text),
    };
    drop(msgs.send(notice).await);
}

#[expect(clippy::needless_pass_by_value, reason = "handed to map_err")]
fn sentence(status: tonic::Status) -> String {
    status.message().to_owned()
}

fn replay_request(seq: u64, edited: Option<Box<Draft>>) -> ReplayRequest {
    let Some(draft) = edited else { return ReplayRequest { seq, ..ReplayRequest::default() } };
    let header = |(name, value): (String, String)| Header { name, value: value.into(), redacted: false };
    ReplayRequest {
        seq,
        method: draft.method,
        path: draft.path,
        headers: draft.headers.into_iter().map(header).collect(),
        body: draft.body.into(),
        edited: true,
    }
}

/// Ends a session and starts one from its specification; the new id.
async fn start_again(
    services: &dyn Services,
    id: &str,
    spec: Arc<OnceLock<Box<SessionSpec>>>,
) -> Result<String, String> {
    let spec = spec.get().cloned().ok_or("what it was started with is not known")?;
    // A host that is gone already has nothing to be asked for.
    if let Ok(mut client) = services.connect(id).await {
        client.stop(StopRequest { kill: false }).await.map_err(sentence)?;
    }
    while services.sessions()?.contains(&spec.id) {
        tokio::time::sleep(limits::ENDING).await;
    }
    services.start(spec.again()).await
}

async fn load_buffer(text: &str) -> std::io::Result<()> {
    use tokio::io::AsyncWriteExt;
    let mut tmux = tokio::process::Command::new("tmux")
        .args(["load-buffer", "-w", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = tmux.stdin.take() {
        stdin.write_all(text.as_bytes()).await?;
    }
    tmux.wait().await.map(drop)
}
