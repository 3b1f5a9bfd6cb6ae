//! DNS of the session: reads each question, decides by the filter where it is asked, learns from the answer, writes the event.
//!
//! Messages themselves are passed on untouched, so every record type, EDNS option and flag works; only when a side cannot be asked
//! the program gets SERVFAIL, and when no answer comes it gets none, as from the real server.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use mirrord_netns::Transport;
use mirrord_protocol::{agent::v1 as agent, session::v1 as wire};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::{
    connection_log::{decision, errno_name},
    dns_message::{self, Question, Reply, SERVFAIL},
    nameservers::DNS_PORT,
    outgoing_rules::{Place, Route, route_question},
    owners::Owner,
    shared::{Shared, SharedRef},
};
use crate::{
    agent_link::{LinkError, millis},
    limits::{DATAGRAM, DNS_IDLE, DNS_TIMEOUT},
};

/// Why a question got no answer.
enum Failure {
    /// Nobody answered in time: neither do we.
    Timeout,
    /// Could not be asked, in words.
    Failed(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ETIMEDOUT) => Self::Timeout,
            Some(errno) => Self::Failed(errno_name(errno)),
            None => Self::Failed(error.to_string()),
        }
    }
}

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Timeout { .. } => Self::Timeout,
            other => Self::Failed(other.to_string()),
        }
    }
}

/// Answers one datagram that came to `server` from the program's socket `src`.
pub(super) fn answer_datagram(
    shared: &SharedRef,
    relay: &Arc<UdpSocket>,
    src: SocketAddr,
    server: SocketAddr,
    query: Bytes,
) {
    let (shared_task, relay) = (shared.clone(), relay.clone());
    shared.tasks.intake(async move {
        if let Some(reply) = answer(&shared_task, (Transport::Udp, src, server), &query).await {
            // The agent asks with the program's own message, so the reply fits; a host's reply may have come over TCP.
            let fits = reply.len() <= dns_message::udp_payload(&query);
            let reply = if fits { reply } else { dns_message::truncated(&query).unwrap_or(reply) };
            drop(relay.send_to(&reply, src).await);
        }
    });
}

/// Serves a TCP connection to a name server: messages with a length in front (RFC 1035 section 4.2.2), one after the other.
pub(super) async fn serve_stream(
    shared: SharedRef,
    mut stream: TcpStream,
    src: SocketAddr,
    server: SocketAddr,
) {
    let mut serve = async || -> io::Result<()> {
        loop {
            let length = match timeout(DNS_IDLE, stream.read_u16()).await {
                Ok(Ok(length)) => length,
                Ok(Err(error)) => return Err(error),
                Err(_) => return Ok(()),
            };
            let mut query = vec![0; length.into()];
            timeout(DNS_IDLE, stream.read_exact(&mut query)).await??;
            let from = (Transport::Tcp, src, server);
            let Some(reply) = answer(&shared, from, &query.into()).await else { return Ok(()) };
            let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
            stream.write_u16(length).await?;
            stream.write_all(&reply).await?;
        }
    };
    if let Err(error) = serve().await
        && error.kind() != io::ErrorKind::UnexpectedEof
    {
        tracing::debug!(%error, %server, "a DNS connection broke");
    }
}

/// Asks as a program of the session would that uses the first name server.
pub(super) async fn ask(shared: &Shared, query: &Bytes, tcp: bool) -> Option<Bytes> {
    let server = shared.nameservers.target.first().or_else(|| shared.nameservers.host.first())?;
    let server = SocketAddr::new(*server, DNS_PORT);
    // No socket of the session asks: the name came by the layer.
    let nobody = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
    let transport = if tcp { Transport::Tcp } else { Transport::Udp };
    answer(shared, (transport, nobody, server), query).await
}

/// The reply to one message; `None`: nobody answered, or it is no question.
async fn answer(
    shared: &Shared,
    (transport, src, server): (Transport, SocketAddr, SocketAddr),
    query: &Bytes,
) -> Option<Bytes> {
    let tcp = transport == Transport::Tcp;
    let question = match dns_message::question(query) {
        Ok(question) => question,
        Err(error) => {
            tracing::debug!(%error, %server, "not a DNS question");
            return None;
        }
    };
    let started = Instant::now();
    let route = route_question(&shared.dns, &shared.names.forms(&question.name), DNS_PORT);
    let asking = async {
        match route.place {
            Place::Remote => ask_remote(shared, server, query, tcp).await,
            Place::Local => ask_local(shared, server.ip(), query, tcp).await,
        }
    };
    // Polled second, so that looking for the program's socket takes place while the name server works.
    let (result, socket) = tokio::join!(asking, async { shared.netns.socket_of(transport, src, server) });
    let owner = shared.owners.of(socket);
    let (reply, error, asked) = match result {
        Ok((message, asked)) => {
            let reply = dns_message::reply(&message).unwrap_or_default();
            shared.names.learn(&question.name, &reply.addresses);
            let error = if reply.rcode == 0 { String::new() } else { dns_message::rcode_name(reply.rcode) };
            (Some((message, reply)), error, asked)
        }
        Err(Failure::Timeout) => (None, "TIMEOUT".to_owned(), String::new()),
        Err(Failure::Failed(why)) => {
            let failed = dns_message::failure(query, SERVFAIL).ok();
            (
                failed.map(|message| (message, Reply { rcode: SERVFAIL, ..Reply::default() })),
                why,
                String::new(),
            )
        }
    };
    record(shared, owner, (&question, &route, started), reply.as_ref().map(|(_, reply)| reply), error, asked);
    reply.map(|(message, _)| message)
}

