//! Copies on their way from the capture thread to the client: batches in a queue that is bounded in bytes.
//!
//! The capture thread never waits here. When there is no room it is told so and the copy is lost; that it was lost, and how much,
//! still gets through, because openings, gaps and ends have room of their own.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::BytesMut;
use mirrord_protocol::agent::v1::{MirrorBatch, MirrorItem, mirror_item::Kind};
use tokio_stream::Stream;
use tonic::Status;

use crate::limits::{CHUNK_MAX, MIRROR_BATCH, MIRROR_CONTROL, MIRROR_ITEM, MIRROR_QUEUE};

/// capture thread --batches--> Mirror call. Clones mean the same queue.
#[derive(Clone, Debug, Default)]
pub(crate) struct MirrorQueue(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    batches: VecDeque<(usize, MirrorBatch)>,
    bytes: usize,
    /// Grows when a reader leaves or is replaced: what it had heard of open connections is not known to the next one.
    generation: u64,
    waker: Option<Waker>,
}

impl MirrorQueue {
    /// The one reader; an older one ends.
    pub(crate) fn attach(&self) -> MirrorReader {
        let mut state = self.state();
        if state.waker.is_some() {
            state.leave();
        }
        // A reader always has a waker here, so that the next one knows of it.
        state.waker = Some(Waker::noop().clone());
        MirrorReader { queue: self.clone(), generation: state.generation }
    }

    /// See [`State::generation`].
    pub(crate) fn generation(&self) -> u64 {
        self.state().generation
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn leave(&mut self) {
        self.generation += 1;
        self.batches.clear();
        self.bytes = 0;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The client's end: the stream of one Mirror call.
#[derive(Debug)]
pub(crate) struct MirrorReader {
    queue: MirrorQueue,
    generation: u64,
}

impl Stream for MirrorReader {
    type Item = Result<MirrorBatch, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.queue.state();
        if state.generation != self.generation {
            return Poll::Ready(None);
        }
        match state.batches.pop_front() {
            Some((size, batch)) => {
                state.bytes -= size;
                Poll::Ready(Some(Ok(batch)))
            }
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for MirrorReader {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        if state.generation == self.generation {
            state.leave();
        }
    }
}

/// The capture thread's end: collects items into batches.
#[derive(Debug)]
pub(crate) struct Producer {
    queue: MirrorQueue,
    items: Vec<MirrorItem>,
    /// Estimated size of `items`.
    size: usize,
    /// Size of what waits in the queue, as far as known.
    queued: usize,
    /// There was no room; none is given until half of the queue is free, so that one gap does not become thousands.
    overflowing: bool,
    /// Where data is copied to: the items of a batch share few allocations.
    arena: BytesMut,
}

impl Producer {
    pub(crate) fn new(queue: MirrorQueue) -> Self {
        Self { queue, items: Vec::new(), size: 0, queued: 0, overflowing: false, arena: BytesMut::new() }
    }

    /// Whether data of this length would be taken now.
    pub(crate) fn has_room(&mut self, length: usize) -> bool {
        let most = if self.overflowing { MIRROR_QUEUE / 2 } else { MIRROR_QUEUE };
        self.overflowing = self.queued + self.size + length + MIRROR_ITEM > most;
        !self.overflowing
    }

    /// Takes a copy of the data when there is room for it.
    pub(crate) fn data(&mut self, connection: u64, time_ns: u64, from_server: bool, data: &[u8]) -> bool {
        if !self.has_room(data.len()) {
            return false;
        }
        if self.arena.capacity() < data.len() {
            self.arena = BytesMut::with_capacity(data.len().max(CHUNK_MAX));
        }
        self.arena.extend_from_slice(data);
        let copy = self.arena.split().freeze();
        let kind = if from_server { Kind::FromServer(copy) } else { Kind::FromClient(copy) };
        self.push(MirrorItem { connection, time_ns, kind: Some(kind) }, data.len());
        true
    }

    /// An opening, a gap or an end. False: even for these there is no room.
    pub(crate) fn control(&mut self, connection: u64, time_ns: u64, kind: Kind) -> bool {
        let room = self.queued + self.size + MIRROR_ITEM <= MIRROR_QUEUE + MIRROR_CONTROL;
        if room {
            self.push(MirrorItem { connection, time_ns, kind: Some(kind) }, MIRROR_ITEM);
        }
        room
    }

    /// Hands over what was collected. Call it after each block of the ring.
    pub(crate) fn flush(&mut self) {
        let mut state = self.queue.state();
        if !self.items.is_empty() {
            let batch = MirrorBatch { items: std::mem::take(&mut self.items) };
            state.bytes += self.size;
            state.batches.push_back((self.size, batch));
            self.size = 0;
            if let Some(waker) = &state.waker {
                waker.wake_by_ref();
            }
        }
        self.queued = state.bytes;
    }

    /// Throws away what is not handed over yet.
    pub(crate) fn clear(&mut self) {
        self.items.clear();
        self.size = 0;
        self.flush();
    }

    fn push(&mut self, item: MirrorItem, length: usize) {
        self.size += length + MIRROR_ITEM;
        self.items.push(item);
        if self.size >= MIRROR_BATCH {
            self.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;

    fn gap() -> Kind {
        Kind::Gap(mirrord_protocol::agent::v1::MirrorGap::default())
    }

    #[tokio::test]
    async fn a_stalled_reader_loses_data_but_not_words() {
        let queue = MirrorQueue::default();
        let mut reader = queue.attach();
        let mut producer = Producer::new(queue);
        let chunk = vec![1; 100_000];
        let mut taken = 0;
        while producer.data(1, 0, false, &chunk) {
            taken += 1;
        }
        assert!(taken * 100_000 <= MIRROR_QUEUE && taken * 100_000 > MIRROR_QUEUE * 9 / 10);
        assert!(producer.control(1, 0, gap()), "a gap can still be told");
        assert!(!producer.data(1, 0, false, b"x"), "not before half of the queue is free");
        producer.flush();
        let mut data = 0;
        while let Some(Ok(batch)) = reader.next().await {
            data += batch.items.iter().filter(|item| matches!(item.kind, Some(Kind::FromClient(_)))).count();
            if data == taken {
                break;
            }
        }
        producer.flush();
        assert!(producer.data(1, 0, false, b"x"), "room again");
    }

    #[tokio::test]
    async fn words_are_bounded_too() {
        let queue = MirrorQueue::default();
        let mut producer = Producer::new(queue);
        let mut taken = 0_usize;
        while producer.control(1, 0, gap()) {
            taken += 1;
            assert!(taken * MIRROR_ITEM <= MIRROR_QUEUE + MIRROR_CONTROL);
        }
    }

    #[tokio::test]
    async fn the_last_reader_counts() {
        let queue = MirrorQueue::default();
        let mut producer = Producer::new(queue.clone());
        producer.data(1, 0, true, b"before any reader");
        producer.flush();
        let mut first = queue.attach();
        assert!(first.next().await.is_some());
        let generation = queue.generation();
        let mut second = queue.attach();
        assert!(first.next().await.is_none());
        assert_ne!(queue.generation(), generation);
        producer.data(2, 0, true, b"more");
        producer.flush();
        drop(first);
        assert!(second.next().await.is_some(), "the first one's end does not take the second's items");
        drop(second);
        assert_eq!(queue.generation(), generation + 2);
    }
}
