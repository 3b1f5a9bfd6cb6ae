//! How values look: times, latencies, sizes, addresses. Pure; widths are fixed so that columns do not dance.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mirrord_protocol::session::v1::Address;

/// Nanoseconds in a millisecond.
const MS: u64 = 1_000_000;
/// Nanoseconds in a second.
const SECOND: u64 = 1_000 * MS;

/// `340ms`, `1.2ms`, `80us`, `5.0s`; nothing for 0, which means unknown.
pub(crate) fn latency(ns: u64) -> String {
    match ns {
        0 => String::new(),
        1..1_000 => format!("{ns}ns"),
        1_000..MS => format!("{}us", ns / 1_000),
        _ if ns < 10 * MS => format!("{}.{}ms", ns / MS, ns % MS / (MS / 10)),
        _ if ns < SECOND => format!("{}ms", ns / MS),
        _ if ns < 100 * SECOND => format!("{}.{}s", ns / SECOND, ns % SECOND / (SECOND / 10)),
        _ => format!("{}s", ns / SECOND),
    }
}

/// `0`, `812`, `1.2k`, `18k`, `3.4M`, in powers of 1024.
pub(crate) fn size(bytes: u64) -> String {
    let units = [(1_u64 << 30, 'G'), (1 << 20, 'M'), (1 << 10, 'k')];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        None => bytes.to_string(),
        Some((unit, sign)) if bytes < 10 * unit => {
            format!("{}.{}{sign}", bytes / unit, bytes % unit * 10 / unit)
        }
        Some((unit, sign)) => format!("{}{sign}", bytes / unit),
    }
}

/// `1204`, `18.2k`, `3.4M`, in powers of 1000.
pub(crate) fn count(number: u64) -> String {
    match number {
        0..10_000 => number.to_string(),
        10_000..1_000_000 => format!("{}.{}k", number / 1_000, number % 1_000 / 100),
        _ => format!("{}.{}M", number / 1_000_000, number % 1_000_000 / 100_000),
    }
}

/// `42s`, `5m`, `3h`, `12d`.
pub(crate) fn age(seconds: u64) -> String {
    match seconds {
        0..100 => format!("{seconds}s"),
        100..6_000 => format!("{}m", seconds / 60),
        6_000..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Time of day `14:01:58.120` of a wall time in nanoseconds; `offset` are the seconds of the local time zone.
pub(crate) fn time_of_day(time_ns: i64, offset: i32) -> String {
    let ms = time_ns.div_euclid(1_000_000) + i64::from(offset) * 1_000;
    let day = ms.rem_euclid(86_400_000);
    format!("{:02}:{:02}:{:02}.{:03}", day / 3_600_000, day / 60_000 % 60, day / 1_000 % 60, day % 1_000)
}

/// `10.1.0.7:4711`, `[::1]:80`, or only the IP when there is no port.
pub(crate) fn address(address: &Address) -> String {
    let ip = ip(address);
    match (ip, address.port) {
        (None, 0) => String::new(),
        (None, port) => format!(":{port}"),
        (Some(ip), 0) => ip.to_string(),
        (Some(IpAddr::V4(ip)), port) => format!("{ip}:{port}"),
        (Some(IpAddr::V6(ip)), port) => format!("[{ip}]:{port}"),
    }
}

/// The IP of an address, if it has one.
pub(crate) fn ip(address: &Address) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(address.ip.as_ref()) {
        return Some(Ipv4Addr::from(octets).into());
    }
    let octets = <[u8; 16]>::try_from(address.ip.as_ref()).ok()?;
    let v6 = Ipv6Addr::from(octets);
    Some(v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4))
}

/// Bytes as text for one line: line ends and other control signs become visible.
pub(crate) fn one_line(bytes: &[u8]) -> String {
    let visible = |sign: char| match sign {
        '\n' => '⏎',
        '\t' => ' ',
        sign if sign.is_control() => '·',
        sign => sign,
    };
    String::from_utf8_lossy(bytes).chars().map(visible).collect()
}

/// The number as columns of a terminal.
pub(crate) fn cells(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

/// Columns that a text takes.
pub(crate) fn width(text: &str) -> usize {
    unicode_width::UnicodeWidthStr::width(text)
}

/// The text cut to `columns`, with `…` where something is missing.
pub(crate) fn fit(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut used = 1;
    let mut short = String::new();
    for sign in text.chars() {
        used += unicode_width::UnicodeWidthChar::width(sign).unwrap_or(0);
        if used > columns {
            break;
        }
        short.push(sign);
    }
    if columns > 0 {
        short.push('…');
    }
    short
}

/// A command line that a shell reads as these arguments.
pub(crate) fn shell<T: AsRef<str>>(arguments: &[T]) -> String {
    arguments.iter().map(|argument| shell_word(argument.as_ref())).collect::<Vec<_>>().join(" ")
}

/// One word for a shell.
pub(crate) fn shell_word(word: &str) -> String {
    let plain = |sign: char| sign.is_ascii_alphanumeric() || "-_./:=@%+,".contains(sign);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// The words of a command line, with quotes and backslashes as a shell has them; `None` when a quote is not closed.
pub(crate) fn split_words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut signs = line.chars();
    while let Some(sign) = signs.next() {
        match sign {
            ' ' | '\t' => words.extend(word.take()),
            '\'' => {
                let current = word.get_or_insert_default();
                loop {
                    match signs.next()? {
                        '\'' => break,
                        inner => current.push(inner),
                    }
                }
            }
            '"' => {
                let current = word.get_or_insert_default();
                loop {
                    match signs.next()? {
                        '"' => break,
                        '\\' => {
                            let escaped = signs.next()?;
                            if !matches!(escaped, '"' | '\\' | '$' | '`') {
                                current.push('\\');
                            }
                            current.push(escaped);
                        }
                        inner => current.push(inner),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(signs.next()?),
            sign => word.get_or_insert_default().push(sign),
        }
    }
    words.extend(word);
    Some(words)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_keep_within_their_columns() {
        let cases = [(0, ""), (999, "999ns"), (80_000, "80us"), (3_140_000, "3.1ms"), (340_000_000, "340ms")];
        for (ns, text) in cases {
            assert_eq!(latency(ns), text);
        }
        assert_eq!(latency(5_040_000_000), "5.0s");
        assert_eq!(latency(u64::MAX), "18446744073s");
        assert_eq!(
            [size(0), size(1023), size(1229), size(18 << 10), size(5 << 20)].join(" "),
            "0 1023 1.2k 18k 5.0M"
        );
        assert_eq!([count(9_999), count(18_249), count(3_400_000)].join(" "), "9999 18.2k 3.4M");
        assert_eq!([age(42), age(300), age(7_200), age(400_000)].join(" "), "42s 5m 2h 4d");
        assert_eq!(time_of_day(1_000_000_000 * 3_661 + 120_000_000, 3600), "02:01:01.120");
    }

    #[test]
    fn a_cut_text_says_so() {
        assert_eq!(fit("abcdef", 4), "abc…");
        assert_eq!(fit("日本語", 5), "日本…");
        assert_eq!(fit("abc", 3), "abc");
        assert_eq!(fit("abc", 0), "");
    }

    proptest! {
        #[test]
        fn a_shell_reads_back_what_was_quoted(words in prop::collection::vec("[ -~ä]{0,12}", 0..6)) {
            prop_assert_eq!(split_words(&shell(&words)), Some(words));
        }
    }
}
