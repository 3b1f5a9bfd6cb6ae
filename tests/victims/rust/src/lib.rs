//! What the two Rust victims share: the words of the contract (`../README.md`), nothing that touches a socket or a file.

use std::{fmt, io, net::SocketAddr};

pub const USAGE: &str =
    "usage: victim serve PORT | get URL | resolve NAME | connect HOST PORT | file PATH | ls DIR | stat PATH";

/// The head of one HTTP request.
pub struct Head {
    pub method: String,
    pub path: String,
    pub content_length: usize,
    pub keep_alive: bool,
}

impl Head {
    /// Reads the lines of a request's head, without the empty one that ends it.
    pub fn parse(lines: &str) -> Option<Self> {
        let mut lines = lines.lines();
        let mut first = lines.next()?.split_whitespace();
        let (method, path, version) = (first.next()?, first.next()?, first.next()?);
        let mut head = Self {
            method: method.into(),
            path: path.into(),
            content_length: 0,
            keep_alive: version == "HTTP/1.1",
        };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            match name.to_ascii_lowercase().as_str() {
                "content-length" => head.content_length = value.trim().parse().ok()?,
                "connection" if value.trim().eq_ignore_ascii_case("close") => head.keep_alive = false,
                _ => {}
            }
        }
        Some(head)
    }

    pub fn reply(&self, lang: &str, peer: SocketAddr) -> String {
        let Self { method, path, .. } = self;
        let body = format!(r#"{{"lang":"{lang}","peer":"{peer}","method":"{method}","path":"{path}"}}"#);
        let connection = if self.keep_alive { "keep-alive" } else { "close" };
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Victim: {lang}\r\n\
             Content-Length: {}\r\nConnection: {connection}\r\n\r\n{body}",
            body.len()
        )
    }
}

/// `http://HOST[:PORT][/PATH]` as (`HOST:PORT`, request). HTTP/1.0, so that the answer ends with the connection and is
/// never chunked.
pub fn request(url: &str) -> Option<(String, String)> {
    let rest = url.strip_prefix("http://")?;
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() { "/" } else { path };
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let authority = if has_port { host.to_owned() } else { format!("{host}:80") };
    Some((authority, format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n")))
}

/// Splits an answer into status and body.
pub fn response(bytes: &[u8]) -> io::Result<(&str, &[u8])> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| io::ErrorKind::InvalidData)?;
    let status = head.split_whitespace().nth(1).ok_or(io::ErrorKind::InvalidData)?;
    Ok((status, &bytes[end + 4..]))
}

pub fn stat_line(meta: &std::fs::Metadata) -> String {
    use std::os::unix::fs::MetadataExt;
    let kind = match meta.file_type() {
        t if t.is_file() => "file",
        t if t.is_dir() => "dir",
        t if t.is_symlink() => "link",
        _ => "other",
    };
    format!("{} {:04o} {kind}", meta.len(), meta.mode() & 0o7777)
}

/// Shows an error by its errno's name. The resolver's errors carry no number, only libc's words.
pub struct ErrorName(pub io::Error);

impl fmt::Display for ErrorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0.raw_os_error() {
            Some(1) => "EPERM",
            Some(2) => "ENOENT",
            Some(13) => "EACCES",
            Some(20) => "ENOTDIR",
            Some(21) => "EISDIR",
            Some(30) => "EROFS",
            Some(40) => "ELOOP",
            Some(101) => "ENETUNREACH",
            Some(104) => "ECONNRESET",
            Some(110) => "ETIMEDOUT",
            Some(111) => "ECONNREFUSED",
            Some(113) => "EHOSTUNREACH",
            Some(other) => return write!(f, "E{other}"),
            None => match self.0.to_string() {
                words if words.contains("Temporary failure") => "EAI_AGAIN",
                words if words.contains("failed to lookup") => "NXDOMAIN",
                words => return f.write_str(&words),
            },
        };
        f.write_str(name)
    }
}
