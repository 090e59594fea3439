//! The screen: what is shown where, in a terminal of any size.

use std::time::Instant;

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::app::{App, KEYS};
use super::grid::Grid;
use super::router::Router;
use super::view::View;
use crate::table::cut;
use crate::text::{counted, escaped};

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const CHOSEN: Style = Style::new().add_modifier(Modifier::REVERSED);
const WARNING: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);

/// Columns for which the names of all views have room.
const WIDE: u16 = 60;

/// The last line.
const HINTS: &str = "q quit  h help  Enter flows  / filter  s sort  r reverse  p pause  n router";

/// Draws everything. What has no room is left out: what matters less first.
pub fn draw(frame: &mut Frame<'_>, app: &mut App, now: Instant) {
    let area = frame.area();
    let (above, below) = (heading(app, area), footing(app, area, now));
    let height = usize::from(area.height);
    let room = height.saturating_sub(above.len() + below.len());
    let body = if app.shows_help { help(room) } else { rows(app, usize::from(area.width), room) };
    let first_below = height.saturating_sub(below.len());
    for (place, line) in above.into_iter().chain(body).enumerate().take(first_below) {
        put(frame, area, place, line);
    }
    for (place, line) in below.into_iter().enumerate() {
        put(frame, area, first_below + place, line);
    }
}

fn put(frame: &mut Frame<'_>, area: Rect, place: usize, line: Line<'_>) {
    let Ok(y) = u16::try_from(place) else { return };
    if y < area.height {
        frame.render_widget(line, Rect { y: area.y + y, height: 1, ..area });
    }
}

/// The router, and the views.
fn heading(app: &App, area: Rect) -> Vec<Line<'static>> {
    let width = usize::from(area.width);
    let mut lines = Vec::new();
    let summary = app.router().map(|router| router.summary()).unwrap_or_default();
    let count = match area.height {
        12.. => 2,
        7.. => 1,
        _ => 0,
    };
    for (text, style) in summary.iter().zip([BOLD, Style::new()]).take(count) {
        lines.push(Line::styled(cut(text, width), style));
    }
    if area.height >= 5 {
        lines.push(tabs(app.choice.view, area.width));
    }
    lines
}

fn tabs(shown: View, width: u16) -> Line<'static> {
    let tab = |view: &View| {
        let number = view.number() + 1;
        let is_shown = *view == shown;
        let text =
            if is_shown || width >= WIDE { format!(" {number} {} ", view.name()) } else { format!(" {number} ") };
        Span::styled(text, if is_shown { CHOSEN } else { Style::new() })
    };
    Line::from_iter(View::ALL.iter().map(tab))
}

/// What is wrong or how rows are chosen, and the keys.
fn footing(app: &App, area: Rect, now: Instant) -> Vec<Line<'static>> {
    let width = usize::from(area.width);
    let warning = app.warning(now).map(|text| Line::styled(cut(&text, width), WARNING));
    let status = || match &app.typed {
        Some(typed) => Line::styled(cut(&format!("filter: {}_", escaped(typed)), width), BOLD),
        None => Line::raw(cut(&status(app), width)),
    };
    let mut lines = Vec::new();
    let is_typing = app.typed.is_some();
    if area.height >= 8 {
        lines.push(warning.unwrap_or_else(status));
    } else if area.height >= 3 && (warning.is_some() || is_typing) {
        return vec![if is_typing { status() } else { warning.unwrap_or_default() }];
    }
    if area.height >= 4 {
        // Where a warning has taken its line, what is typed takes that of the keys.
        let keys = Line::styled(cut(HINTS, width), DIM);
        let is_hidden = is_typing && app.warning(now).is_some();
        lines.push(if is_hidden { status() } else { keys });
    }
    lines
}

fn status(app: &App) -> String {
    let sorting = app.choice.sorting();
    let title = app.choice.view.columns().get(sorting.column).map_or("", |(title, _)| *title);
    let mut words = Vec::new();
    if app.is_paused() {
        words.push("PAUSED".to_owned());
    }
    words.push(format!("sorted by {title}{}", if sorting.is_reversed { ", reversed" } else { "" }));
    words.extend(app.choice.pid.map(|pid| format!("of pid {pid} (a: all)")));
    if !app.choice.filter.is_empty() {
        words.push(format!("filter \"{}\" (Esc: none)", escaped(&app.choice.filter)));
    }
    words.extend(app.choice.view.left_out(app.router().and_then(Router::span)));
    let count = app.routers().len();
    if count > 1 {
        words.push(format!("{} (n: next)", counted(count as u64, "router", "routers")));
    }
    words.join("  ")
}

/// The table, of which the part is shown that has the chosen row.
fn rows(app: &mut App, width: usize, room: usize) -> Vec<Line<'static>> {
    let grid: Grid = app.grid();
    let cursor = app.cursor(&grid);
    app.page = room.saturating_sub(1).max(1);
    if grid.rows.is_empty() {
        return vec![Line::styled(cut(grid.nothing, width), DIM)];
    }
    app.offset = app.offset.min(cursor).max((cursor + 1).saturating_sub(app.page));
    app.offset = app.offset.min(grid.rows.len().saturating_sub(app.page));
    let mut lines = grid.lines(Some(width), Some(app.choice.sorting())).into_iter();
    let titles = lines.next().map(|titles| Line::styled(titles, BOLD));
    let row = |(place, text): (usize, String)| {
        let is_chosen = place == cursor;
        let text = if is_chosen { format!("{text:<width$}") } else { text };
        Line::styled(text, if is_chosen { CHOSEN } else { Style::new() })
    };
    titles.into_iter().chain(lines.enumerate().skip(app.offset).take(app.page).map(row)).collect()
}

fn help(room: usize) -> Vec<Line<'static>> {
    let line = |(keys, what): &(&str, &str)| Line::raw(format!(" {keys:<29}{what}"));
    KEYS.iter().take(room).map(line).collect()
}
