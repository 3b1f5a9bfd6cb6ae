//! An HTTP server on one epoll loop with a fixed answer, and the redirect-and-copy relay that the mirror is compared with.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd},
};

use anyhow::Result;
use rustix::event::epoll::{self, EventData, EventFlags};
use serde_json::Value;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 100\r\n\r\n\
0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789";
const LISTENER: u64 = u64::MAX;

/// Answers every request until it is ended.
pub(super) fn run(port: u16) -> Result<Value> {
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    listener.set_nonblocking(true)?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&poll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut connections: HashMap<u64, TcpStream> = HashMap::new();
    let mut buffer = vec![0; 64 << 10];
    let mut events = Vec::with_capacity(256);
    loop {
        wait(&poll, &mut events)?;
        for event in events.drain(..) {
            let key = event.data.u64();
            if key == LISTENER {
                while let Ok((connection, _)) = listener.accept() {
                    connection.set_nonblocking(true)?;
                    connection.set_nodelay(true)?;
                    let key = connection.as_raw_fd().unsigned_abs().into();
                    epoll::add(&poll, &connection, EventData::new_u64(key), EventFlags::IN)?;
                    connections.insert(key, connection);
                }
            } else if let Some(connection) = connections.get_mut(&key)
                && !answer(connection, &mut buffer)
            {
                connections.remove(&key);
            }
        }
    }
}

/// Answers what has arrived; false when the connection has ended.
fn answer(connection: &mut TcpStream, buffer: &mut [u8]) -> bool {
    match connection.read(buffer) {
        Ok(0) => false,
        Ok(bytes) => {
            let received = buffer.get(..bytes).unwrap_or_default();
            let requests = received.windows(4).filter(|window| window == b"\r\n\r\n").count();
            let written = (0..requests).all(|_| connection.write_all(ANSWER).is_ok());
            written && !received.windows(17).any(|window| window.eq_ignore_ascii_case(b"connection: close"))
        }
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

/// Copies every connection to `upstream` and counts the bytes: what a mirror by redirection does.
pub(super) fn relay(port: u16, upstream: &str) -> Result<Value> {
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    listener.set_nonblocking(true)?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&poll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    // Keyed by descriptor; the value is the own end and the key of the other.
    let mut ends: HashMap<u64, (TcpStream, u64)> = HashMap::new();
    let (copy_tx, copy_rx) = std::sync::mpsc::sync_channel::<Vec<u8>>(1024);
    std::thread::spawn(move || copy_rx.into_iter().map(|bytes| bytes.len()).sum::<usize>());
    let mut buffer = vec![0; 256 << 10];
    let mut events = Vec::with_capacity(256);
    loop {
        wait(&poll, &mut events)?;
        for event in events.drain(..) {
            let key = event.data.u64();
            if key == LISTENER {
                while let Ok((client, _)) = listener.accept() {
                    let server = TcpStream::connect(upstream)?;
                    let keys = [&client, &server].map(|end| u64::from(end.as_raw_fd().unsigned_abs()));
                    for (end, key) in [&client, &server].into_iter().zip(keys) {
                        end.set_nodelay(true)?;
                        end.set_nonblocking(true)?;
                        epoll::add(&poll, end, EventData::new_u64(key), EventFlags::IN)?;
                    }
                    ends.insert(keys[0], (client, keys[1]));
                    ends.insert(keys[1], (server, keys[0]));
                }
                continue;
            }
            let Some((end, other)) = ends.get_mut(&key) else { continue };
            let other = *other;
            let bytes = match end.read(&mut buffer) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(_) => 0,
            };
            let received = buffer.get(..bytes).unwrap_or_default();
            let sent =
                bytes > 0 && ends.get_mut(&other).is_some_and(|(end, _)| end.write_all(received).is_ok());
            drop(copy_tx.try_send(received.to_vec()));
            if !sent {
                ends.remove(&key);
                ends.remove(&other);
            }
        }
    }
}

/// Waits for events without a limit.
pub(super) fn wait(poll: impl AsFd, events: &mut Vec<epoll::Event>) -> Result<()> {
    match epoll::wait(&poll, rustix::buffer::spare_capacity(events), None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
