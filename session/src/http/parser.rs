//! Incremental HTTP/1 parser for one direction of a connection: bytes in, messages out, no I/O and no clock.
//!
//! It never fails: bytes that are not HTTP turn it [raw](Parser::raw), after which it costs nothing. A body is passed on in the
//! slices in which it comes, so its size costs no memory here. Bounds: [`HTTP_HEAD_BYTES`], [`HTTP_HEADERS`].

use crate::limits::{HTTP_HEAD_BYTES, HTTP_HEADERS};

/// Longest method that is taken for HTTP; the longest registered one is `UPDATEREDIRECTREF` (17).
const METHOD_BYTES: usize = 20;
/// How every response begins.
const RESPONSE_START: &[u8] = b"HTTP/1.";

/// Which direction a parser reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Request,
    Response,
}

/// What a parser reports to.
pub(crate) trait Sink {
    /// A head is complete; the answer says what follows.
    fn head(&mut self, head: &Head<'_>) -> Follows;
    /// A piece of the body.
    fn body(&mut self, bytes: &[u8]);
    /// Bytes of the body that the capture has lost.
    fn lost(&mut self, bytes: u64);
    /// The message is complete.
    fn end(&mut self);
}

/// What the sink knows of the bytes behind a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follows {
    /// What the headers say.
    Framed,
    /// No body, whatever the headers say (answers to HEAD, 1xx, 204, 304).
    Nothing,
    /// No HTTP any more: an upgrade or a tunnel.
    Tunnel,
}

/// Request or status line, and headers.
#[derive(Debug)]
pub(crate) struct Head<'a> {
    /// Empty in a response.
    pub(crate) method: &'a str,
    /// Empty in a response.
    pub(crate) target: &'a str,
    /// 0 in a request.
    pub(crate) status: u16,
    /// 0 or 1, the minor version of HTTP/1.
    pub(crate) minor: u8,
    pub(crate) headers: &'a [httparse::Header<'a>],
}

impl Head<'_> {
    /// Value of the first header of this name.
    pub(crate) fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    }
}

/// Parser of one direction.
#[derive(Debug)]
pub(crate) struct Parser {
    side: Side,
    state: State,
    /// The head so far.
    head: Vec<u8>,
    /// Where the last line of `head` begins.
    line: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Somewhere in the stream: waits for bytes that begin like a message.
    Seek,
    /// Before a message or in its head.
    Head,
    /// In a body of known length: what is left.
    Length(u64),
    /// In the line with the size of a chunk.
    ChunkSize {
        size: u64,
        digits: u8,
        extension: bool,
    },
    ChunkData(u64),
    /// In the line end behind a chunk.
    ChunkEnd,
    /// Behind the last chunk: length of the line and of all of them.
    Trailer {
        line: usize,
        total: usize,
    },
    UntilClose,
    /// Not HTTP, or not any more.
    Raw {
        broken: bool,
    },
}

impl Parser {
    pub(crate) fn new(side: Side) -> Self {
        Self { side, state: State::Head, head: Vec::new(), line: 0 }
    }

    /// Whether nothing more will be reported.
    pub(crate) fn raw(&self) -> bool {
        matches!(self.state, State::Raw { .. })
    }

    /// Whether bytes came that are not HTTP, as opposed to a tunnel.
    pub(crate) fn broken(&self) -> bool {
        self.state == State::Raw { broken: true }
    }

    /// Whether a message has begun and not ended.
    pub(crate) fn inside(&self) -> bool {
        !(self.raw() || self.seeking() || self.state == State::Head && self.head.is_empty())
    }

    /// Whether it waits for the next message to begin.
    pub(crate) fn seeking(&self) -> bool {
        self.state == State::Seek
    }

    /// Forgets where it was; reads on from the next bytes that begin like a message.
    pub(crate) fn seek(&mut self) {
        if !self.raw() {
            self.state = State::Seek;
            self.head.clear();
            self.line = 0;
        }
    }

    /// Stops parsing: what follows is not HTTP.
    pub(crate) fn tunnel(&mut self) {
        self.become_raw(false);
    }

