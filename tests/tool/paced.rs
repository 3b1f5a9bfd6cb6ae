//! A load of so many requests a second, evenly spread over connections; what could not be sent in time is sent late, not left out.

use std::{
    io::{BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::clerk::Head;

/// Asks `rate` times a second in all for `seconds`; prints how many were answered and how fast it was.
pub(super) fn run(address: SocketAddr, connections: u32, rate: f64, seconds: f64) -> Result<Value> {
    let each = (rate * seconds / f64::from(connections)) as u64;
    let pause = Duration::from_secs_f64(f64::from(connections) / rate);
    let start = Instant::now();
    let mut answered = 0;
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..connections)
            .map(|index| scope.spawn(move || ask(address, each, pause, pause * index / connections)))
            .collect();
        for asking in asking {
            answered += asking.join().map_err(|_| anyhow::anyhow!("a connection panicked"))??;
        }
        anyhow::Ok(())
    })?;
    let took = start.elapsed().as_secs_f64();
    Ok(json!({ "requests": answered, "rate": answered as f64 / took, "seconds": took }))
}

fn ask(address: SocketAddr, count: u64, pause: Duration, offset: Duration) -> Result<u64> {
    let mut connection = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut reader = BufReader::new(connection.try_clone()?);
    let mut due = Instant::now() + offset;
    for _ in 0..count {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        due += pause;
        connection.write_all(b"GET /paced HTTP/1.1\r\nhost: shop\r\n\r\n")?;
        let head = Head::read(&mut reader)?.context("no answer")?;
        let read = std::io::copy(&mut (&mut reader).take(head.length), &mut std::io::sink())?;
        ensure!(read == head.length && head.status == 200, "a bad answer");
    }
    Ok(count)
}
