//! Raw DNS messages, sent from the target's network to a name server: over UDP with retransmission, or over TCP.
//!
//! Nothing is interpreted but the id, the response bit and the question, by which an answer is told from a stray datagram. One
//! Dns call carries many questions; answers come in any order.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use mirrord_protocol::agent::v1 as wire;
use rustix::io::Errno;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};
use tonic::Streaming;

use crate::{
    address,
    limits::{DATAGRAM, DNS, DNS_IN_FLIGHT, DNS_MAX, DNS_RETRY, DNS_SERVER},
    network::TargetNetwork,
    outgoing,
    relay::DownSender,
    target::Target,
    udp,
};

/// Port of name servers.
const PORT: u16 = 53;
/// Bytes of the header (RFC 1035 section 4.1.1).
const HEADER: usize = 12;

/// Serves one Dns call: until the client ends its stream or is gone.
pub(crate) async fn serve(
    target: Arc<Target>,
    network: TargetNetwork,
    mut up: Streaming<wire::DnsRequest>,
    down_tx: DownSender<wire::DnsReply>,
) {
    let mut questions = JoinSet::new();
    loop {
        // An ended question makes room, so it comes before the next one is taken in.
        tokio::select! {
            biased;
            () = down_tx.closed() => break,
            Some(done) = questions.join_next() => {
                if let Err(error) = done {
                    tracing::error!(%error, "a question was lost");
                }
            }
            request = up.message(), if questions.len() < DNS_IN_FLIGHT => {
                let Ok(Some(request)) = request else { break };
                questions.spawn(answer(Arc::clone(&target), network.clone(), request, down_tx.clone()));
            }
        }
    }
    while !down_tx.is_closed() && questions.join_next().await.is_some() {}
}

async fn answer(
    target: Arc<Target>,
    network: TargetNetwork,
    request: wire::DnsRequest,
    down_tx: DownSender<wire::DnsReply>,
) {
    let id = request.id;
    let reply = match ask(&target, &network, &request).await {
        Ok(message) => wire::DnsReply { id, errno: 0, message: message.into() },
        Err(error) => wire::DnsReply { id, errno: address::errno(&error), ..wire::DnsReply::default() },
    };
    // A client that is gone does not wait for the answer.
    drop(down_tx.send(Ok(reply)).await);
}

async fn ask(target: &Target, network: &TargetNetwork, request: &wire::DnsRequest) -> io::Result<Vec<u8>> {
    if request.message.len() < HEADER || request.message.len() > DATAGRAM {
        return Err(Errno::INVAL.into());
    }
    let servers = if request.nameserver.is_empty() {
        target.nameservers().into_iter().map(|ip| SocketAddr::new(ip, PORT)).collect()
    } else {
        vec![parse_server(&request.nameserver).ok_or(Errno::INVAL)?]
    };
    let limit = match request.timeout_ms {
        0 => DNS,
        given => Duration::from_millis(given.into()).min(DNS_MAX),
    };
    ask_in_turn(network, &servers, request, Instant::now() + limit).await
}

/// Asks one server after the other until one answers, whatever the answer is. The last one may use all the time that is left.
async fn ask_in_turn(
    network: &TargetNetwork,
    servers: &[SocketAddr],
    request: &wire::DnsRequest,
    deadline: Instant,
) -> io::Result<Vec<u8>> {
    let mut failure = io::Error::from(Errno::DESTADDRREQ);
    for (index, server) in servers.iter().enumerate() {
        let last = index + 1 == servers.len();
        let until = if last { deadline } else { deadline.min(Instant::now() + DNS_SERVER) };
        let attempt = async {
            if request.tcp {
                over_tcp(network, *server, &request.message).await
            } else {
                over_udp(network, *server, &request.message).await
            }
        };
        match timeout_at(until, attempt).await {
            Ok(Ok(message)) => return Ok(message),
            Ok(Err(error)) => failure = error,
            Err(_) => failure = Errno::TIMEDOUT.into(),
        }
    }
    Err(failure)
}

/// `IP` or `IP:PORT`, IPv6 in brackets when a port follows.
fn parse_server(text: &str) -> Option<SocketAddr> {
    text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT)).or_else(|_| text.parse()).ok()
}

