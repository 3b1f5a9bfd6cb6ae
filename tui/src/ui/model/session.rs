//! The session that is shown: what its host has said, and what of it is seen.

use std::collections::BTreeMap;

use mirrord_protocol::session::v1::{Event, EventBatch, Kind, Mode, Port, SessionInfo, State};

use super::{
    details::{Details, Shown},
    graph::{self, Graph},
    latency::Latency,
    process::ProcessPane,
    store::{Bounds, Put, Store},
    stream::{ListFilter, Stream},
};
use crate::ui::{keys::Context, limits, text};

/// Seconds of the rate in the header and in the strip.
pub(crate) const RATE_SECONDS: usize = 60;

/// One session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) source: Source,
    pub(crate) info: SessionInfo,
    pub(crate) link: Link,
    store: Store,
    streams: [Stream; Tab::LISTS],
    pub(crate) tab: Tab,
    /// Keys go to the details.
    pub(crate) in_details: bool,
    pub(crate) details: Details,
    pub(crate) graph: Graph,
    pub(crate) latency: Latency,
    pub(crate) process: ProcessPane,
    /// Switches of mode that were asked for here and not answered yet: port, mode, since when.
    pub(crate) switching: BTreeMap<u32, (Mode, i64)>,
    /// Rows that this connection has lost.
    pub(crate) dropped: u64,
    /// Rows lost by earlier connections.
    dropped_before: u64,
    /// Modes of ports before they were paused.
    pub(crate) paused: BTreeMap<u32, Mode>,
    /// Lists have more columns.
    pub(crate) wide: bool,
    pub(crate) time_form: TimeForm,
    /// Position in a recording, nanoseconds since the epoch; `None`: its end.
    pub(crate) at_ns: Option<i64>,
    utc_offset: i32,
    /// The event whose bodies were asked for last, and whether it was pending then.
    fetched: Option<(u64, bool)>,
}

/// Where the events come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Live { id: String },
    Recording { path: String, loading: bool },
}

/// The connection to the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Connecting,
    Up,
    Retrying {
        attempt: u32,
        reason: String,
        since_ms: i64,
    },
    /// The session is over and its host is gone.
    Gone {
        reason: String,
    },
}

/// A tab of the session screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tab {
    #[default]
    Traffic,
    Conns,
    Files,
    Dns,
    Latency,
    Process,
    Events,
}

/// How times are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum TimeForm {
    #[default]
    OfDay,
    Age,
    /// Since the row above.
    Distance,
}

impl TimeForm {
    pub(crate) const fn next(self) -> Self {
        match self {
            Self::OfDay => Self::Age,
            Self::Age => Self::Distance,
            Self::Distance => Self::OfDay,
        }
    }
}

impl Tab {
    pub(crate) const ALL: [Self; 7] =
        [Self::Traffic, Self::Conns, Self::Files, Self::Dns, Self::Latency, Self::Process, Self::Events];
    /// Tabs that are lists of events.
    const LISTS: usize = 5;

    pub(crate) const fn title(self) -> (&'static str, &'static str) {
        match self {
            Self::Traffic => ("Traffic", "Traf"),
            Self::Conns => ("Conns", "Conn"),
            Self::Files => ("Files", "File"),
            Self::Dns => ("DNS", "DNS"),
            Self::Latency => ("Latency", "Lat"),
            Self::Process => ("Process", "Proc"),
            Self::Events => ("Events", "Ev"),
        }
    }

    pub(crate) const fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Traffic => &[Kind::Request],
            Self::Conns => &[Kind::Connection],
            Self::Files => &[Kind::File],
            Self::Dns => &[Kind::Dns],
            Self::Events => &[Kind::Process, Kind::Port, Kind::Agent, Kind::Warning],
            Self::Latency | Self::Process => &[],
        }
    }

    const fn list(self) -> Option<usize> {
        match self {
            Self::Traffic => Some(0),
            Self::Conns => Some(1),
            Self::Files => Some(2),
            Self::Dns => Some(3),
            Self::Events => Some(4),
            Self::Latency | Self::Process => None,
        }
    }

    pub(crate) fn neighbour(self, right: bool) -> Self {
        let at = Self::ALL.iter().position(|tab| *tab == self).unwrap_or(0);
        let step = if right { 1 } else { Self::ALL.len() - 1 };
        Self::ALL.get((at + step) % Self::ALL.len()).copied().unwrap_or_default()
    }
}