    /// Takes the next bytes.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], sink: &mut impl Sink) {
        while !bytes.is_empty() {
            bytes = match self.state {
                State::Raw { .. } => return,
                State::Seek if begins_message(self.side, bytes) => {
                    self.state = State::Head;
                    bytes
                }
                State::Seek => return,
                State::Head => self.feed_head(bytes, sink),
                State::Length(left) => {
                    let (part, rest, left) = split(bytes, left);
                    sink.body(part);
                    self.state = State::Length(left);
                    if left == 0 {
                        self.end(sink);
                    }
                    rest
                }
                State::ChunkSize { size, digits, extension } => {
                    self.feed_chunk_size(bytes, size, digits, extension)
                }
                State::ChunkData(left) => {
                    let (part, rest, left) = split(bytes, left);
                    sink.body(part);
                    self.state = if left == 0 { State::ChunkEnd } else { State::ChunkData(left) };
                    rest
                }
                State::ChunkEnd => match bytes.split_first() {
                    Some((b'\r', rest)) => rest,
                    Some((b'\n', rest)) => {
                        self.state = State::ChunkSize { size: 0, digits: 0, extension: false };
                        rest
                    }
                    _ => self.break_off(),
                },
                State::Trailer { line, total } => self.feed_trailer(bytes, line, total, sink),
                State::UntilClose => {
                    sink.body(bytes);
                    return;
                }
            }
        }
    }

    /// Bytes of this direction that the capture has lost. `false` when they are not all part of a body, so that it is not known
    /// where the next message begins.
    pub(crate) fn lost(&mut self, bytes: u64, sink: &mut impl Sink) -> bool {
        match &mut self.state {
            State::Raw { .. } | State::Seek => {}
            State::UntilClose => sink.lost(bytes),
            State::Length(left) | State::ChunkData(left) if bytes < *left => {
                *left -= bytes;
                sink.lost(bytes);
            }
            _ => return false,
        }
        true
    }

    /// The connection has ended: a body without a length ends with it.
    pub(crate) fn close(&mut self, sink: &mut impl Sink) {
        if self.state == State::UntilClose {
            sink.end();
        }
        self.become_raw(false);
    }

    fn feed_head<'b>(&mut self, bytes: &'b [u8], sink: &mut impl Sink) -> &'b [u8] {
        if self.head.is_empty()
            && let Some((b'\r' | b'\n', rest)) = bytes.split_first()
        {
            // Robustness: empty lines before a message are skipped (RFC 9112, 2.2).
            return rest;
        }
        let (line, rest) = match bytes.iter().position(|byte| *byte == b'\n') {
            Some(end) => bytes.split_at_checked(end + 1).unwrap_or((bytes, &[])),
            None => (bytes, [].as_slice()),
        };
        if line.len() > HTTP_HEAD_BYTES - self.head.len() {
            return self.break_off();
        }
        self.head.extend_from_slice(line);
        if self.line == 0 && !self.begins_well() {
            return self.break_off();
        }
        if self.head.last() == Some(&b'\n') {
            let empty = matches!(self.head.get(self.line..), Some(b"\n" | b"\r\n"));
            self.line = self.head.len();
            if empty && !self.finish_head(sink) {
                return self.break_off();
            }
        }
        rest
    }

    /// Whether the first line can still be one of HTTP/1.
    fn begins_well(&self) -> bool {
        match self.side {
            Side::Request => {
                let method = self.head.iter().take(METHOD_BYTES).take_while(|byte| **byte != b' ');
                let length = method.clone().count();
                method.clone().all(|byte| byte.is_ascii_uppercase() || *byte == b'-')
                    && (1..METHOD_BYTES).contains(&length)
            }
            Side::Response => self.head.iter().zip(RESPONSE_START).all(|(byte, wanted)| byte == wanted),
        }
    }

    /// Parses the complete head; `false` when it is not one.
    fn finish_head(&mut self, sink: &mut impl Sink) -> bool {
        let bytes = std::mem::take(&mut self.head);
        self.line = 0;
        let mut headers = [httparse::EMPTY_HEADER; HTTP_HEADERS];
        let next = match self.side {
            Side::Request => {
                let mut request = httparse::Request::new(&mut headers);
                if !matches!(request.parse(&bytes), Ok(httparse::Status::Complete(_))) {
                    return false;
                }
                let head = Head {
                    method: request.method.unwrap_or_default(),
                    target: request.path.unwrap_or_default(),
                    status: 0,
                    minor: request.version.unwrap_or(1),
                    headers: request.headers,
                };
                frame(self.side, sink.head(&head), &head)
            }
            Side::Response => {
                let mut response = httparse::Response::new(&mut headers);
                if !matches!(response.parse(&bytes), Ok(httparse::Status::Complete(_))) {
                    return false;
                }
                let head = Head {
                    method: "",
                    target: "",
                    status: response.code.unwrap_or(0),
                    minor: response.version.unwrap_or(1),
                    headers: response.headers,
                };
                frame(self.side, sink.head(&head), &head)
            }
        };
        // The buffer is kept for the next head of the connection.
        self.head = bytes;
        self.head.clear();
        match next {
            Some(State::Length(0)) => self.end(sink),
            Some(state) => self.state = state,
            None => return false,
        }
        true
    }

    fn feed_chunk_size<'b>(&mut self, bytes: &'b [u8], size: u64, digits: u8, extension: bool) -> &'b [u8] {
        let Some((byte, rest)) = bytes.split_first() else { return bytes };
        self.state = match byte {
            b'\n' if digits == 0 => return self.break_off(),
            b'\n' if size == 0 => State::Trailer { line: 0, total: 0 },
            b'\n' => State::ChunkData(size),
            _ if extension => State::ChunkSize { size, digits, extension },
            b';' | b'\r' | b' ' | b'\t' => State::ChunkSize { size, digits, extension: true },
            digit => match char::from(*digit).to_digit(16) {
                // 15 digits are less than 2^60, more than any body.
                Some(value) if digits < 15 => {
                    State::ChunkSize { size: size << 4 | u64::from(value), digits: digits + 1, extension }
                }
                _ => return self.break_off(),
            },
        };
        rest
    }

    fn feed_trailer<'b>(
        &mut self,
        bytes: &'b [u8],
        line: usize,
        total: usize,
        sink: &mut impl Sink,
    ) -> &'b [u8] {
        let Some((byte, rest)) = bytes.split_first() else { return bytes };
        match byte {
            b'\n' if line == 0 => self.end(sink),
            _ if total >= HTTP_HEAD_BYTES => return self.break_off(),
            b'\n' => self.state = State::Trailer { line: 0, total: total + 1 },
            b'\r' => self.state = State::Trailer { line, total: total + 1 },
            _ => self.state = State::Trailer { line: line + 1, total: total + 1 },
        }
        rest
    }

    fn end(&mut self, sink: &mut impl Sink) {
        self.state = State::Head;
        sink.end();
    }

    fn break_off(&mut self) -> &'static [u8] {
        self.become_raw(true);
        &[]
    }

    fn become_raw(&mut self, broken: bool) {
        if !self.raw() {
            self.state = State::Raw { broken };
            self.head = Vec::new();
        }
    }
}

