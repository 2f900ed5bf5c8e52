//! The engine: the one place that decides, and the only one that writes.
//!
//! It owns the write side of the store and with it every ratchet of this process, so that nothing has to be locked and no two messages are ever sealed
//! from the same state. It runs on a thread of its own and works in rounds:
//!
//! 1. take what is waiting (commands of the app, frames of the server, answers to requests), at most a few hundred;
//! 2. decide and write, all in one transaction;
//! 3. commit;
//! 4. only then let the results out: frames to the socket, answers to the app, new states to the subscriptions.
//!
//! So whatever leaves this thread is durable, and a crash at any moment leaves the state of the last commit. A round whose transaction fails changes
//! nothing: the state is read anew from the disk, the connection is dropped, and the server sends again what was not acknowledged.
//!
//! No decision here waits for anything: what needs the network is asked for ([`Effect::Fetch`]) and comes back as an input.

mod calls;
mod checkpoint;
mod command;
mod compose;
mod connect;
mod control;
mod conversation;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod keys;
mod lists;
mod open;
mod people;
mod published;
mod receive;
mod repair;
mod round;
mod send;

#[cfg(test)]
mod tests;

pub(crate) use command::{Command, EngineHandle, OwnAccount, Reply};
pub(crate) use keys::{BATCH, Wanted, make as make_prekeys};
pub(crate) use published::Published;
pub(crate) use round::Parts;

use crate::fault::{FaultHook, FaultPoint};
use crate::model::{Integrity, NoticeKind};
use crate::server::ServerError;
use crate::statements::AccountHistory;
use crate::store::records::{EntryRecord, NoticeRecord, SelfRecord};
use crate::store::{NewEntry, Role, SessionRow, Store, StoreError};
use conversation::Conv;
use kith_crypto::chain::ReceiverChain;
use kith_crypto::device::DeviceKeys;
use kith_crypto::identity::AccountIdentity;
use kith_crypto::prekey::VerifiedBundle;
use kith_crypto::session_set::SessionSet;
use kith_crypto::{AccountId, ConversationId, DeviceId};
use kith_proto::rest::{Bundles, KeysState, PrekeyUpload};
use kith_proto::v1;
use people::People;
use std::collections::{HashMap, HashSet};
use tokio::sync::{mpsc, oneshot};

/// What the engine reacts to.
#[derive(Debug)]
pub(crate) enum Input {
    /// A call of the app.
    Command(Command),
    /// The transport is about to dial: it gets an epoch that is durable.
    NextEpoch { reply: oneshot::Sender<u64> },
    /// The server said STALE_STORE. Answered with whether another attempt makes sense.
    Stale { reply: oneshot::Sender<bool> },
    /// A connection is usable.
    Welcome { connection: u64, welcome: Box<v1::Welcome>, frames: mpsc::Sender<v1::ClientFrame> },
    /// A frame of that connection.
    Frame { connection: u64, frame: Box<v1::ServerFrame> },
    /// That connection has ended.
    Disconnected { connection: u64 },
    /// A request was answered.
    Fetched { fetch: Fetch, answer: Result<FetchAnswer, ServerError> },
}

/// A request that somebody else carries out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fetch {
    /// An account's statements above a version.
    Lists { account: i64, id: AccountId, since: u64 },
    /// Bundles of some devices, for one conversation.
    Bundles { conversation: i64, account: i64, id: AccountId, devices: Vec<DeviceId> },
    /// What the server holds of this device's prekeys.
    Keys,
    /// New prekeys.
    Upload(Box<PrekeyUpload>),
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum FetchAnswer {
    Lists(AccountHistory),
    Bundles(Bundles),
    Keys(KeysState),
}

/// What leaves the engine after the commit of a round.
#[derive(Default)]
struct Effects {
    frames: Vec<v1::ClientFrame>,
    fetches: Vec<Fetch>,
    replies: Vec<Box<dyn FnOnce(bool) + Send>>,
    points: Vec<FaultPoint>,
    drop_link: bool,
    conversations_changed: bool,
    typing_changed: bool,
    presence_changed: bool,
    rows_changed: bool,
    newest_notice: Option<i64>,
    stop: Option<crate::model::StopReason>,
}

/// A usable connection.
struct Link {
    connection: u64,
    frames: mpsc::Sender<v1::ClientFrame>,
    next_id: u64,
    pending: HashMap<u64, Pending>,
    sends_in_flight: usize,
    max_sends: usize,
    max_page: usize,
    caught_up: bool,
    /// When to ask for ticks that are missing, and how long to wait after that.
    ask_ticks_at: u64,
    ask_ticks_pause_ms: u64,
}

/// What a request on the connection was about.
enum Pending {
    Send { conversation: i64, out: i64, since_ms: u64 },
    Page { conversation: i64 },
    States,
    Watch,
    Presence(Reply<Result<(), crate::error::RequestError>>),
}

/// A session set in memory.
struct Sessions {
    set: SessionSet,
    dirty: bool,
    skipped_dirty: bool,
}

