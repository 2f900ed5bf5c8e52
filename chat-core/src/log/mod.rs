//! The message log: the one order of every conversation, and where each device stands in it.
//!
//! A direct conversation is created by its first append. Its entries are numbered 1, 2, 3 … without a hole, in the order in which they were committed.
//! An append is idempotent by (conversation, sender device, client message id) for as long as the entry is kept. An entry is kept until every member
//! device, the sender's included, has acknowledged it, or its retention is over.
//!
//! What may be lost by a crash is only what is written behind: cursors and watermarks may fall back by about a second, which delivers again. Nothing
//! that was answered `Accepted` is ever lost, and nothing is purged that the durable cursors do not cover.

#[cfg(test)]
pub(crate) mod conformance;
mod course;
mod overdue;
pub mod postgres;
mod retention;
mod row;
mod sqlite;

#[cfg(fuzzing)]
pub use self::sqlite::fuzzed_row;
pub(crate) use self::sqlite::{Hot, LogWriter};
pub use self::{
    course::{CommitTimes, Course, Trace},
    overdue::{Found, Overdue, OverdueMessage, Terms},
    sqlite::SqliteOverdue,
};

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use kith_proto::{
    id::{AccountId, ClientMsgId, ConversationId, DeviceId, DeviceRef},
    v1,
};

/// One message to append. Ids and lengths were checked at the edge: `conversation` is the direct conversation of `sender.account` and `recipient`.
#[derive(Debug)]
pub struct Append {
    /// Whatever lets the caller find its request again; the log returns it untouched.
    pub ticket: Ticket,
    /// The conversation appended to.
    pub conversation: ConversationId,
    /// The sending device.
    pub sender: DeviceRef,
    /// The epoch of the connection that it was sent on. What comes late, when the device has connected anew, appends nothing.
    pub epoch: u64,
    /// The other member.
    pub recipient: AccountId,
    /// Makes the append idempotent.
    pub client_msg_id: ClientMsgId,
    /// The sender device's own counter; the largest accepted one is kept for the device.
    pub device_counter: u64,
    /// A checkpoint may leave out devices.
    pub checkpoint: bool,
    /// Opens a gate that an earlier refusal has shut.
    pub restart: bool,
    /// Version of the sender's device list that the message was made with; travels along.
    pub sender_list_version: u64,
    /// Version of the recipient's.
    pub recipient_list_version: u64,
    /// Ciphertext, opaque.
    pub body: Bytes,
    /// One per device of the recipient.
    pub slices: Vec<v1::Slice>,
    /// One per other device of the sender.
    pub own_slices: Vec<v1::Slice>,
    /// Shared by all appends of this conversation on this connection: after a refusal those already queued behind it are refused as well.
    pub gate: Arc<Gate>,
    /// What the limits at the edge said. A duplicate is answered even if they said no.
    pub admission: Admission,
    /// When it passed where.
    pub course: Course,
}

/// Names a request of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// The connection.
    pub connection: u64,
    /// The frame's id.
    pub request: u64,
}

/// Shut by a refusal, opened by an append that carries `restart`.
#[derive(Debug, Default)]
pub struct Gate(AtomicBool);

