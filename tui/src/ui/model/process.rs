//! The command's own output, as a terminal shows it. Raw bytes are kept, because a screen that shrinks loses what was right of it.

use std::collections::VecDeque;

use crate::ui::limits::{CHILD_BYTES, CHILD_COLUMNS, CHILD_ROWS, CHILD_SCROLLBACK};

/// Screen of the command.
pub(crate) struct ProcessPane {
    raw: VecDeque<u8>,
    screen: vt100::Parser,
    rows: u16,
    columns: u16,
    back: usize,
    /// Keys go to the command.
    pub(crate) typing: bool,
    /// Bytes that left the front.
    lost: u64,
}

impl std::fmt::Debug for ProcessPane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProcessPane")
            .field("bytes", &self.raw.len())
            .field("typing", &self.typing)
            .finish_non_exhaustive()
    }
}

impl Default for ProcessPane {
    fn default() -> Self {
        Self {
            raw: VecDeque::new(),
            screen: vt100::Parser::new(24, 80, CHILD_SCROLLBACK),
            rows: 24,
            columns: 80,
            back: 0,
            typing: false,
            lost: 0,
        }
    }
}

impl ProcessPane {
    /// Output of the command in its terminal.
    pub(crate) fn output(&mut self, data: &[u8]) {
        self.screen.process(data);
        self.raw.extend(data);
        let excess = self.raw.len().saturating_sub(CHILD_BYTES);
        self.raw.drain(..excess);
        self.lost += u64::try_from(excess).unwrap_or(0);
        self.screen.screen_mut().set_scrollback(self.back);
    }

    /// Output of a command without a terminal: its line ends do not return the cursor.
    pub(crate) fn lines(&mut self, data: &[u8]) {
        let mut bytes = Vec::with_capacity(data.len() + 16);
        for byte in data {
            if *byte == b'\n' {
                bytes.push(b'\r');
            }
            bytes.push(*byte);
        }
        self.output(&bytes);
    }

    /// Draws everything again on a screen of this size; false when it has that size.
    pub(crate) fn resize(&mut self, columns: u16, rows: u16) -> bool {
        // The screen's library panics on lines of one column; narrower ones are cut off when they are drawn.
        let (columns, rows) = (columns.max(CHILD_COLUMNS), rows.max(CHILD_ROWS));
        if (self.columns, self.rows) == (columns, rows) {
            return false;
        }
        (self.columns, self.rows) = (columns, rows);
        self.screen = vt100::Parser::new(rows, columns, CHILD_SCROLLBACK);
        let (front, end) = self.raw.as_slices();
        self.screen.process(front);
        self.screen.process(end);
        self.screen.screen_mut().set_scrollback(self.back);
        true
    }

    pub(crate) fn size(&self) -> (u16, u16) {
        (self.columns, self.rows)
    }

    pub(crate) fn screen(&self) -> &vt100::Screen {
        self.screen.screen()
    }

    pub(crate) fn scroll(&mut self, up: bool) {
        let step = usize::from(self.rows / 2).max(1);
        self.back = if up { self.back + step } else { self.back.saturating_sub(step) };
        self.screen.screen_mut().set_scrollback(self.back);
        // The screen knows how far back it reaches.
        self.back = self.screen.screen().scrollback();
    }

    pub(crate) fn show_end(&mut self) {
        self.back = 0;
        self.screen.screen_mut().set_scrollback(0);
    }

    pub(crate) fn back(&self) -> usize {
        self.back
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.lost + u64::try_from(self.raw.len()).unwrap_or(0)
    }

    /// The last lines with text on them, oldest first.
    pub(crate) fn tail(&self, lines: usize) -> Vec<String> {
        let screen = self.screen();
        let mut rows: Vec<String> = screen.rows(0, self.columns).collect();
        while rows.last().is_some_and(|row| row.trim().is_empty()) {
            rows.pop();
        }
        rows.split_off(rows.len().saturating_sub(lines))
    }

    /// A new connection to the terminal: all of its output comes again.
    pub(crate) fn reopen(&mut self) {
        let (columns, rows) = (self.columns, self.rows);
        *self = Self::default();
        self.resize(columns, rows);
    }

    /// The command has ended or begins again: its screen stays, what was set on it does not.
    pub(crate) fn restart(&mut self) {
        self.typing = false;
        self.show_end();
    }
}

