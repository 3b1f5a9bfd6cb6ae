//! Bodies of requests and responses as lines: JSON set out, forms as a list, text as it is, everything else in hex.
//!
//! It never fails and never takes long: what is formatted is bounded, and what is left out is said in the last line.

use mirrord_protocol::session::v1::Body;

use crate::ui::{
    limits, text,
    tone::{TextLine, Tone},
};

/// How a body is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum BodyView {
    /// As its content asks for.
    #[default]
    Fit,
    Text,
    Hex,
}

impl BodyView {
    pub(crate) const fn next(self) -> Self {
        match self {
            Self::Fit => Self::Text,
            Self::Text => Self::Hex,
            Self::Hex => Self::Fit,
        }
    }
}

/// What a body turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Json,
    Fields,
    Text,
    Hex,
}

impl Form {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Fields => "form",
            Self::Text => "text",
            Self::Hex => "hex",
        }
    }
}

/// The body as lines.
pub(crate) fn lines(body: &Body, content_type: &str, view: BodyView) -> (Form, Vec<TextLine>) {
    let data = body.data.get(..limits::BODY_FORMATTED).unwrap_or(&body.data);
    let form = form(data, content_type, view);
    let mut lines = match (form, std::str::from_utf8(data)) {
        (Form::Json, Ok(text)) => Json::default().lines(text),
        (Form::Fields, Ok(text)) => text.split('&').map(field).collect(),
        (Form::Hex, _) => hex(data),
        _ => String::from_utf8_lossy(data).lines().map(plain).collect(),
    };
    lines.truncate(limits::BODY_LINES);
    if data.is_empty() && body.size > 0 {
        return (form, vec![TextLine::new(Tone::Dim, "…")]);
    }
    let shown = u64::try_from(data.len()).unwrap_or(u64::MAX);
    if body.truncated || body.size > shown || lines.len() == limits::BODY_LINES {
        let rest = text::size(body.size.saturating_sub(shown));
        lines.push(TextLine::new(Tone::Dim, format!("… {rest} more of {}", text::size(body.size))));
    }
    (form, lines)
}

fn form(data: &[u8], content_type: &str, view: BodyView) -> Form {
    let is_text = is_text(data);
    match view {
        BodyView::Hex => Form::Hex,
        BodyView::Text => Form::Text,
        BodyView::Fit if !is_text => Form::Hex,
        BodyView::Fit if content_type.starts_with("application/x-www-form-urlencoded") => Form::Fields,
        BodyView::Fit => {
            let first = data.iter().find(|byte| !byte.is_ascii_whitespace());
            let by_type = content_type.contains("json");
            if by_type || matches!(first, Some(b'{' | b'[')) { Form::Json } else { Form::Text }
        }
    }
}

/// UTF-8 (its last character may be cut off) without control signs other than white space.
fn is_text(data: &[u8]) -> bool {
    let valid = match std::str::from_utf8(data) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(data.get(..error.valid_up_to()).unwrap_or_default()).unwrap_or_default()
        }
        Err(_) => return false,
    };
    !valid.chars().any(|sign| sign.is_control() && !sign.is_whitespace() && sign != '\u{1b}')
}

fn plain(line: &str) -> TextLine {
    TextLine::new(Tone::Plain, line.replace('\t', "    "))
}

fn field(field: &str) -> TextLine {
    let (name, value) = field.split_once('=').unwrap_or((field, ""));
    TextLine::pair(&decoded(name), decoded(value))
}

/// Percent-decoded; what is no code stays.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let code = || {
            let digits = [rest.clone().next()?, rest.clone().nth(1)?];
            u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()
        };
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => match code() {
                Some(code) => {
                    bytes.push(code);
                    rest.nth(1);
                }
                None => bytes.push(b'%'),
            },
            byte => bytes.push(byte),
        }
    }
    text::one_line(&bytes)
}

fn hex(data: &[u8]) -> Vec<TextLine> {
    let line = |(row, bytes): (usize, &[u8])| {
        let mut codes = String::with_capacity(50);
        for (at, byte) in bytes.iter().enumerate() {
            codes.push_str(&format!("{byte:02x}{}", if at == 7 { "  " } else { " " }));
        }
        let signs: String = bytes
            .iter()
            .map(|byte| if (0x20..0x7f).contains(byte) { char::from(*byte) } else { '·' })
            .collect();
        TextLine::new(Tone::Dim, format!("{:06x}  ", row * 16))
            .with(Tone::Plain, format!("{codes:<50}"))
            .with(Tone::Text, signs)
    };
    data.chunks(16).take(limits::BODY_LINES).enumerate().map(line).collect()
}

/// Sets JSON out token by token, so that a body that was cut off, or is not quite JSON, shows as far as it goes.
#[derive(Debug, Default)]
struct Json {
    lines: Vec<TextLine>,
    line: TextLine,
    depth: usize,
}

/// Deeper levels are not moved in further: they would stand outside of the screen.
const INDENTED: usize = 20;