/// Waits without a deadline of its own, and asks again now and then.
async fn over_udp(network: &TargetNetwork, server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    // Connected: the kernel takes datagrams of this server only, and a closed port is an error instead of silence.
    let socket = udp::connected(network, server, 0).await?;
    let mut buffer = vec![0; DATAGRAM];
    loop {
        socket.send(question).await?;
        let answered = timeout(DNS_RETRY, async {
            loop {
                let length = socket.recv(&mut buffer).await?;
                if buffer.get(..length).is_some_and(|answer| is_answer(question, answer)) {
                    return io::Result::Ok(length);
                }
            }
        });
        if let Ok(length) = answered.await {
            buffer.truncate(length?);
            return Ok(buffer);
        }
    }
}

/// RFC 7766: two bytes of length before each message.
async fn over_tcp(network: &TargetNetwork, server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let (mut socket, _own) = outgoing::connect_tcp(network, server).await?;
    let length = u16::try_from(question.len()).map_err(|_| Errno::MSGSIZE)?;
    socket.write_all(&[&length.to_be_bytes(), question].concat()).await?;
    loop {
        let length = socket.read_u16().await?;
        let mut answer = vec![0; length.into()];
        socket.read_exact(&mut answer).await?;
        if is_answer(question, &answer) {
            return Ok(answer);
        }
    }
}

/// Same id, the response bit, and the same question when the answer repeats one.
fn is_answer(question: &[u8], answer: &[u8]) -> bool {
    let (Some((asked, asked_rest)), Some((got, got_rest))) =
        (question.split_first_chunk::<HEADER>(), answer.split_first_chunk::<HEADER>())
    else {
        return false;
    };
    let [asked_id0, asked_id1, ..] = asked;
    let [id0, id1, flags, _, count0, count1, ..] = got;
    let repeats = (*count0, *count1) != (0, 0);
    (id0, id1) == (asked_id0, asked_id1)
        && flags & 0x80 != 0
        && (!repeats || same_question(asked_rest, got_rest))
}

/// Compares name (without case: some servers fold it), type and class of the first question.
fn same_question(asked: &[u8], got: &[u8]) -> bool {
    let mut end = 0;
    // Labels of a question are never compressed (RFC 1035 section 4.1.4): there is nothing before them to point at.
    while let Some(&length) = asked.get(end) {
        end += 1 + usize::from(length);
        if length == 0 {
            break;
        }
    }
    let end = end + 4;
    match (asked.get(..end), got.get(..end)) {
        (Some(asked), Some(got)) => asked.eq_ignore_ascii_case(got),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: &[u8] =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03api\x04shop\x00\x00\x01\x00\x01";

    fn answer(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut answer = QUESTION.to_vec();
        answer[2] |= 0x80;
        answer.extend_from_slice(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\x0a\x00\x00\x01");
        change(&mut answer);
        answer
    }

    #[test]
    fn an_answer_is_told_from_strays() {
        assert!(is_answer(QUESTION, &answer(|_| {})));
        assert!(is_answer(QUESTION, &answer(|answer| answer[13] = b'A')));
        assert!(!is_answer(QUESTION, &answer(|answer| answer[0] = 0)), "other id");
        assert!(!is_answer(QUESTION, &answer(|answer| answer[13] = b'x')), "other name");
        assert!(!is_answer(QUESTION, &answer(|answer| answer[24] = 28)), "other type");
        assert!(!is_answer(QUESTION, QUESTION), "a question");
        assert!(!is_answer(QUESTION, b"\x12\x34\x81"), "cut off");
        // A server that cannot parse the question answers FORMERR with an empty question section.
        assert!(is_answer(QUESTION, b"\x12\x34\x81\x01\x00\x00\x00\x00\x00\x00\x00\x00"));
    }

    #[test]
    fn name_servers_may_have_a_port() {
        assert_eq!(parse_server("10.0.0.1"), Some("10.0.0.1:53".parse().unwrap()));
        assert_eq!(parse_server("fd00::a"), Some("[fd00::a]:53".parse().unwrap()));
        assert_eq!(parse_server("[fd00::a]:5353"), Some("[fd00::a]:5353".parse().unwrap()));
        assert_eq!(parse_server("dns.example"), None);
    }
}
