//! The terminal client's state, and what every event does to it. No input or output: events go in, wishes come out.

mod keys;
mod timeline;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use crossterm::event::KeyEvent;
use kith_client::{ConnectionState, Conversation, ConversationId, Entry, Me, Notice, Position, Presence, Tick, Typing};

use super::{
    command::{self, Line},
    editor::Editor,
    people, wording,
};
pub(super) use timeline::Timeline;

/// Typing is told again after this long.
const TYPING_AGAIN: Duration = Duration::from_secs(4);
/// What the ticks mean, for help.
const TICKS: [(Tick, &str); 4] = [
    (Tick::Pending, "waiting here"),
    (Tick::Sent, "on the server's disk"),
    (Tick::Delivered, "on their device; coloured when they have read it"),
    (Tick::Failed, "refused by the server"),
];
/// Conversations whose newest entry is shown in the list.
const PREVIEWS: usize = 50;
/// Remarks that are kept for reading.
const REMARKS: usize = 200;

/// Something that happened.
#[derive(Debug)]
pub(super) enum Event {
    /// A key was pressed.
    Key(KeyEvent),
    /// Text was pasted.
    Paste(String),
    /// The terminal window gained or lost the focus.
    Focus(bool),
    /// The connection changed.
    Connection(ConnectionState),
    /// The list of conversations changed.
    Conversations(Arc<[Conversation]>),
    /// Entries are new or have changed.
    Entries(ConversationId, Vec<Entry>),
    /// Older entries that were asked for; empty if there are none.
    Older(ConversationId, Vec<Entry>),
    /// The newest entry of a conversation, for the list.
    Preview(ConversationId, Option<Entry>),
    /// Who is typing.
    Typing(Arc<[Typing]>),
    /// Who is there.
    Presence(Arc<[Presence]>),
    /// Something the user should know.
    Notice(Notice),
    /// A conversation was begun or found.
    Started(ConversationId),
    /// A remark or an answer to show in a box.
    Show(Popup),
    /// Something was done or went wrong.
    Remark(String),
    /// A text could not be taken, and why.
    GivenBack(String, String),
}

/// Something to be done outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wish {
    /// Follow the entries of this conversation and no other.
    Follow(ConversationId),
    /// Begin the conversation with a user.
    Start(String),
    /// Begin it and send a text.
    StartAndSend(String, String),
    /// Send a text.
    Send(ConversationId, String),
    /// Everything up to a place was seen.
    MarkRead(ConversationId, u64),
    /// The user types, or has stopped.
    Typing(ConversationId, bool),
    /// Fetch the newest entry of a conversation.
    Preview(ConversationId),
    /// Fetch entries before a position.
    Older(ConversationId, Position),
    /// Show the safety number.
    Safety(ConversationId),
    /// The safety number was compared.
    Verify(ConversationId, bool),
    /// Take up a conversation.
    Accept(ConversationId),
    /// Hide or show presence.
    Hide(bool),
    /// Show the account's devices.
    Devices,
    /// Leave.
    Quit,
}

/// A box over the conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Popup {
    /// Its heading.
    pub(super) title: String,
    /// Its lines, harmless already.
    pub(super) lines: Vec<String>,
}

/// The newest entry of a conversation, as the list shows it.
#[derive(Debug, Default)]
struct Preview {
    /// What the conversation was like when it was asked for.
    stamp: (u64, u64),
    text: String,
}

/// What the last drawing found out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Drawn {
    /// Rows of messages in all.
    pub(super) rows: usize,
    /// Rows of messages on the screen.
    pub(super) height: usize,
}

