//! What a piece of text means. The theme decides how that looks; models and views name only the meaning.

use super::text::width;

/// Meaning of a piece of text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Tone {
    #[default]
    Plain,
    Dim,
    Strong,
    Title,
    Good,
    Note,
    Warn,
    Bad,
    /// Needs attention at once: production, lost rows.
    Alarm,
    Mirror,
    Steal,
    Outgoing,
    Get,
    Post,
    Put,
    Delete,
    /// Names in bodies and headers.
    Name,
    /// Texts in bodies.
    Text,
    Number,
    /// A search match.
    Match,
    /// The chosen row.
    Selected,
    /// A badge: frozen, stale.
    Badge,
    Border,
    /// Border of the pane that gets the keys.
    Focus,
    /// A key in the hint bar.
    Key,
}

/// A piece of text with its meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) tone: Tone,
    pub(crate) text: String,
}

/// A line of pieces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TextLine(pub(crate) Vec<Piece>);

impl TextLine {
    pub(crate) fn new(tone: Tone, text: impl Into<String>) -> Self {
        Self(vec![Piece { tone, text: text.into() }])
    }

    /// `name: value`.
    pub(crate) fn pair(name: &str, value: impl Into<String>) -> Self {
        Self::new(Tone::Name, format!("{name}: ")).with(Tone::Plain, value)
    }

    #[must_use]
    pub(crate) fn with(mut self, tone: Tone, text: impl Into<String>) -> Self {
        self.0.push(Piece { tone, text: text.into() });
        self
    }

    /// The line without its meaning.
    pub(crate) fn plain(&self) -> String {
        self.0.iter().map(|piece| piece.text.as_str()).collect()
    }

    /// The line as lines of at most `columns`, cut anywhere.
    pub(crate) fn wrapped(&self, columns: usize) -> Vec<Self> {
        let columns = columns.max(1);
        let mut lines = vec![Self::default()];
        let mut used = 0;
        for piece in &self.0 {
            let mut rest = Piece { tone: piece.tone, text: String::new() };
            for sign in piece.text.chars() {
                let wide = unicode_width::UnicodeWidthChar::width(sign).unwrap_or(0);
                if used + wide > columns {
                    let full = std::mem::replace(&mut rest, Piece { tone: piece.tone, text: String::new() });
                    if let Some(line) = lines.last_mut() {
                        line.0.push(full);
                    }
                    lines.push(Self::default());
                    used = 0;
                }
                rest.text.push(sign);
                used += wide;
            }
            if let Some(line) = lines.last_mut() {
                line.0.push(rest);
            }
        }
        lines
    }
}

impl TextLine {
    /// The line as lines of at most `columns`, cut between words where that is possible. For texts of one meaning.
    pub(crate) fn words(&self, columns: usize) -> Vec<Self> {
        let tone = self.0.first().map(|piece| piece.tone).unwrap_or_default();
        let mut lines: Vec<String> = Vec::new();
        for word in self.plain().split_whitespace() {
            match lines.last_mut() {
                Some(line) if width(line) + 1 + width(word) <= columns => {
                    line.push(' ');
                    line.push_str(word);
                }
                _ => lines.push(word.to_owned()),
            }
        }
        lines.into_iter().flat_map(|line| Self::new(tone, line).wrapped(columns)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_words() {
        let lines = TextLine::new(Tone::Plain, "to be  or not, incomprehensibility").words(9);
        let plain: Vec<_> = lines.iter().map(TextLine::plain).collect();
        assert_eq!(plain, ["to be or", "not,", "incompreh", "ensibilit", "y"]);
    }

    #[test]
    fn a_wrapped_line_loses_nothing() {
        let line = TextLine::pair("name", "a longer value 日本");
        let wrapped = line.wrapped(7);
        assert!(wrapped.iter().all(|line| width(&line.plain()) <= 7));
        assert_eq!(wrapped.iter().map(TextLine::plain).collect::<String>(), line.plain());
        assert_eq!(TextLine::default().wrapped(0).len(), 1);
    }
}
