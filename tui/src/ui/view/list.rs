//! The rows of a list of events: only those that are seen.

use ratatui::layout::Rect;

use super::{
    pen::Pen,
    rows::{self, Around, Column},
};
use crate::ui::{
    layout::SessionAreas,
    model::{
        Model,
        session::{Link, Session, Tab},
        stream::Stream,
    },
    text,
    tone::{TextLine, Tone},
};

/// Columns left of the first cell: the signs for chosen and marked.
const MARGIN: u16 = 2;

pub(super) fn draw(model: &Model, session: &Session, pen: &mut Pen<'_>, areas: &SessionAreas) {
    let area = areas.main;
    let Some(stream) = session.stream().filter(|_| area.height > 0) else { return };
    title(session, stream, pen, area);
    let room = area.width.saturating_sub(MARGIN);
    let lines = if areas.row_lines > 1 {
        let (first, second) = rows::two_lines(session.tab);
        vec![first, second]
    } else {
        let columns = rows::columns(session.tab, room, session.wide);
        heads(pen, &columns, rest_width(&columns, room), Rect { y: area.y + 1, ..area });
        vec![columns]
    };
    let kind = session.tab.kinds().first().copied().unwrap_or_default();
    let mut around = Around {
        time_form: session.time_form,
        now_ms: model.now_ms,
        utc_offset: session.utc_offset(),
        above_ns: None,
        whole: session.latency.whole(kind),
    };
    let mut y = area.y + areas.head_lines();
    for seq in stream.window(usize::from(areas.list_rows())) {
        let Some(event) = session.store().event(seq) else { continue };
        let row = Rect { y, height: areas.row_lines, ..area };
        if session.store().is_marked(seq) {
            pen.put(area.x + 1, y, 1, Tone::Warn, "*");
        }
        if session.store().comment(seq).is_some() {
            pen.put(area.x + 1, y, 1, Tone::Warn, ";");
        }
        for (columns, y) in lines.iter().zip(y..) {
            draw_line(pen, columns, Rect { x: area.x + MARGIN, y, width: room, height: 1 }, |column| {
                rows::cell(column, event, around)
            });
        }
        if stream.selected() == Some(seq) {
            pen.fill(Rect { width: 1, ..row }, Tone::Focus, "▌");
            pen.tint(Rect { x: area.x + 1, width: area.width - 1, ..row }, Tone::Selected);
        }
        around.above_ns = Some(event.time_ns);
        y += areas.row_lines;
    }
    if stream.len() == 0 {
        empty(session, stream, pen, area);
    }
}

/// The cells of one line. Those that do not fit are left out.
fn draw_line(pen: &mut Pen<'_>, columns: &[Column], area: Rect, cell: impl Fn(Column) -> (Tone, String)) {
    let rest = rest_width(columns, area.width);
    let mut x = area.x;
    for column in columns {
        let width = if column.is_subject() { rest } else { column.width };
        if x + width > area.right() {
            break;
        }
        let (tone, text) = cell(*column);
        if column.right {
            pen.put_right(x, area.y, width, tone, &text);
        } else {
            pen.put(x, area.y, width, tone, &text);
        }
        x += width + 1;
    }
}

fn title(session: &Session, stream: &Stream, pen: &mut Pen<'_>, area: Rect) {
    let (name, _) = session.tab.title();
    let number = |rows: usize| text::count(u64::try_from(rows).unwrap_or(0));
    let rows = if stream.filter().text.is_empty() || stream.filter().off {
        number(stream.len())
    } else {
        let kinds = session.tab.kinds();
        let all = session.store().events().filter(|event| kinds.contains(&event.kind())).count();
        format!("{}/{}", number(stream.len()), number(all))
    };
    let focus = if session.details_have_keys() { Tone::Plain } else { Tone::Focus };
    let line = TextLine::new(focus, format!("{name} {rows}"));
    pen.rule(area, Tone::Border, &line);
}

fn heads(pen: &mut Pen<'_>, columns: &[Column], rest: u16, area: Rect) {
    let mut x = area.x + MARGIN;
    for column in columns {
        let width = if column.width == 0 { rest } else { column.width };
        if column.right {
            pen.put_right(x, area.y, width, Tone::Dim, column.head);
        } else {
            pen.put(x, area.y, width, Tone::Dim, column.head);
        }
        x += width + 1;
    }
}

/// What is left for the column that takes the rest.
fn rest_width(columns: &[Column], width: u16) -> u16 {
    let fixed: u16 = columns.iter().map(|column| column.width + 1).sum();
    width.saturating_sub(fixed)
}

/// An empty list says why, and which key helps.
fn empty(session: &Session, stream: &Stream, pen: &mut Pen<'_>, area: Rect) {
    let filter = stream.filter();
    let lines: Vec<String> = if !filter.text.is_empty() && !filter.off {
        vec![
            format!("nothing passes {}", filter.text),
            "ctrl-t switches the filter off, / changes it".to_owned(),
        ]
    } else if stream.frozen() {
        vec!["nothing up to here; space goes on".to_owned()]
    } else if session.link == Link::Connecting {
        vec!["connecting to the session …".to_owned()]
    } else {
        match session.tab {
            Tab::Traffic => {
                let mut lines = vec!["no request yet; a shows where the way of a request ends".to_owned()];
                lines.extend(
                    session
                        .info
                        .ports
                        .iter()
                        .map(|port| &port.diagnosis)
                        .filter(|text| !text.is_empty())
                        .cloned(),
                );
                lines
            }
            Tab::Conns => vec!["no connection yet".to_owned()],
            Tab::Files => vec!["no file operation at the target yet".to_owned()],
            Tab::Dns => vec!["no lookup yet".to_owned()],
            _ => vec!["nothing has happened yet".to_owned()],
        }
    };
    for (line, y) in lines.iter().zip(area.y + 3..area.bottom()) {
        pen.put(area.x + 3, y, area.width.saturating_sub(4), Tone::Dim, line);
    }
}