/// The state.
#[derive(Debug)]
pub(super) struct App {
    /// Who this is.
    pub(super) me: Me,
    /// The server's address.
    pub(super) server: String,
    /// How the connection stands.
    pub(super) connection: ConnectionState,
    /// All conversations, the most recent first.
    pub(super) conversations: Arc<[Conversation]>,
    /// The conversation on the screen.
    pub(super) open: Option<ConversationId>,
    /// Its entries.
    pub(super) timeline: Timeline,
    /// The line being written.
    pub(super) editor: Editor,
    /// The box on the screen.
    pub(super) popup: Option<Popup>,
    /// The last remark.
    pub(super) remark: Option<String>,
    /// Rows between the bottom of the messages and the bottom of the screen.
    pub(super) scroll: usize,
    drafts: HashMap<ConversationId, Editor>,
    previews: HashMap<ConversationId, Preview>,
    typing: Arc<[Typing]>,
    presence: Arc<[Presence]>,
    remarks: VecDeque<String>,
    focused: bool,
    typing_told: Option<Instant>,
    marked: u64,
    older_asked: bool,
    older_none: bool,
    drawn: Drawn,
    /// New entries have come while the user reads old ones, so that the view must stay where it is.
    hold: bool,
}

impl App {
    /// At the start: nothing is known yet.
    pub(super) fn new(me: Me, server: String) -> Self {
        Self {
            me,
            server,
            connection: ConnectionState::Connecting,
            conversations: Arc::default(),
            open: None,
            timeline: Timeline::default(),
            editor: Editor::default(),
            popup: None,
            remark: None,
            scroll: 0,
            drafts: HashMap::new(),
            previews: HashMap::new(),
            typing: Arc::default(),
            presence: Arc::default(),
            remarks: VecDeque::new(),
            focused: true,
            typing_told: None,
            marked: 0,
            older_asked: false,
            older_none: false,
            drawn: Drawn::default(),
            hold: false,
        }
    }

    /// The conversation on the screen.
    pub(super) fn conversation(&self) -> Option<&Conversation> {
        self.conversations.iter().find(|c| Some(c.id) == self.open)
    }

    /// Whether the other of a conversation is typing.
    pub(super) fn is_typing(&self, id: ConversationId) -> bool {
        self.typing.iter().any(|typing| typing.conversation == id)
    }

    /// Whether somebody is there, if known.
    pub(super) fn presence_of(&self, conversation: &Conversation) -> Option<&Presence> {
        self.presence.iter().find(|presence| presence.account == conversation.peer)
    }

    /// Takes an event.
    pub(super) fn take(&mut self, event: Event, now: Instant) -> Vec<Wish> {
        match event {
            Event::Key(key) => return self.key(key, now),
            Event::Paste(text) => {
                self.editor.insert(&text.replace("\r\n", "\n").replace('\r', "\n"));
                return self.tell_typing(now);
            }
            Event::Focus(focused) => self.focused = focused,
            Event::Connection(state) => self.connection = state,
            Event::Conversations(conversations) => return self.take_conversations(conversations),
            Event::Entries(id, entries) if Some(id) == self.open => {
                self.hold |= self.scroll > 0;
                self.timeline.merge(entries);
            }
            Event::Older(id, entries) if Some(id) == self.open => {
                self.older_asked = false;
                self.older_none = entries.is_empty();
                self.timeline.merge(entries);
            }
            Event::Entries(..) | Event::Older(..) => {}
            Event::Preview(id, entry) => {
                if let (Some(preview), Some(entry)) = (self.previews.get_mut(&id), entry) {
                    preview.text = wording::preview(&entry);
                }
            }
            Event::Typing(typing) => self.typing = typing,
            Event::Presence(presence) => self.presence = presence,
            Event::Notice(notice) => {
                let who = notice.conversation.and_then(|id| self.conversations.iter().find(|c| c.id == id));
                let who = who.map_or_else(|| "somebody".to_owned(), wording::name);
                self.say(wording::notice(notice.kind, &who));
            }
            Event::Started(id) => return self.go_to(id),
            Event::Show(popup) => self.popup = Some(popup),
            Event::Remark(remark) => self.say(remark),
            Event::GivenBack(text, why) => {
                self.editor.insert(&text);
                self.say(format!("not sent: {why}"));
            }
        }
        self.seen().into_iter().collect()
    }