/// Asks from the target's network: the name server that the program asked when it is one of the target's, else the target's own.
async fn ask_remote(
    shared: &Shared,
    server: SocketAddr,
    query: &Bytes,
    tcp: bool,
) -> Result<(Bytes, String), Failure> {
    let ip = server.ip().to_canonical();
    let nameserver = if shared.nameservers.target.contains(&ip) { ip.to_string() } else { String::new() };
    let asked = if nameserver.is_empty() {
        shared.nameservers.target.first().map(ToString::to_string).unwrap_or_default()
    } else {
        nameserver.clone()
    };
    let request =
        agent::DnsRequest { id: 0, nameserver, message: query.clone(), tcp, timeout_ms: millis(DNS_TIMEOUT) };
    let reply = shared.agent.dns(request).await?;
    match i32::try_from(reply.errno).unwrap_or(libc::EIO) {
        0 => Ok((reply.message, asked)),
        errno => Err(io::Error::from_raw_os_error(errno).into()),
    }
}

/// Asks this host's name servers in order, each for its part of the time.
async fn ask_local(
    shared: &Shared,
    server: IpAddr,
    query: &Bytes,
    tcp: bool,
) -> Result<(Bytes, String), Failure> {
    let servers = &shared.nameservers.host;
    let first = servers.iter().copied().filter(|known| *known == server.to_canonical());
    let rest = servers.iter().copied().filter(|known| *known != server.to_canonical());
    let each = DNS_TIMEOUT / u32::try_from(servers.len().max(1)).unwrap_or(1);
    let mut last = Failure::Timeout;
    for ip in first.chain(rest) {
        let to = SocketAddr::new(ip, DNS_PORT);
        let asking = async { if tcp { ask_stream(to, query).await } else { ask_datagram(to, query).await } };
        match timeout(each, asking).await {
            Ok(Ok(reply)) => return Ok((reply, ip.to_string())),
            Ok(Err(error)) => last = error.into(),
            Err(_) => last = Failure::Timeout,
        }
    }
    Err(last)
}

async fn ask_datagram(to: SocketAddr, query: &Bytes) -> io::Result<Bytes> {
    let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0; 16], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(to).await?;
    socket.send(query).await?;
    loop {
        let mut buffer = BytesMut::with_capacity(DATAGRAM);
        socket.recv_buf(&mut buffer).await?;
        // Anything else on this socket is a late or forged message.
        if buffer.get(..2) == query.get(..2) {
            return Ok(Bytes::copy_from_slice(&buffer));
        }
    }
}

async fn ask_stream(to: SocketAddr, query: &Bytes) -> io::Result<Bytes> {
    let mut stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    let mut message = Vec::with_capacity(query.len() + 2);
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(query);
    stream.write_all(&message).await?;
    let length = stream.read_u16().await?;
    let mut reply = vec![0; length.into()];
    stream.read_exact(&mut reply).await?;
    Ok(reply.into())
}

fn record(
    shared: &Shared,
    owner: Owner,
    (question, route, started): (&Question, &Route, Instant),
    reply: Option<&Reply>,
    error: String,
    server: String,
) {
    let rcode = reply.map(|reply| dns_message::rcode_name(reply.rcode)).unwrap_or_default();
    let mut event = wire::Event {
        kind: wire::Kind::Dns.into(),
        subject: question.name.clone(),
        decision: Some(decision(route)),
        error,
        latency_ns: u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX),
        detail: Some(wire::event::Detail::Dns(wire::Dns {
            question: question.name.clone(),
            record: dns_message::kind_name(question.kind),
            answers: reply.map(|reply| reply.answers.clone()).unwrap_or_default(),
            rcode,
            server,
        })),
        ..wire::Event::default()
    };
    owner.mark(&mut event);
    shared.events.emit(event);
}
