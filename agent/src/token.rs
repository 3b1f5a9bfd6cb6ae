//! The token of the session, which the agent knows only by its SHA-256: the hash may stand on a command line and in a pod.

use sha2::{Digest, Sha256};

/// SHA-256 of the token that clients must show. The token itself is 128 random bits, so the hash says nothing about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenHash([u8; 32]);

impl TokenHash {
    /// Reads 64 hexadecimal digits.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut hash = [0; 32];
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != hash.len() || !rest.is_empty() {
            return None;
        }
        for (byte, pair) in hash.iter_mut().zip(pairs) {
            let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
            *byte = u8::try_from(high? << 4 | low?).ok()?;
        }
        Some(Self(hash))
    }

    /// Whether this is the token. Time tells nothing: what is compared are hashes.
    pub(crate) fn admits(&self, shown: &[u8]) -> bool {
        <[u8; 32]>::from(Sha256::digest(shown)) == self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_token_is_admitted() {
        // printf secret | sha256sum
        let hash =
            TokenHash::parse("2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b").unwrap();
        assert!(hash.admits(b"secret"));
        for shown in [&b""[..], b"secre", b"secrets", b"Secret"] {
            assert!(!hash.admits(shown));
        }
    }

    #[test]
    fn only_a_whole_hash_is_one() {
        for text in ["", "2b", &"g".repeat(64), &"a".repeat(63), &"a".repeat(65), &"\u{fc}".repeat(32)] {
            assert_eq!(TokenHash::parse(text), None, "{text}");
        }
    }
}
