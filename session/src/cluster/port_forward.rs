//! One byte stream to a port of a pod, through the API server.
//!
//! SPDY/3.1 first, which every version of Kubernetes speaks and nobody on the way has to unmask; where something between here and the
//! API server lets none of it pass, the older of the two kinds of WebSocket. The client crate has the WebSocket only, shares it among
//! ports, so that one slow port stops the others, and cuts what is written into messages of 4 KiB.

mod spdy;
mod websocket;

use std::io::{self, IoSlice};

use bytes::BufMut;
use hyper::{
    Method, StatusCode,
    header::{CONNECTION, UPGRADE},
};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::{Client, Resource, client::Body, core::Request};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

use self::{spdy::Spdy, websocket::WebSocket};
use crate::{
    agent_link::Transport,
    limits::{FORWARD_MESSAGE, FORWARD_OPEN},
};

/// Opens a stream to a port of a pod; returns when the other end has said its first bytes, which a gRPC server does at once.
/// Nothing less proves that somebody listens: the API server accepts the stream before the node is asked.
///
/// # Errors
/// When the API server refuses, or nothing comes within [`FORWARD_OPEN`].
pub(crate) async fn open(
    client: &Client,
    namespace: &str,
    pod: &str,
    port: u16,
) -> Result<Box<dyn Transport>, kube::Error> {
    let opened = timeout(FORWARD_OPEN, async {
        match spdy(client, namespace, pod).await? {
            Some(connection) => begun(Spdy::new(connection, port).map_err(unusable)?).await,
            None => begun(websocket(client, namespace, pod, port).await?).await,
        }
    });
    opened.await.unwrap_or_else(|late| Err(unusable(late.into())))
}

/// A way to put the bytes of one port onto a connection to the API server.
trait Forward: Transport + 'static {
    /// Waits until there is something to read.
    fn first_bytes(&mut self) -> impl Future<Output = io::Result<()>> + Send;
}

/// How much of what is written goes into one message.
fn fits(parts: &[IoSlice<'_>]) -> usize {
    parts.iter().map(|part| part.len()).sum::<usize>().min(FORWARD_MESSAGE)
}

/// Puts the first `length` bytes of what is written into a message. A frame of HTTP/2 comes as its head and its data: they go as one.
fn put(parts: &[IoSlice<'_>], length: usize, message: &mut impl BufMut) {
    let mut left = length;
    for part in parts {
        let taken = part.get(..left).unwrap_or(part);
        message.put_slice(taken);
        left -= taken.len();
    }
}

async fn begun(mut forward: impl Forward) -> Result<Box<dyn Transport>, kube::Error> {
    forward.first_bytes().await.map_err(unusable)?;
    Ok(Box::new(forward))
}

fn unusable(error: io::Error) -> kube::Error {
    kube::Error::Service(error.into())
}

/// Asks for SPDY, as kubectl before 1.31 does. `None`: no; the reason is told by whoever is asked for a WebSocket then.
async fn spdy(
    client: &Client,
    namespace: &str,
    pod: &str,
) -> Result<Option<impl AsyncRead + AsyncWrite + Send + Unpin + use<>>, kube::Error> {
    let url = format!("{}/{pod}/portforward", Pod::url_path(&(), Some(namespace)));
    let request = hyper::Request::builder()
        .method(Method::POST)
        .uri(url)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, spdy::UPGRADE)
        .header("X-Stream-Protocol-Version", spdy::STREAMS)
        .body(Body::empty())
        .map_err(kube::Error::HttpError)?;
    let answer = client.send(request).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        tracing::debug!(status = %answer.status(), "the API server speaks no SPDY");
        return Ok(None);
    }
    let upgraded = hyper::upgrade::on(answer).await.map_err(kube::Error::HyperError)?;
    Ok(Some(TokioIo::new(upgraded)))
}

async fn websocket(
    client: &Client,
    namespace: &str,
    pod: &str,
    port: u16,
) -> Result<impl Forward, kube::Error> {
    let request = Request::new(Pod::url_path(&(), Some(namespace)))
        .portforward(pod, &[port])
        .map_err(kube::Error::BuildRequest)?;
    Ok(WebSocket::new(client.connect(request).await?.into_stream()))
}

