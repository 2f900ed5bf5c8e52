//! The handle an app holds.

use crate::engine::{Command, EngineHandle, Published, Reply};
use crate::error::{CallError, RequestError};
use crate::model::{Arrival, ConnectionState, Conversation, Entry, EntryId, Me, Notice, OwnDevice, Position, Presence, SafetyNumber, Typing};
use crate::server::Server;
use crate::store::Reader;
use crate::subscription::Subscription;
use crate::{ClientBuilder, MAX_TEXT_BYTES, timeline};
use kith_proto::id::{ConversationId, DeviceId};
use kith_proto::rest::PublishListRequest;
use std::fmt;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// An open account on this device. Cheap to clone; when the last clone is dropped its tasks end.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) me: Me,
    pub(crate) engine: EngineHandle,
    pub(crate) published: Published,
    pub(crate) reader: Reader,
    pub(crate) server: Arc<Server>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

impl Client {
    /// Begins to describe a client of the server at `server_url`, for example `https://chat.example` or `http://127.0.0.1:7400`.
    pub fn builder(server_url: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(server_url.into())
    }

    pub(crate) fn from_inner(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }

    /// Who this client is.
    #[must_use]
    pub fn me(&self) -> &Me {
        &self.0.me
    }

    // Streams.

    /// How the connection stands.
    #[must_use]
    pub fn connection(&self) -> Subscription<ConnectionState> {
        Subscription::to_watch(self.0.published.connection.subscribe())
    }

    /// All conversations, the most recently active first.
    #[must_use]
    pub fn conversations(&self) -> Subscription<Arc<[Conversation]>> {
        Subscription::to_watch(self.0.published.conversations.subscribe())
    }

    /// One conversation as it is now, without waiting.
    #[must_use]
    pub fn conversation(&self, id: ConversationId) -> Option<Conversation> {
        self.0.published.conversation(id)
    }

    /// The entries of a conversation: first its newest hundred (possibly none), then, batch by batch, every entry that is new or has changed (a tick, a
    /// repair), each replacing the one with the same [`EntryId`]. Sort by [`Entry::position`]. Older entries come from [`Self::history`].
    #[must_use]
    pub fn timeline(&self, conversation: ConversationId) -> Subscription<Vec<Entry>> {
        timeline::timeline(self.0.published.clone(), self.0.reader.clone(), conversation)
    }

    /// Everything others have sent, in the order of its arrival here, each exactly once, from behind `after`: begin with the default, store the
    /// [`Entry::arrival`] of the last one dealt with, and go on from there after a restart. Within a conversation the order is that of the log. A
    /// message that could not be decrypted is given as such, and once more when it was repaired.
    #[must_use]
    pub fn received(&self, after: Arrival) -> Subscription<Entry> {
        timeline::received(self.0.published.clone(), self.0.reader.clone(), after)
    }

    /// Who is typing, in all conversations.
    #[must_use]
    pub fn typing(&self) -> Subscription<Arc<[Typing]>> {
        Subscription::to_watch(self.0.published.typing.subscribe())
    }

    /// Who is there, of all people with whom both sides have written.
    #[must_use]
    pub fn presence(&self) -> Subscription<Arc<[Presence]>> {
        Subscription::to_watch(self.0.published.presence.subscribe())
    }

    /// What the user should know: the notices with an id above `after`, then new ones.
    #[must_use]
    pub fn notices(&self, after: i64) -> Subscription<Notice> {
        timeline::notices(self.0.published.clone(), self.0.reader.clone(), after)
    }

    // Calls that need only the store.

    /// Puts a text into the outbox and returns its name once it is durable there; see [`Self::timeline`] for what becomes of it. Writing in a
    /// conversation accepts it.
    ///
    /// # Errors
    /// [`CallError`]; then nothing was stored and nothing will be sent.
    pub async fn send_text(&self, conversation: ConversationId, text: &str) -> Result<EntryId, CallError> {
        if text.is_empty() || text.len() > MAX_TEXT_BYTES {
            return Err(CallError::BadText);
        }
        let text = zeroize::Zeroizing::new(text.to_owned());
        self.ask(|reply| Command::SendText { conversation, text, reply }).await
    }