/// What a terminal sends for a key; `None` for keys that have no code.
pub(crate) fn key_bytes(key: crossterm::event::KeyEvent, application_cursor: bool) -> Option<Vec<u8>> {
    use crossterm::event::{KeyCode, KeyModifiers};
    let ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
    let alt = key.modifiers.contains(KeyModifiers::ALT);
    let cursor =
        |letter: char| format!("\x1b{}{letter}", if application_cursor { 'O' } else { '[' }).into_bytes();
    let mut bytes = match key.code {
        KeyCode::Char(sign) if ctrl => match sign.to_ascii_lowercase() {
            letter @ 'a'..='z' => vec![u8::try_from(letter).ok()? & 0x1f],
            ' ' | '@' | '2' => vec![0],
            '[' | '3' => vec![0x1b],
            '\\' | '4' => vec![0x1c],
            '6' | '^' => vec![0x1e],
            '_' | '7' | '/' => vec![0x1f],
            _ => return None,
        },
        KeyCode::Char(sign) => sign.to_string().into_bytes(),
        KeyCode::Enter => vec![b'\r'],
        KeyCode::Tab => vec![b'\t'],
        KeyCode::BackTab => b"\x1b[Z".to_vec(),
        KeyCode::Backspace => vec![0x7f],
        KeyCode::Esc => vec![0x1b],
        KeyCode::Up => cursor('A'),
        KeyCode::Down => cursor('B'),
        KeyCode::Right => cursor('C'),
        KeyCode::Left => cursor('D'),
        KeyCode::Home => cursor('H'),
        KeyCode::End => cursor('F'),
        KeyCode::PageUp => b"\x1b[5~".to_vec(),
        KeyCode::PageDown => b"\x1b[6~".to_vec(),
        KeyCode::Insert => b"\x1b[2~".to_vec(),
        KeyCode::Delete => b"\x1b[3~".to_vec(),
        KeyCode::F(n @ 1..=4) => vec![0x1b, b'O', b'O' + n],
        KeyCode::F(n @ 5..=12) => {
            let code = [15, 17, 18, 19, 20, 21, 23, 24].get(usize::from(n - 5))?;
            format!("\x1b[{code}~").into_bytes()
        }
        _ => return None,
    };
    if alt {
        bytes.insert(0, 0x1b);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

    use super::*;

    #[test]
    fn text_right_of_a_shrink_comes_back() {
        let mut pane = ProcessPane::default();
        pane.lines(b"a long line of text that is wider than the narrow screen\nsecond\n");
        assert!(pane.resize(6, 5) && !pane.resize(CHILD_COLUMNS, 5));
        pane.resize(90, 5);
        assert_eq!(pane.tail(2), ["a long line of text that is wider than the narrow screen", "second"]);
    }

    #[test]
    fn the_raw_output_is_bounded() {
        let mut pane = ProcessPane::default();
        for _ in 0..6 {
            pane.output(&vec![b'x'; 1 << 20]);
        }
        assert_eq!((pane.raw.len(), pane.bytes()), (CHILD_BYTES, 6 << 20));
    }

    proptest::proptest! {
        #[test]
        fn no_output_panics(data in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400), columns in 0..60_u16, rows in 0..20_u16) {
            let mut pane = ProcessPane::default();
            pane.resize(columns, rows);
            pane.output(&data);
            pane.resize(rows, columns);
            pane.output("日本\u{1b}[3;3H🦀".as_bytes());
        }
    }

    #[test]
    fn keys_become_what_terminals_send() {
        let bytes = |code, modifiers| key_bytes(KeyEvent::new(code, modifiers), false).unwrap();
        assert_eq!(bytes(KeyCode::Char('c'), KeyModifiers::CONTROL), [3]);
        assert_eq!(bytes(KeyCode::Char('x'), KeyModifiers::ALT), [0x1b, b'x']);
        assert_eq!(bytes(KeyCode::Up, KeyModifiers::NONE), b"\x1b[A");
        assert_eq!(key_bytes(KeyEvent::from(KeyCode::Up), true).unwrap(), b"\x1bOA");
        assert_eq!(bytes(KeyCode::F(1), KeyModifiers::NONE), b"\x1bOP");
        assert_eq!(bytes(KeyCode::F(12), KeyModifiers::NONE), b"\x1b[24~");
    }
}
