//! The way back to the caller: the kernel's for a notification, its connection for a question of the library.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use super::{Outcome, Supervisor, library};
use crate::{sys::seccomp, trapped::Ticket};

/// Answers one call, from any thread.
pub(super) enum Answerer {
    Notification { listener: Arc<OwnedFd>, id: u64 },
    Question(OwnedFd),
}

impl Answerer {
    /// False: the caller no longer waits, whatever was to be handed out has not been.
    pub(super) fn answer(&self, outcome: Outcome) -> bool {
        match self {
            Self::Notification { listener, id } => notified(listener, *id, &outcome),
            Self::Question(connection) => library::answer(connection, outcome),
        }
    }
}

impl Supervisor {
    /// Answers a call. False: the caller no longer waits, whatever was to be handed out has not been.
    pub(super) fn conclude(&mut self, ticket: Ticket, outcome: Outcome) -> bool {
        if matches!(outcome, Outcome::Later) {
            return true;
        }
        match ticket {
            Ticket::Notification { listener, id } => {
                self.listener_of(listener).is_some_and(|listener| notified(listener, id, &outcome))
            }
            Ticket::Question(_) => self.answerer(ticket).is_some_and(|answerer| answerer.answer(outcome)),
        }
    }

    /// What answers this call; it can be asked for once.
    pub(super) fn answerer(&mut self, ticket: Ticket) -> Option<Answerer> {
        match ticket {
            Ticket::Notification { listener, id } => {
                let listener = Arc::clone(self.listener_of(listener)?);
                Some(Answerer::Notification { listener, id })
            }
            Ticket::Question(number) => self.library.take(number).map(Answerer::Question),
        }
    }

    /// Whether the caller still waits: asked after anything was opened by pid, which may have been reused.
    pub(super) fn is_valid(&self, ticket: Ticket) -> bool {
        match ticket {
            Ticket::Notification { listener, id } => {
                self.listener_of(listener).is_some_and(|listener| seccomp::is_valid(listener.as_fd(), id))
            }
            Ticket::Question(number) => self.library.waits(number),
        }
    }

    /// Gives the caller a descriptor as the result of its call, and keeps it. False: the caller no longer waits.
    pub(super) fn hand_out(&mut self, ticket: Ticket, descriptor: &OwnedFd, close_on_exec: bool) -> bool {
        match ticket {
            Ticket::Notification { listener, id } => self
                .listener_of(listener)
                .is_some_and(|listener| handed_out(listener, id, descriptor, close_on_exec)),
            Ticket::Question(number) => {
                self.library.take(number).is_some_and(|connection| library::hand_out(&connection, descriptor))
            }
        }
    }

    fn listener_of(&self, number: usize) -> Option<&Arc<OwnedFd>> {
        match number {
            0 => self.listener.as_ref(),
            number => self.library.listener(number),
        }
    }
}

/// Its own errors (a full table) become the result of the call.
fn handed_out(listener: &Arc<OwnedFd>, id: u64, descriptor: &OwnedFd, close_on_exec: bool) -> bool {
    match seccomp::answer_with(listener.as_fd(), id, descriptor.as_fd(), close_on_exec) {
        Ok(()) => true,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => false,
        Err(error) => {
            seccomp::fail(listener.as_fd(), id, error.raw_os_error().unwrap_or(libc::EMFILE)).is_ok()
        }
    }
}

fn notified(listener: &Arc<OwnedFd>, id: u64, outcome: &Outcome) -> bool {
    if let Outcome::Descriptor { descriptor, close_on_exec } = outcome {
        return handed_out(listener, id, descriptor, *close_on_exec);
    }
    let listener = listener.as_fd();
    let result = match outcome {
        // Helpers, names and bytes are for questions; a notification is never answered so.
        Outcome::GoOn | Outcome::Helper(_) | Outcome::Addresses { .. } => seccomp::go_on(listener, id),
        Outcome::Value(value) | Outcome::Bytes { value, .. } => seccomp::answer(listener, id, *value),
        Outcome::Errno(errno) => seccomp::fail(listener, id, *errno),
        Outcome::Later | Outcome::Descriptor { .. } => return true,
    };
    result.is_ok()
}
