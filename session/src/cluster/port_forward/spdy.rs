//! A port's bytes over SPDY/3.1: two streams, opened at once and for good.
//!
//! The draft wants flow control; the servers of Kubernetes know nothing of windows: what is not read stays in the connection. They also
//! drop what is sent on a stream before they have accepted it, so that the other end has to speak first.

mod frame;

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use self::frame::{Headers, Kind};
use super::{Forward, fits, put};
use crate::limits::{FORWARD_CONTROL, FORWARD_MESSAGE};

/// The protocol of the connection, as `Upgrade` names it.
pub(super) const UPGRADE: &str = "SPDY/3.1";
/// What the streams mean, as `X-Stream-Protocol-Version` names it.
pub(super) const STREAMS: &str = "portforward.k8s.io";

/// The stream on which the server says why forwarding failed; those that a client opens have odd numbers.
const ERROR: u32 = 1;
/// The stream of the port's bytes.
const DATA: u32 = 3;

/// The bytes of one port of a pod.
#[derive(Debug)]
pub(super) struct Spdy<C> {
    connection: C,
    /// Received and not yet read.
    input: BytesMut,
    /// The frame that is being read, and how much of it is to come.
    frame: (Kind, usize),
    ended: bool,
    /// Frames that are not yet written.
    output: BytesMut,
    /// Whether frames are among them, or just behind them, that nobody who writes knows of.
    own: bool,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Spdy<C> {
    /// The streams are opened with what is read or written first.
    ///
    /// # Errors
    /// None that a port could lead to.
    pub(super) fn new(connection: C, port: u16) -> io::Result<Self> {
        let (mut output, mut headers) = (BytesMut::new(), Headers::default());
        let port = port.to_string();
        for (stream, kind) in [(ERROR, "error"), (DATA, "data")] {
            let about = [("streamtype", kind), ("port", &port), ("requestid", "0")];
            headers.put_open(&mut output, stream, stream == ERROR, &about)?;
        }
        let frame = (Kind::Other, 0);
        Ok(Self { connection, input: BytesMut::new(), frame, ended: false, output, own: true })
    }

    /// Ready: there are data to take, or the stream has ended.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.ended || self.data() > 0 {
                return Poll::Ready(Ok(()));
            }
            if self.go_on()? {
                continue;
            }
            if self.own
                && let Poll::Ready(done) = self.poll_sent(cx)
            {
                done?;
                self.own = false;
            }
            self.input.reserve(FORWARD_MESSAGE);
            self.ended = ready!(poll_read_buf(Pin::new(&mut self.connection), cx, &mut self.input))? == 0;
        }
    }

    /// How much at the beginning of the input is data.
    fn data(&self) -> usize {
        match self.frame {
            (Kind::Data { stream: DATA, .. }, left) => left.min(self.input.len()),
            _ => 0,
        }
    }

    /// Goes on to the next data in the input; whether anything was done.
    fn go_on(&mut self) -> io::Result<bool> {
        let (kind, left) = self.frame;
        let here = left.min(self.input.len());
        match kind {
            Kind::Data { stream: DATA, fin: true } if left == 0 => self.ended = true,
            _ if left == 0 => match frame::head(&mut self.input) {
                Some(frame) => self.frame = frame,
                None => return Ok(false),
            },
            Kind::Data { stream: ERROR, .. } | Kind::Reset | Kind::Ping | Kind::GoAway => {
                if left > FORWARD_CONTROL {
                    return Err(io::Error::other(format!(
                        "the API server sent a control frame of {left} bytes"
                    )));
                }
                if here < left {
                    return Ok(false);
                }
                self.frame.1 = 0;
                let payload = self.input.split_to(here);
                self.control(kind, &payload)?;
            }
            Kind::Data { .. } | Kind::Other => {
                self.input.advance(here);
                self.frame.1 -= here;
                return Ok(here > 0);
            }
        }
        Ok(true)
    }

    /// Acts on a frame that is read as a whole.
    fn control(&mut self, kind: Kind, payload: &[u8]) -> io::Result<()> {
        let id = payload.first_chunk().map(|id| u32::from_be_bytes(*id));
        match (kind, id) {
            (Kind::Data { .. }, _) => Err(io::Error::other(String::from_utf8_lossy(payload).into_owned())),
            (Kind::Reset, Some(DATA)) => Err(io::ErrorKind::ConnectionReset.into()),
            // A server that asks more often than it reads gets no more answers.
            (Kind::Ping, Some(id)) if self.output.len() < FORWARD_MESSAGE => {
                frame::put_pong(&mut self.output, id);
                self.own = true;
                Ok(())
            }
            (Kind::GoAway, _) => {
                self.ended = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Hands all that is queued to the connection, and that to the kernel.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    /// Hands what is queued to the connection.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            match ready!(Pin::new(&mut self.connection).poll_write(cx, &self.output))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.output.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> Forward for Spdy<C> {
    async fn first_bytes(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_data(cx)).await?;
        if self.data() > 0 { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> AsyncRead for Spdy<C> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_data(cx))?;
        let length = this.data().min(buffer.remaining());
        buffer.put_slice(&this.input.split_to(length));
        this.frame.1 -= length;
        Poll::Ready(Ok(()))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Spdy<C> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        let length = fits(parts);
        frame::put_data_head(&mut this.output, DATA, length);
        put(parts, length, &mut this.output);
        if let Poll::Ready(Err(error)) = this.poll_drain(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_sent(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.connection).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    /// A forward, and the server's end after it has read how the streams are opened.
    async fn pair() -> (Spdy<DuplexStream>, DuplexStream) {
        let (ours, mut theirs) = duplex(1 << 20);
        let mut forward = Spdy::new(ours, 8080).unwrap();
        forward.flush().await.unwrap();
        for (stream, kind) in
            [(ERROR, &b"streamtype\0\0\0\x05error"[..]), (DATA, b"streamtype\0\0\0\x04data")]
        {
            let (found, payload) = frame(&mut theirs).await;
            assert_eq!((found, &payload[..4]), (Kind::Other, &stream.to_be_bytes()[..]));
            for header in [kind, b"port\0\0\0\x048080", b"requestid\0\0\0\x010"] {
                assert!(payload.windows(header.len()).any(|window| window == header), "{header:?}");
            }
        }
        (forward, theirs)
    }

    /// The next frame that the server gets.
    async fn frame(server: &mut DuplexStream) -> (Kind, Vec<u8>) {
        let mut head = [0; 8];
        server.read_exact(&mut head).await.unwrap();
        let (kind, length) = frame::head(&mut BytesMut::from(&head[..])).unwrap();
        let mut payload = vec![0; length];
        server.read_exact(&mut payload).await.unwrap();
        (kind, payload)
    }

    fn data(stream: u32, fin: bool, payload: &[u8]) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        frame::put_data_head(&mut bytes, stream, payload.len());
        bytes[4] = u8::from(fin);
        [&bytes, payload].concat()
    }

    fn control(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0x80, 3, 0, kind, 0, 0, 0, length], payload].concat()
    }

    #[tokio::test]
    async fn data_pass_in_both_directions_however_they_are_cut() {
        let (mut forward, mut server) = pair().await;
        let replies =
            [control(2, &[0, 0, 0, 1, 7, 7]), control(2, &[0, 0, 0, 3]), control(9, &[0; 8])].concat();
        let bytes = [
            &replies[..],
            &data(ERROR, true, b""),
            &data(DATA, false, b"ab"),
            &control(3, &[0, 0, 0, 1, 0, 0, 0, 5]),
            &data(DATA, false, b""),
            &data(5, false, b"no"),
            &data(DATA, true, b"c"),
            &data(DATA, false, b"never"),
        ]
        .concat();
        let mut read = Vec::new();
        let sent = async {
            for byte in bytes {
                server.write_all(&[byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let got = async {
            forward.first_bytes().await.unwrap();
            forward.read_to_end(&mut read).await.unwrap();
        };
        tokio::join!(got, sent);
        assert_eq!(read, b"abc");
        let our_data = Kind::Data { stream: DATA, fin: false };
        forward.write_all(&vec![7; FORWARD_MESSAGE + 1]).await.unwrap();
        forward.flush().await.unwrap();
        assert_eq!(frame(&mut server).await, (our_data, vec![7; FORWARD_MESSAGE]));
        assert_eq!(frame(&mut server).await, (our_data, vec![7]));
        let parts = [IoSlice::new(b"head"), IoSlice::new(&[7; FORWARD_MESSAGE])];
        assert_eq!(forward.write_vectored(&parts).await.unwrap(), FORWARD_MESSAGE);
        forward.flush().await.unwrap();
        let (kind, together) = frame(&mut server).await;
        assert_eq!((kind, together.len(), &together[..5]), (our_data, FORWARD_MESSAGE, &b"head\x07"[..]));
        forward.shutdown().await.unwrap();
        assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_port_on_which_nobody_listens_is_an_error_with_its_reason() {
        let (mut forward, mut server) = pair().await;
        server.write_all(&data(ERROR, false, b"connection refused")).await.unwrap();
        assert_eq!(forward.first_bytes().await.unwrap_err().to_string(), "connection refused");
        for (bytes, kind) in [
            (control(3, &[0, 0, 0, 3, 0, 0, 0, 5]), io::ErrorKind::ConnectionReset),
            (control(7, &[0; 8]), io::ErrorKind::UnexpectedEof),
            (data(DATA, true, b""), io::ErrorKind::UnexpectedEof),
            (data(ERROR, false, &vec![b'x'; FORWARD_CONTROL + 1]), io::ErrorKind::Other),
        ] {
            let (mut forward, mut server) = pair().await;
            server.write_all(&bytes).await.unwrap();
            assert_eq!(forward.first_bytes().await.unwrap_err().kind(), kind);
        }
        let (mut forward, server) = pair().await;
        drop(server);
        assert_eq!(forward.first_bytes().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_ping_is_answered_though_nobody_writes() {
        let (mut forward, mut server) = pair().await;
        server.write_all(&control(6, &[0, 0, 0, 2])).await.unwrap();
        let answered = async {
            assert_eq!(frame(&mut server).await, (Kind::Ping, vec![0, 0, 0, 2]));
            server.write_all(&data(DATA, false, b"a")).await.unwrap();
        };
        let (read, ()) = tokio::join!(forward.read_u8(), answered);
        assert_eq!(read.unwrap(), b'a');
    }

    /// What a server sends more often than it reads is not kept.
    #[tokio::test]
    async fn answers_to_pings_are_bounded() {
        let (ours, mut server) = duplex(1 << 10);
        let mut forward = Spdy::new(ours, 1).unwrap();
        let asked = async {
            for _ in 0..FORWARD_MESSAGE {
                server.write_all(&control(6, &[0, 0, 0, 2])).await.unwrap();
            }
            server.write_all(&control(7, &[0; 8])).await.unwrap();
        };
        let (ended, ()) = tokio::join!(forward.first_bytes(), asked);
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let queued = forward.output.len();
        assert!((FORWARD_MESSAGE..FORWARD_MESSAGE + 12).contains(&queued), "{queued}");
    }
}
