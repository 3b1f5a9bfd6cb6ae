//! Calls that wait for the host's answer, and answers that wait for the call.
//!
//! A signal makes the kernel drop a notification; the thread then makes the same call again under a new number. It is attached to
//! the question that is already under way, or gets the answer that came in between, so a storm of signals cannot keep a call from
//! ever being answered. A thread has at most one call here; another call of it means that the first was given up.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use mirrord_protocol::layer::v1::FileAnswer;

use crate::{
    limits::{HOST_ANSWER, KEPT_ANSWERS, KEPT_FOR},
    request::Want,
    trapped::Ticket,
};

/// What makes two calls of a thread the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) path: Vec<u8>,
    pub(super) follow: bool,
    pub(super) want: Wish,
}

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Path(Want),
    /// connect(2) of the socket with this cookie.
    Connect {
        cookie: u64,
    },
}

/// A call.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) ticket: Ticket,
    /// The thread that may make the call again, 0: it will not.
    pub(super) tid: u32,
    pub(super) subject: Subject,
    /// The path had to be a directory.
    pub(super) directory: bool,
    /// The caller's own socket, for connect(2).
    pub(super) socket: Option<OwnedFd>,
    since: Instant,
    arrived: Option<Arrived>,
}

/// What the host answered.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) answer: FileAnswer,
    pub(super) descriptor: Option<OwnedFd>,
}

/// What there is about a repeated call.
pub(super) enum Repeat {
    /// It is a new one.
    New,
    /// It is under way.
    Waiting,
    /// The answer is here.
    Arrived(Box<(Pending, Arrived)>),
}

#[derive(Debug, Default)]
pub(super) struct Calls {
    pending: HashMap<u64, Pending>,
    by_thread: HashMap<u32, u64>,
    kept: usize,
}

impl Calls {
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Looks whether the thread has made this call before and it is not done.
    pub(super) fn repeat(&mut self, tid: u32, subject: &Subject, ticket: Ticket) -> Repeat {
        let Some(id) = self.by_thread.get(&tid).copied() else { return Repeat::New };
        let same = self.pending.get_mut(&id).filter(|pending| pending.subject == *subject);
        match same {
            Some(pending) if pending.arrived.is_none() => {
                pending.ticket = ticket;
                Repeat::Waiting
            }
            Some(_) => match self.remove(id) {
                Some((mut pending, Some(arrived))) => {
                    pending.ticket = ticket;
                    Repeat::Arrived(Box::new((pending, arrived)))
                }
                _ => Repeat::New,
            },
            None => {
                self.remove(id);
                Repeat::New
            }
        }
    }

    /// Notes a question that has just been sent.
    pub(super) fn insert(
        &mut self,
        id: u64,
        (tid, ticket): (u32, Ticket),
        subject: Subject,
        directory: bool,
        socket: Option<OwnedFd>,
    ) {
        let pending =
            Pending { ticket, tid, subject, directory, socket, since: Instant::now(), arrived: None };
        self.pending.insert(id, pending);
        if tid != 0 {
            self.by_thread.insert(tid, id);
        }
    }

    /// The call that an answer is for.
    pub(super) fn take(&mut self, id: u64) -> Option<Pending> {
        self.remove(id).map(|(pending, _)| pending)
    }

    /// Keeps an answer that came while its call was interrupted, for the repetition.
    pub(super) fn keep(&mut self, id: u64, pending: Pending, arrived: Arrived) {
        if pending.tid == 0 || self.kept >= KEPT_ANSWERS || self.by_thread.contains_key(&pending.tid) {
            return;
        }
        self.kept += 1;
        self.by_thread.insert(pending.tid, id);
        self.pending.insert(id, Pending { arrived: Some(arrived), since: Instant::now(), ..pending });
    }

    fn remove(&mut self, id: u64) -> Option<(Pending, Option<Arrived>)> {
        let mut pending = self.pending.remove(&id)?;
        if self.by_thread.get(&pending.tid) == Some(&id) {
            self.by_thread.remove(&pending.tid);
        }
        let arrived = pending.arrived.take();
        self.kept -= usize::from(arrived.is_some());
        Some((pending, arrived))
    }

    /// Forgets answers that nobody came back for, and returns the calls that have waited too long.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<Pending> {
        let is_late = |pending: &Pending, limit: Duration| now.duration_since(pending.since) > limit;
        let late: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, pending)| {
                is_late(pending, if pending.arrived.is_some() { KEPT_FOR } else { HOST_ANSWER })
            })
            .map(|(id, _)| *id)
            .collect();
        late.into_iter()
            .filter_map(|id| self.remove(id))
            .filter(|(_, arrived)| arrived.is_none())
            .map(|(pending, _)| pending)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(path: &str) -> Subject {
        Subject { path: path.into(), follow: true, want: Wish::Path(Want::Stat { buffer: 1 }) }
    }

    fn ticket(id: u64) -> Ticket {
        Ticket::Notification { listener: 0, id }
    }

    fn arrived() -> Arrived {
        Arrived { answer: FileAnswer { errno: 2, ..FileAnswer::default() }, descriptor: None }
    }

    #[test]
    fn an_interrupted_call_joins_the_question_under_way() {
        let mut calls = Calls::default();
        assert!(matches!(calls.repeat(7, &subject("/a"), ticket(1)), Repeat::New));
        calls.insert(100, (7, ticket(1)), subject("/a"), false, None);
        assert!(matches!(calls.repeat(7, &subject("/a"), ticket(2)), Repeat::Waiting));
        assert_eq!(calls.take(100).unwrap().ticket, ticket(2));
        assert!(calls.is_empty());
    }

    #[test]
    fn an_answer_that_came_too_early_is_kept_for_the_repetition_only() {
        let mut calls = Calls::default();
        calls.insert(100, (7, ticket(1)), subject("/a"), false, None);
        let pending = calls.take(100).unwrap();
        calls.keep(100, pending, arrived());
        match calls.repeat(7, &subject("/a"), ticket(2)) {
            Repeat::Arrived(found) => {
                assert_eq!((found.0.ticket, found.1.answer.errno), (ticket(2), 2))
            }
            _ => panic!("the answer is lost"),
        }
        assert!(calls.is_empty() && calls.kept == 0);
    }

    #[test]
    fn another_call_of_the_thread_ends_the_first() {
        let mut calls = Calls::default();
        calls.insert(100, (7, ticket(1)), subject("/a"), false, None);
        assert!(matches!(calls.repeat(7, &subject("/b"), ticket(2)), Repeat::New));
        assert!(calls.take(100).is_none());
    }

    #[test]
    fn old_entries_leave() {
        let mut calls = Calls::default();
        calls.insert(100, (7, ticket(1)), subject("/a"), false, None);
        calls.insert(101, (8, ticket(1)), subject("/a"), false, None);
        let pending = calls.take(101).unwrap();
        calls.keep(101, pending, arrived());
        let later = Instant::now() + KEPT_FOR + Duration::from_secs(1);
        assert!(calls.overdue(later).is_empty() && calls.kept == 0);
        let later = Instant::now() + HOST_ANSWER + Duration::from_secs(1);
        assert_eq!(calls.overdue(later).len(), 1);
        assert!(calls.is_empty());
    }
}
