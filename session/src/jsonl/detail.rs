//! The part of an event that depends on its kind, as it is written: one object under the kind's name.

use bytes::Bytes;
use mirrord_protocol::session::v1::{self as wire, event::Detail as Wire};
use serde::{Deserialize, Serialize};

use super::scalar::{
    ConnectionStage, Data, Direction, LinkState, Mode, ProcessStage, address_of, address_text, is_default,
};

/// Exactly one of the kinds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Detail {
    Request(Box<Request>),
    Connection(Connection),
    Dns(Dns),
    File(File),
    Process(Process),
    Port(Port),
    Agent(Agent),
    Warning(Warning),
    Output(Output),
}

/// Structs of which empty fields are neither written nor needed.
macro_rules! rows {
    ($($name:ident { $($(#[$meta:meta])* $field:ident: $kind:ty),+ $(,)? })+) => {$(
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        pub(super) struct $name {
            $($(#[$meta])* #[serde(skip_serializing_if = "is_default")] $field: $kind),+
        }
    )+};
}

rows! {
    Request {
        direction: Direction,
        mode: Mode,
        port: u32,
        peer: Option<String>,
        method: String,
        path: String,
        host: String,
        protocol: String,
        route: String,
        status: u32,
        headers: Vec<Header>,
        body: Option<Body>,
        response_headers: Vec<Header>,
        response_body: Option<Body>,
    }
    Header { name: String, value: Data, redacted: bool }
    Body { size: u64, truncated: bool, data: Data }
    Connection {
        direction: Direction,
        stage: ConnectionStage,
        mode: Mode,
        port: u32,
        peer: Option<String>,
        local: Option<String>,
        transport: String,
        name: String,
        bytes_in: u64,
        bytes_out: u64,
        gaps: u64,
        gap_bytes: u64,
        reset: bool,
        duration_ns: u64,
    }
    Dns { question: String, record: String, answers: Vec<String>, rcode: String, server: String }
    File { operation: String, path: Data, errno: String, size: u64, flags: String }
    Process { stage: ProcessStage, parent: u32, arguments: Vec<Data>, exit: Option<Exit> }
    Exit { code: i32, signal: u32, error: String }
    Port { remote: u32, local: u32, from: Mode, to: Mode, text: String }
    Agent { text: String, link: Option<Link> }
    Link { state: LinkState, rtt_us: u64, attempt: u32, next_attempt_ms: i64, detail: String }
    Warning { text: String, hint: String }
    Output { stderr: bool, data: Data }
}

impl From<&Wire> for Detail {
    fn from(detail: &Wire) -> Self {
        match detail {
            Wire::Request(request) => Self::Request(Box::new(request.into())),
            Wire::ConnectionDetail(connection) => Self::Connection(connection.into()),
            Wire::Dns(dns) => Self::Dns(Dns {
                question: dns.question.clone(),
                record: dns.record.clone(),
                answers: dns.answers.clone(),
                rcode: dns.rcode.clone(),
                server: dns.server.clone(),
            }),
            Wire::File(file) => Self::File(File {
                operation: file.operation.clone(),
                path: Data::from(&file.path),
                errno: file.errno.clone(),
                size: file.size,
                flags: file.flags.clone(),
            }),
            Wire::Process(process) => Self::Process(Process {
                stage: process.stage().into(),
                parent: process.parent,
                arguments: process.arguments.iter().map(Data::from).collect(),
                exit: process.exit.as_ref().map(|exit| Exit {
                    code: exit.code,
                    signal: exit.signal,
                    error: exit.error.clone(),
                }),
            }),
            Wire::Port(port) => Self::Port(Port {
                remote: port.remote,
                local: port.local,
                from: port.from().into(),
                to: port.to().into(),
                text: port.text.clone(),
            }),
            Wire::Agent(agent) => Self::Agent(Agent {
                text: agent.text.clone(),
                link: agent.link.as_ref().map(|link| Link {
                    state: link.state().into(),
                    rtt_us: link.rtt_us,
                    attempt: link.attempt,
                    next_attempt_ms: link.next_attempt_ms,
                    detail: link.detail.clone(),
                }),
            }),
            Wire::Warning(warning) => {
                Self::Warning(Warning { text: warning.text.clone(), hint: warning.hint.clone() })
            }
            Wire::Output(output) => {
                Self::Output(Output { stderr: output.stderr, data: Data::from(&output.data) })
            }
        }
    }
}

impl From<Detail> for Wire {
    fn from(detail: Detail) -> Self {
        match detail {
            Detail::Request(request) => Self::Request((*request).into()),
            Detail::Connection(connection) => Self::ConnectionDetail(connection.into()),
            Detail::Dns(Dns { question, record, answers, rcode, server }) => {
                Self::Dns(wire::Dns { question, record, answers, rcode, server })
            }
            Detail::File(File { operation, path, errno, size, flags }) => {
                Self::File(wire::File { operation, path: path.into(), errno, size, flags })
            }
            Detail::Process(process) => Self::Process(wire::ProcessEvent {
                stage: wire::process_event::Stage::from(process.stage).into(),
                parent: process.parent,
                arguments: process.arguments.into_iter().map(Bytes::from).collect(),
                exit: process.exit.map(|Exit { code, signal, error }| wire::Exit { code, signal, error }),
            }),
            Detail::Port(port) => Self::Port(wire::PortEvent {
                remote: port.remote,
                local: port.local,
                from: wire::Mode::from(port.from).into(),
                to: wire::Mode::from(port.to).into(),
                text: port.text,
            }),
            Detail::Agent(agent) => Self::Agent(wire::AgentEvent {
                text: agent.text,
                link: agent.link.map(|link| wire::AgentLink {
                    state: wire::agent_link::LinkState::from(link.state).into(),
                    rtt_us: link.rtt_us,
                    attempt: link.attempt,
                    next_attempt_ms: link.next_attempt_ms,
                    detail: link.detail,
                }),
            }),
            Detail::Warning(Warning { text, hint }) => Self::Warning(wire::Warning { text, hint }),
            Detail::Output(Output { stderr, data }) => {
                Self::Output(wire::Output { stderr, data: data.into() })
            }
        }
    }
}

impl From<&wire::Request> for Request {
    fn from(request: &wire::Request) -> Self {
        Self {
            direction: request.direction().into(),
            mode: request.mode().into(),
            port: request.port,
            peer: request.peer.as_ref().map(address_text),
            method: request.method.clone(),
            path: request.path.clone(),
            host: request.host.clone(),
            protocol: request.protocol.clone(),
            route: request.route.clone(),
            status: request.status,
            headers: request.headers.iter().map(Header::from).collect(),
            body: request.body.as_ref().map(Body::from),
            response_headers: request.response_headers.iter().map(Header::from).collect(),
            response_body: request.response_body.as_ref().map(Body::from),
        }
    }
}

impl From<Request> for wire::Request {
    fn from(request: Request) -> Self {
        Self {
            direction: wire::Direction::from(request.direction).into(),
            mode: wire::Mode::from(request.mode).into(),
            port: request.port,
            peer: request.peer.as_deref().and_then(address_of),
            method: request.method,
            path: request.path,
            host: request.host,
            protocol: request.protocol,
            route: request.route,
            status: request.status,
            headers: request.headers.into_iter().map(wire::Header::from).collect(),
            body: request.body.map(wire::Body::from),
            response_headers: request.response_headers.into_iter().map(wire::Header::from).collect(),
            response_body: request.response_body.map(wire::Body::from),
        }
    }
}

impl From<&wire::Header> for Header {
    fn from(header: &wire::Header) -> Self {
        Self { name: header.name.clone(), value: Data::from(&header.value), redacted: header.redacted }
    }
}

impl From<Header> for wire::Header {
    fn from(Header { name, value, redacted }: Header) -> Self {
        Self { name, value: value.into(), redacted }
    }
}

impl From<&wire::Body> for Body {
    fn from(body: &wire::Body) -> Self {
        Self { size: body.size, truncated: body.truncated, data: Data::from(&body.data) }
    }
}

impl From<Body> for wire::Body {
    fn from(Body { size, truncated, data }: Body) -> Self {
        Self { data: data.into(), size, truncated }
    }
}

impl From<&wire::Connection> for Connection {
    fn from(connection: &wire::Connection) -> Self {
        Self {
            direction: connection.direction().into(),
            stage: connection.stage().into(),
            mode: connection.mode().into(),
            port: connection.port,
            peer: connection.peer.as_ref().map(address_text),
            local: connection.local.as_ref().map(address_text),
            transport: connection.transport.clone(),
            name: connection.name.clone(),
            bytes_in: connection.bytes_in,
            bytes_out: connection.bytes_out,
            gaps: connection.gaps,
            gap_bytes: connection.gap_bytes,
            reset: connection.reset,
            duration_ns: connection.duration_ns,
        }
    }
}

impl From<Connection> for wire::Connection {
    fn from(connection: Connection) -> Self {
        Self {
            direction: wire::Direction::from(connection.direction).into(),
            stage: wire::connection::Stage::from(connection.stage).into(),
            mode: wire::Mode::from(connection.mode).into(),
            port: connection.port,
            peer: connection.peer.as_deref().and_then(address_of),
            local: connection.local.as_deref().and_then(address_of),
            transport: connection.transport,
            name: connection.name,
            bytes_in: connection.bytes_in,
            bytes_out: connection.bytes_out,
            gaps: connection.gaps,
            gap_bytes: connection.gap_bytes,
            reset: connection.reset,
            duration_ns: connection.duration_ns,
        }
    }
}
