//! A line of text that is being typed, and the history of such lines.

use std::collections::VecDeque;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use unicode_width::UnicodeWidthStr;

use crate::ui::limits;

/// A line with a cursor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LineEdit {
    before: String,
    after: String,
}

impl LineEdit {
    /// The text with the cursor at its end.
    pub(crate) fn new(text: &str) -> Self {
        Self { before: text.to_owned(), after: String::new() }
    }

    pub(crate) fn text(&self) -> String {
        format!("{}{}", self.before, self.after)
    }

    /// Columns before the cursor.
    pub(crate) fn cursor(&self) -> usize {
        self.before.width()
    }

    /// Byte position of the cursor.
    pub(crate) fn at(&self) -> usize {
        self.before.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.before.is_empty() && self.after.is_empty()
    }

    pub(crate) fn at_end(&self) -> bool {
        self.after.is_empty()
    }

    pub(crate) fn set(&mut self, text: &str) {
        *self = Self::new(text);
    }

    /// Puts text in at the cursor; line ends become spaces.
    pub(crate) fn insert(&mut self, text: &str) {
        let room =
            limits::PROMPT_CHARS.saturating_sub(self.before.chars().count() + self.after.chars().count());
        let one_line = |sign: char| if sign == '\n' || sign == '\t' { ' ' } else { sign };
        self.before.extend(text.chars().map(one_line).filter(|sign| !sign.is_control()).take(room));
    }

    /// Handles an editing key as shells do; false when it is none.
    pub(crate) fn key(&mut self, key: KeyEvent) -> bool {
        let ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
        let alt = key.modifiers.contains(KeyModifiers::ALT);
        match key.code {
            KeyCode::Char('a') if ctrl => self.home(),
            KeyCode::Home => self.home(),
            KeyCode::Char('e') if ctrl => self.end(),
            KeyCode::End => self.end(),
            KeyCode::Char('u') if ctrl => self.before.clear(),
            KeyCode::Char('k') if ctrl => self.after.clear(),
            KeyCode::Char('w') if ctrl => self.rub_word(),
            KeyCode::Backspace if alt || ctrl => self.rub_word(),
            KeyCode::Backspace => drop(self.before.pop()),
            KeyCode::Char('h') if ctrl => drop(self.before.pop()),
            KeyCode::Delete => drop(self.take_after()),
            KeyCode::Left => {
                if let Some(sign) = self.before.pop() {
                    self.after.insert(0, sign);
                }
            }
            KeyCode::Right => {
                if let Some(sign) = self.take_after() {
                    self.before.push(sign);
                }
            }
            KeyCode::Char(sign) if !ctrl && !alt => self.insert(sign.encode_utf8(&mut [0; 4])),
            _ => return false,
        }
        true
    }

    fn home(&mut self) {
        self.after.insert_str(0, &std::mem::take(&mut self.before));
    }

    fn end(&mut self) {
        self.before.push_str(&std::mem::take(&mut self.after));
    }

    fn rub_word(&mut self) {
        let kept = self.before.trim_end().rfind(char::is_whitespace).map_or(0, |at| at + 1);
        let kept = self.before.ceil_char_boundary(kept);
        self.before.truncate(kept);
    }

    fn take_after(&mut self) -> Option<char> {
        let first = self.after.chars().next()?;
        self.after.drain(..first.len_utf8());
        Some(first)
    }
}

/// Lines that were entered, newest last.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    lines: VecDeque<String>,
    /// Lines back from the newest while the user goes through them.
    back: usize,
}

impl History {
    pub(crate) fn push(&mut self, line: &str) {
        self.back = 0;
        if line.trim().is_empty() {
            return;
        }
        self.lines.retain(|known| known != line);
        self.lines.push_back(line.to_owned());
        if self.lines.len() > limits::HISTORY {
            self.lines.pop_front();
        }
    }

    /// One line older.
    pub(crate) fn older(&mut self) -> Option<&str> {
        self.back = (self.back + 1).min(self.lines.len());
        self.line()
    }

    /// One line newer; an empty one after the newest.
    pub(crate) fn newer(&mut self) -> Option<&str> {
        self.back = self.back.saturating_sub(1);
        if self.back == 0 { Some("") } else { self.line() }
    }

    /// The newest line that begins with this text.
    pub(crate) fn beginning_with(&self, text: &str) -> Option<&str> {
        self.lines.iter().rev().map(String::as_str).find(|line| line.starts_with(text))
    }

    fn line(&self) -> Option<&str> {
        self.lines.get(self.lines.len().checked_sub(self.back)?).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(line: &mut LineEdit, keys: &str) {
        for key in keys.split(' ') {
            let (code, modifiers) = match key.strip_prefix("c-") {
                Some(key) => (KeyCode::Char(key.chars().next().unwrap()), KeyModifiers::CONTROL),
                None if key == "left" => (KeyCode::Left, KeyModifiers::NONE),
                None if key == "rub" => (KeyCode::Backspace, KeyModifiers::NONE),
                None if key == "del" => (KeyCode::Delete, KeyModifiers::NONE),
                None => (KeyCode::Char(key.chars().next().unwrap()), KeyModifiers::NONE),
            };
            line.key(KeyEvent::new(code, modifiers));
        }
    }

    #[test]
    fn a_line_is_edited_as_in_a_shell() {
        let mut line = LineEdit::new("~c 5 größe");
        press(&mut line, "c-w x left rub y");
        assert_eq!((line.text().as_str(), line.cursor()), ("~c 5yx", 5));
        press(&mut line, "c-a del z c-e !");
        assert_eq!(line.text(), "zc 5yx!");
        press(&mut line, "c-u");
        assert!(line.is_empty());
        line.insert("a\nb\u{1b}[0m");
        assert_eq!(line.text(), "a b[0m");
    }

    #[test]
    fn history_goes_back_and_forth_without_doubles() {
        let mut history = History::default();
        ["one", "two", "one", " "].iter().for_each(|line| history.push(line));
        assert_eq!(history.older(), Some("one"));
        assert_eq!(history.older(), Some("two"));
        assert_eq!(history.older(), Some("two"));
        assert_eq!(history.newer(), Some("one"));
        assert_eq!(history.newer(), Some(""));
        assert_eq!(history.beginning_with("t"), Some("two"));
    }
}
