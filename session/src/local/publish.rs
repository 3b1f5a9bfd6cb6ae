//! Published ports: a thread per pod that takes connections of the machine's loopback and carries them to the pod.
//!
//! The listeners were made in the machine's network namespace by whoever started the pod; the connections to the pod are made
//! here, in the node's. Bytes move with splice(2), so that they do not pass through this process's memory. Edge-triggered epoll:
//! every event lets both directions of its connection run until neither can.

use std::{
    io,
    net::SocketAddrV4,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::{
    event::epoll::{self, CreateFlags, EventData, EventFlags},
    io::Errno,
    net::{
        AddressFamily, Shutdown, SocketFlags, SocketType, accept_with, connect, shutdown, socket_with,
        sockopt,
    },
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice},
};

use crate::limits::{RELAY_CHUNK, RELAY_EVENTS, RELAY_SPARE_PIPES, RELAY_TURN};

/// A listener of the machine and where its connections go.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) listener: OwnedFd,
    pub(super) target: SocketAddrV4,
}

/// The running relay of a pod's ports. It ends when this is dropped: listeners close at once, open connections are reset.
#[derive(Debug)]
pub(super) struct Publisher {
    /// The thread sees it close.
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Publisher {
    /// Starts the relay; the calling thread's network namespace must be the node's.
    pub(super) fn start(ports: Vec<Port>) -> io::Result<Self> {
        let (stopped, stop) = pipe_with(PipeFlags::CLOEXEC)?;
        let mut relay = Relay::new(ports, stopped)?;
        let thread = thread::Builder::new().name("published".to_owned()).spawn(move || relay.run())?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        drop(self.stop.take());
        // The thread never waits for anything but epoll, which the closed pipe has just ended.
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Marks in the events' data: the stop pipe, then the listeners, then two numbers for each connection.
const STOP: u64 = 0;
const LISTENERS: u64 = 1;

#[derive(Debug)]
struct Relay {
    epoll: OwnedFd,
    /// Kept open: it is closed by the kernel when the other end is.
    _stopped: OwnedFd,
    ports: Vec<Port>,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    pipes: Pipes,
    /// Connections whose turn ended before they had nothing more to do.
    again: Vec<usize>,
    /// Accepting failed for want of descriptors or memory; it is tried again when a connection has ended.
    starved: bool,
}

#[derive(Debug)]
struct Connection {
    client: OwnedFd,
    pod: OwnedFd,
    connected: bool,
    up: Flow,
    down: Flow,
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Flow {
    /// Held while bytes wait in it for a slow receiver.
    pipe: Option<Pipe>,
    waiting: usize,
    end_seen: bool,
    end_sent: bool,
}

#[derive(Debug)]
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

/// Empty pipes: few are needed, for a pipe is held across turns only by a direction whose receiver is slow.
#[derive(Debug, Default)]
struct Pipes(Vec<Pipe>);

/// How a turn of a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Nothing to do before the next event.
    Idle,
    /// There is more to do.
    More,
    /// Both directions have ended.
    Done,
}

impl Relay {
    fn new(ports: Vec<Port>, stopped: OwnedFd) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &stopped, EventData::new_u64(STOP), EventFlags::HUP)?;
        for (port, mark) in ports.iter().zip(LISTENERS..) {
            rustix::io::ioctl_fionbio(&port.listener, true)?;
            epoll::add(&epoll, &port.listener, EventData::new_u64(mark), EventFlags::IN | EventFlags::ET)?;
        }
        let (connections, free, again) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self {
            epoll,
            _stopped: stopped,
            ports,
            connections,
            free,
            pipes: Pipes::default(),
            again,
            starved: false,
        })
    }

    fn run(&mut self) {
        let mut events = Vec::with_capacity(RELAY_EVENTS);
        loop {
            let poll_only = rustix::event::Timespec::default();
            let timeout = if self.again.is_empty() { None } else { Some(&poll_only) };
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            // Numbers of ended connections are free for others only after all events of this round.
            let mut ended = Vec::new();
            for event in events.drain(..) {
                match event.data.u64() {
                    STOP => return,
                    mark => self.on_event(mark, event.flags, &mut ended),
                }
            }
            for number in std::mem::take(&mut self.again) {
                self.turn(number, &mut ended);
            }
            if !ended.is_empty() {
                self.free.append(&mut ended);
                if std::mem::take(&mut self.starved) {
                    (0..self.ports.len()).for_each(|port| self.accept(port));
                }
            }
        }
    }

    fn on_event(&mut self, mark: u64, flags: EventFlags, ended: &mut Vec<usize>) {
        let Ok(number) = usize::try_from(mark - LISTENERS) else { return };
        let Some(number) = number.checked_sub(self.ports.len()) else { return self.accept(number) };
        let (number, is_pod) = (number / 2, number % 2 == 1);
        if let Some(Some(connection)) = self.connections.get_mut(number) {
            // A failed connection attempt is found by the first read.
            connection.connected |= is_pod && flags.intersects(EventFlags::OUT | EventFlags::ERR);
            self.turn(number, ended);
        }
    }

