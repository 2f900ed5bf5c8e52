//! Line mode: one line in, one line out. `kith chat --help` documents the lines.

mod input;
mod output;
mod place;

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream::SelectAll};
use kith_client::{Author, Client, ConnectionState, Conversation, ConversationId, Entry, EntryId, Notice, Presence, Subscription, Tick, Typing};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines, Stdin, stdin},
    time::{Instant, sleep_until},
};

use super::{command, harmless, wording};
use output::Output;
use place::Place;

/// The exit status if a text was refused, or not sent in time.
const NOT_SENT: u8 = 3;
/// Texts whose ticks are followed; beyond it those that were delivered are let go.
const FOLLOWED: usize = 10_000;

/// Line mode at work.
struct Plain {
    client: Client,
    out: Output,
    place: Place,
    /// Where text without a name goes.
    current: Option<ConversationId>,
    /// How far the texts of this session have got.
    sent: HashMap<EntryId, Tick>,
    ticks: SelectAll<Subscription<Vec<Entry>>>,
    watched: HashSet<ConversationId>,
    requests: HashSet<ConversationId>,
    typing: Arc<[Typing]>,
    online: HashSet<kith_client::AccountId>,
    connection: &'static str,
}

/// Everything that can happen.
enum Event {
    Line(std::io::Result<Option<String>>),
    Connection(ConnectionState),
    Received(Entry),
    Ticks(Vec<Entry>),
    Typing(Arc<[Typing]>),
    Presence(Arc<[Presence]>),
    Notice(Notice),
    Interrupted,
    TimeUp,
}

/// The client's streams and the input.
struct Sources {
    lines: Option<Lines<BufReader<Stdin>>>,
    connection: Subscription<ConnectionState>,
    received: Subscription<Entry>,
    typing: Subscription<Arc<[Typing]>>,
    presence: Subscription<Arc<[Presence]>>,
    notices: Subscription<Notice>,
}

/// Runs line mode until the input ends (and everything is sent), `/quit`, or an interrupt.
///
/// # Errors
/// If standard output is closed, or the place in the stream cannot be stored.
pub(super) async fn run(client: Client, home: &Path, follow: bool, wait: Duration) -> anyhow::Result<ExitCode> {
    let place = Place::load(home)?;
    let mut sources = Sources {
        lines: Some(BufReader::new(stdin()).lines()),
        connection: client.connection(),
        received: client.received(place.arrival()),
        typing: client.typing(),
        presence: client.presence(),
        notices: client.notices(place.notice()),
    };
    let mut plain = Plain::new(client, place);
    plain.out.line("ready", &[&harmless::one_line(&plain.client.me().username.clone())])?;
    let mut deadline = None;
    while !plain.is_done(&sources, follow, deadline) {
        let event = plain.next_event(&mut sources, deadline).await;
        match event {
            Some(Event::Interrupted) => break,
            Some(Event::TimeUp) => break,
            Some(Event::Line(line)) => {
                if !plain.take_input(line?).await? {
                    sources.lines = None;
                    deadline = (!follow).then(|| Instant::now() + wait);
                }
            }
            Some(event) => plain.take(event).await?,
            None => break,
        }
    }
    plain.client.shutdown().await;
    Ok(if plain.unsent() == 0 { ExitCode::SUCCESS } else { ExitCode::from(NOT_SENT) })
}

impl Plain {
    fn new(client: Client, place: Place) -> Self {
        Self {
            client,
            out: Output,
            place,
            current: None,
            sent: HashMap::new(),
            ticks: SelectAll::new(),
            watched: HashSet::new(),
            requests: HashSet::new(),
            typing: Arc::default(),
            online: HashSet::new(),
            connection: "",
        }
    }

    fn unsent(&self) -> usize {
        self.sent.values().filter(|tick| **tick < Tick::Sent).count()
    }

    fn is_done(&self, sources: &Sources, follow: bool, deadline: Option<Instant>) -> bool {
        let waiting = self.sent.values().any(|tick| *tick == Tick::Pending);
        sources.lines.is_none() && !follow && deadline.is_some() && !waiting
    }

    async fn next_event(&mut self, sources: &mut Sources, deadline: Option<Instant>) -> Option<Event> {
        tokio::select! {
            // Events first: what arrived before a command was given is printed before its answer.
            biased;
            _ = tokio::signal::ctrl_c() => Some(Event::Interrupted),
            state = sources.connection.next() => state.map(Event::Connection),
            entry = sources.received.next() => entry.map(Event::Received),
            Some(entries) = self.ticks.next(), if !self.ticks.is_empty() => Some(Event::Ticks(entries)),
            typing = sources.typing.next() => typing.map(Event::Typing),
            presence = sources.presence.next() => presence.map(Event::Presence),
            notice = sources.notices.next() => notice.map(Event::Notice),
            line = next_line(&mut sources.lines), if sources.lines.is_some() => Some(Event::Line(line)),
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => Some(Event::TimeUp),
        }
    }

