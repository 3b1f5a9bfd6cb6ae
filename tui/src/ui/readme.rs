//! The parts of the README that come from the program: screens and the table of keys. The test fails when they are not those of the
//! program; with `MIRRORD_TUI_WRITE_README=1` it writes them.

use std::fmt::Write;

use crossterm::event::{KeyCode, KeyEvent};

use super::{
    fake, filter, key_table,
    update::{Msg, update},
    view::tests::{lines, picture},
};

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
/// Screens of the README: name, size, and the keys that lead there.
const SCREENS: [(&str, u16, u16, &str); 3] =
    [("traffic", 116, 26, "kk"), ("latency", 100, 22, "5"), ("arrives", 100, 24, "a")];

#[test]
fn the_readme_shows_the_program_as_it_is() {
    let before = std::fs::read_to_string(README).unwrap();
    let mut text = before.clone();
    for (name, columns, rows, keys) in SCREENS {
        let mut model = fake::model(columns, rows);
        for sign in keys.chars() {
            drop(update(&mut model, Msg::Key(KeyEvent::from(KeyCode::Char(sign)))));
            model.prepare();
        }
        let shown = lines(&picture(&mut model));
        text = replaced(&text, &format!("screen {name}"), &format!("```text\n{}\n```\n", shown.trim_end()));
    }
    text = replaced(&text, "keys", &keys());
    text = replaced(&text, "filters", &filters());
    if std::env::var_os("MIRRORD_TUI_WRITE_README").is_some() {
        std::fs::write(README, text).unwrap();
        return;
    }
    assert!(text == before, "README.md is not current: run this test with MIRRORD_TUI_WRITE_README=1");
}

/// The text with another content between `<!-- NAME -->` and `<!-- /NAME -->`.
fn replaced(text: &str, name: &str, content: &str) -> String {
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let (head, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("the README has no {begin}"));
    let (_, tail) = rest.split_once(&end).unwrap_or_else(|| panic!("the README has no {end}"));
    format!("{head}{begin}{content}{end}{tail}")
}

/// A sign that would end a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn keys() -> String {
    let mut text = String::new();
    for (context, rows) in key_table() {
        writeln!(text, "| {context} | |\n| --- | --- |").unwrap();
        for (keys, help) in rows {
            let keys: Vec<_> = keys.split(' ').map(|key| format!("`{}`", cell(key))).collect();
            writeln!(text, "| {} | {} |", keys.join(" "), cell(help)).unwrap();
        }
        text.push('\n');
    }
    text.pop();
    text
}

fn filters() -> String {
    let mut text = "| filter | |\n| --- | --- |\n".to_owned();
    for operator in filter::OPERATORS {
        let space = if operator.argument.is_empty() { "" } else { " " };
        writeln!(text, "| `~{}{space}{}` | {} |", operator.name, cell(operator.argument), operator.help)
            .unwrap();
    }
    text
}
