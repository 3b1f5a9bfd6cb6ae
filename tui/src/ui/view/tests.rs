//! Every screen as text at two sizes, colours as runs of styles, and no panic at any size.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use mirrord_protocol::session::v1::EventBatch;
use mirrord_session::cluster::ClusterConfig;
use ratatui::{buffer::Buffer, layout::Rect};

use super::*;
use crate::ui::{
    fake,
    model::{
        pick::PlaceKind,
        targets::{Place, TargetRow},
    },
    theme::ThemeName,
    tone::Tone,
    update::{HostMsg, Msg, open, update},
};

fn press(model: &mut Model, keys: &str) {
    for sign in keys.chars() {
        let code = match sign {
            '\n' => KeyCode::Enter,
            '\u{1b}' => KeyCode::Esc,
            '\u{17}' => KeyCode::Char('w'),
            sign => KeyCode::Char(sign),
        };
        let modifiers = if sign == '\u{17}' { KeyModifiers::CONTROL } else { KeyModifiers::NONE };
        drop(update(model, Msg::Key(KeyEvent::new(code, modifiers))));
        model.prepare();
    }
}

pub(in crate::ui) fn picture(model: &mut Model) -> Buffer {
    model.prepare();
    let mut buffer = Buffer::empty(Rect::new(0, 0, model.columns, model.rows));
    paint(model, &mut buffer);
    buffer
}

pub(in crate::ui) fn lines(buffer: &Buffer) -> String {
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

/// Targets of all namespaces of a cluster beside those of this machine.
fn with_cluster(columns: u16, rows: u16) -> Model {
    let mut model = with_targets(columns, rows);
    model.options.cwd = "/src".to_owned();
    let row = |namespace: &str, name: &str, ready: &str| TargetRow {
        reference: format!("deployment/{name}"),
        kind: "deployment".to_owned(),
        name: name.to_owned(),
        place: format!("kind-live/{namespace}"),
        ready: ready.to_owned(),
        status: "Running".to_owned(),
        tone: Tone::Good,
        started_ms: fake::NOW_MS - 7_200_000,
        ports: vec![8080],
        cluster: Some(ClusterConfig {
            context: Some("kind-live".to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ClusterConfig::default()
        }),
        facts: vec![("containers".to_owned(), "app proxy".to_owned())],
        ..TargetRow::default()
    };
    let found = vec![row("shop", "api", "2/2"), row("test", "api", "1/1"), row("kube-system", "dns", "1/1")];
    drop(update(&mut model, Msg::Targets { source: "cluster", found: Ok(found) }));
    let place = Place { context: "kind-live".to_owned(), namespace: None, answered: true };
    drop(update(&mut model, Msg::Place(Some(place))));
    press(&mut model, "q");
    model
}

/// A recording, some seconds before its end.
fn replay(columns: u16, rows: u16) -> Model {
    let mut model = fake::model(columns, rows);
    drop(open(&mut model, "shop.jsonl"));
    fake::say(&mut model, HostMsg::Info(Box::new(fake::info(mirrord_protocol::session::v1::Mode::Mirror))));
    let events = (1..=40).map(fake::event).collect();
    fake::say(&mut model, HostMsg::Events(EventBatch { events, dropped: 0, last_seq: 40 }));
    fake::say(&mut model, HostMsg::Loaded);
    press(&mut model, "<<<");
    model
}

/// Name and the keys that lead there from the traffic tab.
const SCREENS: [(&str, &str); 27] = [
    ("traffic__follow", ""),
    ("traffic__details", "kk\n"),
    ("traffic__frozen_filter", " /~c 5\n"),
    ("traffic__filter_wrong", "/~c 5 | ~lat fast"),
    ("traffic__wide", "\u{17}"),
    ("traffic__comment", "k;the slow one\n"),
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
    ("settings__all", ","),
    ("sessions__list", "S"),
    ("messages__list", ":theme\nE"),
    ("copy__chooser", "y"),
    ("export__path", "xh"),
    ("sort__chooser", "o"),
    ("details__search", "\n/sku\n"),
    ("quit__chooser", "Q"),
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
        for (columns, rows) in [(120, 40), (80, 24)] {
            let text = lines(&picture(&mut replay(columns, rows)));
            insta::assert_snapshot!(format!("replay__back__{columns}x{rows}"), text);
        }
        for (columns, rows) in [(120, 40), (80, 24)] {
            let mut model = with_cluster(columns, rows);
            insta::assert_snapshot!(
                format!("targets__cluster__{columns}x{rows}"),
                lines(&picture(&mut model))
            );
            press(&mut model, "n");
            let names = ["default", "kube-system", "shop", "test"].map(str::to_owned).to_vec();
            drop(update(&mut model, Msg::Places(PlaceKind::Namespace, Ok(names))));
            press(&mut model, "s");
            insta::assert_snapshot!(
                format!("namespace__pick__{columns}x{rows}"),
                lines(&picture(&mut model))
            );
            press(&mut model, "\u{1b}gjL");
            insta::assert_snapshot!(
                format!("launch__cluster__{columns}x{rows}"),
                lines(&picture(&mut model))
            );
        }
        // Rows of two lines.
        for (name, keys) in [("traffic__follow", ""), ("files__list", "3"), ("targets__list", "q")] {
            let mut model = with_targets(50, 20);
            press(&mut model, keys);
            insta::assert_snapshot!(format!("{name}__50x20"), lines(&picture(&mut model)));
        }
        let mut model = fake::model(39, 9);
        insta::assert_snapshot!("small__39x9", lines(&picture(&mut model)));
    });
}

