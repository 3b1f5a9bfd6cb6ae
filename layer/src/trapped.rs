//! A call of the program that waits for its answer, from either attachment.

use std::os::fd::OwnedFd;

use crate::sys::seccomp::Notification;

/// Names a waiting call, for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Ticket {
    /// A notification of the kernel; each filter's listener counts by itself.
    Notification { listener: usize, id: u64 },
    /// A question of the library in a program, by the number of its connection.
    Question(u64),
}

/// A call, with the arguments as the kernel would get them.
#[derive(Debug)]
pub(crate) struct Trapped {
    pub(crate) ticket: Ticket,
    /// The thread that made the call; for a question any thread of the process.
    pub(crate) tid: u32,
    pub(crate) number: i32,
    pub(crate) arguments: [u64; 6],
    /// What the library sent along, so that nobody need look into the program.
    pub(crate) sent: Option<Sent>,
}

/// What comes beside a question.
#[derive(Debug)]
pub(crate) struct Sent {
    /// The path argument.
    pub(crate) path: Vec<u8>,
    /// The descriptor argument.
    pub(crate) descriptor: Option<OwnedFd>,
}

impl Trapped {
    pub(crate) fn notified(listener: usize, notification: &Notification) -> Self {
        Self {
            ticket: Ticket::Notification { listener, id: notification.id },
            tid: notification.tid,
            number: notification.number,
            arguments: notification.arguments,
            sent: None,
        }
    }

    /// The thread as far as an interrupted call of it may be repeated: 0 for a question, which is asked once and answered once.
    pub(crate) fn repeating_tid(&self) -> u32 {
        if self.sent.is_some() { 0 } else { self.tid }
    }
}
