//! Every screen as text at two sizes, colours as runs of styles, and no panic at any size.

use std::time::Instant;

use crossterm::event::{KeyCode, KeyEvent};
use ratatui::{buffer::Buffer, layout::Rect};

use super::*;
use crate::ui::{
    fake,
    model::targets::TargetRow,
    theme::ThemeName,
    tone::Tone,
    update::{Msg, update},
};

fn press(model: &mut Model, keys: &str) {
    for sign in keys.chars() {
        let code = match sign {
            '\n' => KeyCode::Enter,
            '\u{1b}' => KeyCode::Esc,
            sign => KeyCode::Char(sign),
        };
        drop(update(model, Msg::Key(KeyEvent::from(code))));
        model.prepare();
    }
}

fn picture(model: &mut Model) -> Buffer {
    model.prepare();
    let mut buffer = Buffer::empty(Rect::new(0, 0, model.columns, model.rows));
    paint(model, &mut buffer);
    buffer
}

fn lines(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width);
    let rows = buffer.content().chunks(width.max(1));
    let row = |cells: &[ratatui::buffer::Cell]| {
        cells.iter().map(ratatui::buffer::Cell::symbol).collect::<String>().trim_end().to_owned()
    };
    rows.map(row).collect::<Vec<_>>().join("\n")
}

fn with_targets(columns: u16, rows: u16) -> Model {
    let mut model = fake::model(columns, rows);
    let row = |name: &str| TargetRow {
        reference: format!("local/{name}"),
        kind: "local".to_owned(),
        name: name.to_owned(),
        place: "this machine".to_owned(),
        ready: "1/1".to_owned(),
        status: "running".to_owned(),
        tone: Tone::Good,
        started_ms: fake::NOW_MS - 300_000,
        ports: vec![80],
        command: "node server.js".to_owned(),
        ..TargetRow::default()
    };
    let found = Ok(["shop-orders", "shop-catalog", "prod"].map(row).to_vec());
    drop(update(&mut model, Msg::Targets { source: "local", found }));
    drop(update(&mut model, Msg::Sessions(vec![fake::info(mirrord_protocol::session::v1::Mode::Mirror)])));
    model
}

/// Name and the keys that lead there from the traffic tab.
const SCREENS: [(&str, &str); 17] = [
    ("traffic__follow", ""),
    ("traffic__details", "kk\n"),
    ("traffic__frozen_filter", " /~c 5\n"),
    ("traffic__filter_wrong", "/~c 5 | ~lat fast"),
    ("conns__list", "2"),
    ("files__list", "3"),
    ("dns__list", "4"),
    ("latency__request", "5"),
    ("process__output", "6"),
    ("events__empty", "7"),
    ("help__top", "?"),
    ("palette__typed", ":exp"),
    ("mode__chooser", "M"),
    ("stop__confirm", "X"),
    ("arrives__all", "a"),
    ("targets__list", "q"),
    ("launch__empty", "qL"),
];

#[test]
fn screens() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for (columns, rows) in [(120, 40), (80, 24)] {
            for (name, keys) in SCREENS {
                let mut model = with_targets(columns, rows);
                model.options.cwd = "/src".to_owned();
                press(&mut model, keys);
                let text = lines(&picture(&mut model));
                insta::assert_snapshot!(format!("{name}__{columns}x{rows}"), text);
            }
        }
        let mut model = fake::model(39, 9);
        insta::assert_snapshot!("small__39x9", lines(&picture(&mut model)));
    });
}

#[test]
fn without_colour_nothing_has_one() {
    let mut model = fake::model(120, 40);
    model.options.theme = ThemeName::Mono;
    let buffer = picture(&mut model);
    assert!(buffer.content().iter().all(|cell| cell.fg == ratatui::style::Color::Reset));
    model.options.theme = ThemeName::Terminal;
    assert!(picture(&mut model).content().iter().any(|cell| cell.fg != ratatui::style::Color::Reset));
}

#[test]
fn no_size_panics() {
    for (_, keys) in SCREENS {
        let mut model = with_targets(120, 40);
        press(&mut model, keys);
        for columns in (1..=130).step_by(7) {
            for rows in 1..=45 {
                drop(update(&mut model, Msg::Resize(columns, rows)));
                picture(&mut model);
            }
        }
    }
}

/// Not a check: prints what a picture costs with a full store. `cargo test --release -- --ignored --nocapture picture_cost`
#[test]
#[ignore = "a measurement"]
fn picture_cost() {
    let mut model = fake::model(200, 60);
    model.session.as_mut().unwrap().batch(mirrord_protocol::session::v1::EventBatch {
        events: (41..100_041).map(fake::event).collect(),
        ..Default::default()
    });
    let mut buffer = Buffer::empty(Rect::new(0, 0, 200, 60));
    let start = Instant::now();
    for _ in 0..200 {
        model.prepare();
        buffer.reset();
        paint(&model, &mut buffer);
    }
    println!("a picture at 200x60 costs {:?}", start.elapsed() / 200);
    let events: Vec<_> = (100_041..200_041).map(fake::event).collect();
    let start = Instant::now();
    for part in events.chunks(1_024) {
        model
            .session
            .as_mut()
            .unwrap()
            .batch(mirrord_protocol::session::v1::EventBatch { events: part.to_vec(), ..Default::default() });
    }
    println!("taking 100000 events costs {:?}", start.elapsed());
}
