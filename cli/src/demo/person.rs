//! Somebody in the demonstration: a real SDK client on a home folder of its own.

use std::{future::Future, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail, ensure};
use kith_client::{Arrival, Author, Client, ConnectionState, ConversationId, Entry, EntryId, Registration, Subscription, Tick};
use tokio::time::timeout;

/// Nothing the demonstration waits for takes this long unless something is broken.
pub(super) const STEP: Duration = Duration::from_secs(20);

/// Gives up on something that does not come.
///
/// # Errors
/// After [`STEP`], naming what was waited for.
pub(super) async fn within<T>(what: &str, wait: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    timeout(STEP, wait).await.with_context(|| format!("waited {} s in vain for {what}", STEP.as_secs()))?
}

/// Alice or bob.
#[derive(Debug)]
pub(super) struct Person {
    /// The name.
    pub(super) name: &'static str,
    server: String,
    home: PathBuf,
    client: Client,
    received: Subscription<Entry>,
    last: Arrival,
}

impl Person {
    /// Registers.
    ///
    /// # Errors
    /// If the server refuses or does not answer in time.
    pub(super) async fn register(name: &'static str, server: &str, home: PathBuf) -> anyhow::Result<Self> {
        let builder = Client::builder(server).home(&home);
        let registering = async { Ok(builder.register(Registration::new(name).without_recovery()).await?.client) };
        let client = within("a registration", registering).await?;
        let received = client.received(Arrival::default());
        Ok(Self { name, server: server.to_owned(), home, client, received, last: Arrival::default() })
    }

    /// Closes the client, as when an app is closed.
    ///
    /// # Errors
    /// If it does not close in time.
    pub(super) async fn leave(&mut self) -> anyhow::Result<()> {
        let leaving = async {
            self.client.shutdown().await;
            Ok(())
        };
        within("a client to close", leaving).await
    }

    /// Opens the same folder again and goes on where it was left.
    ///
    /// # Errors
    /// If the folder cannot be opened.
    pub(super) async fn come_back(&mut self) -> anyhow::Result<()> {
        let builder = Client::builder(&self.server).home(&self.home);
        self.client = within("a folder to open", async { Ok(builder.open().await?) }).await?;
        self.received = self.client.received(self.last);
        self.online().await
    }

    /// Waits until connected with nothing missing.
    ///
    /// # Errors
    /// If that takes too long, or can never be.
    pub(super) async fn online(&self) -> anyhow::Result<()> {
        self.connection("to be online", |state| state == ConnectionState::Online).await
    }

    /// Waits until the loss of the connection was noticed.
    ///
    /// # Errors
    /// If that takes too long.
    pub(super) async fn disconnected(&self) -> anyhow::Result<()> {
        self.connection("to notice that the server is gone", |state| state != ConnectionState::Online && state != ConnectionState::CatchingUp).await
    }

    async fn connection(&self, what: &str, wanted: impl Fn(ConnectionState) -> bool) -> anyhow::Result<()> {
        let mut states = self.client.connection();
        let waiting = async {
            while let Some(state) = states.next().await {
                if wanted(state) {
                    return Ok(());
                }
                if let ConnectionState::Stopped(reason) = state {
                    bail!("the connection stopped for good: {reason:?}");
                }
            }
            bail!("the client closed")
        };
        within(&format!("{} {what}", self.name), waiting).await
    }

    /// The conversation with somebody.
    ///
    /// # Errors
    /// If there is nobody of that name.
    pub(super) async fn meet(&self, username: &str) -> anyhow::Result<ConversationId> {
        within("a conversation to begin", async { Ok(self.client.start_conversation(username).await?) }).await
    }

    /// Puts a text into the outbox.
    ///
    /// # Errors
    /// If the store refuses.
    pub(super) async fn send(&self, conversation: ConversationId, text: &str) -> anyhow::Result<EntryId> {
        within("a message to be stored", async { Ok(self.client.send_text(conversation, text).await?) }).await
    }

    /// Waits until an own message has at least this tick.
    ///
    /// # Errors
    /// If it does not get there in time.
    pub(super) async fn ticked(&self, conversation: ConversationId, message: EntryId, wanted: Tick) -> anyhow::Result<()> {
        let mut timeline = self.client.timeline(conversation);
        let waiting = async {
            while let Some(entries) = timeline.next().await {
                if entries.iter().any(|entry| entry.id == message && entry.tick.is_some_and(|tick| tick >= wanted)) {
                    return Ok(());
                }
            }
            bail!("the client closed")
        };
        within(&format!("{}'s message to be {wanted:?}", self.name), waiting).await
    }

    /// Waits until the other has everything, or has read everything, that was written in a conversation.
    ///
    /// # Errors
    /// If that takes too long.
    pub(super) async fn watermarks(&self, conversation: ConversationId, seq: u64, wanted: Tick) -> anyhow::Result<()> {
        let mut conversations = self.client.conversations();
        let waiting = async {
            while let Some(all) = conversations.next().await {
                let reached = |c: &&kith_client::Conversation| if wanted == Tick::Read { c.peer_read >= seq } else { c.peer_delivered >= seq };
                if all.iter().filter(|c| c.id == conversation).any(|c| reached(&c)) {
                    return Ok(());
                }
            }
            bail!("the client closed")
        };
        within(&format!("{}'s messages to be {wanted:?}", self.name), waiting).await
    }

    /// The next thing that arrives.
    ///
    /// # Errors
    /// If nothing arrives in time.
    pub(super) async fn next(&mut self) -> anyhow::Result<Entry> {
        let waiting = async { self.received.next().await.context("the client closed") };
        let entry = within(&format!("a message to {}", self.name), waiting).await?;
        ensure!(entry.arrival > self.last, "{} was handed the same arrival twice", self.name);
        ensure!(entry.author == Author::Peer, "{} received an own message", self.name);
        self.last = entry.arrival;
        Ok(entry)
    }

    /// The next thing that arrives is this text.
    ///
    /// # Errors
    /// If it is another one, or none comes.
    pub(super) async fn expect(&mut self, text: &str) -> anyhow::Result<Entry> {
        let entry = self.next().await?;
        match entry.text() {
            Some(got) if got == text => Ok(entry),
            Some(got) => bail!("{} expected “{text}” and got “{got}”: out of order, lost or doubled", self.name),
            None => bail!("{} expected “{text}” and got {:?}", self.name, entry.body),
        }
    }

    /// Marks everything up to an entry as seen.
    ///
    /// # Errors
    /// If the store refuses.
    pub(super) async fn read(&self, entry: &Entry) -> anyhow::Result<()> {
        let seq = entry.seq.context("what arrived has no place in the log")?;
        within("a read mark", async { Ok(self.client.mark_read(entry.conversation, seq).await?) }).await
    }

    /// The safety number of a conversation.
    ///
    /// # Errors
    /// If the other's keys are not known.
    pub(super) async fn safety_number(&self, conversation: ConversationId) -> anyhow::Result<String> {
        within("a safety number", async { Ok(self.client.safety_number(conversation).await?.digits) }).await
    }

    /// The newest place of a conversation stored here.
    pub(super) fn head(&self, conversation: ConversationId) -> u64 {
        self.client.conversation(conversation).map_or(0, |c| c.head)
    }

    /// Another handle on the same client, to send while this one receives.
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }
}
