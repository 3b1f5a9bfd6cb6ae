//! The command line of the agent. It holds no secret: the session's token comes as its hash.
//!
//! Written by hand: seven options do not pay for a parser in an executable that travels through ConfigMaps.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use thiserror::Error;

use crate::{limits::IDLE, token::TokenHash};

/// Digits of a container's id, with every runtime that Kubernetes knows.
const CONTAINER_ID: usize = 64;

/// What the agent prints for `--help` and after a mistake.
pub(crate) const USAGE: &str = "usage: mirrord-agent --listen unix:PATH|tcp:127.0.0.1:PORT --target-pid N|--container-id ID \
--token-sha256 HEX [--client WHO] [--idle-timeout SECONDS] [--end-with-stdin] [--hand-over]";

/// Where the agent waits for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Listen {
    /// A unix socket at this path, mode 0600.
    Unix(PathBuf),
    /// A loopback address of the network namespace in which the agent was started.
    Tcp(SocketAddr),
}

impl Listen {
    /// The port, when it is one.
    pub(crate) const fn port(&self) -> Option<u16> {
        match self {
            Self::Unix(_) => None,
            Self::Tcp(address) => Some(address.port()),
        }
    }
}

/// Whom the agent serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// This process, as the agent sees it.
    Pid(u32),
    /// The first process of the container with this id (64 hexadecimal digits).
    Container(String),
}

/// The parsed command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Args {
    /// Where to listen.
    pub(crate) listen: Listen,
    /// Whom to serve.
    pub(crate) subject: Subject,
    /// SHA-256 of the token that clients must show. Whoever may read the agent's pod or command line cannot use it.
    pub(crate) token: TokenHash,
    /// Who the client is, in words: for others who want a port that it steals.
    pub(crate) client: String,
    /// How long to live without a client.
    pub(crate) idle_timeout: Duration,
    /// End when standard input does: the starter holds the other end of a pipe and takes the agent along.
    pub(crate) end_with_stdin: bool,
    /// Standard input is a socket of a starter on this machine, which takes connected sockets from it.
    pub(crate) hand_over: bool,
}

/// Why a command line is refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum ArgsError {
    #[error("`{0}` needs a value")]
    Missing(&'static str),
    #[error("`{0}` is not an option of the agent")]
    Unknown(String),
    #[error("`{value}` is not a value for `{option}`: {reason}")]
    Value { option: &'static str, value: String, reason: &'static str },
}

impl Args {
    /// Parses what follows the program's name.
    pub(crate) fn parse(mut args: impl Iterator<Item = OsString>) -> Result<Self, ArgsError> {
        let (mut listen, mut subject, mut token) = (None, None, None);
        let (mut idle_timeout, mut end_with_stdin, mut hand_over) = (IDLE, false, false);
        let mut client = "another session".to_owned();
        while let Some(option) = args.next() {
            match option.to_str() {
                Some("--listen") => listen = Some(parse_listen(&value("--listen", &mut args)?)?),
                Some("--target-pid") => {
                    subject = Some(Subject::Pid(parse_pid(&value("--target-pid", &mut args)?)?));
                }
                Some("--container-id") => {
                    subject =
                        Some(Subject::Container(parse_container(&value("--container-id", &mut args)?)?));
                }
                Some("--token-sha256") => token = Some(parse_token(&value("--token-sha256", &mut args)?)?),
                Some("--client") => client = value("--client", &mut args)?.to_string_lossy().into_owned(),
                Some("--idle-timeout") => {
                    idle_timeout = parse_seconds(&value("--idle-timeout", &mut args)?)?;
                }
                Some("--end-with-stdin") => end_with_stdin = true,
                Some("--hand-over") => hand_over = true,
                _ => return Err(ArgsError::Unknown(option.to_string_lossy().into_owned())),
            }
        }
        Ok(Self {
            listen: listen.ok_or(ArgsError::Missing("--listen"))?,
            subject: subject.ok_or(ArgsError::Missing("--target-pid"))?,
            token: token.ok_or(ArgsError::Missing("--token-sha256"))?,
            client,
            idle_timeout,
            end_with_stdin,
            hand_over,
        })
    }
}

fn value(option: &'static str, args: &mut impl Iterator<Item = OsString>) -> Result<OsString, ArgsError> {
    args.next().ok_or(ArgsError::Missing(option))
}