    /// Takes all waiting connections of a listener.
    fn accept(&mut self, port: usize) {
        loop {
            let Some(Port { listener, target }) = self.ports.get(port) else { return };
            let client = match accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(client) => client,
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    self.starved = true;
                    return;
                }
            };
            // A connection that cannot be carried is closed by dropping it, which its client sees.
            if let Ok(connection) = Connection::open(client, *target) {
                self.add(connection).ok();
            }
        }
    }

    fn add(&mut self, connection: Connection) -> io::Result<()> {
        let number = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        let mark = u64::try_from(number * 2 + self.ports.len()).map_err(io::Error::other)? + LISTENERS;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let added = epoll::add(&self.epoll, &connection.client, EventData::new_u64(mark), flags)
            .and_then(|()| epoll::add(&self.epoll, &connection.pod, EventData::new_u64(mark + 1), flags));
        match (added, self.connections.get_mut(number)) {
            (Ok(()), Some(place)) => *place = Some(connection),
            _ => self.free.push(number),
        }
        Ok(added?)
    }

    fn turn(&mut self, number: usize, ended: &mut Vec<usize>) {
        let Some(place) = self.connections.get_mut(number) else { return };
        let Some(connection) = place else { return };
        match connection.turn(&mut self.pipes) {
            Ok(Turn::Idle) => {}
            Ok(Turn::More) => self.again.push(number),
            Ok(Turn::Done) => {
                *place = None;
                ended.push(number);
            }
            Err(_) => {
                connection.reset();
                *place = None;
                ended.push(number);
            }
        }
    }
}

impl Connection {
    fn open(client: OwnedFd, target: SocketAddrV4) -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let pod = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        sockopt::set_tcp_nodelay(&client, true)?;
        sockopt::set_tcp_nodelay(&pod, true)?;
        let connected = match connect(&pod, &target) {
            Ok(()) => true,
            Err(Errno::INPROGRESS) => false,
            Err(error) => {
                sockopt::set_socket_linger(&client, Some(Duration::ZERO))?;
                return Err(error.into());
            }
        };
        Ok(Self { client, pod, connected, up: Flow::default(), down: Flow::default() })
    }

    fn turn(&mut self, pipes: &mut Pipes) -> io::Result<Turn> {
        if !self.connected {
            return Ok(Turn::Idle);
        }
        let up = self.up.run(self.client.as_fd(), self.pod.as_fd(), pipes)?;
        let down = self.down.run(self.pod.as_fd(), self.client.as_fd(), pipes)?;
        Ok(match (up, down) {
            (Turn::Done, Turn::Done) => Turn::Done,
            (Turn::More, _) | (_, Turn::More) => Turn::More,
            _ => Turn::Idle,
        })
    }

    /// One side broke off: so does the other, as it would without us between them.
    fn reset(&self) {
        for socket in [&self.client, &self.pod] {
            // Without it the other side sees an orderly end, which is the worse lie but no reason to keep the connection.
            sockopt::set_socket_linger(socket, Some(Duration::ZERO)).ok();
        }
    }
}

impl Flow {
    /// Carries bytes until one of the two has to wait, or until others shall have their turn.
    fn run(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, pipes: &mut Pipes) -> io::Result<Turn> {
        if self.end_sent {
            return Ok(Turn::Done);
        }
        let pipe = self.pipe.take().map_or_else(|| pipes.take(), Ok)?;
        for _ in 0..RELAY_TURN {
            if self.waiting == 0 && !self.end_seen {
                match splice(from, None, &pipe.writer, None, RELAY_CHUNK, SPLICE) {
                    Ok(0) => self.end_seen = true,
                    Ok(count) => self.waiting = count,
                    Err(Errno::AGAIN) => {
                        pipes.put(pipe);
                        return Ok(Turn::Idle);
                    }
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            } else if self.waiting == 0 {
                pipes.put(pipe);
                shutdown(to, Shutdown::Write)?;
                self.end_sent = true;
                return Ok(Turn::Done);
            } else {
                match splice(&pipe.reader, None, to, None, self.waiting, SPLICE) {
                    Ok(count) => self.waiting = self.waiting.saturating_sub(count),
                    Err(Errno::AGAIN) => {
                        self.pipe = Some(pipe);
                        return Ok(Turn::Idle);
                    }
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        if self.waiting == 0 {
            pipes.put(pipe);
        } else {
            self.pipe = Some(pipe);
        }
        Ok(Turn::More)
    }
}

const SPLICE: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);

impl Pipes {
    fn take(&mut self) -> io::Result<Pipe> {
        if let Some(pipe) = self.0.pop() {
            return Ok(pipe);
        }
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A wish: users may only have so many large pipes (pipe(7)), and a small one works as well.
        fcntl_setpipe_size(&writer, RELAY_CHUNK).ok();
        Ok(Pipe { reader, writer })
    }

    fn put(&mut self, pipe: Pipe) {
        if self.0.len() < RELAY_SPARE_PIPES {
            self.0.push(pipe);
        }
    }
}
