//! What the app sees: values only.
//!
//! Everything that holds text, names or ids of people has a `Debug` that shows none of it, so that a stray `{:?}` in a log leaks nothing.

use kith_proto::id::{AccountId, ClientMsgId, ConversationId, DeviceId};
use std::fmt;

/// Who this client is.
#[derive(Clone, PartialEq, Eq)]
pub struct Me {
    /// The account.
    pub account: AccountId,
    /// This device.
    pub device: DeviceId,
    /// The username.
    pub username: String,
}

/// How the connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionState {
    /// Not connected; another attempt follows by itself.
    Offline {
        /// Milliseconds until that attempt, counted from this change.
        retry_in_ms: u64,
    },
    /// Dialling, logging in, saying hello.
    Connecting,
    /// Connected; what was missed is coming in.
    CatchingUp,
    /// Connected, and nothing is missing.
    Online,
    /// Not connected, and no attempt follows.
    Stopped(StopReason),
}

/// Why no further attempt to connect is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// The app shut the client down.
    ShutDown,
    /// This device was taken off its account's list.
    Revoked,
    /// Another process uses a copy of this store.
    OtherProcess,
    /// The server does not speak this protocol version.
    UnsupportedVersion,
    /// The server does not know this account or device.
    UnknownDevice,
    /// The store failed; what was not durable was never reported as done.
    StoreFailed,
}

/// A direct conversation.
#[derive(Clone, PartialEq, Eq)]
pub struct Conversation {
    /// Its id.
    pub id: ConversationId,
    /// The other account.
    pub peer: AccountId,
    /// The other's username: as looked up by this user, or as the server names someone who wrote first. `None` while unknown. The server's word either way;
    /// who it is, the safety number says.
    pub username: Option<String>,
    /// Whether this user has accepted the conversation, by writing or by [`crate::Client::accept`].
    pub accepted: bool,
    /// Messages of the other that are not read here.
    pub unread: u64,
    /// The newest position stored here.
    pub head: u64,
    /// How far this user has read.
    pub read: u64,
    /// How far the other's devices have it.
    pub peer_delivered: u64,
    /// How far the other has read.
    pub peer_read: u64,
    /// Up to where the other's devices have proved, inside the encryption, to have the same log as this device.
    pub proved: u64,
    /// Whether the user compared the safety number, and it still holds.
    pub verified: bool,
    /// Set when sending is held back for safety.
    pub blocked: Option<Blocked>,
    /// Time of the newest entry, Unix milliseconds.
    pub at_ms: u64,
}

/// Why sending in a conversation is held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocked {
    /// The account's keys changed without its recovery key saying so.
    KeysChanged,
    /// The server shows an older or another device list than the one known.
    ListRefused,
    /// The server asks for a device that the account never signed.
    GhostDevice,
    /// The server refuses this conversation for good.
    Refused,
}

/// Names an entry on this device; ascending in the order in which entries came to be here, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EntryId(pub i64);

/// Where an entry stands in its conversation: first by place in the log (pending ones last), then by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The place in the log; `u64::MAX` while pending.
    pub seq: u64,
    /// The entry.
    pub id: EntryId,
}

/// One line of a conversation.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name on this device.
    pub id: EntryId,
    /// The conversation.
    pub conversation: ConversationId,
    /// Its place in the log; `None` while pending.
    pub seq: Option<u64>,
    /// When: the server's time once it has a seq, this device's before. Unix milliseconds.
    pub at_ms: u64,
    /// Who wrote it.
    pub author: Author,
    /// With which device.
    pub device: DeviceId,
    /// The sender's name for it.
    pub client_msg_id: ClientMsgId,
    /// What it is.
    pub body: EntryBody,
    /// For this user's own messages: how far they got.
    pub tick: Option<Tick>,
    /// Its turn in [`crate::Client::received`].
    pub arrival: Arrival,
}

/// A place in the stream of what has arrived. An app that stores the last one it has dealt with resumes exactly there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Arrival(pub i64);

impl Entry {
    /// Where it stands in its conversation.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { seq: self.seq.unwrap_or(u64::MAX), id: self.id }
    }

    /// The text, if it is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        if let EntryBody::Text(text) = &self.body { Some(text) } else { None }
    }
}

/// Who wrote an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Author {
    /// This user, on this or another device.
    Me,
    /// The other.
    Peer,
}

/// What an entry is.
#[derive(Clone, PartialEq, Eq)]
pub enum EntryBody {
    /// Text.
    Text(String),
    /// Authentic, but of a kind or version that this build does not know; kept, and to be shown as such.
    Unknown {
        /// The kind byte of the content.
        kind: u8,
    },
    /// Not readable here, for now or for good.
    Undecryptable {
        /// Why.
        reason: Undecryptable,
        /// What is being done about it.
        repair: Repair,
    },
    /// Part of the log that this device does not get.
    Missing {
        /// The last place of the range that begins at the entry's own.
        to: u64,
        /// Why.
        reason: Undecryptable,
    },
    /// Something is wrong with the order or the numbering of what arrived.
    Integrity(Integrity),
}

