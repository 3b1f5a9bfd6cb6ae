//! Sends a request that was seen before to the local process again, as its client, and records it like any other.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use mirrord_protocol::session::v1 as wire;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::requests::{Denied, Reason};
use crate::{
    agent_link::ip_address,
    events::Events,
    http::HttpTaps,
    limits::{RELAY_CHUNK, REPLAY_TIMEOUT},
    network::{Owner, Tap, TapContext},
};

/// Headers that are made anew: they frame the message or belong to the old connection.
const OWN: [&str; 4] = ["content-length", "transfer-encoding", "connection", "expect"];

/// A request that is ready to be sent.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) client: SocketAddr,
    pub(crate) local_port: u16,
    port: u16,
    bytes: Vec<u8>,
    events: Events,
}

/// Puts the request of an event together again, with the changes that the viewer made.
pub(crate) fn prepare(
    events: &Events,
    wanted: &wire::ReplayRequest,
    ports: &[wire::Port],
) -> Result<Prepared, Denied> {
    let event = events.event(wanted.seq);
    let event = event
        .ok_or_else(|| Denied::new(Reason::NotFound, format!("event {} is not held any more", wanted.seq)))?;
    let Some(wire::event::Detail::Request(request)) = &event.detail else {
        return Err(Denied::new(Reason::Invalid, format!("event {} is not a request", wanted.seq)));
    };
    if request.direction() != wire::Direction::Incoming {
        return Err(Denied::new(Reason::Invalid, "only incoming requests can be replayed"));
    }
    let local_port =
        ports.iter().find(|port| port.remote == request.port).map_or(request.port, |port| port.local);
    let (Ok(local_port), Ok(port)) = (u16::try_from(local_port), u16::try_from(request.port)) else {
        return Err(Denied::new(Reason::Invalid, "the event has no port"));
    };
    let empty = bytes::Bytes::new();
    let (method, path, headers, body) = if wanted.edited {
        (&wanted.method, &wanted.path, &wanted.headers, &wanted.body)
    } else {
        let body = request.body.as_ref();
        if body.is_some_and(|body| body.truncated) {
            return Err(Denied::new(
                Reason::Invalid,
                "only the beginning of the body was kept, so it cannot be sent again",
            ));
        }
        (&request.method, &request.path, &request.headers, body.map_or(&empty, |body| &body.data))
    };
    let bytes = message(method, path, &request.host, headers, body)?;
    let client = request.peer.as_ref().and_then(|peer| ip_address(&peer.ip));
    let client = client.unwrap_or(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
    // Its own port may be in use still; any port of the same client does.
    Ok(Prepared { client: SocketAddr::new(client, 0), local_port, port, bytes, events: events.clone() })
}

fn message(
    method: &str,
    path: &str,
    host: &str,
    headers: &[wire::Header],
    body: &[u8],
) -> Result<Vec<u8>, Denied> {
    let plain = |bytes: &[u8]| !bytes.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0));
    let word = |text: &str| !text.is_empty() && plain(text.as_bytes()) && !text.contains(' ');
    if !word(method) || !word(path) {
        return Err(Denied::new(Reason::Invalid, "method and path must be words without spaces"));
    }
    let mut bytes = format!("{method} {path} HTTP/1.1\r\n").into_bytes();
    let mut named_host = false;
    for header in headers {
        if OWN.iter().any(|own| header.name.eq_ignore_ascii_case(own)) || header.redacted {
            // A secret that was taken out cannot be sent again.
            continue;
        }
        if !word(&header.name) || !plain(&header.value) {
            return Err(Denied::new(
                Reason::Invalid,
                format!("the header `{}` is not well formed", header.name),
            ));
        }
        named_host |= header.name.eq_ignore_ascii_case("host");
        bytes.extend_from_slice(header.name.as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(&header.value);
        bytes.extend_from_slice(b"\r\n");
    }
    if !named_host {
        bytes.extend_from_slice(
            format!("host: {}\r\n", if host.is_empty() { "localhost" } else { host }).as_bytes(),
        );
    }
    if !body.is_empty() || matches!(method, "POST" | "PUT" | "PATCH") {
        bytes.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
    }
    bytes.extend_from_slice(b"connection: close\r\n\r\n");
    bytes.extend_from_slice(body);
    Ok(bytes)
}

