//! An HTTP/1.1 server that writes down which requests it has answered: a thread per connection, one request after the other.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
};

use anyhow::{Context, Result};
use serde_json::Value;

/// Bytes of stack of a connection's thread: ten thousand of them shall fit.
const STACK: usize = 64 << 10;

/// What all connections share.
#[derive(Debug)]
struct Clerk {
    name: String,
    /// One line per answered request: its id.
    log: File,
}

/// Answers `NAME ID` to every request that carries `x-id: ID`, after the id is in the log, and `NAME ADDRESS` with the client's
/// address to others.
pub(super) fn run(port: u16, name: &str, log: &str) -> Result<Value> {
    let log =
        OpenOptions::new().create(true).append(true).open(log).with_context(|| format!("open {log}"))?;
    let clerk = Arc::new(Clerk { name: name.to_owned(), log });
    // For IPv4 as well, where the machine has IPv6 at all.
    let listener = TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)));
    let listener = listener.with_context(|| format!("listen on {port}"))?;
    println!("listening {port}");
    for connection in listener.incoming() {
        let clerk = Arc::clone(&clerk);
        let connection = connection?;
        // A connection that breaks is the client's affair: it counts what it misses.
        std::thread::Builder::new().stack_size(STACK).spawn(move || drop(clerk.serve(&connection)))?;
    }
    Ok(Value::Null)
}

impl Clerk {
    fn serve(&self, connection: &TcpStream) -> Result<()> {
        connection.set_nodelay(true)?;
        let mut reader = BufReader::new(connection);
        while let Some(head) = Head::read(&mut reader)? {
            let dropped = std::io::copy(&mut (&mut reader).take(head.length), &mut std::io::sink())?;
            if dropped < head.length {
                break;
            }
            if !head.id.is_empty() {
                // One write is one line, whoever writes beside us.
                (&self.log).write_all(format!("{}\n", head.id).as_bytes())?;
            }
            let peer = || connection.peer_addr().map(|peer| peer.ip().to_canonical().to_string());
            let body = format!("{} {}", self.name, if head.id.is_empty() { peer()? } else { head.id });
            let connection_header = if head.close { "close" } else { "keep-alive" };
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: {connection_header}\r\n\r\n{body}",
                body.len()
            );
            (&mut &*connection).write_all(answer.as_bytes())?;
            if head.close {
                break;
            }
        }
        Ok(())
    }
}

/// What matters of a request's or an answer's head.
#[derive(Debug, Default)]
pub(super) struct Head {
    pub(super) id: String,
    pub(super) length: u64,
    pub(super) close: bool,
    pub(super) status: u16,
}

impl Head {
    /// The next head; `None` at the end of the stream.
    pub(super) fn read(reader: &mut impl BufRead) -> Result<Option<Self>> {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let status = line.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        // Before HTTP/1.1 a connection carries one request (RFC 9112, 9.3).
        let close = line.trim_end().ends_with("HTTP/1.0");
        let mut head = Self { status, close, ..Self::default() };
        loop {
            line.clear();
            anyhow::ensure!(reader.read_line(&mut line)? > 0, "the head is cut off");
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "x-id" => value.clone_into(&mut head.id),
                "content-length" => head.length = value.parse()?,
                "connection" => head.close = value.eq_ignore_ascii_case("close"),
                _ => {}
            }
        }
        Ok(Some(head))
    }
}
