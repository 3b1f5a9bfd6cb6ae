//! Messages to the host. Nothing waits: what does not fit into the socket is queued up to a bound.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, OwnedFd},
};

use mirrord_protocol::layer::v1::{FromLayer, Notice, from_layer};

use crate::{
    limits::QUEUED_MESSAGES,
    link::{Link, LinkError},
};

pub(super) struct Outbox {
    link: Link,
    queue: VecDeque<(FromLayer, Option<OwnedFd>)>,
    next: u64,
    dropped: u64,
}

impl Outbox {
    pub(super) const fn new(link: Link) -> Self {
        Self { link, queue: VecDeque::new(), next: 0, dropped: 0 }
    }

    pub(super) const fn link(&self) -> &Link {
        &self.link
    }

    /// Sends what the host must know.
    pub(super) fn send(&mut self, kind: from_layer::Kind) -> Result<(), LinkError> {
        self.put(FromLayer { id: 0, kind: Some(kind) }, None)
    }

    /// Sends the answer to a message of the host.
    pub(super) fn reply(&mut self, id: u64, kind: from_layer::Kind) -> Result<(), LinkError> {
        self.put(FromLayer { id, kind: Some(kind) }, None)
    }

    /// Sends a question; its answer will carry the returned number.
    pub(super) fn ask(&mut self, kind: from_layer::Kind) -> Result<u64, LinkError> {
        self.ask_with(kind, None)
    }

    /// The same with a descriptor beside it.
    pub(super) fn ask_with(
        &mut self,
        kind: from_layer::Kind,
        descriptor: Option<OwnedFd>,
    ) -> Result<u64, LinkError> {
        self.next += 1;
        self.put(FromLayer { id: self.next, kind: Some(kind) }, descriptor)?;
        Ok(self.next)
    }

    /// Sends what the host may miss when it is slow: then it is counted.
    pub(super) fn report(&mut self, kind: from_layer::Kind) {
        if self.queue.len() >= QUEUED_MESSAGES {
            self.dropped += 1;
        } else {
            // A link that has failed is seen by the loop, which reads from it.
            drop(self.send(kind));
        }
    }

    fn put(&mut self, message: FromLayer, descriptor: Option<OwnedFd>) -> Result<(), LinkError> {
        if !self.queue.is_empty() {
            self.queue.push_back((message, descriptor));
            return Ok(());
        }
        match self.link.send(&message, descriptor.as_ref().map(AsFd::as_fd).as_slice()) {
            Err(error) if error.would_block() => self.queue.push_back((message, descriptor)),
            result => return result,
        }
        Ok(())
    }

    /// Whether room in the socket is waited for.
    pub(super) fn is_blocked(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Sends what is queued, as far as it fits.
    pub(super) fn flush(&mut self) -> Result<(), LinkError> {
        while let Some((message, descriptor)) = self.queue.front() {
            match self.link.send(message, descriptor.as_ref().map(AsFd::as_fd).as_slice()) {
                Err(error) if error.would_block() => return Ok(()),
                result => result?,
            }
            self.queue.pop_front();
        }
        if self.dropped > 0 {
            let text =
                format!("{} reports of the layer were lost because the session host was busy.", self.dropped);
            self.dropped = 0;
            self.report(from_layer::Kind::Notice(Notice { text, hint: String::new() }));
        }
        Ok(())
    }
}

impl AsFd for Outbox {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.link.as_fd()
    }
}
