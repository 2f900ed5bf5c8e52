//! The messages of the conversation on the screen.

use kith_client::{Author, Conversation, Entry, Tick};
use ratatui::{
    Frame,
    layout::{Margin, Rect},
    style::{Color, Style},
    text::{Line, Span},
    widgets::Paragraph,
};

use super::{ACCENT, BOLD, DIM, WARNING, wrap};
use crate::{
    chat::{
        app::{App, Drawn},
        harmless, wording,
    },
    local_time::LocalTime,
};

/// Columns of `14:03 `.
const TIME: usize = 6;
/// Columns of ` ✓✓`.
const TICKS: usize = 3;
const OWN: Style = Style::new().fg(Color::Green);
const THEIRS: Style = Style::new().fg(Color::Magenta);
const READ: Style = Style::new().fg(Color::LightBlue);

/// Columns of one conversation.
struct Columns {
    name: usize,
    text: usize,
}

pub(super) fn draw(frame: &mut Frame<'_>, app: &App, area: Rect) -> Drawn {
    let area = area.inner(Margin { horizontal: 1, vertical: 0 });
    let Some(conversation) = app.conversation() else {
        frame.render_widget(Paragraph::new(welcome(app, usize::from(area.width))), area);
        return Drawn { rows: 0, height: usize::from(area.height) };
    };
    let lines = lines(app, conversation, usize::from(area.width));
    let (rows, height) = (lines.len(), usize::from(area.height));
    let end = rows.saturating_sub(app.scroll.min(rows.saturating_sub(height)));
    let start = end.saturating_sub(height);
    // Few messages stand at the bottom, where the next one will come.
    let blank = height.saturating_sub(rows);
    let shown: Vec<Line<'_>> = std::iter::repeat_n(Line::default(), blank).chain(lines.into_iter().skip(start).take(end - start)).collect();
    frame.render_widget(Paragraph::new(shown), area);
    Drawn { rows, height }
}

fn welcome(app: &App, width: usize) -> Vec<Line<'static>> {
    let me = harmless::one_line(&app.me.username);
    let paragraphs = [
        (format!("Hello {me}."), BOLD),
        ("/new NAME begins a conversation. Others reach you by your name.".to_owned(), Style::new()),
        ("/help shows everything else.".to_owned(), Style::new()),
        ("What you write is encrypted here, for the devices of the one you write to.".to_owned(), DIM),
    ];
    let lines = paragraphs.into_iter().flat_map(|(text, style)| {
        let rows = wrap::rows(&text, width).into_iter().map(move |row| Line::styled(row, style));
        std::iter::once(Line::default()).chain(rows)
    });
    lines.collect()
}

fn lines<'a>(app: &App, conversation: &Conversation, width: usize) -> Vec<Line<'a>> {
    let peer = wording::name(conversation);
    let name = wrap::width(&peer).clamp(3, if width < 50 { 6 } else { 14 });
    let columns = Columns { name, text: width.saturating_sub(TIME + name + 2 + TICKS).max(8) };
    let mut lines = Vec::new();
    let mut before: Option<&Entry> = None;
    for entry in app.timeline.entries() {
        let at = LocalTime::of(entry.at_ms);
        if before.is_none_or(|before| !LocalTime::of(before.at_ms).is_same_day(at)) {
            lines.push(Line::styled(format!("── {} ──", at.date()), DIM).centered());
        }
        lines.extend(entry_lines(conversation, entry, before, &peer, &columns));
        before = Some(entry);
    }
    lines.extend(footer(app, conversation, &peer, width));
    lines
}

/// What stands below the newest message.
fn footer<'a>(app: &App, conversation: &Conversation, peer: &str, width: usize) -> Vec<Line<'a>> {
    let mut lines = Vec::new();
    let mut say = |text: &str, style| lines.extend(wrap::rows(text, width).into_iter().map(|row| Line::styled(row, style)));
    if app.timeline.entries().is_empty() {
        say(&format!("Nothing yet. What you write here, only {peer} can read."), DIM);
    }
    if !conversation.accepted && !app.timeline.entries().is_empty() {
        say(&format!("{peer} wants to chat with you. Answer, or /accept; until then {peer} sees no ticks."), WARNING);
    }
    if let Some(blocked) = conversation.blocked {
        say(&format!("Sending is held back: {}.", wording::blocked(blocked)), WARNING);
    }
    if app.is_typing(conversation.id) {
        say(&format!("{peer} is typing…"), ACCENT);
    }
    lines
}

fn entry_lines<'a>(conversation: &Conversation, entry: &Entry, before: Option<&Entry>, peer: &str, columns: &Columns) -> Vec<Line<'a>> {
    let minute = |entry: &Entry| entry.at_ms / 60_000;
    let follows = before.is_some_and(|before| before.author == entry.author && minute(before) == minute(entry) && before.text().is_some());
    let (text, style) = match (entry.text(), wording::entry(entry)) {
        (Some(text), _) => (harmless::lines(text), Style::new()),
        (None, note) => (format!("[{}]", note.unwrap_or_default()), WARNING),
    };
    let head = if follows && entry.text().is_some() {
        vec![Span::raw(" ".repeat(TIME + columns.name + 2))]
    } else {
        let (name, style) = if entry.author == Author::Me { ("you", OWN) } else { (peer, THEIRS) };
        let name = wrap::clip(name, columns.name);
        let gap = " ".repeat(columns.name - wrap::width(&name) + 2);
        vec![Span::styled(format!("{} ", LocalTime::of(entry.at_ms).hours_minutes()), DIM), Span::styled(name, style), Span::raw(gap)]
    };
    let rows = wrap::rows(&text, columns.text);
    let last = rows.len() - 1;
    let mut head = Some(head);
    let mut lines = Vec::with_capacity(rows.len());
    for (n, row) in rows.into_iter().enumerate() {
        let mut spans = head.take().unwrap_or_else(|| vec![Span::raw(" ".repeat(TIME + columns.name + 2))]);
        let gap = columns.text.saturating_sub(wrap::width(&row));
        spans.push(Span::styled(row, style));
        if n == last
            && let Some(tick) = shown_tick(conversation, entry)
        {
            spans.push(Span::raw(" ".repeat(gap + 1)));
            spans.push(Span::styled(wording::tick(tick), tick_style(tick)));
        }
        lines.push(Line::from(spans));
    }
    lines
}

/// The tick of the entry itself, or what the conversation's watermarks say already.
fn shown_tick(conversation: &Conversation, entry: &Entry) -> Option<Tick> {
    let tick = entry.tick?;
    let Some(seq) = entry.seq else { return Some(tick) };
    let by_watermark = if conversation.peer_read >= seq {
        Tick::Read
    } else if conversation.peer_delivered >= seq {
        Tick::Delivered
    } else {
        tick
    };
    Some(tick.max(by_watermark))
}

fn tick_style(tick: Tick) -> Style {
    match tick {
        Tick::Failed => WARNING,
        Tick::Pending | Tick::Sent | Tick::Delivered => DIM,
        Tick::Read => READ,
    }
}
