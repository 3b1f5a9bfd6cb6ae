//! The viewer of text mode: owns one session, prints its events, passes signals on, and ends as the command ended.

use std::{
    fs::File,
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result};
use mirrord_protocol::session::v1::{
    Event, EventBatch, EventsRequest, Exit, HistogramsRequest, SessionInfo, SignalRequest, State,
    WatchRequest, session_client::SessionClient,
};
use mirrord_session::{jsonl, spec::SessionSpec, starter, summary};
use tokio::signal::unix::{SignalKind, signal};
use tonic::{Streaming, transport::Channel};

use crate::{
    failure::{Hinted, OWN_FAILURE},
    output::listing::Listing,
};

/// How long the last events may take to arrive once the command has ended; they wait in the host's memory already.
const LAST_EVENTS: Duration = Duration::from_secs(2);

/// Where events go and in which form.
#[derive(Debug)]
pub(crate) struct Output {
    form: Form,
    to: Option<File>,
    /// Rows that were not read in time, as far as they have been told.
    dropped: u64,
}

#[derive(Debug)]
enum Form {
    Text(Listing),
    Jsonl,
    Silent,
}

impl Output {
    /// Lines for people; `verbose` adds processes, file operations and the connections below the requests.
    pub(crate) fn text(to: Option<File>, verbose: bool) -> Self {
        Self { form: Form::Text(Listing::new(verbose)), to, dropped: 0 }
    }

    /// One JSON object per line.
    pub(crate) fn jsonl(to: Option<File>) -> Self {
        Self { form: Form::Jsonl, to, dropped: 0 }
    }

    /// Nothing but failures.
    pub(crate) fn silent() -> Self {
        Self { form: Form::Silent, to: None, dropped: 0 }
    }

    /// Writes what a batch brings, at once: a busy session must not wait for a system call per row.
    fn batch(&mut self, batch: &EventBatch) {
        let mut text = String::new();
        if let Some(lost @ 1..) = batch.dropped.checked_sub(self.dropped) {
            self.dropped = batch.dropped;
            match self.form {
                Form::Silent => {}
                Form::Text(_) => text += &format!("mirrord-tui: {lost} events came too fast to be shown\n"),
                Form::Jsonl => text += &format!("{}\n", jsonl::encode_gap(lost)),
            }
        }
        for event in &batch.events {
            if let Some(line) = self.line_of(event) {
                text += &line;
                text.push('\n');
            }
        }
        self.write(&text);
    }

    fn line_of(&mut self, event: &Event) -> Option<String> {
        match &mut self.form {
            Form::Silent => None,
            Form::Text(listing) => listing.line(event),
            Form::Jsonl => Some(jsonl::encode(event)),
        }
    }

    /// Text that is not an event: only for people.
    fn note(&mut self, text: &str) {
        if matches!(self.form, Form::Text(_)) {
            let lines: String = text.lines().map(|line| format!("mirrord-tui: {line}\n")).collect();
            self.write(&lines);
        }
    }

    fn write(&mut self, text: &str) {
        let written = match &mut self.to {
            Some(file) => file.write_all(text.as_bytes()),
            None => io::stderr().lock().write_all(text.as_bytes()),
        };
        // Nobody reads along any more, or the disk is full: the session matters more than its listing.
        if written.is_err() {
            self.form = Form::Silent;
        }
    }
}

/// Starts the session of `spec` and stays with it until the command has ended.
pub(crate) fn own(spec: &SessionSpec, output: Output, warnings: &[String]) -> Result<ExitCode> {
    own_with(spec, output, warnings, std::future::pending()).map(|end| end_as(&end))
}