    /// The user has seen the conversation up to `seq`.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn mark_read(&self, conversation: ConversationId, seq: u64) -> Result<(), CallError> {
        self.ask(|reply| Command::MarkRead { conversation, seq, reply }).await
    }

    /// The user is typing, or has stopped. Call it again at most every few seconds while typing goes on; nothing is sent while offline.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn set_typing(&self, conversation: ConversationId, active: bool) -> Result<(), CallError> {
        self.ask(|reply| Command::SetTyping { conversation, active, reply }).await
    }

    /// Accepts a conversation that someone else began: from now on receipts and checkpoints flow back.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn accept(&self, conversation: ConversationId) -> Result<(), CallError> {
        self.ask(|reply| Command::Accept { conversation, reply }).await
    }

    /// The number to compare with the other.
    ///
    /// # Errors
    /// [`CallError::NoKeysYet`] before the other's keys are known.
    pub async fn safety_number(&self, conversation: ConversationId) -> Result<SafetyNumber, CallError> {
        self.ask(|reply| Command::SafetyNumber { conversation, reply }).await
    }

    /// The user compared the safety number and it was equal (or takes that back). It is taken back by itself when the keys change. Verifying also
    /// releases a conversation held back because of changed keys.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn set_verified(&self, conversation: ConversationId, verified: bool) -> Result<(), CallError> {
        self.ask(|reply| Command::SetVerified { conversation, verified, reply }).await
    }

    /// Up to `limit` (at most 500) entries before a position, oldest first; from the newest on without one.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn history(&self, conversation: ConversationId, before: Option<Position>, limit: usize) -> Result<Vec<Entry>, CallError> {
        timeline::history(&self.0.published, &self.0.reader, conversation, before, limit.min(500)).await
    }

    // Calls that need the server.

    /// The conversation with the user of that name, begun if there is none yet. The other learns of it with the first message.
    ///
    /// # Errors
    /// [`RequestError`]; a conversation known already is found without the server.
    pub async fn start_conversation(&self, username: &str) -> Result<ConversationId, RequestError> {
        let username = username.to_lowercase();
        if let Some(known) = self.0.published.conversation_with(&username) {
            return Ok(known);
        }
        let found = self.0.server.find_user(&username).await?;
        if found.account == self.0.me.account {
            return Err(RequestError::Oneself);
        }
        let history = self.0.server.device_lists(found.account, 0).await?;
        self.request(|reply| Command::Meet { account: found.account, username, history, reply }).await
    }

    /// This account's devices.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn devices(&self) -> Result<Vec<OwnDevice>, RequestError> {
        Ok(self.0.server.own_devices().await?)
    }

    /// Takes another of this account's devices off the list; it is cut at once.
    ///
    /// # Errors
    /// [`RequestError::NotFirstDevice`] if this device does not hold the account's identity key.
    pub async fn revoke_device(&self, device: DeviceId) -> Result<(), RequestError> {
        let list = self.request(|reply| Command::SignListWithout { device, reply }).await?;
        self.publish_list(&list).await
    }

    /// Publishes the next list of this account and takes it over.
    pub(crate) async fn publish_list(&self, list: &PublishListRequest) -> Result<(), RequestError> {
        self.0.server.publish_list(list).await?;
        self.ask(|reply| Command::RefreshOwnList { reply }).await.map_err(RequestError::from)
    }

    /// Hides this account's presence (and with it that of others), or shows it.
    ///
    /// # Errors
    /// [`RequestError`]; it needs a connection.
    pub async fn hide_presence(&self, hidden: bool) -> Result<(), RequestError> {
        self.request(|reply| Command::SetPresence { hidden, reply }).await
    }

    /// Ends the connection and all tasks, and waits for them. What is in the outbox stays there for the next time.
    pub async fn shutdown(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
        self.0.engine.joined().await;
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<Result<T, CallError>>) -> Command) -> Result<T, CallError> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.0.engine.send(command(reply)).await.map_err(|_| CallError::Closed)?;
        answer.await.map_err(|_| CallError::Closed)?
    }

    pub(crate) async fn request<T>(&self, command: impl FnOnce(Reply<Result<T, RequestError>>) -> Command) -> Result<T, RequestError> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.0.engine.send(command(reply)).await.map_err(|_| CallError::Closed)?;
        answer.await.map_err(|_| CallError::Closed)?
    }
}