/// Everything the engine knows. See the module.
pub(crate) struct Engine {
    store: Store,
    keys: DeviceKeys,
    identity: Option<AccountIdentity>,
    me: SelfRecord,
    me_dirty: bool,
    account: AccountId,
    people: People,
    conversations: HashMap<i64, Conv>,
    of: HashMap<ConversationId, i64>,
    sessions: HashMap<SessionRow, Sessions>,
    chains: HashMap<SessionRow, Vec<(i64, ReceiverChain)>>,
    bundles: HashMap<SessionRow, VerifiedBundle>,
    fetches: round::Fetches,
    /// Conversations with something left to do.
    awake: HashSet<i64>,
    link: Option<Link>,
    next_change: i64,
    next_arrival: i64,
    /// Time, which never goes back, and what the clock showed then.
    now: u64,
    clock_ms: u64,
    keys_checked_ms: u64,
    /// When old keys were last looked for.
    erased_ms: u64,
    typing: HashMap<(i64, AccountId), u64>,
    presence: HashMap<AccountId, crate::model::Presence>,
    stale_before: bool,
    published: Published,
    fault: FaultHook,
    effects: Effects,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Engine")
    }
}

type Result<T, E = StoreError> = std::result::Result<T, E>;

impl Engine {
    fn conv(&mut self, no: i64) -> Result<&mut Conv> {
        self.conversations.get_mut(&no).ok_or(StoreError::Malformed("conversation"))
    }

    fn change(&mut self) -> i64 {
        self.next_change += 1;
        self.next_change
    }

    fn arrival(&mut self) -> i64 {
        self.next_arrival += 1;
        self.next_arrival
    }

    /// The incarnation of this store.
    fn incarnation(&self) -> Result<kith_crypto::Incarnation> {
        let bytes = self.me.incarnation.as_slice().try_into().map_err(|_| StoreError::Malformed("incarnation"))?;
        Ok(kith_crypto::Incarnation::from_bytes(bytes))
    }

    /// Answers a call once the round is durable; if it does not become so, the caller is told that.
    fn reply<T: Send + 'static>(&mut self, reply: Reply<Result<T, crate::error::CallError>>, value: Result<T, crate::error::CallError>) {
        self.effects.replies.push(Box::new(move |durable| {
            let failed = || Err(crate::error::CallError::Storage("the transaction failed".to_owned()));
            let _ = reply.send(if durable { value } else { failed() });
        }));
    }

    fn reply_request<T: Send + 'static>(
        &mut self,
        reply: Reply<Result<T, crate::error::RequestError>>,
        value: Result<T, crate::error::RequestError>,
    ) {
        self.effects.replies.push(Box::new(move |durable| {
            let failed = || Err(crate::error::CallError::Storage("the transaction failed".to_owned()).into());
            let _ = reply.send(if durable { value } else { failed() });
        }));
    }

    /// Tells the user something that is not a message.
    fn notice(&mut self, conversation: i64, kind: NoticeKind) -> Result<()> {
        let record = NoticeRecord { at_ms: self.now, conversation, kind: crate::store::codes::notice_code(kind) };
        self.effects.newest_notice = Some(self.store.add_notice(&record)?);
        Ok(())
    }

    /// Puts an integrity event into a conversation, at a place of its log.
    fn integrity(&mut self, conversation: i64, seq: u64, device: DeviceId, event: Integrity) -> Result<()> {
        let (integrity, extent) = crate::store::codes::integrity_code(event);
        let record = EntryRecord { device: device.as_bytes().to_vec(), at_ms: self.now, integrity, extent, ..EntryRecord::default() };
        self.add_event(conversation, seq, &record)
    }

    fn add_event(&mut self, conversation: i64, seq: u64, record: &EntryRecord) -> Result<()> {
        let new =
            NewEntry { conversation, pos: seq.cast_signed(), role: Role::Event, change: self.change(), arrival: None, place: None, broken: false };
        self.store.add_entry(new, record)?;
        Ok(())
    }

    fn send_frame(&mut self, kind: v1::client_frame::Kind) {
        self.effects.frames.push(v1::ClientFrame { id: 0, kind: Some(kind) });
    }

    /// Sends a request; `None` without a connection.
    fn request(&mut self, kind: v1::client_frame::Kind, pending: Pending) -> Option<()> {
        let link = self.link.as_mut()?;
        link.next_id += 1;
        link.pending.insert(link.next_id, pending);
        self.effects.frames.push(v1::ClientFrame { id: link.next_id, kind: Some(kind) });
        Some(())
    }

    /// The sessions with a device in a conversation, from memory or from the store. What is stored and unreadable is an error (A20).
    fn load_sessions(&mut self, row: SessionRow, pair: kith_crypto::session_set::Pair) -> Result<()> {
        if !self.sessions.contains_key(&row) {
            let set = self.store.sessions(row)?.unwrap_or_else(|| SessionSet::new(pair));
            if *set.pair() != pair {
                return Err(StoreError::Malformed("session"));
            }
            self.sessions.insert(row, Sessions { set, dirty: false, skipped_dirty: false });
        }
        Ok(())
    }
}