/// Why something cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undecryptable {
    /// No session fits it.
    NoSession,
    /// It does not authenticate.
    NotAuthentic,
    /// Its key was used, or is too old.
    KeyGone,
    /// The prekeys it was made with are gone.
    PrekeyGone,
    /// A first message that was seen before.
    Replayed,
    /// Its device is not on the sender's signed list.
    UnknownDevice,
    /// The sender is no member of the conversation.
    NotAMember,
    /// It does not have the form of a message.
    Malformed,
    /// The slice is authentic and its body is not.
    BadBody,
    /// It was sent by this device before its store was rolled back.
    LostByRollback,
    /// It is older than this device.
    BeforeLinked,
    /// The server no longer has it.
    Expired,
}

/// What is being done about an undecryptable message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Nothing can be.
    Impossible,
    /// The sender will be asked.
    Waiting,
    /// The sender was asked.
    Requested {
        /// How often.
        attempts: u32,
    },
    /// The sender was asked as often as is reasonable.
    GivenUp,
}

/// What a receiver can notice by the sender's own numbering and the hash chains, whatever the server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integrity {
    /// Messages of this sender device are missing before this place.
    Gap {
        /// How many.
        missing: u64,
    },
    /// A message was shown again.
    Replay,
    /// Two different histories of the same sender device.
    Fork,
    /// The sender saw another order of the log than this device.
    Reorder,
    /// The sender's store began anew: a new incarnation.
    SenderRestarted,
    /// This device's own store was rolled back.
    OwnRollback,
}

/// How far an own message got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tick {
    /// The server refused it for good.
    Failed,
    /// In the outbox.
    Pending,
    /// Durable on the server: one tick.
    Sent,
    /// A device of the other has it: two ticks.
    Delivered,
    /// The other saw it: two coloured ticks.
    Read,
}

/// Who is typing.
#[derive(Clone, PartialEq, Eq)]
pub struct Typing {
    /// Where.
    pub conversation: ConversationId,
    /// Who.
    pub account: AccountId,
}

/// Whether someone is there.
#[derive(Clone, PartialEq, Eq)]
pub struct Presence {
    /// Who.
    pub account: AccountId,
    /// Connected now.
    pub online: bool,
    /// When last seen, Unix milliseconds; `None` when online, unknown or hidden.
    pub last_seen_ms: Option<u64>,
}

/// Something the user should know that is not a message.
#[derive(Clone, PartialEq, Eq)]
pub struct Notice {
    /// Ascending; never reused.
    pub id: i64,
    /// When it was noticed here, Unix milliseconds.
    pub at_ms: u64,
    /// The conversation it concerns.
    pub conversation: Option<ConversationId>,
    /// What.
    pub kind: NoticeKind,
}

/// The kinds of notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeKind {
    /// A contact signed a new device.
    NewDevice,
    /// A contact removed a device.
    DeviceRemoved,
    /// A contact's recovery key replaced the identity key: the safety number changed.
    KeysRotated,
    /// The server shows keys for a contact that do not follow from the known ones. Sending is held back.
    KeysChanged,
    /// The server shows an old, forked or badly signed device list. It was refused.
    ListRefused,
    /// The server asks for slices for a device that its account never signed. It gets none.
    GhostDevice,
    /// A session began without a one-time key: first messages are protected by weekly keys only.
    NoOneTimeKey,
    /// A session began with the last-resort post-quantum key.
    LastResortKey,
    /// This store was copied back from an older state: sessions and prekeys were replaced.
    StoreRolledBack,
    /// A contact's store began anew.
    ContactRestarted,
    /// An own device was added.
    OwnDeviceAdded,
    /// An own device was removed.
    OwnDeviceRemoved,
    /// A contact was shown another list of this account's devices than the real one.
    OwnListForged,
    /// The store key lies in a file that only this user may read: anyone who copies the folder can read the store.
    StoreKeyInFile,
}

/// One of this account's devices.
#[derive(Clone, PartialEq, Eq)]
pub struct OwnDevice {
    /// The device.
    pub device: DeviceId,
    /// Whether it is this one.
    pub this: bool,
    /// When it was linked, Unix milliseconds.
    pub linked_ms: u64,
    /// When the server last saw it, Unix milliseconds; `None` if never.
    pub last_seen_ms: Option<u64>,
}

/// Sixty digits that two people compare to know that nobody is between them.
#[derive(Clone, PartialEq, Eq)]
pub struct SafetyNumber {
    /// Twelve groups of five digits, in order.
    pub digits: String,
}

/// The 24 words that can replace a lost first device. Shown once and stored nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct RecoveryWords(pub(crate) zeroize::Zeroizing<String>);

impl RecoveryWords {
    /// The words, separated by single spaces.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! quiet_debug {
    ($($name:ident),+) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )+};
}
quiet_debug!(Me, Conversation, Typing, Presence, OwnDevice, SafetyNumber, RecoveryWords);

impl fmt::Debug for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notice").field("id", &self.id).field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("id", &self.id).field("seq", &self.seq).field("tick", &self.tick).finish_non_exhaustive()
    }
}

impl fmt::Debug for EntryBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text(..)"),
            Self::Unknown { kind } => f.debug_struct("Unknown").field("kind", kind).finish(),
            Self::Undecryptable { reason, repair } => f.debug_struct("Undecryptable").field("reason", reason).field("repair", repair).finish(),
            Self::Missing { to, reason } => f.debug_struct("Missing").field("to", to).field("reason", reason).finish(),
            Self::Integrity(event) => f.debug_tuple("Integrity").field(event).finish(),
        }
    }
}