impl Gate {
    /// Whether an earlier append was refused.
    #[must_use]
    pub fn is_shut(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Refuses what follows.
    pub fn shut(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Lets appends through again.
    pub fn open(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Whether an append may become a new entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// Yes.
    Admitted,
    /// Only if it is a duplicate, which is always answered; otherwise it is refused with this.
    DuplicateOnly(Refusal),
}

/// An append with what became of it. Batches of these leave the log in commit order.
#[derive(Debug)]
pub struct Resolved {
    /// The append as it was submitted; body and slices are there for live delivery.
    pub append: Append,
    /// Its fate.
    pub outcome: Outcome,
}

/// The fate of an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Durable. A duplicate carries the original seq and time and is to be delivered again like a new one.
    Accepted {
        /// Its place in the conversation.
        seq: u64,
        /// When it was first accepted; Unix milliseconds.
        at_ms: u64,
        /// It had been accepted before.
        duplicate: bool,
        /// Both members have sent by now, so that receipts, typing and presence flow.
        mutual: bool,
    },
    /// Nothing was stored.
    Refused(Refusal),
}

/// Why an append was refused. The order of the checks is: duplicate (accepted), gate, admission, recipient, devices.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// An earlier append of the conversation on this connection was refused.
    #[error("an earlier message of this conversation was refused")]
    EarlierRefused,
    /// A limit was reached.
    #[error("too many messages")]
    RateLimited {
        /// Try again after this many milliseconds.
        after_ms: u64,
    },
    /// The recipient does not exist.
    #[error("unknown recipient")]
    UnknownRecipient,
    /// The sending device is not, or no longer, on its account's list.
    #[error("the sending device is revoked")]
    SenderRevoked,
    /// Slices and device lists differ.
    #[error("the device lists have changed")]
    DevicesChanged {
        /// On a list but without a slice.
        missing: Vec<DeviceRef>,
        /// With a slice but on no list.
        extra: Vec<DeviceRef>,
    },
    /// The disk is full or failing.
    #[error("storage is unavailable")]
    StorageUnavailable,
}

/// An entry of the log as one device sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place, from 1.
    pub seq: u64,
    /// When it was accepted; Unix milliseconds; not falling within a conversation.
    pub at_ms: u64,
    /// Who sent it.
    pub sender: DeviceRef,
    /// The sender's name for it.
    pub client_msg_id: ClientMsgId,
    /// Rings nothing, counts as nothing unread.
    pub checkpoint: bool,
    /// The sender's list version at composition.
    pub sender_list_version: u64,
    /// The recipient's list version at composition.
    pub recipient_list_version: u64,
    /// What there is for this device.
    pub payload: Payload,
}

/// What an entry holds for one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// Body and the device's own slice.
    Sealed {
        /// The body.
        body: Bytes,
        /// The slice.
        slice: Bytes,
    },
    /// Nothing, and why.
    Absent(v1::AbsentReason),
}

/// A range, both ends included, of which this device will get nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbsentRange {
    /// The first seq.
    pub from: u64,
    /// The last seq.
    pub to: u64,
    /// Why.
    pub reason: v1::AbsentReason,
}

/// A run of a conversation, contiguous from the seq asked for when `absent` and `entries` are taken together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Ranges before or between the entries.
    pub absent: Vec<AbsentRange>,
    /// Entries in ascending order.
    pub entries: Vec<Entry>,
    /// The newest seq of the conversation.
    pub head: u64,
}

/// How much a page may hold; at least one entry is returned if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLimit {
    /// Entries.
    pub entries: usize,
    /// Bytes of bodies and slices.
    pub bytes: usize,
}

/// A conversation in which a device has something to fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behind {
    /// The device.
    pub device: DeviceRef,
    /// The conversation.
    pub conversation: ConversationId,
    /// Acknowledged up to here.
    pub cursor: u64,
    /// The newest seq.
    pub head: u64,
}

/// A watermark that an acknowledgement or a read mark has moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// The conversation.
    pub conversation: ConversationId,
    /// Whose watermark.
    pub account: AccountId,
    /// The other member, who is to be told if `mutual`.
    pub peer: AccountId,
    /// The furthest any device of the account has got, checkpoints at the end not counted: nobody sees them come, so nobody is told that they did.
    pub delivered: u64,
    /// Seen by the user.
    pub read: u64,
    /// Both members have sent.
    pub mutual: bool,
}

/// Where a conversation stands for one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// The conversation.
    pub conversation: ConversationId,
    /// The newest seq.
    pub head: u64,
    /// The oldest seq still kept; `head + 1` when none is.
    pub first: u64,
    /// This device's cursor.
    pub cursor: u64,
    /// Own account's read watermark.
    pub own_read: u64,
    /// The other member.
    pub peer: AccountId,
    /// The other member's delivered watermark; to be shown only if `mutual`.
    pub peer_delivered: u64,
    /// The other member's read watermark.
    pub peer_read: u64,
    /// Both have sent.
    pub mutual: bool,
}

/// What a device learns when it connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connected {
    /// The largest `device_counter` ever accepted from the device.
    pub device_counter: u64,
    /// The epoch before this one.
    pub previous_epoch: u64,
    /// The account's newest device list.
    pub device_list_version: u64,
    /// Unused one-time X25519 and KEM prekeys that are left.
    pub one_time_left: (u32, u32),
}

