//! As much HTTP/1.1 as the demo's services need, over the standard library's sockets.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream, ToSocketAddrs},
    time::Duration,
};

/// Requests and answers of the demo are small; a larger one is somebody's mistake.
const BODY_LIMIT: u64 = 64 << 10;
/// A service of the shop that does not answer within this time is down.
const TIMEOUT: Duration = Duration::from_secs(5);

/// One request as a handler sees it.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) body: String,
}

/// Status and JSON body.
#[derive(Debug)]
pub(super) struct Answer(pub(super) u16, pub(super) String);

/// Serves on `port` with a thread per connection, keep-alive, until the process ends.
pub(super) fn serve(port: u16, handler: fn(&Request) -> Answer) -> io::Result<()> {
    let listener = listen(port)?;
    for connection in listener.incoming() {
        let connection = connection?;
        std::thread::spawn(move || connection_loop(&connection, handler));
    }
    Ok(())
}

/// On all addresses of both families, or of IPv4 where there is no other.
pub(super) fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)))
}

fn connection_loop(connection: &TcpStream, handler: fn(&Request) -> Answer) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut reader = BufReader::new(connection);
    while let Some((start, body)) = message(&mut reader)? {
        let mut words = start.split(' ');
        let (method, path) =
            (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
        let Answer(status, text) = handler(&Request { method, path, body });
        let head = format!(
            "HTTP/1.1 {status} {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            reason(status),
            text.len()
        );
        let mut connection = connection;
        connection.write_all((head + &text).as_bytes())?;
    }
    Ok(())
}

/// Asks `host` once and returns status and body.
pub(super) fn ask(method: &str, host: &str, path: &str, body: &str) -> io::Result<(u16, String)> {
    let mut connection = connect(host, 80)?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\nauthorization: Bearer demo-token\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    connection.write_all((head + body).as_bytes())?;
    let (start, body) = message(&mut BufReader::new(&connection))?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let status =
        start.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    Ok((status, body))
}

/// Connects to the first address of a name that answers.
pub(super) fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(connection) => {
                connection.set_read_timeout(Some(TIMEOUT))?;
                return Ok(connection);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// First line and body of the next message; `None` at the end of the connection.
fn message(reader: &mut impl BufRead) -> io::Result<Option<(String, String)>> {
    let mut start = String::new();
    if reader.take(BODY_LIMIT).read_line(&mut start)? == 0 {
        return Ok(None);
    }
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.take(BODY_LIMIT).read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
        }
    }
    if length > BODY_LIMIT {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = String::new();
    reader.take(length).read_to_string(&mut body)?;
    Ok(Some((start.trim_end().to_owned(), body)))
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        404 => "Not Found",
        409 => "Conflict",
        _ => "Internal Server Error",
    }
}
