//! The target's environment as the kernel keeps it in /proc/PID/environ, cut into names and values.

use bytes::Bytes;
use mirrord_protocol::agent::v1::EnvEntry;

/// Cuts `NAME=VALUE` strings that have a NUL behind each. Strings without `=` are no variables; of a name that comes twice the
/// first counts, as getenv(3) finds it.
pub(crate) fn parse(environ: Vec<u8>) -> Vec<EnvEntry> {
    let environ = Bytes::from(environ);
    let mut seen = std::collections::HashSet::new();
    environ
        .split(|byte| *byte == 0)
        .filter_map(|entry| {
            let equals = entry.iter().position(|byte| *byte == b'=').filter(|at| *at > 0)?;
            let (name, value) = entry.split_at_checked(equals)?;
            Some(EnvEntry { name: environ.slice_ref(name), value: environ.slice_ref(value.get(1..)?) })
        })
        .filter(|entry| seen.insert(entry.name.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_every_byte() {
        let entries = parse(b"A=1\0EMPTY=\0EQ=a=b\0\0=C:=x\0junk\0N\xff=\xfe\0A=2\0LAST=no nul".to_vec());
        let pairs: Vec<_> = entries.iter().map(|entry| (entry.name.as_ref(), entry.value.as_ref())).collect();
        let expected: [(&[u8], &[u8]); 5] =
            [(b"A", b"1"), (b"EMPTY", b""), (b"EQ", b"a=b"), (b"N\xff", b"\xfe"), (b"LAST", b"no nul")];
        assert_eq!(pairs, expected);
        assert!(parse(Vec::new()).is_empty());
    }
}