impl Prepared {
    /// Sends it and waits for the whole response; the event of it is made by a tap, as for all others.
    pub(crate) async fn send(
        self,
        connect: impl Future<Output = io::Result<TcpStream>>,
        taps: &HttpTaps,
    ) -> Result<wire::ReplayReply, Denied> {
        let deadline = Instant::now() + REPLAY_TIMEOUT;
        match self.exchange(deadline, connect, taps).await {
            Ok(reply) => Ok(reply),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                let text =
                    format!("the local process gave no whole answer within {} s", REPLAY_TIMEOUT.as_secs());
                Err(Denied::new(Reason::Failed, text))
            }
            Err(error) => {
                let text = format!("the request to local port {} failed: {error}", self.local_port);
                Err(Denied::new(Reason::Failed, text))
            }
        }
    }

    /// Sends the request and reads until its response is whole: a server need not close the connection, though it is asked to.
    async fn exchange(
        &self,
        deadline: Instant,
        connect: impl Future<Output = io::Result<TcpStream>>,
        taps: &HttpTaps,
    ) -> io::Result<wire::ReplayReply> {
        let mut stream = timeout_at(deadline, async {
            let mut stream = connect.await?;
            stream.write_all(&self.bytes).await?;
            io::Result::Ok(stream)
        })
        .await??;
        // Replays have numbers from the other end, so that they never meet those of the network.
        static NEXT: AtomicU64 = AtomicU64::new(u64::MAX);
        let connection = NEXT.fetch_sub(1, Ordering::Relaxed);
        let before = self.events.totals().last_seq;
        let mut tap = taps.tap(TapContext {
            direction: wire::Direction::Incoming,
            mode: wire::Mode::Unspecified,
            port: self.port,
            peer: self.client,
            connection,
            owner: Owner::default(),
            pod: None,
            mid_stream: false,
        });
        tap.client(now_ns(), &self.bytes);
        let seq = self.emitted(before, connection);
        let mut buffer = vec![0; RELAY_CHUNK];
        loop {
            let event = seq.and_then(|seq| self.events.event(seq));
            match event {
                Some(event) if !event.pending => return Ok(reply(&event)),
                Some(_) => {}
                // It has left the ring already: a busy session.
                None => return Ok(wire::ReplayReply::default()),
            }
            let read = timeout_at(deadline, stream.read(&mut buffer)).await;
            match read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(0) => tap.closed(now_ns(), false),
                Ok(read) => tap.server(now_ns(), buffer.get(..read).unwrap_or_default()),
                Err(error) => {
                    tap.closed(now_ns(), error.kind() == io::ErrorKind::ConnectionReset);
                    return Err(error);
                }
            }
        }
    }

    /// The event that the tap has made.
    fn emitted(&self, after: u64, connection: u64) -> Option<u64> {
        let last = self.events.totals().last_seq;
        let mut events = (after + 1..=last).filter_map(|seq| self.events.event(seq));
        events.find(|event| event.connection == connection).map(|event| event.seq)
    }
}

fn reply(event: &wire::Event) -> wire::ReplayReply {
    let status = match &event.detail {
        Some(wire::event::Detail::Request(request)) => request.status,
        _ => 0,
    };
    wire::ReplayReply { seq: event.seq, status }
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, value: &str, redacted: bool) -> wire::Header {
        wire::Header { name: name.to_owned(), value: value.to_owned().into(), redacted }
    }

    #[test]
    fn a_request_is_put_together_again() {
        let headers = [
            header("Host", "shop", false),
            header("Content-Length", "99", false),
            header("Authorization", "", true),
            header("Accept", "*/*", false),
        ];
        let bytes = message("POST", "/a", "shop", &headers, b"xy").unwrap();
        let wanted = "POST /a HTTP/1.1\r\nHost: shop\r\nAccept: */*\r\ncontent-length: 2\r\nconnection: close\r\n\r\nxy";
        assert_eq!(String::from_utf8(bytes).unwrap(), wanted);
        assert!(message("GET", "/a b", "", &[], b"").is_err());
        assert!(message("GET", "/a", "", &[header("a", "b\r\nc: d", false)], b"").is_err());
    }

    fn seen(events: &Events, path: &str) -> wire::ReplayRequest {
        let seq = events.emit(wire::Event {
            kind: wire::Kind::Request.into(),
            detail: Some(wire::event::Detail::Request(wire::Request {
                direction: wire::Direction::Incoming.into(),
                port: 80,
                method: "GET".to_owned(),
                path: path.to_owned(),
                ..wire::Request::default()
            })),
            ..wire::Event::default()
        });
        wire::ReplayRequest { seq, ..wire::ReplayRequest::default() }
    }

    #[tokio::test]
    async fn the_answer_ends_it_and_not_the_connection() {
        let events = Events::new();
        let taps = HttpTaps::new(events.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let request = seen(&events, "/items/1");
        let prepared = prepare(&events, &request, &[]).unwrap();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 512];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            stream.write_all(b"HTTP/1.1 418 X\r\nContent-Length: 2\r\n\r\nhi").await.unwrap();
            // Kept open.
            stream
        };
        let (reply, _stream) = tokio::join!(prepared.send(TcpStream::connect(address), &taps), serve);
        let reply = reply.unwrap();
        assert_eq!((reply.status, reply.seq), (418, request.seq + 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_nothing_is_given_up() {
        let events = Events::new();
        let taps = HttpTaps::new(events.clone());
        let request = seen(&events, "/slow");
        let prepared = prepare(&events, &request, &[]).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let connecting = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        connecting.set_nonblocking(true).unwrap();
        let connect = async { TcpStream::from_std(connecting) };
        let denied = prepared.send(connect, &taps).await.unwrap_err();
        assert!(denied.text.contains("no whole answer"), "{denied:?}");
        assert!(!events.event(request.seq + 1).unwrap().pending, "its event has ended, too");
        let refused = prepare(&events, &request, &[]).unwrap();
        let denied =
            refused.send(async { Err(io::ErrorKind::ConnectionRefused.into()) }, &taps).await.unwrap_err();
        assert!(denied.text.contains("connection refused"), "{denied:?}");
    }
}
