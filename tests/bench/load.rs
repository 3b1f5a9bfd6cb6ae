//! A closed-loop HTTP load generator on one epoll loop: each connection has one request under way.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::event::epoll::{self, EventData, EventFlags};
use serde_json::{Value, json};

use crate::{one_address, server::wait};

const REQUEST: &[u8] = b"GET /bench HTTP/1.1\r\nhost: bench\r\n\r\n";

/// Keeps `connections` busy for `seconds`; requests per second and latency percentiles.
pub(super) fn run(address: &str, connections: usize, seconds: f64) -> Result<Value> {
    let address = one_address(address)?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut open = Vec::with_capacity(connections);
    for index in 0..connections {
        let connection = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
        connection.set_nodelay(true)?;
        connection.set_nonblocking(true)?;
        epoll::add(&poll, &connection, EventData::new_u64(index as u64), EventFlags::IN)?;
        open.push((connection, Instant::now(), Vec::with_capacity(512)));
    }
    for (connection, sent, _) in &mut open {
        *sent = Instant::now();
        connection.write_all(REQUEST)?;
    }
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let start = Instant::now();
    let mut times: Vec<u32> = Vec::with_capacity(1 << 20);
    let mut events = Vec::with_capacity(256);
    let mut buffer = [0; 16 << 10];
    while Instant::now() < end {
        wait(&poll, &mut events)?;
        for event in events.drain(..) {
            let (connection, sent, received) =
                open.get_mut(usize::try_from(event.data.u64())?).context("unknown connection")?;
            match connection.read(&mut buffer) {
                Ok(0) => bail!("the server closed a connection"),
                Ok(bytes) => received.extend_from_slice(buffer.get(..bytes).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            }
            if let Some(length) = complete(received) {
                received.drain(..length);
                times.push(u32::try_from(sent.elapsed().as_nanos()).unwrap_or(u32::MAX));
                *sent = Instant::now();
                connection.write_all(REQUEST)?;
            }
        }
    }
    let elapsed = start.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |part: usize| times.get(times.len() * part / 100).map_or(0.0, |ns| f64::from(*ns) / 1e3);
    Ok(
        json!({ "requests": times.len(), "rate": times.len() as f64 / elapsed, "p50_us": at(50), "p99_us": at(99) }),
    )
}

/// Length of the answer when it is whole.
fn complete(received: &[u8]) -> Option<usize> {
    let head = received.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(received.get(..head)?).ok()?.to_ascii_lowercase();
    let length: usize = text.split("content-length:").nth(1)?.split("\r\n").next()?.trim().parse().ok()?;
    (received.len() >= head + length).then_some(head + length)
}