fn refuse(option: &'static str, value: &OsString, reason: &'static str) -> ArgsError {
    ArgsError::Value { option, value: value.to_string_lossy().into_owned(), reason }
}

fn parse_listen(text: &OsString) -> Result<Listen, ArgsError> {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    if let Some(path) = text.as_bytes().strip_prefix(b"unix:").filter(|path| !path.is_empty()) {
        return Ok(Listen::Unix(OsString::from_vec(path.to_vec()).into()));
    }
    let address = text.to_str().and_then(|text| text.strip_prefix("tcp:")).and_then(|text| text.parse().ok());
    match address {
        Some(address) if is_loopback(&address) => Ok(Listen::Tcp(address)),
        Some(_) => {
            Err(refuse("--listen", text, "only a loopback address is allowed, others could reach any other"))
        }
        None => Err(refuse("--listen", text, "write unix:PATH or tcp:127.0.0.1:PORT")),
    }
}

fn is_loopback(address: &SocketAddr) -> bool {
    address.ip().is_loopback()
}

fn parse_pid(text: &OsString) -> Result<u32, ArgsError> {
    text.to_str()
        .and_then(|text| text.parse().ok())
        .filter(|pid| *pid > 0 && i32::try_from(*pid).is_ok())
        .ok_or_else(|| refuse("--target-pid", text, "a process number is needed"))
}

fn parse_container(text: &OsString) -> Result<String, ArgsError> {
    text.to_str()
        .filter(|id| id.len() == CONTAINER_ID && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .map(str::to_ascii_lowercase)
        .ok_or_else(|| refuse("--container-id", text, "64 hexadecimal digits are needed"))
}

fn parse_token(text: &OsString) -> Result<TokenHash, ArgsError> {
    text.to_str()
        .and_then(TokenHash::parse)
        .ok_or_else(|| refuse("--token-sha256", text, "64 hexadecimal digits are needed"))
}

fn parse_seconds(text: &OsString) -> Result<Duration, ArgsError> {
    text.to_str()
        .and_then(|text| text.parse().ok())
        .map(Duration::from_secs)
        .ok_or_else(|| refuse("--idle-timeout", text, "a number of seconds is needed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, ArgsError> {
        Args::parse(line.split_whitespace().map(OsString::from))
    }

    /// A command line that only lacks what `line` says.
    fn with_token(line: &str) -> Result<Args, ArgsError> {
        parse(&format!("--token-sha256 {} {line}", "ab".repeat(32)))
    }

    #[test]
    fn a_full_command_line_is_understood() {
        let args = with_token(
            "--listen unix:/run/a.sock --target-pid 12 --idle-timeout 5 --client ann --end-with-stdin --hand-over",
        )
        .unwrap();
        assert_eq!(args.listen, Listen::Unix("/run/a.sock".into()));
        assert_eq!(args.client, "ann");
        assert_eq!(
            (args.subject, args.idle_timeout, args.end_with_stdin, args.hand_over),
            (Subject::Pid(12), Duration::from_secs(5), true, true)
        );
        let id = "0A".repeat(32);
        let args = with_token(&format!("--container-id {id} --listen tcp:127.0.0.1:7777")).unwrap();
        assert_eq!(args.listen, Listen::Tcp(([127, 0, 0, 1], 7777).into()));
        assert_eq!(args.subject, Subject::Container(id.to_ascii_lowercase()));
        assert_eq!((args.idle_timeout, &*args.client, args.hand_over), (IDLE, "another session", false));
    }

    #[test]
    fn mistakes_are_named() {
        for line in [
            "",
            "--listen",
            "--listen unix: --target-pid 1",
            "--listen tcp:0.0.0.0:1 --target-pid 1",
            "--listen tcp:localhost:1 --target-pid 1",
            "--listen unix:/a --target-pid 0",
            "--listen unix:/a --target-pid 4294967295",
            "--listen unix:/a --container-id 1234",
            "--listen unix:/a --target-pid 1 --idle-timeout soon",
            "--listen unix:/a --target-pid 1 --verbose",
            "--listen unix:/a --target-pid 1 --token-sha256 secret",
        ] {
            assert!(with_token(line).is_err(), "{line}");
        }
        assert_eq!(parse("--listen unix:/a --target-pid 1"), Err(ArgsError::Missing("--token-sha256")));
    }
}
