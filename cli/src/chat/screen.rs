//! The terminal and the SDK around the state: events in, drawing and wishes out.

mod terminal;
mod wishes;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use crossterm::event::{Event as TerminalEvent, EventStream};
use futures_util::{FutureExt as _, StreamExt as _};
use kith_client::{Client, ConnectionState, Conversation, ConversationId, Entry, Notice, Presence, Subscription, Typing};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};

use super::{
    app::{App, Event, Wish},
    draw::draw,
};
use terminal::Screen;

/// Keys that may wait to be taken.
const KEYS: usize = 256;
/// Answers that may wait to be taken.
const ANSWERS: usize = 64;
/// Calls to the SDK that may be under way beside the texts.
const CALLS: usize = 128;
/// Texts on their way into the store; a person types slower than that.
const TEXTS: usize = 64;
/// At the end, texts that were entered get so long to reach the store.
const LAST_TEXTS: Duration = Duration::from_secs(5);
/// Events taken between two drawings, so that a flood of them does not stop the screen.
const EVENTS_PER_DRAWING: usize = 200;

/// The client's streams.
struct Sources {
    keys: mpsc::Receiver<io::Result<TerminalEvent>>,
    connection: Subscription<ConnectionState>,
    conversations: Subscription<Arc<[Conversation]>>,
    typing: Subscription<Arc<[Typing]>>,
    presence: Subscription<Arc<[Presence]>>,
    notices: Subscription<Notice>,
    timeline: Option<(ConversationId, Subscription<Vec<Entry>>)>,
    answers: mpsc::Receiver<Event>,
}

/// What carries out wishes.
struct Hands {
    client: Client,
    calls: JoinSet<()>,
    answers: mpsc::Sender<Event>,
    /// One after the other, in the order in which they were entered.
    texts: mpsc::Sender<(ConversationId, String)>,
}

/// Shows the client until the user leaves.
///
/// # Errors
/// If the terminal fails.
pub(super) async fn run(client: Client, server: &str) -> anyhow::Result<()> {
    let (sender, answers) = mpsc::channel(ANSWERS);
    let (keys_sender, keys) = mpsc::channel(KEYS);
    let mut reading = JoinSet::new();
    reading.spawn(read_keys(keys_sender));
    let mut sources = Sources {
        keys,
        connection: client.connection(),
        conversations: client.conversations(),
        typing: client.typing(),
        presence: client.presence(),
        notices: client.notices(0),
        timeline: None,
        answers,
    };
    let mut app = App::new(client.me().clone(), server.to_owned());
    let (texts, entered) = mpsc::channel(TEXTS);
    let sending = tokio::spawn(send_texts(client.clone(), entered, sender.clone()));
    let mut hands = Hands { client: client.clone(), calls: JoinSet::new(), answers: sender, texts };
    let mut screen = Screen::open()?;
    let shown = show(&mut app, &mut sources, &mut hands, &mut screen).await;
    drop(screen);
    drop((hands, sources));
    reading.shutdown().await;
    let _ = timeout(LAST_TEXTS, sending).await;
    client.shutdown().await;
    shown
}

/// Reads the terminal in a task of its own: its stream remembers only the first who waited for it, so it must not be asked by several in turn.
async fn read_keys(keys: mpsc::Sender<io::Result<TerminalEvent>>) {
    let mut events = EventStream::new();
    while let Some(event) = events.next().await {
        if keys.send(event).await.is_err() {
            return;
        }
    }
}

async fn send_texts(client: Client, mut entered: mpsc::Receiver<(ConversationId, String)>, answers: mpsc::Sender<Event>) {
    while let Some((id, text)) = entered.recv().await {
        if let Some(answer) = wishes::send(&client, id, &text).await {
            let _ = answers.send(answer).await;
        }
    }
}

async fn show(app: &mut App, sources: &mut Sources, hands: &mut Hands, screen: &mut Screen) -> anyhow::Result<()> {
    let (mut terminate, mut hang_up) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    loop {
        let mut drawn = None;
        screen.draw(|frame| drawn = Some(draw(frame, app)))?;
        let more = drawn.map(|drawn| app.drawn(drawn)).unwrap_or_default();
        let moved = !more.is_empty();
        if carry_out(more, sources, hands) {
            return Ok(());
        }
        let event = tokio::select! {
            event = next(sources) => event?,
            _ = terminate.recv() => return Ok(()),
            _ = hang_up.recv() => return Ok(()),
            // A wish such as a read mark changes nothing on the screen by itself.
            () = std::future::ready(()), if moved => None,
        };
        let mut event = event;
        for _ in 0..EVENTS_PER_DRAWING {
            let Some(now) = event.take() else { break };
            if carry_out(app.take(now, Instant::now()), sources, hands) {
                return Ok(());
            }
            // Whatever else waits is taken before the next drawing.
            match next(sources).now_or_never() {
                Some(waiting) => event = waiting?,
                None => break,
            }
        }
    }
}

/// The next event; `None` for one that only asks for drawing.
async fn next(sources: &mut Sources) -> anyhow::Result<Option<Event>> {
    let timeline = &mut sources.timeline;
    let entries = async {
        match timeline {
            Some((id, entries)) => (*id, entries.next().await),
            None => std::future::pending().await,
        }
    };
    Ok(tokio::select! {
        key = sources.keys.recv() => match key {
            Some(event) => terminal_event(event?),
            None => anyhow::bail!("the terminal is gone"),
        },
        Some(answer) = sources.answers.recv() => Some(answer),
        Some(state) = sources.connection.next() => Some(Event::Connection(state)),
        Some(conversations) = sources.conversations.next() => Some(Event::Conversations(conversations)),
        (id, Some(entries)) = entries => Some(Event::Entries(id, entries)),
        Some(typing) = sources.typing.next() => Some(Event::Typing(typing)),
        Some(presence) = sources.presence.next() => Some(Event::Presence(presence)),
        Some(notice) = sources.notices.next() => Some(Event::Notice(notice)),
    })
}

fn terminal_event(event: TerminalEvent) -> Option<Event> {
    match event {
        TerminalEvent::Key(key) => Some(Event::Key(key)),
        TerminalEvent::Paste(text) => Some(Event::Paste(text)),
        TerminalEvent::FocusGained => Some(Event::Focus(true)),
        TerminalEvent::FocusLost => Some(Event::Focus(false)),
        TerminalEvent::Resize(..) | TerminalEvent::Mouse(_) => None,
    }
}

/// Carries out wishes; true if one is to leave.
fn carry_out(wishes: Vec<Wish>, sources: &mut Sources, hands: &mut Hands) -> bool {
    for wish in wishes {
        match wish {
            Wish::Quit => return true,
            Wish::Follow(id) => sources.timeline = Some((id, hands.client.timeline(id))),
            Wish::Send(id, text) => hands.send(id, text),
            wish => hands.begin(wish),
        }
    }
    false
}

impl Hands {
    fn send(&self, id: ConversationId, text: String) {
        if let Err(full) = self.texts.try_send((id, text)) {
            let (_, text) = full.into_inner();
            let _ = self.answers.try_send(Event::GivenBack(text, "too much at once".to_owned()));
        }
    }

    fn begin(&mut self, wish: Wish) {
        while self.calls.try_join_next().is_some() {}
        if self.calls.len() >= CALLS {
            let _ = self.answers.try_send(Event::Remark("too much at once; not done".to_owned()));
            return;
        }
        let (client, answers) = (self.client.clone(), self.answers.clone());
        self.calls.spawn(async move {
            if let Some(answer) = wishes::carry_out(&client, wish).await {
                let _ = answers.send(answer).await;
            }
        });
    }
}
