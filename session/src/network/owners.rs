//! Whose the sockets of the session are: the layer tells who made each one, socket diagnosis finds the socket of a flow.
//!
//! What a process made and a child of it uses is the maker's here. A table of fixed size: the oldest sockets are forgotten, and their
//! flows are then nobody's.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mirrord_protocol::{layer::v1::SocketMade, session::v1 as wire};

use crate::limits::SOCKET_OWNERS;

/// TASK_COMM_LEN (linux/sched.h): the NUL included.
const COMM: usize = 16;

/// A thread of the session as events name it; pid 0: not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    pid: u32,
    tid: u32,
    comm: [u8; COMM],
}

impl Owner {
    fn new(made: &SocketMade) -> Self {
        let Some(caller) = &made.caller else { return Self::default() };
        let mut comm = [0; COMM];
        for (to, from) in comm.iter_mut().zip(caller.comm.iter()) {
            *to = *from;
        }
        Self { pid: caller.pid, tid: caller.tid, comm }
    }

    /// Writes it into an event.
    pub(crate) fn mark(&self, event: &mut wire::Event) {
        if self.pid != 0 {
            let comm = self.comm.split(|byte| *byte == 0).next().unwrap_or_default();
            (event.pid, event.tid) = (self.pid, self.tid);
            event.comm = bytes::Bytes::copy_from_slice(comm);
        }
    }
}

/// The table; clones share it.
#[derive(Clone, Debug, Default)]
pub struct SocketOwners {
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    by_cookie: HashMap<u64, Owner>,
    /// Oldest first.
    cookies: VecDeque<u64>,
}

impl SocketOwners {
    /// The layer has handed a socket out.
    pub fn made(&self, made: &SocketMade) {
        let mut table = self.lock();
        if table.by_cookie.insert(made.cookie, Owner::new(made)).is_some() {
            return;
        }
        table.cookies.push_back(made.cookie);
        if table.cookies.len() > SOCKET_OWNERS
            && let Some(oldest) = table.cookies.pop_front()
        {
            table.by_cookie.remove(&oldest);
        }
    }

    /// Who made the socket with this SO_COOKIE.
    pub(super) fn of(&self, cookie: Option<u64>) -> Owner {
        cookie.and_then(|cookie| self.lock().by_cookie.get(&cookie).copied()).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use mirrord_protocol::layer::v1::Caller;

    use super::*;

    fn made(cookie: u64, comm: &'static str) -> SocketMade {
        SocketMade { caller: Some(Caller { pid: 7, tid: 8, comm: comm.into() }), cookie }
    }

    #[test]
    fn an_event_names_who_made_the_socket() {
        let owners = SocketOwners::default();
        owners.made(&made(1, "a-name-that-is-longer-than-any"));
        let mut event = wire::Event::default();
        owners.of(Some(1)).mark(&mut event);
        assert_eq!((event.pid, event.tid, &*event.comm), (7, 8, &b"a-name-that-is-l"[..]));
        let mut event = wire::Event::default();
        owners.of(Some(2)).mark(&mut event);
        owners.of(None).mark(&mut event);
        assert_eq!(event, wire::Event::default());
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let owners = SocketOwners::default();
        let count = u64::try_from(SOCKET_OWNERS).unwrap();
        for cookie in 0..=count {
            // Twice, as when a signal came between: one entry.
            owners.made(&made(cookie, "x"));
            owners.made(&made(cookie, "x"));
        }
        assert_eq!(owners.of(Some(0)), Owner::default());
        assert_ne!(owners.of(Some(1)), Owner::default());
        assert_ne!(owners.of(Some(count)), Owner::default());
        let table = owners.lock();
        assert_eq!((table.by_cookie.len(), table.cookies.len()), (SOCKET_OWNERS, SOCKET_OWNERS));
    }
}