    /// The screen was drawn.
    pub(super) fn drawn(&mut self, drawn: Drawn) -> Vec<Wish> {
        if std::mem::take(&mut self.hold) {
            self.scroll += drawn.rows.saturating_sub(self.drawn.rows);
        }
        self.drawn = drawn;
        let top = drawn.rows.saturating_sub(drawn.height);
        self.scroll = self.scroll.min(top);
        let mut wishes: Vec<Wish> = self.seen().into_iter().collect();
        if self.scroll == top
            && !self.older_asked
            && !self.older_none
            && let (Some(id), Some(oldest)) = (self.open, self.timeline.oldest())
        {
            self.older_asked = true;
            wishes.push(Wish::Older(id, oldest));
        }
        wishes
    }

    fn take_conversations(&mut self, conversations: Arc<[Conversation]>) -> Vec<Wish> {
        self.conversations = conversations;
        let mut wishes = self.previews_wanted();
        match (self.open, self.conversations.first()) {
            (None, Some(first)) => wishes.extend(self.go_to(first.id)),
            _ => wishes.extend(self.seen()),
        }
        wishes
    }

    /// Asks for the newest entry of the conversations at the top that have moved.
    fn previews_wanted(&mut self) -> Vec<Wish> {
        let mut wishes = Vec::new();
        for conversation in self.conversations.iter().take(PREVIEWS) {
            let stamp = (conversation.head, conversation.at_ms);
            let known = self.previews.get(&conversation.id).map(|preview| preview.stamp);
            if known != Some(stamp) {
                self.previews.entry(conversation.id).or_default().stamp = stamp;
                wishes.push(Wish::Preview(conversation.id));
            }
        }
        wishes
    }

    /// The newest entry of a conversation, in a few words.
    pub(super) fn preview(&self, id: ConversationId) -> &str {
        self.previews.get(&id).map_or("", |preview| preview.text.as_str())
    }

    /// Puts a conversation on the screen, keeping what was being written in the one before.
    fn go_to(&mut self, id: ConversationId) -> Vec<Wish> {
        if self.open == Some(id) {
            return Vec::new();
        }
        let mut wishes = self.stop_typing();
        let draft = std::mem::take(&mut self.editor);
        if let Some(before) = self.open.replace(id)
            && !draft.is_empty()
        {
            self.drafts.insert(before, draft);
        }
        self.editor = self.drafts.remove(&id).unwrap_or_default();
        self.timeline = Timeline::default();
        (self.scroll, self.marked, self.older_asked, self.older_none, self.hold) = (0, 0, false, false, false);
        wishes.push(Wish::Follow(id));
        wishes
    }

    /// What has been seen since the last time: only what is on the screen, at the bottom, in a window that has the focus.
    fn seen(&mut self) -> Option<Wish> {
        let conversation = self.conversation()?;
        let newest = self.timeline.newest_of_peer()?;
        let new = newest > conversation.read.max(self.marked);
        if !(new && conversation.accepted && self.focused && self.scroll == 0) {
            return None;
        }
        let id = conversation.id;
        self.marked = newest;
        Some(Wish::MarkRead(id, newest))
    }

    fn say(&mut self, remark: String) {
        if self.remarks.len() == REMARKS {
            self.remarks.pop_front();
        }
        self.remarks.push_back(remark.clone());
        self.remark = Some(remark);
    }

    /// Enter was pressed.
    fn enter(&mut self) -> Vec<Wish> {
        let text = self.editor.take();
        self.remark = None;
        let mut wishes = self.stop_typing();
        wishes.extend(self.carry_out(command::parse(&text), &text));
        wishes
    }

