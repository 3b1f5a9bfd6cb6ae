//! The connection to one session host: its state, events, latencies and terminal become messages; lost connections are made again.
//!
//! ```text
//! Connecting ─connected─▶ Up ─stream ended or broke─▶ Retrying{attempt} ─connected─▶ Up
//!                                                        └─ no such session ─▶ Gone
//! ```
//! After a break the events go on from the last one that was seen, a little earlier, because those may have changed meanwhile.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hdrhistogram::{Histogram as Hdr, serialization::Deserializer};
use mirrord_protocol::session::v1::{
    EventsRequest, Histogram, HistogramsRequest, SessionInfo, State, TerminalInput, WatchRequest,
};
use mirrord_session::spec::SessionSpec;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout},
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};

use super::{
    limits,
    model::latency::{STEPS, Series, step},
    services::{Client, Services},
    update::{HostMsg, Msg},
};

/// Events read again after a break: the requests that were pending then.
const OVERLAP: u64 = 2_048;
/// Keys and sizes on their way to the command's terminal; when full they wait in the queue of effects.
pub(crate) const TERMINAL_QUEUE: usize = 64;

/// What one connection needs.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) services: Arc<dyn Services>,
    pub(crate) id: String,
    pub(crate) generation: u64,
    /// What the session was started with; read once.
    pub(crate) spec: Arc<OnceLock<Box<SessionSpec>>>,
    /// connection --what the host says--> loop; waits when full, and the host counts what that costs
    pub(crate) msgs: mpsc::Sender<Msg>,
    /// Highest number seen, for the resume and to know whether anything new has happened.
    pub(crate) last_seq: Arc<AtomicU64>,
}

/// Why a connection has ended.
#[derive(Debug)]
enum End {
    /// The loop has gone.
    NobodyListens,
    /// The host has ended in order.
    Finished,
    Broken(String),
}

impl Connection {
    /// Stays connected until the session or the loop has gone.
    pub(crate) async fn run(self, terminal: mpsc::Receiver<TerminalInput>) {
        let mut attempt = 0;
        let mut wait = limits::RETRY_MIN;
        let terminal = Arc::new(tokio::sync::Mutex::new(terminal));
        let ended = Arc::new(std::sync::atomic::AtomicBool::new(false));
        loop {
            let reason = match self.services.connect(&self.id).await {
                Err(none) if none.gone => {
                    let reason = if ended.load(Ordering::Relaxed) {
                        "the session is over".to_owned()
                    } else {
                        none.reason
                    };
                    self.say(HostMsg::Gone { reason }).await;
                    return;
                }
                Err(none) => none.reason,
                Ok(client) => {
                    if !self.say(HostMsg::Connected).await {
                        return;
                    }
                    (attempt, wait) = (0, limits::RETRY_MIN);
                    if self.spec.get().is_none()
                        && let Some(spec) = self.services.spec(&self.id)
                    {
                        self.spec.get_or_init(|| Box::new(spec));
                    }
                    match self.connected(client, Arc::clone(&terminal), &ended).await {
                        End::NobodyListens => return,
                        End::Finished => {
                            self.say(HostMsg::Gone { reason: "the session is over".to_owned() }).await;
                            return;
                        }
                        End::Broken(reason) => reason,
                    }
                }
            };
            attempt += 1;
            if !self.say(HostMsg::Retrying { attempt, reason }).await {
                return;
            }
            sleep(wait).await;
            wait = next_wait(wait);
        }
    }

    async fn say(&self, said: HostMsg) -> bool {
        self.msgs.send(Msg::Host { generation: self.generation, said }).await.is_ok()
    }

    /// All streams of one connection; the first that ends ends them all.
    async fn connected(
        &self,
        client: Client,
        terminal: Arc<tokio::sync::Mutex<mpsc::Receiver<TerminalInput>>>,
        ended: &std::sync::atomic::AtomicBool,
    ) -> End {
        let (info_tx, info_rx) = watch::channel(None);
        tokio::select! {
            end = self.watch(client.clone(), &info_tx, ended) => end,
            end = self.events(client.clone()) => end,
            end = self.histograms(client.clone()) => end,
            end = self.terminal(client, terminal, info_rx) => end,
        }
    }