impl Json {
    fn lines(mut self, text: &str) -> Vec<TextLine> {
        let mut signs = text.char_indices().peekable();
        while let Some((start, sign)) = signs.next() {
            if self.lines.len() >= limits::BODY_LINES {
                break;
            }
            match sign {
                '{' | '[' => {
                    let close = if sign == '{' { '}' } else { ']' };
                    while signs.next_if(|(_, next)| next.is_whitespace()).is_some() {}
                    if signs.next_if(|(_, next)| *next == close).is_some() {
                        self.put(Tone::Plain, &format!("{sign}{close}"));
                    } else {
                        self.put(Tone::Plain, &sign.to_string());
                        self.depth += 1;
                        self.end_line();
                    }
                }
                '}' | ']' => {
                    self.depth = self.depth.saturating_sub(1);
                    self.end_line();
                    self.put(Tone::Plain, &sign.to_string());
                }
                ',' => {
                    self.put(Tone::Plain, ",");
                    self.end_line();
                }
                ':' => self.put(Tone::Plain, ": "),
                '"' => {
                    let end = string_end(&mut signs).unwrap_or(text.len());
                    while signs.next_if(|(_, next)| next.is_whitespace()).is_some() {}
                    let is_name = signs.peek().is_some_and(|(_, next)| *next == ':');
                    let tone = if is_name { Tone::Name } else { Tone::Text };
                    self.put(tone, text.get(start..end).unwrap_or_default());
                }
                sign if sign.is_whitespace() => {}
                _ => {
                    let mut end = start + sign.len_utf8();
                    while let Some((at, next)) =
                        signs.next_if(|(_, next)| !next.is_whitespace() && !"{}[],:\"".contains(*next))
                    {
                        end = at + next.len_utf8();
                    }
                    self.put(Tone::Number, text.get(start..end).unwrap_or_default());
                }
            }
        }
        self.end_line();
        self.lines
    }

    fn put(&mut self, tone: Tone, text: &str) {
        if self.line.0.is_empty() {
            let indent = "  ".repeat(self.depth.min(INDENTED));
            self.line = TextLine::new(Tone::Plain, indent);
        }
        self.line = std::mem::take(&mut self.line).with(tone, text.replace(['\n', '\t'], " "));
    }

    fn end_line(&mut self) {
        if !self.line.0.is_empty() {
            self.lines.push(std::mem::take(&mut self.line));
        }
    }
}

/// Position behind the closing quote.
fn string_end(signs: &mut std::iter::Peekable<std::str::CharIndices<'_>>) -> Option<usize> {
    while let Some((at, sign)) = signs.next() {
        match sign {
            '"' => return Some(at + 1),
            '\\' => drop(signs.next()),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(data: &str, content_type: &str, view: BodyView) -> (Form, String) {
        let body = Body { data: data.as_bytes().to_vec().into(), size: data.len() as u64, truncated: false };
        let (form, lines) = lines(&body, content_type, view);
        (form, lines.iter().map(TextLine::plain).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn json_is_set_out() {
        let (form, text) = shown(r#"{"a":[1,{"b":"x:,\""},[]],"c":{}, "d":null}"#, "", BodyView::Fit);
        assert_eq!(form, Form::Json);
        let expected = "{\n  \"a\": [\n    1,\n    {\n      \"b\": \"x:,\\\"\"\n    },\n    []\n  ],\n  \"c\": {},\n  \"d\": null\n}";
        assert_eq!(text, expected);
    }

    #[test]
    fn json_that_was_cut_off_shows_as_far_as_it_goes() {
        let (_, text) = shown(r#"{"a": "un"#, "application/json", BodyView::Fit);
        assert_eq!(text, "{\n  \"a\": \"un");
    }

    #[test]
    fn forms_text_and_bytes_have_their_own_look() {
        assert_eq!(
            shown("a=1&b=x+%C3%A4&c", "application/x-www-form-urlencoded", BodyView::Fit).1,
            "a: 1\nb: x ä\nc: "
        );
        assert_eq!(
            shown("hello\n\tyou", "text/plain", BodyView::Fit),
            (Form::Text, "hello\n    you".to_owned())
        );
        let (form, text) = shown("\u{0}\u{1}AB", "", BodyView::Fit);
        assert_eq!((form, text.starts_with("000000  00 01 41 42 ")), (Form::Hex, true));
    }

    #[test]
    fn what_is_left_out_is_said() {
        let body = Body { data: "abc".into(), size: 5000, truncated: true };
        let (_, lines) = lines(&body, "", BodyView::Fit);
        assert_eq!(lines.last().unwrap().plain(), "… 4.8k more of 4.8k");
    }

    proptest! {
        #[test]
        fn no_body_panics(data in prop::collection::vec(any::<u8>(), 0..300), json in any::<bool>()) {
            let body = Body { size: data.len() as u64, data: data.into(), truncated: false };
            for view in [BodyView::Fit, BodyView::Text, BodyView::Hex] {
                lines(&body, if json { "application/json" } else { "" }, view);
            }
        }
    }
}
