//! Connections that are a burden: very many, very large, or never read.

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::clerk::Head;

/// A writer that could not write for so long is held up for good.
const STUCK: Duration = Duration::from_secs(2);

/// Opens `count` connections with an answered request on each, keeps them until stdin has a line, asks on each once more.
pub(super) fn hold(address: SocketAddr, count: usize) -> Result<Value> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("allow many open files")?;
    let start = Instant::now();
    let mut open = Vec::with_capacity(count);
    for index in 0..count {
        let connection = TcpStream::connect(address).with_context(|| format!("open connection {index}"))?;
        connection.set_read_timeout(Some(Duration::from_secs(20)))?;
        ask(&connection).with_context(|| format!("ask on connection {index}"))?;
        open.push(connection);
    }
    println!("holding {count}");
    std::io::stdin().read_line(&mut String::new())?;
    for (index, connection) in open.iter().enumerate() {
        ask(connection).with_context(|| format!("ask on connection {index} again"))?;
    }
    Ok(json!({ "connections": count, "seconds": start.elapsed().as_secs_f64() }))
}

fn ask(mut connection: &TcpStream) -> Result<()> {
    connection.write_all(b"GET /hold HTTP/1.1\r\nhost: shop\r\n\r\n")?;
    let mut reader = BufReader::new(connection);
    let head = Head::read(&mut reader)?.context("no answer")?;
    let read = std::io::copy(&mut reader.take(head.length), &mut std::io::sink())?;
    ensure!(read == head.length, "the answer is cut off");
    Ok(())
}

/// Accepts and never reads.
pub(super) fn deaf(port: u16) -> Result<Value> {
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("listening {port}");
    let mut kept = Vec::new();
    for connection in listener.incoming() {
        kept.push(connection?);
    }
    Ok(Value::Null)
}

/// Writes until nobody takes anything any more, says how much that was, and stays until stdin ends.
pub(super) fn flood(address: SocketAddr) -> Result<Value> {
    let mut connection = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
    connection.set_write_timeout(Some(STUCK))?;
    let chunk = vec![b'x'; 64 << 10];
    let mut written = 0_u64;
    loop {
        match connection.write(&chunk) {
            Ok(bytes) => written += bytes as u64,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(error) => return Err(error).context("flood"),
        }
    }
    println!("{}", json!({ "written": written }));
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(Value::Null)
}

/// Sends one request with a body of `bytes` and prints the answer.
pub(super) fn post(address: SocketAddr, bytes: u64) -> Result<Value> {
    let mut connection = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
    let start = Instant::now();
    write!(connection, "POST /post/ HTTP/1.1\r\nhost: shop\r\nx-id: 1\r\ncontent-length: {bytes}\r\n\r\n")?;
    let chunk = vec![b'x'; 256 << 10];
    let mut left = bytes;
    while left > 0 {
        let part = usize::try_from(left).map_or(chunk.len(), |left| left.min(chunk.len()));
        connection.write_all(chunk.get(..part).unwrap_or(&chunk))?;
        left -= part as u64;
    }
    let mut reader = BufReader::new(&connection);
    let head = Head::read(&mut reader)?.context("no answer")?;
    let mut body = String::new();
    reader.take(head.length).read_to_string(&mut body)?;
    Ok(json!({ "status": head.status, "body": body, "seconds": start.elapsed().as_secs_f64() }))
}

/// Sends a line and prints the line that comes back, and the own address.
pub(super) fn talk(address: SocketAddr, line: &str) -> Result<Value> {
    let mut connection = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    // In one piece: who answers after the first read and closes would reset the connection for the rest.
    connection.write_all(format!("{line}\n").as_bytes())?;
    let mut answer = String::new();
    BufReader::new(&connection).read_line(&mut answer)?;
    Ok(json!({ "answer": answer.trim_end(), "local": connection.local_addr()?.to_string() }))
}