#[test]
fn the_field_that_the_keys_go_to_is_seen_at_any_height() {
    for rows in 10..30 {
        let mut model = with_cluster(80, rows);
        press(&mut model, "gjL");
        for _ in 0..model.form.fields().count() {
            let label = model.form.field.label();
            let text = lines(&picture(&mut model));
            let seen = text.lines().any(|line| line.starts_with('▌') && line.contains(label));
            assert!(seen, "{label} at 80x{rows}:\n{text}");
            press(&mut model, "\t");
        }
    }
}

/// The picture with its looks: `[fg=Red,mod=BOLD]text[/]`, rows without any look as they are.
fn styled(buffer: &Buffer) -> String {
    let look = |cell: &ratatui::buffer::Cell| {
        let mut parts = Vec::new();
        for (name, color) in [("fg", cell.fg), ("bg", cell.bg)] {
            if color != ratatui::style::Color::Reset {
                parts.push(format!("{name}={color}"));
            }
        }
        if !cell.modifier.is_empty() {
            parts.push(format!("mod={:?}", cell.modifier));
        }
        parts.join(",")
    };
    let row = |cells: &[ratatui::buffer::Cell]| {
        let mut text = String::new();
        for run in cells.chunk_by(|a, b| look(a) == look(b)) {
            let plain: String = run.iter().map(ratatui::buffer::Cell::symbol).collect();
            match run.first().map(look).unwrap_or_default() {
                style if style.is_empty() => text.push_str(&plain),
                style => text.push_str(&format!("[{style}]{plain}[/]")),
            }
        }
        text.trim_end().to_owned()
    };
    buffer.content().chunks(usize::from(buffer.area.width).max(1)).map(row).collect::<Vec<_>>().join("\n")
}

#[test]
fn looks() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for theme in [ThemeName::Terminal, ThemeName::Light, ThemeName::Mono] {
            for (name, keys) in [("traffic__frozen_filter", " /~c 5\n"), ("mode__chooser", "M")] {
                let mut model = with_targets(100, 24);
                model.options.theme = theme;
                press(&mut model, keys);
                insta::assert_snapshot!(
                    format!("{name}__looks_{}__100x24", theme.name()),
                    styled(&picture(&mut model))
                );
            }
        }
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
    // Large windows.
    for (_, keys) in SCREENS {
        let mut model = with_targets(120, 40);
        press(&mut model, keys);
        for (columns, rows) in [(160, 50), (200, 60), (250, 80), (250, 10), (40, 80)] {
            drop(update(&mut model, Msg::Resize(columns, rows)));
            picture(&mut model);
        }
    }
    // Each size once, the screens in turn.
    let mut models = SCREENS.map(|(_, keys)| {
        let mut model = with_targets(120, 40);
        press(&mut model, keys);
        model
    });
    for columns in (1..=130_u16).chain((131..=250).step_by(7)) {
        for rows in (1..=45_u16).chain((46..=80).step_by(5)) {
            let turn = usize::from(columns * 81 + rows) % models.len();
            drop(update(&mut models[turn], Msg::Resize(columns, rows)));
            picture(&mut models[turn]);
        }
    }
}
