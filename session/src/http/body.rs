//! A body of which the beginning is kept and the rest is counted.

use bytes::Bytes;
use mirrord_protocol::session::v1 as wire;

use crate::limits::BODY_BYTES;

/// Body of a message that is still coming.
#[derive(Debug, Default)]
pub(crate) struct Body {
    kept: Vec<u8>,
    size: u64,
    /// Bytes that the capture lost: from there on `kept` would have a hole.
    holed: bool,
}

impl Body {
    /// Adds bytes; costs no more than the counting once [`BODY_BYTES`] are kept.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.size = self.size.saturating_add(bytes.len() as u64);
        if !self.holed
            && let Some(part) = bytes.get(..bytes.len().min(BODY_BYTES.saturating_sub(self.kept.len())))
        {
            self.kept.extend_from_slice(part);
        }
    }

    /// Counts bytes that nobody has seen.
    pub(crate) fn skip(&mut self, bytes: u64) {
        self.size = self.size.saturating_add(bytes);
        self.holed = true;
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// `None` when there was no body.
    pub(crate) fn finish(self) -> Option<wire::Body> {
        (self.size > 0).then(|| wire::Body {
            truncated: self.size > self.kept.len() as u64,
            size: self.size,
            data: Bytes::from(self.kept),
        })
    }
}