    async fn watch(
        &self,
        mut client: Client,
        info_tx: &watch::Sender<Option<bool>>,
        ended: &std::sync::atomic::AtomicBool,
    ) -> End {
        let mut stream = match client.watch(WatchRequest {}).await {
            Ok(reply) => reply.into_inner(),
            Err(status) => return broken(&status),
        };
        loop {
            match stream.message().await {
                Ok(Some(info)) => {
                    let over = matches!(info.state(), State::Ended | State::Failed);
                    ended.store(over, Ordering::Relaxed);
                    info_tx.send_replace(Some(has_terminal(&info)));
                    if !self.say(HostMsg::Info(Box::new(info))).await {
                        return End::NobodyListens;
                    }
                }
                Ok(None) if ended.load(Ordering::Relaxed) => return End::Finished,
                Ok(None) => return End::Broken("the session host closed the connection".to_owned()),
                Err(_) if ended.load(Ordering::Relaxed) => return End::Finished,
                Err(status) => return broken(&status),
            }
        }
    }

    async fn events(&self, mut client: Client) -> End {
        let last = self.last_seq.load(Ordering::Relaxed);
        let from_seq = if last == 0 { 0 } else { last.saturating_sub(OVERLAP) + 1 };
        let request = EventsRequest { from_seq, follow: true, ..EventsRequest::default() };
        let mut stream = match client.events(request).await {
            Ok(reply) => reply.into_inner(),
            Err(status) => return broken(&status),
        };
        let mut allowance = Allowance::new(Instant::now());
        loop {
            match stream.message().await {
                Ok(Some(batch)) => {
                    self.last_seq.fetch_max(batch.last_seq, Ordering::Relaxed);
                    let pause = allowance.take(batch.events.len(), Instant::now());
                    if !self.say(HostMsg::Events(batch)).await {
                        return End::NobodyListens;
                    }
                    if !pause.is_zero() {
                        sleep(pause).await;
                    }
                }
                // The watch says how the session ended; this stream only goes quiet.
                Ok(None) => return std::future::pending().await,
                Err(status) => {
                    // Give the watch the first word when the host is ending.
                    sleep(Duration::from_millis(200)).await;
                    return broken(&status);
                }
            }
        }
    }

    /// Latencies once a second, when anything has happened since.
    async fn histograms(&self, mut client: Client) -> End {
        let mut seen = None;
        loop {
            let last = self.last_seq.load(Ordering::Relaxed);
            if seen != Some(last) {
                let reply = timeout(limits::CALL, client.histograms(HistogramsRequest::default())).await;
                if let Ok(Ok(reply)) = reply {
                    let series = reply.into_inner().histograms.iter().map(series).collect();
                    if !self.say(HostMsg::Histograms(series)).await {
                        return End::NobodyListens;
                    }
                    seen = Some(last);
                }
            }
            sleep(limits::HISTOGRAMS).await;
        }
    }

    /// The command's terminal, once it is known that there is one.
    async fn terminal(
        &self,
        mut client: Client,
        input: Arc<tokio::sync::Mutex<mpsc::Receiver<TerminalInput>>>,
        mut info_rx: watch::Receiver<Option<bool>>,
    ) -> End {
        if info_rx.wait_for(|known| *known == Some(true)).await.is_err() {
            return std::future::pending().await;
        }
        let mut input = input.lock().await;
        let (to_host, from_here) = mpsc::channel(TERMINAL_QUEUE);
        let Ok(reply) = client.terminal(ReceiverStream::new(from_here)).await else {
            return std::future::pending().await;
        };
        let mut output = reply.into_inner();
        if !self.say(HostMsg::TerminalOpened).await {
            return End::NobodyListens;
        }
        loop {
            tokio::select! {
                // What the user types goes first: output never ends in some programs.
                biased;
                typed = input.recv() => match typed {
                    Some(typed) => drop(to_host.send(typed).await),
                    None => return End::NobodyListens,
                },
                data = output.next() => match data {
                    Some(Ok(data)) if !data.data.is_empty() => {
                        if !self.say(HostMsg::Output(data.data)).await {
                            return End::NobodyListens;
                        }
                    }
                    Some(Ok(_)) => {}
                    // The command has ended or another one begins; the watch says which.
                    Some(Err(_)) | None => return std::future::pending().await,
                },
            }
        }
    }
}