/// Why a device may not connect.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The epoch is not greater than the one known.
    #[error("the store's epoch is not newer than the one known")]
    StaleStore {
        /// The one known.
        known: u64,
    },
    /// The device was revoked, or never existed.
    #[error("the device is revoked")]
    Revoked,
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// A failure of the log itself. Nothing was changed unless the operation is one that may be repeated.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The caller is no member of the conversation, or it does not exist.
    #[error("not a member of the conversation")]
    NotAMember,
    /// An acknowledgement or read mark above the head.
    #[error("beyond the head of the conversation")]
    BeyondHead,
    /// The queue is full; try again.
    #[error("the log is overloaded")]
    Overloaded,
    /// The disk is full or failing, or the log has stopped.
    #[error("storage is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What was deleted since the last purge told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Purged {
    /// Entries deleted because every member device has them.
    pub delivered: u64,
    /// Entries deleted because their retention was over.
    pub expired: u64,
}

/// The port. Implementations own the tasks or threads they need and end them when dropped.
#[async_trait]
pub trait MessageLog: Send + Sync + std::fmt::Debug {
    /// Queues an append. Its [`Resolved`] comes, in commit order, on the channel that the implementation was opened with.
    ///
    /// # Errors
    /// Gives the append back if the queue is full.
    fn submit(&self, append: Append) -> Result<(), Box<Append>>;

    /// Raises the device's connection epoch by compare-and-set and tells where it stands. Batched with appends into one commit.
    async fn connect(&self, device: DeviceRef, epoch: u64) -> Result<Connected, ConnectError>;

    /// Conversations in which these devices have not acknowledged the head, in time proportional to their number.
    async fn behind(&self, devices: &[DeviceRef]) -> Result<Vec<Behind>, LogError>;

    /// Entries after `after` as `device` sees them.
    async fn page(&self, device: DeviceRef, conversation: ConversationId, after: u64, limit: PageLimit) -> Result<Page, LogError>;

    /// As [`Self::page`], to bring a device level with `head`, which the caller has read from [`Self::behind`]: reaches that, or else its own head says that
    /// there is more. What came after `head` may be missing, so that a copy of the log may answer.
    async fn catch_up(&self, device: DeviceRef, conversation: ConversationId, after: u64, head: u64, limit: PageLimit) -> Result<Page, LogError> {
        let _ = head;
        self.page(device, conversation, after, limit).await
    }

    /// Moves cursors of a device (by maximum). Written behind; visible at once to `behind`, `states` and this method. Cursors of conversations the
    /// device is no member of, or above the head, fail the whole call and change nothing.
    async fn acknowledge(&self, device: DeviceRef, cursors: &[(ConversationId, u64)]) -> Result<Vec<Moved>, LogError>;

    /// Moves the account's read watermark (by maximum).
    async fn mark_read(&self, device: DeviceRef, conversation: ConversationId, seq: u64) -> Result<Option<Moved>, LogError>;

    /// Where conversations stand; those the account is no member of are left out.
    async fn states(&self, device: DeviceRef, conversations: &[ConversationId]) -> Result<Vec<State>, LogError>;

    /// Those of `others` with whom `account` has a conversation in which both have sent.
    async fn mutual(&self, account: AccountId, others: &[AccountId]) -> Result<Vec<AccountId>, LogError>;

    /// The accounts with whom `account` has a conversation in which both have sent: at most `limit`, the most recent first (give or take the second
    /// for which an implementation may keep the time of the last message to itself).
    async fn mutual_of(&self, account: AccountId, limit: usize) -> Result<Vec<AccountId>, LogError>;

    /// Deletes what every member device has acknowledged and what is older than the retention; the latter not while the clock is off by more than an
    /// hour. An implementation may also do both by itself at any time: tells what was deleted since the last call.
    async fn purge(&self, now_ms: u64) -> Result<Purged, LogError>;

    /// Returns when everything acknowledged before the call is durable.
    async fn flush(&self) -> Result<(), LogError>;
}

/// The ids of one account's current devices; what slices are checked against.
pub type Devices = Vec<DeviceId>;