    fn carry_out(&mut self, line: Line, entered: &str) -> Vec<Wish> {
        match (line, self.open) {
            (Line::Empty, _) => Vec::new(),
            (Line::Text(text), Some(id)) => {
                self.scroll = 0;
                vec![Wish::Send(id, text)]
            }
            (Line::To(name, text), _) => match people::find(&self.conversations, &name) {
                Ok(id) => vec![Wish::Send(id, text)],
                Err(people::NotFound::Nobody) => vec![Wish::StartAndSend(name, text)],
                Err(people::NotFound::Several) => self.refuse(format!("{name} could be several"), entered),
            },
            (Line::New(name), _) => match people::find(&self.conversations, &name) {
                Ok(id) => self.go_to(id),
                Err(people::NotFound::Nobody) => vec![Wish::Start(name)],
                Err(people::NotFound::Several) => self.refuse(format!("{name} could be several"), entered),
            },
            (Line::Safety, Some(id)) => vec![Wish::Safety(id)],
            (Line::Verify(verified), Some(id)) => vec![Wish::Verify(id, verified)],
            (Line::Accept, Some(id)) => vec![Wish::Accept(id)],
            (Line::Text(_) | Line::Safety | Line::Verify(_) | Line::Accept, None) => {
                self.refuse("open a conversation first: /new NAME".to_owned(), entered)
            }
            (Line::Hide(hidden), _) => vec![Wish::Hide(hidden)],
            (Line::Devices, _) => vec![Wish::Devices],
            (Line::List, _) => self.show("Conversations", self.conversations.iter().map(list_line).collect()),
            (Line::History(_), _) => self.show("History", vec!["It is on the screen: Page Up and Page Down scroll.".to_owned()]),
            (Line::Help, _) => self.help(),
            (Line::Quit, _) => vec![Wish::Quit],
            (Line::Wrong(problem), _) => self.refuse(problem, entered),
        }
    }

    /// Says what is wrong and gives the line back.
    fn refuse(&mut self, problem: String, entered: &str) -> Vec<Wish> {
        self.editor.insert(entered);
        self.say(problem);
        Vec::new()
    }

    fn show(&mut self, title: &str, lines: Vec<String>) -> Vec<Wish> {
        self.popup = Some(Popup { title: title.to_owned(), lines });
        Vec::new()
    }

    fn help(&mut self) -> Vec<Wish> {
        let mut lines: Vec<String> = command::COMMANDS.iter().map(|(command, meaning)| format!("{command:<20} {meaning}")).collect();
        lines.push(String::new());
        lines.extend(keys::HELP.iter().map(|(key, meaning)| format!("{key:<20} {meaning}")));
        lines.push(String::new());
        lines.extend(TICKS.iter().map(|(tick, meaning)| format!("{:<20} {meaning}", wording::tick(*tick))));
        if !self.remarks.is_empty() {
            lines.push(String::new());
            lines.extend(self.remarks.iter().rev().take(10).map(|remark| format!("· {remark}")));
        }
        self.show("Help", lines)
    }

    fn tell_typing(&mut self, now: Instant) -> Vec<Wish> {
        let Some(id) = self.open else { return Vec::new() };
        if self.editor.is_empty() || self.editor.text().starts_with(['/', '@']) {
            return self.stop_typing();
        }
        if self.typing_told.is_some_and(|told| now < told + TYPING_AGAIN) {
            return Vec::new();
        }
        self.typing_told = Some(now);
        vec![Wish::Typing(id, true)]
    }

    fn stop_typing(&mut self) -> Vec<Wish> {
        let told = self.typing_told.take();
        told.and(self.open).map(|id| Wish::Typing(id, false)).into_iter().collect()
    }
}

fn list_line(conversation: &Conversation) -> String {
    let unread = if conversation.unread > 0 { format!("  {} unread", conversation.unread) } else { String::new() };
    let verified = if conversation.verified { "  verified" } else { "" };
    format!("{}{verified}{unread}", wording::name(conversation))
}

#[cfg(test)]
mod tests;
