//! Text for the clipboard of whoever sits at the terminal, also over ssh: OSC 52, wrapped for tmux and screen.

use super::limits::CLIPBOARD_BYTES;

/// What to write to the terminal. A text that is longer than terminals take is cut at a line.
pub(crate) fn sequence(text: &str, variable: impl Fn(&str) -> Option<String>) -> String {
    let code = format!("\x1b]52;c;{}\x07", base64(cut(text).as_bytes()));
    if variable("TMUX").is_some() {
        // tmux passes on what stands between these, with each escape doubled.
        format!("\x1bPtmux;{}\x1b\\", code.replace('\x1b', "\x1b\x1b"))
    } else if variable("TERM").is_some_and(|term| term.starts_with("screen")) {
        format!("\x1bP{code}\x1b\\")
    } else {
        code
    }
}

/// The part that fits.
pub(crate) fn cut(text: &str) -> &str {
    let end = text.floor_char_boundary(CLIPBOARD_BYTES);
    let part = text.get(..end).unwrap_or_default();
    match part.rfind('\n') {
        Some(line) if end < text.len() => part.get(..line).unwrap_or_default(),
        _ => part,
    }
}

fn base64(bytes: &[u8]) -> String {
    const SIGNS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let part = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = part(0) << 16 | part(1) << 8 | part(2);
        for place in 0..4_usize {
            let sign = usize::try_from(bits >> (18 - 6 * place) & 63).ok().and_then(|index| SIGNS.get(index));
            text.push(if place > group.len() { '=' } else { sign.copied().map_or('=', char::from) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_the_usual_one() {
        let cases =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("ü~", "w7x+")];
        for (text, code) in cases {
            assert_eq!(base64(text.as_bytes()), code);
        }
    }

    #[test]
    fn multiplexers_pass_it_on() {
        assert_eq!(sequence("f", |_| None), "\x1b]52;c;Zg==\x07");
        let tmux = sequence("f", |name| (name == "TMUX").then(String::new));
        assert_eq!(tmux, "\x1bPtmux;\x1b\x1b]52;c;Zg==\x07\x1b\\");
    }

    #[test]
    fn a_long_text_is_cut_at_a_line() {
        let text = "0123456789\n".repeat(10_000);
        let part = cut(&text);
        assert!(part.len() <= CLIPBOARD_BYTES && part.ends_with('9') && part.len() > CLIPBOARD_BYTES - 12);
    }
}