/// How many rows may be taken now: as many at once as are kept, then so many a second. More would leave the list before anybody has
/// seen them, and cost a core; a reader that pauses makes the host leave rows out, which it counts.
#[derive(Debug)]
struct Allowance {
    rows: f64,
    at: Instant,
}

impl Allowance {
    fn new(now: Instant) -> Self {
        Self { rows: limits::ROWS_AT_ONCE, at: now }
    }

    /// Takes rows and says how long to wait before more.
    fn take(&mut self, rows: usize, now: Instant) -> Duration {
        let earned = now.duration_since(self.at).as_secs_f64() * limits::ROWS_PER_SECOND;
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        self.rows = (self.rows + earned).min(limits::ROWS_AT_ONCE) - f64::from(rows);
        self.at = now;
        Duration::from_secs_f64((-self.rows / limits::ROWS_PER_SECOND).max(0.0))
    }
}

fn has_terminal(info: &SessionInfo) -> bool {
    info.has_terminal && matches!(info.state(), State::Running | State::Draining | State::Ended)
}

fn broken(status: &tonic::Status) -> End {
    End::Broken(format!("the connection to the session broke: {}", status.message()))
}

/// Doubled, up to the longest.
fn next_wait(wait: Duration) -> Duration {
    (wait * 2).min(limits::RETRY_MAX)
}

/// A histogram in the steps that are drawn.
fn series(histogram: &Histogram) -> Series {
    let mut steps = vec![0; STEPS];
    let decoded: Option<Hdr<u64>> = Deserializer::new().deserialize(&mut histogram.hdr.as_ref()).ok();
    for value in decoded.iter().flat_map(Hdr::iter_recorded) {
        if let Some(count) = steps.get_mut(step(value.value_iterated_to())) {
            *count += value.count_at_value();
        }
    }
    Series {
        kind: histogram.kind(),
        key: histogram.key.clone(),
        count: histogram.count,
        errors: histogram.errors,
        p50: histogram.p50_ns,
        p90: histogram.p90_ns,
        p99: histogram.p99_ns,
        p999: histogram.p999_ns,
        max: histogram.max_ns,
        steps,
        outliers: histogram.outliers.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_taken_at_a_bounded_rate() {
        let begin = Instant::now();
        let mut allowance = Allowance::new(begin);
        assert_eq!(allowance.take(50_000, begin), Duration::ZERO, "what is kept comes at once");
        // 100,000 rows a second, in batches of a thousand, by a reader that waits as it is told.
        let (mut now, mut taken) = (begin, 0_u64);
        while now < begin + Duration::from_secs(10) {
            now += Duration::from_millis(10);
            now += allowance.take(1_000, now);
            taken += 1_000;
        }
        let rate = f64::from(u32::try_from(taken).unwrap()) / 10.0 / limits::ROWS_PER_SECOND;
        assert!((0.97..=1.03).contains(&rate), "{taken}");
        // A rest earns the rows of its time.
        now += Duration::from_secs_f64(1.01 * 10_000.0 / limits::ROWS_PER_SECOND);
        assert_eq!(allowance.take(10_000, now), Duration::ZERO);
    }

    #[test]
    fn waits_double_up_to_a_limit() {
        let waits: Vec<_> =
            std::iter::successors(Some(limits::RETRY_MIN), |wait| Some(next_wait(*wait))).take(6).collect();
        assert_eq!(
            waits.iter().map(Duration::as_millis).collect::<Vec<_>>(),
            [500, 1000, 2000, 4000, 5000, 5000]
        );
    }
}
