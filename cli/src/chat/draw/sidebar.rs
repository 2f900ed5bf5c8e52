//! The list of conversations.

use ratatui::{
    Frame,
    layout::Rect,
    style::{Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Borders, Paragraph},
};

use kith_client::Conversation;

use super::{ACCENT, BOLD, DIM, WARNING, wrap};
use crate::chat::{app::App, wording};

/// Rows that a conversation takes.
const ROWS: usize = 2;

pub(super) fn draw(frame: &mut Frame<'_>, app: &App, area: Rect) {
    let block = Block::new().borders(Borders::RIGHT).border_style(DIM);
    let inner = block.inner(area);
    let width = usize::from(inner.width);
    let mut lines = vec![Line::styled(wrap::clip(" Conversations", width), BOLD)];
    let fits = usize::from(inner.height).saturating_sub(1) / ROWS;
    let here = app.conversations.iter().position(|c| Some(c.id) == app.open).unwrap_or(0);
    let first = (here + 1).saturating_sub(fits);
    for conversation in app.conversations.iter().skip(first).take(fits) {
        lines.extend(conversation_lines(app, conversation, width));
    }
    if app.conversations.is_empty() {
        lines.push(Line::styled(" none yet: /new NAME", DIM));
    }
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn conversation_lines<'a>(app: &App, conversation: &Conversation, width: usize) -> [Line<'a>; ROWS] {
    let open = app.open == Some(conversation.id);
    let online = app.presence_of(conversation).is_some_and(|presence| presence.online);
    let dot = if online { Span::styled("●", ACCENT) } else { Span::styled("·", DIM) };
    let unread = if conversation.unread > 0 { format!(" {} ", conversation.unread.min(999)) } else { String::new() };
    let name = wrap::clip(&wording::name(conversation), width.saturating_sub(3 + wrap::width(&unread)));
    let gap = " ".repeat(width.saturating_sub(3 + wrap::width(&name) + wrap::width(&unread)));
    let style = if open {
        BOLD.add_modifier(Modifier::REVERSED)
    } else if conversation.unread > 0 {
        BOLD
    } else {
        Style::new()
    };
    let first = Line::from(vec![
        Span::raw(" "),
        dot,
        Span::raw(" "),
        Span::styled(name, style),
        Span::raw(gap),
        Span::styled(unread, ACCENT.add_modifier(Modifier::REVERSED)),
    ]);
    [first, second_line(app, conversation, width)]
}

fn second_line<'a>(app: &App, conversation: &Conversation, width: usize) -> Line<'a> {
    let (text, style) = if app.is_typing(conversation.id) {
        ("typing…".to_owned(), ACCENT)
    } else if conversation.blocked.is_some() {
        ("held back: see there".to_owned(), WARNING)
    } else if !conversation.accepted && conversation.head > 0 {
        ("wants to chat".to_owned(), WARNING)
    } else {
        (app.preview(conversation.id).to_owned(), DIM)
    };
    Line::styled(wrap::clip(&format!("   {text}"), width), style)
}
