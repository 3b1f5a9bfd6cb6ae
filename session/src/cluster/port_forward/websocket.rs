//! A port's bytes over a WebSocket with channels: a message is as long as what was written, and reading stops when the reader does.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::{self, Message};

use super::{Forward, fits, put};

/// Channel of the data of the only port.
const DATA: u8 = 0;
/// Channel of errors of the only port.
const ERROR: u8 = 1;

/// The data of one forwarded port as a byte stream.
pub(super) struct WebSocket<W> {
    socket: W,
    /// Received and not yet read.
    data: Bytes,
    /// Whether the first message of a channel, which only repeats the port, has come.
    begun: [bool; 2],
    ended: bool,
}

impl<W> WebSocket<W>
where
    W: Stream<Item = tungstenite::Result<Message>> + Sink<Message, Error = tungstenite::Error> + Unpin,
{
    pub(super) const fn new(socket: W) -> Self {
        Self { socket, data: Bytes::new(), begun: [false; 2], ended: false }
    }

    /// Ready: there are data, or the stream has ended.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.data.is_empty() && !self.ended {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                None | Some(Ok(Message::Close(_))) => self.ended = true,
                Some(Ok(Message::Binary(message))) => self.take(message)?,
                // Pings are answered by the socket itself; the API server sends no text.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn take(&mut self, mut message: Bytes) -> io::Result<()> {
        let Some(channel) = message.try_get_u8().ok() else { return Ok(()) };
        let Some(begun) = self.begun.get_mut(usize::from(channel)) else {
            return Err(io::Error::other(format!(
                "the API server sent data of an unknown channel, {channel}"
            )));
        };
        if !*begun {
            *begun = true;
        } else if channel == ERROR {
            return Err(io::Error::other(String::from_utf8_lossy(&message).into_owned()));
        } else {
            self.data = message;
        }
        Ok(())
    }
}

impl<W> Forward for WebSocket<W>
where
    W: Stream<Item = tungstenite::Result<Message>>
        + Sink<Message, Error = tungstenite::Error>
        + Send
        + Unpin
        + 'static,
{
    async fn first_bytes(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_data(cx)).await?;
        if self.data.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

impl<W> AsyncRead for WebSocket<W>
where
    W: Stream<Item = tungstenite::Result<Message>> + Sink<Message, Error = tungstenite::Error> + Unpin,
{
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_data(cx))?;
        let length = this.data.len().min(buffer.remaining());
        buffer.put_slice(&this.data.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl<W> AsyncWrite for WebSocket<W>
where
    W: Stream<Item = tungstenite::Result<Message>> + Sink<Message, Error = tungstenite::Error> + Unpin,
{
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.socket).poll_ready(cx)).map_err(io::Error::other)?;
        let length = fits(parts);
        let mut message = Vec::with_capacity(length + 1);
        message.push(DATA);
        put(parts, length, &mut message);
        Pin::new(&mut this.socket).start_send(Message::binary(message)).map_err(io::Error::other)?;
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx).map_err(io::Error::other)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_close(cx).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};

    use super::*;
    use crate::limits::FORWARD_MESSAGE;

    async fn pair()
    -> (WebSocket<WebSocketStream<tokio::io::DuplexStream>>, WebSocketStream<tokio::io::DuplexStream>) {
        let (ours, theirs) = duplex(1 << 20);
        let client = WebSocketStream::from_raw_socket(ours, Role::Client, None).await;
        let server = WebSocketStream::from_raw_socket(theirs, Role::Server, None).await;
        (WebSocket::new(client), server)
    }

    async fn send(server: &mut WebSocketStream<tokio::io::DuplexStream>, message: &[u8]) {
        use futures_util::SinkExt;
        server.send(Message::binary(message.to_vec())).await.unwrap();
    }

    #[tokio::test]
    async fn data_pass_in_both_directions() {
        use futures_util::StreamExt;
        let (mut forward, mut server) = pair().await;
        for message in [&[0, 0x61, 0x1e][..], &[1, 0x61, 0x1e], &[0, b'a', b'b'], &[0], &[0, b'c']] {
            send(&mut server, message).await;
        }
        forward.first_bytes().await.unwrap();
        let mut read = [0; 3];
        forward.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"abc");
        forward.write_all(&vec![7; FORWARD_MESSAGE + 1]).await.unwrap();
        forward.flush().await.unwrap();
        let first = server.next().await.unwrap().unwrap().into_data();
        let second = server.next().await.unwrap().unwrap().into_data();
        assert_eq!((first.len(), &second[..]), (FORWARD_MESSAGE + 1, &[DATA, 7][..]));
        let parts = [IoSlice::new(b"head"), IoSlice::new(&[7; FORWARD_MESSAGE])];
        assert_eq!(forward.write_vectored(&parts).await.unwrap(), FORWARD_MESSAGE);
        forward.flush().await.unwrap();
        let together = server.next().await.unwrap().unwrap().into_data();
        assert_eq!((together.len(), &together[..6]), (FORWARD_MESSAGE + 1, &b"\0head\x07"[..]));
        server.close(None).await.unwrap();
        assert_eq!(forward.read(&mut read).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_port_on_which_nobody_listens_is_an_error_with_its_reason() {
        let (mut forward, mut server) = pair().await;
        for message in [&[0, 0x61, 0x1e][..], &[1, 0x61, 0x1e], b"\x01connection refused"] {
            send(&mut server, message).await;
        }
        assert!(forward.first_bytes().await.unwrap_err().to_string().contains("connection refused"));
        let (mut forward, mut server) = pair().await;
        server.close(None).await.unwrap();
        assert_eq!(forward.first_bytes().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