    /// Carries out a line of input; false at the end of input.
    async fn take_input(&mut self, line: Option<String>) -> anyhow::Result<bool> {
        let Some(line) = line else { return Ok(false) };
        let line = command::parse(&line);
        if line == command::Line::Quit {
            return Ok(false);
        }
        if let Err(problem) = self.carry_out(line).await? {
            self.out.line("error", &[&harmless::escaped(&problem)])?;
        }
        Ok(true)
    }

    async fn take(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Connection(state) => {
                let state = wording::connection(state);
                if std::mem::replace(&mut self.connection, state) != state {
                    self.out.line("connection", &[state])?;
                }
            }
            Event::Received(entry) => self.take_received(entry).await?,
            Event::Ticks(entries) => self.take_ticks(&entries)?,
            Event::Typing(typing) => self.take_typing(&typing)?,
            Event::Presence(presence) => self.take_presence(&presence)?,
            Event::Notice(notice) => {
                let who = notice.conversation.map_or_else(|| "-".to_owned(), |id| self.name(id));
                self.out.line("notice", &[&who, &wording::notice(notice.kind, &who)])?;
                self.place.noticed(notice.id)?;
            }
            Event::Line(_) | Event::Interrupted | Event::TimeUp => {}
        }
        Ok(())
    }

    async fn take_received(&mut self, entry: Entry) -> anyhow::Result<()> {
        let name = self.name(entry.conversation);
        let accepted = self.conversation(entry.conversation).is_some_and(|c| c.accepted);
        if !accepted && self.requests.insert(entry.conversation) {
            self.out.line("request", &[&name])?;
        }
        let seq = entry.seq.map_or_else(|| "-".to_owned(), |seq| seq.to_string());
        match (entry.text(), wording::entry(&entry)) {
            (Some(text), _) => self.out.line("message", &[&name, &seq, &harmless::escaped(text)])?,
            (None, Some(problem)) => self.out.line("problem", &[&name, &seq, &problem])?,
            (None, None) => {}
        }
        self.place.arrived(entry.arrival)?;
        if let Some(seq) = entry.seq
            && accepted
        {
            // A read mark that the store refuses is made with the next message.
            let _ = self.client.mark_read(entry.conversation, seq).await;
        }
        Ok(())
    }

    fn take_ticks(&mut self, entries: &[Entry]) -> anyhow::Result<()> {
        for entry in entries {
            let (Some(tick), Some(sent)) = (entry.tick, self.sent.get_mut(&entry.id)) else { continue };
            if std::mem::replace(sent, tick) != tick {
                let name = self.name(entry.conversation);
                self.out.line("tick", &[&name, &entry.id.0.to_string(), wording::tick_word(tick)])?;
            }
            if tick == Tick::Read {
                self.sent.remove(&entry.id);
            }
        }
        Ok(())
    }

    fn take_typing(&mut self, typing: &Arc<[Typing]>) -> anyhow::Result<()> {
        let before = std::mem::replace(&mut self.typing, Arc::clone(typing));
        for now in typing.iter().filter(|now| !before.contains(now)) {
            self.out.line("typing", &[&self.name(now.conversation), "on"])?;
        }
        for gone in before.iter().filter(|gone| !typing.contains(gone)) {
            self.out.line("typing", &[&self.name(gone.conversation), "off"])?;
        }
        Ok(())
    }

    fn take_presence(&mut self, presence: &[Presence]) -> anyhow::Result<()> {
        for somebody in presence {
            let changed = if somebody.online { self.online.insert(somebody.account) } else { self.online.remove(&somebody.account) };
            if changed {
                let name = self.client_conversations().find(|c| c.peer == somebody.account).map_or_else(|| "-".to_owned(), |c| wording::name(&c));
                self.out.line("presence", &[&name, if somebody.online { "online" } else { "offline" }])?;
            }
        }
        Ok(())
    }

    fn conversation(&self, id: ConversationId) -> Option<Conversation> {
        self.client.conversation(id)
    }

    fn name(&self, id: ConversationId) -> String {
        self.conversation(id).map_or_else(|| "-".to_owned(), |c| wording::name(&c))
    }

    /// Prints the ticks of a conversation from now on.
    fn watch_ticks(&mut self, id: ConversationId) {
        if self.watched.insert(id) {
            self.ticks.push(self.client.timeline(id));
        }
    }

    fn author(&self, entry: &Entry) -> String {
        match entry.author {
            Author::Me => "me".to_owned(),
            Author::Peer => self.name(entry.conversation),
        }
    }
}

async fn next_line(lines: &mut Option<Lines<BufReader<Stdin>>>) -> std::io::Result<Option<String>> {
    match lines {
        Some(lines) => lines.next_line().await,
        None => std::future::pending().await,
    }
}