/// The same with something that happens meanwhile; its failure is printed and the session goes on. Returns how the command ended.
pub(crate) fn own_with(
    spec: &SessionSpec,
    mut output: Output,
    warnings: &[String],
    meanwhile: impl Future<Output = Result<()>>,
) -> Result<Exit> {
    for warning in warnings {
        output.note(&format!("warning: {warning}"));
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(follow(spec, &mut output, meanwhile))
}

async fn follow(
    spec: &SessionSpec,
    output: &mut Output,
    meanwhile: impl Future<Output = Result<()>>,
) -> Result<Exit> {
    // Listened to before anything is started, so that a signal at any moment finds a session that ends in order.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let started = starter::start_session(spec).await?;
    let mut client = started.client.clone();
    let mut infos = client.watch(WatchRequest {}).await.context("watch the session")?.into_inner();
    let mut events = client
        .events(EventsRequest {
            follow: true,
            bodies: matches!(output.form, Form::Jsonl),
            ..EventsRequest::default()
        })
        .await
        .context("read the session's events")?
        .into_inner();
    let mut open = true;
    let mut seen = 0;
    let mut meanwhile = std::pin::pin!(meanwhile);
    let mut meanwhile_done = false;
    loop {
        tokio::select! {
            biased;
            // The terminal has told the command as well: it decides what Ctrl-C means, as under a shell.
            _ = interrupt.recv() => {}
            _ = quit.recv() => {}
            _ = terminate.recv() => pass_on(&mut client, SignalKind::terminate()).await,
            _ = hangup.recv() => pass_on(&mut client, SignalKind::hangup()).await,
            info = infos.message() => {
                let Some(info) = info.ok().flatten() else { return Err(host_is_gone(&started)) };
                if let Some(exit) = ended(&info)? {
                    last_events(&mut events, output, seen, &info).await;
                    finish(&mut client, output, &info).await;
                    return Ok(exit);
                }
            }
            result = &mut meanwhile, if !meanwhile_done => {
                meanwhile_done = true;
                if let Err(error) = result {
                    output.note(&format!("{error:#}"));
                }
            }
            batch = events.message(), if open => match batch {
                Ok(Some(batch)) => {
                    output.batch(&batch);
                    seen = seen.max(batch.last_seq);
                }
                Ok(None) | Err(_) => open = false,
            }
        }
    }
}

/// The command's end, if it has come; a session that could not start is an error.
fn ended(info: &SessionInfo) -> Result<Option<Exit>> {
    if info.state() == State::Failed {
        let code = info
            .exit
            .as_ref()
            .and_then(|exit| u8::try_from(exit.code).ok())
            .filter(|code| *code != 0)
            .unwrap_or(OWN_FAILURE);
        return Err(Hinted { text: info.detail.clone(), hint: info.hint.clone(), code }.into());
    }
    let daemons_remain = info.state() == State::Running;
    let done = info.state() == State::Ended || daemons_remain;
    Ok(info.exit.clone().filter(|_| done))
}

async fn last_events(
    events: &mut Streaming<EventBatch>,
    output: &mut Output,
    mut seen: u64,
    info: &SessionInfo,
) {
    let last = info.totals.as_ref().map_or(0, |totals| totals.last_seq);
    let rest = async {
        while seen < last {
            let Ok(Some(batch)) = events.message().await else { return };
            output.batch(&batch);
            seen = seen.max(batch.last_seq);
        }
    };
    if tokio::time::timeout(LAST_EVENTS, rest).await.is_err() {
        output.note("the last events did not arrive in time");
    }
}

async fn finish(client: &mut SessionClient<Channel>, output: &mut Output, info: &SessionInfo) {
    let Ok(histograms) = client.histograms(HistogramsRequest::default()).await else { return };
    output.note(&summary::text(info, &histograms.into_inner()));
    if info.state() == State::Running {
        output.note(&format!("{}; `mirrord-tui stop {}` ends them", info.detail, info.id));
    }
}

async fn pass_on(client: &mut SessionClient<Channel>, kind: SignalKind) {
    let signal = u32::try_from(kind.as_raw_value()).unwrap_or_default();
    // A host that does not answer is ending; its end is seen by the watch.
    drop(client.signal(SignalRequest { signal }).await);
}

fn host_is_gone(started: &starter::Started) -> anyhow::Error {
    Hinted {
        text: "the session host ended without a word".to_owned(),
        hint: format!("its log is {}", started.dir.join("host.log").display()),
        code: OWN_FAILURE,
    }
    .into()
}

/// As without us: the same exit code, or death by the same signal so that the shell says "Segmentation fault" and the like.
fn end_as(exit: &Exit) -> ExitCode {
    if let Ok(signal) = i32::try_from(exit.signal)
        && signal != 0
    {
        // Does not return for signals that end a process. A core of this program would be of no use to anyone.
        let _without_core = rustix::process::setrlimit(
            rustix::process::Resource::Core,
            rustix::process::Rlimit { current: Some(0), maximum: Some(0) },
        );
        drop(signal_hook::low_level::emulate_default_handler(signal));
        return ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX));
    }
    ExitCode::from(u8::try_from(exit.code).unwrap_or(OWN_FAILURE))
}
