//! The title, the line being written and the status at the bottom.

use kith_client::ConnectionState;
use ratatui::{
    Frame,
    layout::{Position, Rect},
    style::{Color, Style},
    text::{Line, Span},
    widgets::Paragraph,
};

use super::{ACCENT, BOLD, DIM, WARNING, wrap};
use crate::{
    chat::{app::App, harmless, wording},
    local_time::LocalTime,
};

const PROMPT: &str = "> ";
const GOOD: Style = Style::new().fg(Color::Green);

pub(super) fn title(frame: &mut Frame<'_>, app: &App, area: Rect) {
    let Some(conversation) = app.conversation() else {
        frame.render_widget(Line::styled(" kith", BOLD), area);
        return;
    };
    let mut spans = vec![Span::raw(" "), Span::styled(wording::name(conversation), BOLD)];
    if conversation.verified {
        spans.push(Span::styled("  ✔ verified", GOOD));
    }
    match app.presence_of(conversation) {
        Some(presence) if presence.online => spans.push(Span::styled("  online", ACCENT)),
        Some(presence) => {
            if let Some(seen) = presence.last_seen_ms {
                let at = LocalTime::of(seen);
                spans.push(Span::styled(format!("  last seen {}, {}", at.hours_minutes(), at.date()), DIM));
            }
        }
        None => {}
    }
    frame.render_widget(Line::from(spans), area);
}

pub(super) fn rule(frame: &mut Frame<'_>, app: &App, area: Rect) {
    let text = if app.scroll > 0 { "── older messages; Esc goes back to the newest ".to_owned() } else { String::new() };
    let text = wrap::clip(&text, usize::from(area.width));
    let rest = "─".repeat(usize::from(area.width).saturating_sub(wrap::width(&text)));
    frame.render_widget(Line::styled(format!("{text}{rest}"), DIM), area);
}

fn text_columns(width: u16) -> usize {
    // One column more for the cursor behind the last character.
    usize::from(width).saturating_sub(PROMPT.len() + 1).max(2)
}

/// Rows that the line being written takes.
pub(super) fn input_rows(app: &App, width: u16) -> usize {
    wrap::rows(&harmless::lines(app.editor.text()), text_columns(width)).len()
}

pub(super) fn input(frame: &mut Frame<'_>, app: &App, area: Rect) {
    let columns = text_columns(area.width);
    let rows = wrap::rows(&harmless::lines(app.editor.text()), columns);
    let before = wrap::rows(&harmless::lines(app.editor.before_cursor()), columns);
    let (row, column) = cursor(&rows, &before);
    let first = (row + 1).saturating_sub(usize::from(area.height));
    let mut lines: Vec<Line<'_>> = Vec::new();
    for (n, text) in rows.into_iter().enumerate().skip(first).take(usize::from(area.height)) {
        let prompt = if n == 0 { PROMPT } else { "  " };
        lines.push(Line::from(vec![Span::styled(prompt, ACCENT), Span::raw(text)]));
    }
    if app.editor.is_empty() {
        let hint = if app.open.is_some() { "write a message, or /help" } else { "/new NAME" };
        lines = vec![Line::from(vec![Span::styled(PROMPT, ACCENT), Span::styled(hint, DIM)])];
    }
    frame.render_widget(Paragraph::new(lines), area);
    if app.popup.is_none() {
        let x = area.x.saturating_add(u16::try_from(PROMPT.len() + column).unwrap_or(u16::MAX)).min(area.right().saturating_sub(1));
        let y = area.y.saturating_add(u16::try_from(row.saturating_sub(first)).unwrap_or(u16::MAX)).min(area.bottom().saturating_sub(1));
        frame.set_cursor_position(Position { x, y });
    }
}

/// Where the cursor stands: wrapping the text before it breaks where wrapping the whole does, except inside the word it stands in.
fn cursor(rows: &[String], before: &[String]) -> (usize, usize) {
    let row = before.len() - 1;
    let column = wrap::width(&before[row]);
    match rows.get(row) {
        // The word goes on and has moved to the next row as a whole.
        Some(whole) if column > wrap::width(whole) => {
            let word = before[row].rsplit(' ').next().map_or(0, wrap::width);
            ((row + 1).min(rows.len() - 1), word)
        }
        _ => (row, column),
    }
}

pub(super) fn status(frame: &mut Frame<'_>, app: &App, area: Rect, narrow: bool) {
    let style = match app.connection {
        ConnectionState::Online => GOOD,
        ConnectionState::CatchingUp | ConnectionState::Connecting => ACCENT,
        ConnectionState::Offline { .. } | ConnectionState::Stopped(_) => WARNING,
    };
    let mut spans = vec![Span::styled(format!(" ● {}", wording::connection(app.connection)), style)];
    let elsewhere: u64 = app.conversations.iter().filter(|c| Some(c.id) != app.open).map(|c| c.unread).sum();
    if narrow && elsewhere > 0 {
        spans.push(Span::styled(format!("  {elsewhere} unread (Tab)"), ACCENT));
    }
    spans.push(Span::styled(format!("  {} on {}", harmless::one_line(&app.me.username), harmless::one_line(&app.server)), DIM));
    if let Some(remark) = &app.remark {
        let used: usize = spans.iter().map(|span| wrap::width(&span.content)).sum();
        let room = usize::from(area.width).saturating_sub(used + 3);
        if room < wrap::width(remark) {
            // What matters more than who and where.
            spans.truncate(1);
        }
        let used: usize = spans.iter().map(|span| wrap::width(&span.content)).sum();
        spans.push(Span::styled(format!("  {}", wrap::clip(&harmless::one_line(remark), usize::from(area.width).saturating_sub(used + 2))), WARNING));
    }
    frame.render_widget(Line::from(spans), area);
}
