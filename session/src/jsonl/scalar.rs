//! The small values of the format: names of enums, bytes, addresses.

use std::net::IpAddr;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use mirrord_protocol::session::v1 as wire;
use serde::{Deserialize, Serialize};

/// Whether a field may be left out.
pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Bytes: text when they are UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Data {
    Text(String),
    Binary { base64: String },
}

impl Default for Data {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

impl From<&Bytes> for Data {
    fn from(bytes: &Bytes) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Binary { base64: STANDARD.encode(bytes) },
        }
    }
}

impl From<Data> for Bytes {
    fn from(data: Data) -> Self {
        match data {
            Data::Text(text) => text.into(),
            // Damaged by hand: shown as it is.
            Data::Binary { base64 } => {
                STANDARD.decode(&base64).unwrap_or_else(|_| base64.into_bytes()).into()
            }
        }
    }
}

/// `ADDRESS:PORT`, `[ADDRESS]:PORT`, or only `:PORT`.
pub(super) fn address_text(address: &wire::Address) -> String {
    let ip: Option<IpAddr> = match address.ip.len() {
        4 => <[u8; 4]>::try_from(&address.ip[..]).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(&address.ip[..]).ok().map(IpAddr::from),
        _ => None,
    };
    match ip {
        Some(IpAddr::V4(ip)) => format!("{ip}:{}", address.port),
        Some(IpAddr::V6(ip)) => format!("[{ip}]:{}", address.port),
        None => format!(":{}", address.port),
    }
}

/// The reverse of [`address_text`].
pub(super) fn address_of(text: &str) -> Option<wire::Address> {
    let (ip, port) = text.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let ip = match ip.trim_start_matches('[').trim_end_matches(']').parse() {
        Ok(IpAddr::V4(ip)) => Bytes::copy_from_slice(&ip.octets()),
        Ok(IpAddr::V6(ip)) => Bytes::copy_from_slice(&ip.octets()),
        Err(_) => Bytes::new(),
    };
    Some(wire::Address { ip, port })
}

/// An enum of the format with the names and the enum of the wire that it stands for.
macro_rules! names {
    ($($(#[$doc:meta])* $name:ident { $($variant:ident),+ })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub(super) enum $name {
            $($variant,)+
            /// Also what a later version says and this one does not know.
            #[default]
            #[serde(other)]
            Unspecified,
        }
        impl From<names!(@wire $name)> for $name {
            fn from(value: names!(@wire $name)) -> Self {
                type Wire = names!(@wire $name);
                match value {
                    Wire::Unspecified => Self::Unspecified,
                    $(Wire::$variant => Self::$variant),+
                }
            }
        }
        impl From<$name> for names!(@wire $name) {
            fn from(value: $name) -> Self {
                match value {
                    $name::Unspecified => Self::Unspecified,
                    $($name::$variant => Self::$variant),+
                }
            }
        }
    )+};
    (@wire Where) => { wire::Where };
    (@wire Direction) => { wire::Direction };
    (@wire Mode) => { wire::Mode };
    (@wire ConnectionStage) => { wire::connection::Stage };
    (@wire ProcessStage) => { wire::process_event::Stage };
    (@wire LinkState) => { wire::agent_link::LinkState };
}

names! {
    /// Where an operation was done.
    Where { Local, Remote, Refused }
    /// Which way a connection was opened.
    Direction { Incoming, Outgoing, Local }
    /// Mode of a port.
    Mode { Mirror, Steal, Off }
    /// What happened to a connection.
    ConnectionStage { Open, Closed, Failed }
    /// What happened to a process.
    ProcessStage { Start, Exec, Exit, Outside }
    /// State of the link to the agent.
    LinkState { Up, Retrying, Lost }
}

/// Kinds of events by name.
const KINDS: [(&str, wire::Kind); 10] = [
    ("unspecified", wire::Kind::Unspecified),
    ("request", wire::Kind::Request),
    ("connection", wire::Kind::Connection),
    ("dns", wire::Kind::Dns),
    ("file", wire::Kind::File),
    ("process", wire::Kind::Process),
    ("port", wire::Kind::Port),
    ("agent", wire::Kind::Agent),
    ("warning", wire::Kind::Warning),
    ("output", wire::Kind::Output),
];

/// Name of a kind.
pub(crate) fn kind_name(kind: wire::Kind) -> &'static str {
    KINDS.iter().find(|(_, known)| *known == kind).map_or("unspecified", |(name, _)| name)
}

/// Kind of a name.
pub(super) fn kind_of(name: &str) -> Option<wire::Kind> {
    KINDS.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
}