/// Whether bytes look like the start of a message, for finding one in the middle of a stream.
fn begins_message(side: Side, bytes: &[u8]) -> bool {
    match side {
        Side::Response => bytes.starts_with(RESPONSE_START),
        Side::Request => {
            let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii_end();
            let mut words = line.split(|byte| *byte == b' ');
            let method = words.next().unwrap_or_default();
            let (target, version) = (words.next(), words.next());
            (1..METHOD_BYTES).contains(&method.len())
                && method.iter().all(u8::is_ascii_uppercase)
                && target.is_some_and(|target| !target.is_empty())
                && version.is_some_and(|version| version.starts_with(b"HTTP/1."))
        }
    }
}

/// What follows a head; `None` when its headers contradict each other.
fn frame(side: Side, follows: Follows, head: &Head<'_>) -> Option<State> {
    match follows {
        Follows::Nothing => return Some(State::Length(0)),
        Follows::Tunnel => return Some(State::Raw { broken: false }),
        Follows::Framed => {}
    }
    let mut length = None;
    let mut coding = None;
    for header in head.headers {
        if header.name.eq_ignore_ascii_case("transfer-encoding") {
            coding = Some(header.value);
        } else if header.name.eq_ignore_ascii_case("content-length") {
            let text = std::str::from_utf8(header.value).ok()?.trim();
            let value =
                text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten()?;
            if length.replace(value).is_some_and(|before| before != value) {
                return None;
            }
        }
    }
    match (coding, length) {
        (Some(coding), _) if ends_chunked(coding) => {
            Some(State::ChunkSize { size: 0, digits: 0, extension: false })
        }
        (Some(_), _) => (side == Side::Response).then_some(State::UntilClose),
        (None, Some(length)) => Some(State::Length(length)),
        (None, None) if side == Side::Response => Some(State::UntilClose),
        (None, None) => Some(State::Length(0)),
    }
}

fn ends_chunked(coding: &[u8]) -> bool {
    let last = coding.rsplit(|byte| *byte == b',').next().unwrap_or_default();
    last.trim_ascii().eq_ignore_ascii_case(b"chunked")
}

/// Splits off at most `left` bytes; also says how many are left then.
fn split(bytes: &[u8], left: u64) -> (&[u8], &[u8], u64) {
    let take = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
    let (part, rest) = bytes.split_at_checked(take).unwrap_or((bytes, &[]));
    (part, rest, left - part.len() as u64)
}
