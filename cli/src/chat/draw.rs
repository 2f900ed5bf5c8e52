//! The screen, drawn from the state alone.

mod bars;
mod messages;
mod sidebar;
mod wrap;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::Line,
    widgets::{Block, Clear, Paragraph},
};

use super::app::{App, Drawn, Popup};

/// A terminal narrower than this shows no list of conversations.
const SIDEBAR_FROM: u16 = 64;
const SIDEBAR: u16 = 24;
/// Rows that the line being written may take.
const MOST_INPUT_ROWS: usize = 6;

const DIM: Style = Style::new().fg(Color::DarkGray);
const ACCENT: Style = Style::new().fg(Color::Cyan);
const WARNING: Style = Style::new().fg(Color::Yellow);
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

/// Draws everything and says how many rows of messages there are.
pub(super) fn draw(frame: &mut Frame<'_>, app: &App) -> Drawn {
    let (list, rest) = split_sidebar(frame.area());
    let input_rows = bars::input_rows(app, rest.width).clamp(1, MOST_INPUT_ROWS);
    let input_rows = u16::try_from(input_rows).unwrap_or(1);
    let areas =
        Layout::vertical([Constraint::Length(1), Constraint::Min(1), Constraint::Length(1), Constraint::Length(input_rows), Constraint::Length(1)]);
    let [title, middle, rule, input, status] = areas.areas(rest);
    if let Some(list) = list {
        sidebar::draw(frame, app, list);
    }
    bars::title(frame, app, title);
    let drawn = messages::draw(frame, app, middle);
    bars::rule(frame, app, rule);
    bars::input(frame, app, input);
    bars::status(frame, app, status, list.is_none());
    if let Some(shown) = &app.popup {
        popup(frame, shown);
    }
    drawn
}

fn split_sidebar(area: Rect) -> (Option<Rect>, Rect) {
    if area.width < SIDEBAR_FROM {
        return (None, area);
    }
    let [list, rest] = Layout::horizontal([Constraint::Length(SIDEBAR), Constraint::Min(1)]).areas(area);
    (Some(list), rest)
}

fn popup(frame: &mut Frame<'_>, popup: &Popup) {
    let area = frame.area();
    let widest = popup.lines.iter().map(|line| wrap::width(line)).chain([wrap::width(&popup.title) + 2, 20]).max().unwrap_or(20);
    let width = u16::try_from(widest + 4).unwrap_or(u16::MAX).min(area.width);
    let rows: Vec<String> = popup.lines.iter().flat_map(|line| wrap::rows(line, usize::from(width.saturating_sub(4)))).collect();
    let height = u16::try_from(rows.len() + 2).unwrap_or(u16::MAX).min(area.height);
    let place = Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    let block = Block::bordered()
        .title(format!(" {} ", popup.title))
        .title_bottom(Line::styled(" any key closes ", DIM).right_aligned())
        .border_style(ACCENT);
    let lines: Vec<Line<'_>> = rows.into_iter().map(|row| Line::raw(format!(" {row}"))).collect();
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(lines).block(block), place);
}