impl Session {
    pub(crate) fn new(source: Source, bounds: Bounds, utc_offset: i32) -> Self {
        let lists = [Tab::Traffic, Tab::Conns, Tab::Files, Tab::Dns, Tab::Events];
        Self {
            source,
            info: SessionInfo::default(),
            link: Link::Connecting,
            store: Store::new(bounds),
            streams: lists.map(|tab| Stream::new(tab.kinds())),
            tab: Tab::default(),
            in_details: false,
            details: Details::default(),
            graph: Graph::default(),
            latency: Latency::default(),
            process: ProcessPane::default(),
            switching: BTreeMap::new(),
            dropped: 0,
            dropped_before: 0,
            paused: BTreeMap::new(),
            wide: false,
            time_form: TimeForm::default(),
            at_ns: None,
            utc_offset,
            fetched: None,
        }
    }

    // ---- what the host says

    pub(crate) fn batch(&mut self, batch: EventBatch) {
        self.dropped = self.dropped_before + batch.dropped;
        for event in batch.events {
            self.event(event);
        }
        let gone = self.store.evict();
        for stream in &mut self.streams {
            stream.forget(&gone);
        }
    }

    /// An event with its bodies has come; the store keeps them with the row.
    pub(crate) fn whole(&mut self, event: Event) {
        self.fetched = Some((event.seq, event.pending));
        self.event(event);
    }

    /// The event that is looked at, when its bodies are still at the host. Asked for once in each of its forms.
    pub(crate) fn body_to_fetch(&mut self) -> Option<u64> {
        if self.details.shown == Shown::Hidden || self.is_recording() || self.link != Link::Up {
            return None;
        }
        let event = self.selected()?;
        let Some(mirrord_protocol::session::v1::event::Detail::Request(request)) = &event.detail else {
            return None;
        };
        let bodies = request.body.iter().chain(&request.response_body);
        let missing = bodies.into_iter().any(|body| body.data.is_empty() && body.size > 0);
        let form = (event.seq, event.pending);
        if !missing || self.fetched == Some(form) {
            return None;
        }
        self.fetched = Some(form);
        Some(form.0)
    }

    fn event(&mut self, event: Event) {
        if event.kind() == Kind::Output {
            if let Some(mirrord_protocol::session::v1::event::Detail::Output(output)) = &event.detail
                && !self.info.has_terminal
            {
                self.process.lines(&output.data);
            }
            return;
        }
        let failed_before = self.store.event(event.seq).is_some_and(graph::has_failed);
        let failed = graph::has_failed(&event);
        let seq = event.seq;
        let kind = event.kind();
        let put = self.store.put(event);
        let Some(event) = self.store.event(seq).filter(|_| put != Put::Late) else { return };
        if put == Put::Added {
            self.graph.event(event);
        }
        if failed && !failed_before {
            self.graph.error(event);
        }
        let list = Tab::ALL.into_iter().find(|tab| tab.kinds().contains(&kind)).and_then(Tab::list);
        if let Some(stream) = list.and_then(|list| self.streams.get_mut(list)) {
            stream.note(&self.store, event, put == Put::Added);
        }
    }

    /// The command as a title: its program by name, without the folder.
    pub(crate) fn command_title(&self) -> String {
        let mut words: Vec<_> = self.info.command.iter().map(|part| text::one_line(part)).collect();
        match words.first_mut() {
            None => return "Process".to_owned(),
            Some(program) => {
                if let Some((_, name)) = program.rsplit_once('/').filter(|(_, name)| !name.is_empty()) {
                    *program = name.to_owned();
                }
            }
        }
        text::shell(&words)
    }

    pub(crate) fn set_info(&mut self, info: SessionInfo, now_ms: i64) {
        if let Some(totals) = &info.totals {
            self.graph.totals(totals, now_ms);
        }
        if info.command_pid != self.info.command_pid && self.info.command_pid != 0 {
            self.process.restart();
        }
        self.info = info;
    }

    /// The connection begins anew: its count of lost rows does, too.
    pub(crate) fn reconnected(&mut self) {
        self.dropped_before = self.dropped;
        self.link = Link::Up;
    }

    // ---- lists

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// The list of the present tab, if it is one.
    pub(crate) fn stream(&self) -> Option<&Stream> {
        self.streams.get(self.tab.list()?)
    }

    pub(crate) fn stream_of(&self, tab: Tab) -> Option<&Stream> {
        self.streams.get(tab.list()?)
    }

    /// Does something to the list of the present tab.
    pub(crate) fn with_stream<T>(&mut self, act: impl FnOnce(&mut Stream, &Store) -> T) -> Option<T> {
        let stream = self.streams.get_mut(self.tab.list()?)?;
        Some(act(stream, &self.store))
    }

