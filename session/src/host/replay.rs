//! Sends a request that was seen before to the local process again, as its client, and records it like any other.

use std::{future::Future, io, net::SocketAddr, time::SystemTime};

use mirrord_protocol::session::v1 as wire;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::requests::{Denied, Reason};
use crate::{
    agent_link::ip_address,
    events::Events,
    http::HttpTaps,
    limits::{RELAY_CHUNK, REPLAY_TIMEOUT},
    network::{Tap, TapContext},
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
        let before = self.events.totals().last_seq;
        let exchange = timeout(REPLAY_TIMEOUT, self.exchange(connect, taps)).await;
        match exchange {
            Err(_) => {
                let text =
                    format!("the local process gave no whole answer within {} s", REPLAY_TIMEOUT.as_secs());
                Err(Denied::new(Reason::Failed, text))
            }
            Ok(Err(error)) => {
                let text =
                    format!("the request could not be sent to local port {}: {error}", self.local_port);
                Err(Denied::new(Reason::Failed, text))
            }
            Ok(Ok(connection)) => Ok(self.found(before, connection)),
        }
    }

    /// The event that the tap made.
    fn found(&self, after: u64, connection: u64) -> wire::ReplayReply {
        let last = self.events.totals().last_seq;
        let mut events = (after + 1..=last).filter_map(|seq| self.events.event(seq));
        let event =
            events.find(|event| event.connection == connection && event.kind() == wire::Kind::Request);
        let status = |event: &wire::Event| match &event.detail {
            Some(wire::event::Detail::Request(request)) => request.status,
            _ => 0,
        };
        event.map(|event| wire::ReplayReply { seq: event.seq, status: status(&event) }).unwrap_or_default()
    }

    async fn exchange(
        &self,
        connect: impl Future<Output = io::Result<TcpStream>>,
        taps: &HttpTaps,
    ) -> io::Result<u64> {
        let mut stream = connect.await?;
        // Replays have numbers from the other end, so that they never meet those of the network.
        let connection = u64::MAX - self.events.totals().last_seq;
        let mut tap = taps.tap(TapContext {
            direction: wire::Direction::Incoming,
            mode: wire::Mode::Unspecified,
            port: self.port,
            peer: self.client,
            connection,
            mid_stream: false,
        });
        tap.client(now_ns(), &self.bytes);
        stream.write_all(&self.bytes).await?;
        let mut buffer = vec![0; RELAY_CHUNK];
        loop {
            let read = stream.read(&mut buffer).await;
            match read {
                Ok(0) => break tap.closed(now_ns(), false),
                Ok(read) => tap.server(now_ns(), buffer.get(..read).unwrap_or_default()),
                Err(error) => {
                    tap.closed(now_ns(), true);
                    return Err(error);
                }
            }
        }
        Ok(connection)
    }
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
}