#[cfg(test)]
mod tests {
    use futures_util::SinkExt;
    use hyper::client::conn::http1;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio_tungstenite::{
        accept_hdr_async,
        tungstenite::{
            Message,
            handshake::server::{Request, Response},
        },
    };

    use super::*;

    /// A client whose requests go, one after the other, to what the test does with the other end; and what moves its bytes.
    async fn client() -> (Client, impl Future<Output = hyper::Result<()>>, DuplexStream) {
        let (ours, theirs) = duplex(1 << 16);
        let (sender, connection) = http1::handshake(TokioIo::new(ours)).await.unwrap();
        let sender = std::sync::Arc::new(tokio::sync::Mutex::new(sender));
        let service = tower::service_fn(move |request: hyper::Request<Body>| {
            let sender = std::sync::Arc::clone(&sender);
            async move {
                let mut sender = sender.lock().await;
                sender.ready().await?;
                sender.send_request(request).await
            }
        });
        (Client::new(service, "shop"), connection.with_upgrades(), theirs)
    }

    /// Reads a request without a body.
    async fn request(server: &mut DuplexStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(server.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    async fn answer(server: &mut DuplexStream, status: &str) {
        server.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()).await.unwrap();
    }

    #[tokio::test]
    async fn spdy_is_asked_for_first() {
        let (client, connection, mut server) = client().await;
        let served = async {
            let head = request(&mut server).await.to_lowercase();
            assert!(
                head.starts_with("post /api/v1/namespaces/shop/pods/web/portforward http/1.1\r\n"),
                "{head}"
            );
            for header in
                ["connection: upgrade", "upgrade: spdy/3.1", "x-stream-protocol-version: portforward.k8s.io"]
            {
                assert!(head.contains(&format!("\r\n{header}\r\n")), "{head}");
            }
            answer(&mut server, "101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1").await;
            server.write_all(b"\0\0\0\x03\0\0\0\x01a").await.unwrap();
        };
        let (opened, ..) = tokio::join!(open(&client, "shop", "web", 80), served, connection);
        assert_eq!(opened.unwrap().read_u8().await.unwrap(), b'a');
    }

    #[tokio::test]
    async fn where_spdy_does_not_pass_a_websocket_is_asked_for() {
        let (client, connection, mut server) = client().await;
        let served = async {
            request(&mut server).await;
            answer(&mut server, "403 Forbidden\r\nContent-Length: 0").await;
            #[expect(clippy::result_large_err, reason = "the callback's type is the library's")]
            let protocol = |request: &Request, mut response: Response| {
                assert_eq!(request.uri().path(), "/api/v1/namespaces/shop/pods/web/portforward");
                assert!(request.uri().query().unwrap().ends_with("ports=80"));
                response.headers_mut().insert("Sec-WebSocket-Protocol", "v4.channel.k8s.io".parse().unwrap());
                Ok(response)
            };
            let mut socket = accept_hdr_async(server, protocol).await.unwrap();
            for message in [&[0, 80, 0][..], &[1, 80, 0], &[0, b'a']] {
                socket.send(Message::binary(message.to_vec())).await.unwrap();
            }
            socket
        };
        let (opened, ..) = tokio::join!(open(&client, "shop", "web", 80), served, connection);
        assert_eq!(opened.unwrap().read_u8().await.unwrap(), b'a');
    }

    #[tokio::test]
    async fn a_refusal_of_both_is_told_in_the_words_of_the_server() {
        let (client, connection, mut server) = client().await;
        let served = async {
            for body in [
                "{}",
                r#"{"kind":"Status","status":"Failure","code":403,"reason":"Forbidden","message":"no"}"#,
            ] {
                request(&mut server).await;
                answer(&mut server, &format!("403 Forbidden\r\nContent-Length: {}", body.len())).await;
                server.write_all(body.as_bytes()).await.unwrap();
            }
            drop(server);
        };
        let (opened, ..) = tokio::join!(open(&client, "shop", "web", 80), served, connection);
        assert!(matches!(opened.err(), Some(kube::Error::Api(status)) if status.message == "no"));
    }
}
