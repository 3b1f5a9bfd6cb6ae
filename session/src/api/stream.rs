//! The streams that viewers read: latest information, batches of events, output of the terminal.

use std::{future::Future, pin::Pin};

use mirrord_protocol::session::v1 as wire;
use tokio::{sync::watch, time::sleep};
use tokio_stream::{Stream, StreamExt};
use tonic::{Status, Streaming};

use super::row;
use crate::{
    events::{Reader, Taken},
    host::Terminal,
    limits::{VIEWER_BATCH, VIEWER_GAP},
};

/// The information now and whenever it has changed; ends with the session's last word.
pub(super) fn infos(
    info: watch::Receiver<wire::SessionInfo>,
) -> impl Stream<Item = Result<wire::SessionInfo, Status>> {
    let first = true;
    unfold(Some((info, first)), |state| async {
        let (mut info, first) = state?;
        if !first && info.changed().await.is_err() {
            return None;
        }
        let latest = info.borrow_and_update().clone();
        let last = matches!(latest.state(), wire::State::Ended | wire::State::Failed);
        Some((Ok(latest), (!last).then_some((info, false))))
    })
}

/// The events of a reader in batches, with or without bodies.
pub(super) fn events(
    reader: Reader,
    follow: bool,
    bodies: bool,
) -> impl Stream<Item = Result<wire::EventBatch, Status>> {
    unfold((reader, false), move |(mut reader, paused)| async move {
        let batch = if follow {
            if paused {
                // Lets rows gather, so that a busy session costs a viewer few messages.
                sleep(VIEWER_GAP).await;
            }
            reader.next(VIEWER_BATCH).await?
        } else {
            match reader.take(VIEWER_BATCH) {
                Taken::Some(batch) => batch,
                Taken::Nothing | Taken::Closed => return None,
            }
        };
        let full = batch.events.len() == VIEWER_BATCH;
        let whole_or_row = |event: &wire::Event| if bodies { event.clone() } else { row(event) };
        let events = batch.events.iter().map(|event| whole_or_row(event)).collect();
        let message = wire::EventBatch { events, dropped: batch.dropped, last_seq: batch.last_seq };
        Some((Ok(message), (reader, !full)))
    })
}

/// What the terminal printed so far and from now on. What the viewer sends is typed; it ends when the terminal does.
pub(super) fn terminal(
    terminal: &Terminal,
    input: Streaming<wire::TerminalInput>,
) -> impl Stream<Item = Result<wire::TerminalOutput, Status>> + use<> {
    let typing = terminal.clone();
    let mut typed = Box::pin(input);
    let typist: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
        while let Some(Ok(input)) = typed.next().await {
            if input.columns > 0 && input.rows > 0 {
                typing.resize(input.columns, input.rows);
            }
            if !input.data.is_empty() {
                typing.input(&input.data).await;
            }
        }
    });
    unfold(Some((terminal.read(), Some(typist))), |state| async {
        let (mut output, mut typist) = state?;
        // Typing goes on only as long as somebody reads: that is the same connection.
        let data = loop {
            tokio::select! {
                data = output.next() => break data,
                () = ended(&mut typist) => typist = None,
            }
        };
        Some(match data {
            Some(data) => (Ok(wire::TerminalOutput { data, ended: false }), Some((output, typist))),
            None => (Ok(wire::TerminalOutput { ended: true, ..wire::TerminalOutput::default() }), None),
        })
    })
}

async fn ended(typist: &mut Option<Pin<Box<dyn Future<Output = ()> + Send>>>) {
    match typist {
        Some(typist) => typist.await,
        None => std::future::pending().await,
    }
}

/// A stream of what `step` returns together with the next state, until it returns nothing.
fn unfold<S, T, F, N>(state: S, step: N) -> impl Stream<Item = T>
where
    N: FnMut(S) -> F,
    F: Future<Output = Option<(T, S)>>,
{
    futures_util::stream::unfold(state, step)
}
