//! Cuts a filter text into tokens with their positions.

/// A token and where it begins and ends, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    pub(super) start: usize,
    pub(super) end: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    Open,
    Close,
    And,
    Or,
    Not,
    /// `~name`.
    Operator(String),
    /// A word, or a text in quotes.
    Text(String),
}

/// Why a text cannot be cut, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unclosed(pub(super) usize);

/// All tokens of a text.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, Unclosed> {
    let mut tokens = Vec::new();
    let mut rest = text.char_indices().peekable();
    while let Some((start, first)) = rest.next() {
        let single = match first {
            _ if first.is_whitespace() => continue,
            '(' => Some(TokenKind::Open),
            ')' => Some(TokenKind::Close),
            '&' => Some(TokenKind::And),
            '|' => Some(TokenKind::Or),
            '!' => Some(TokenKind::Not),
            _ => None,
        };
        let (kind, end) = if let Some(kind) = single {
            (kind, start + first.len_utf8())
        } else if first == '"' {
            let (word, end) = quoted(&mut rest).ok_or(Unclosed(start))?;
            (TokenKind::Text(word), end)
        } else {
            let mut word = String::from(first);
            let mut end = start + first.len_utf8();
            // After an argument has begun, `(`, `|` and `)` end it; a pattern that needs them stands in quotes.
            while let Some((at, next)) = rest.next_if(|(_, next)| !is_end(*next)) {
                word.push(next);
                end = at + next.len_utf8();
            }
            match word.strip_prefix('~') {
                Some(name) => (TokenKind::Operator(name.to_owned()), end),
                None => (TokenKind::Text(word), end),
            }
        };
        tokens.push(Token { kind, start, end });
    }
    Ok(tokens)
}

fn is_end(next: char) -> bool {
    next.is_whitespace() || matches!(next, '(' | ')' | '&' | '|' | '"')
}

/// The text up to the closing quote, and where that ends. `\"` and `\\` stand for the sign itself; any other `\x` stays as it is,
/// so that patterns need no second backslash.
fn quoted(rest: &mut std::iter::Peekable<std::str::CharIndices<'_>>) -> Option<(String, usize)> {
    let mut word = String::new();
    while let Some((at, next)) = rest.next() {
        match next {
            '"' => return Some((word, at + 1)),
            '\\' => match rest.next_if(|(_, escaped)| matches!(escaped, '"' | '\\')) {
                Some((_, escaped)) => word.push(escaped),
                None => word.push('\\'),
            },
            _ => word.push(next),
        }
    }
    None
}