    pub(crate) fn filter(&self) -> Option<&ListFilter> {
        self.stream().map(Stream::filter)
    }

    /// The chosen event.
    pub(crate) fn selected(&self) -> Option<&Event> {
        self.store.event(self.stream()?.selected()?)
    }

    /// Marks the chosen row, or takes the mark away; false when that cannot be.
    pub(crate) fn toggle_mark(&mut self) -> bool {
        let Some(seq) = self.stream().and_then(Stream::selected) else { return false };
        if !self.store.toggle_mark(seq) {
            return false;
        }
        if let Some(event) = self.store.event(seq) {
            for stream in &mut self.streams {
                stream.note(&self.store, event, false);
            }
        }
        true
    }

    /// Writes a comment to an event, or takes it away; false when there are too many.
    pub(crate) fn set_comment(&mut self, seq: u64, text: &str) -> bool {
        if !self.store.set_comment(seq, text) {
            return false;
        }
        if let Some(event) = self.store.event(seq) {
            for stream in &mut self.streams {
                stream.note(&self.store, event, false);
            }
        }
        true
    }

    pub(crate) fn unmark_all(&mut self) {
        drop(self.store.unmark_all());
        for stream in &mut self.streams {
            stream.refilter(&self.store);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.store.clear();
        for stream in &mut self.streams {
            stream.refilter(&self.store);
        }
    }

    /// Shows the recording as it was at this time; `None`: as it ended.
    pub(crate) fn scrub(&mut self, at_ns: Option<i64>) {
        self.at_ns = at_ns;
        let last = at_ns.map(|at| {
            let before = self.store.events().take_while(|event| event.time_ns <= at);
            before.last().map_or(0, |event| event.seq)
        });
        for stream in &mut self.streams {
            stream.freeze_at(last);
        }
    }

    /// Time of the first and of the last event.
    pub(crate) fn time_span(&self) -> Option<(i64, i64)> {
        let mut events = self.store.events();
        let first = events.next()?.time_ns;
        Some((first, events.next_back().map_or(first, |last| last.time_ns)))
    }

    // ---- what is seen

    /// Where keys are pressed.
    pub(crate) fn contexts(&self) -> Vec<Context> {
        let mut contexts = if self.details_have_keys() {
            vec![Context::Details, Context::Stream]
        } else {
            match self.tab {
                Tab::Latency => vec![Context::Latency],
                Tab::Process => vec![Context::Process],
                _ => vec![Context::Stream, Context::List],
            }
        };
        if self.is_recording() {
            contexts.insert(0, Context::Replay);
        }
        contexts.push(Context::Session);
        contexts
    }

    pub(crate) fn details_have_keys(&self) -> bool {
        self.stream().is_some()
            && (self.details.shown == Shown::Full || (self.details.shown == Shown::Beside && self.in_details))
    }

    pub(crate) fn is_recording(&self) -> bool {
        matches!(self.source, Source::Recording { .. })
    }

    /// Whether the session still runs, so that leaving it should be asked about.
    pub(crate) fn lives(&self) -> bool {
        !self.is_recording()
            && !matches!(self.link, Link::Gone { .. })
            && !matches!(self.info.state(), State::Ended | State::Failed)
    }

    /// The mode that a port shall have next, as far as anybody has asked for it.
    pub(crate) fn switching_to(&self, port: &Port) -> Option<Mode> {
        let asked_here = self.switching.get(&port.remote).map(|(mode, _)| *mode);
        asked_here.or_else(|| Some(port.switching_to()).filter(|mode| *mode != Mode::Unspecified))
    }

    pub(crate) fn shows_time(&self, now_ms: i64) -> bool {
        !self.switching.is_empty()
            || matches!(self.link, Link::Retrying { .. } | Link::Connecting)
            || (self.graph.moves(now_ms, limits::GRAPH_SECONDS) && !self.is_recording())
            || (self.time_form == TimeForm::Age && self.store.len() > 0)
    }

    pub(crate) fn prepare(&mut self, now_ms: i64, list_rows: usize, details: (u16, u16)) {
        self.with_stream(|stream, store| stream.prepare(store, now_ms, list_rows));
        let seq = self.stream().and_then(Stream::selected);
        let event = seq.and_then(|seq| self.store.event(seq));
        let comment = seq.and_then(|seq| self.store.comment(seq)).unwrap_or_default();
        self.details.prepare(event, comment, details.0, details.1, self.utc_offset);
    }

    pub(crate) fn utc_offset(&self) -> i32 {
        self.utc_offset
    }
}
