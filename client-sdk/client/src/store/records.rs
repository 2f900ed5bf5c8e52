//! What the rows hold once they are unsealed. Protobuf, so that a later version can add fields; `Debug` shows nothing.

use prost::Message;

/// Who this store belongs to and where its counters stand.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(crate) struct SelfRecord {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) account: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) device: Vec<u8>,
    #[prost(string, tag = "3")]
    pub(crate) username: String,
    /// `scheme://host:port` of the server.
    #[prost(string, tag = "4")]
    pub(crate) origin: String,
    /// Whether the server has confirmed the registration.
    #[prost(bool, tag = "5")]
    pub(crate) registered: bool,
    #[prost(bytes = "vec", tag = "6")]
    pub(crate) incarnation: Vec<u8>,
    /// D: the last device counter given to a message.
    #[prost(uint64, tag = "7")]
    pub(crate) counter: u64,
    /// The last connection epoch used.
    #[prost(uint64, tag = "8")]
    pub(crate) epoch: u64,
    /// The next free prekey id.
    #[prost(uint32, tag = "9")]
    pub(crate) next_prekey: u32,
    /// The store was found to be rolled back and the prekeys are not replaced on the server yet: nothing may be sent.
    #[prost(bool, tag = "10")]
    pub(crate) rolled_back: bool,
    /// Signed statements of the registration, until it is confirmed: certificate, list.
    #[prost(bytes = "vec", tag = "11")]
    pub(crate) certificate: Vec<u8>,
    #[prost(bytes = "vec", tag = "12")]
    pub(crate) list: Vec<u8>,
    /// Entropy of the recovery key, until the registration is confirmed and the words were given out.
    #[prost(bytes = "vec", tag = "13")]
    pub(crate) recovery: Vec<u8>,
}

/// An account: its pinned list and the certificates that later lists refer to.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(crate) struct AccountRecord {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) id: Vec<u8>,
    #[prost(string, optional, tag = "2")]
    pub(crate) username: Option<String>,
    /// Empty until a list was verified.
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) list: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub(crate) certificates: Vec<Vec<u8>>,
    #[prost(bool, tag = "5")]
    pub(crate) verified: bool,
}

/// A device of somebody.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(crate) struct DeviceRecord {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) id: Vec<u8>,
    /// The highest signed prekey id seen from it; 0 for none.
    #[prost(uint32, tag = "2")]
    pub(crate) newest_signed: u32,
    /// When sessions with it were repaired.
    #[prost(uint64, repeated, tag = "3")]
    pub(crate) repairs: Vec<u64>,
    /// When its repair requests were answered.
    #[prost(uint64, repeated, tag = "4")]
    pub(crate) answers: Vec<u64>,
}

/// Where a conversation stands.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(crate) struct ConversationRecord {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) id: Vec<u8>,
    /// The row of the peer's account; 0 while unknown.
    #[prost(int64, tag = "2")]
    pub(crate) peer: i64,
    #[prost(bool, tag = "3")]
    pub(crate) accepted: bool,
    /// Everything up to this place is durable here.
    #[prost(uint64, tag = "4")]
    pub(crate) seq: u64,
    /// L of that place; empty after a hole, until a message of somebody else anchors it anew.
    #[prost(bytes = "vec", tag = "5")]
    pub(crate) log: Vec<u8>,
    #[prost(uint64, tag = "6")]
    pub(crate) unread: u64,
    #[prost(uint64, tag = "7")]
    pub(crate) read: u64,
    #[prost(uint64, tag = "8")]
    pub(crate) peer_delivered: u64,
    #[prost(uint64, tag = "9")]
    pub(crate) peer_read: u64,
    #[prost(uint64, tag = "10")]
    pub(crate) proved: u64,
    /// A [`crate::Blocked`] as number, 0 for none.
    #[prost(uint32, tag = "11")]
    pub(crate) blocked: u32,
    /// This device's sender chain; empty before the first message of the incarnation.
    #[prost(bytes = "vec", tag = "12")]
    pub(crate) chain: Vec<u8>,
    #[prost(uint64, tag = "13")]
    pub(crate) at_ms: u64,
    #[prost(message, repeated, tag = "14")]
    pub(crate) peers: Vec<PeerRecord>,
    /// The newest place of an own message.
    #[prost(uint64, tag = "15")]
    pub(crate) own_head: u64,
}

/// What is owed to one device in one conversation.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(crate) struct PeerRecord {
    #[prost(int64, tag = "1")]
    pub(crate) device: i64,
    /// Messages received from it without having sent to it.
    #[prost(uint32, tag = "2")]
    pub(crate) unanswered: u32,
    #[prost(uint64, tag = "3")]
    pub(crate) oldest_ms: u64,
    /// A session of its began, and nothing was sent since.
    #[prost(bool, tag = "4")]
    pub(crate) first: bool,
    /// Messages of its that could not be read since the last that could.
    #[prost(uint32, tag = "5")]
    pub(crate) holes: u32,
    #[prost(uint64, tag = "6")]
    pub(crate) jitter_ms: u64,
}

/// A line of a conversation.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(crate) struct EntryRecord {
    #[prost(bool, tag = "1")]
    pub(crate) mine: bool,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) device: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) client_msg_id: Vec<u8>,
    #[prost(uint64, tag = "4")]
    pub(crate) at_ms: u64,
    /// Kind byte of the content.
    #[prost(uint32, tag = "5")]
    pub(crate) kind: u32,
    /// The content's body as received.
    #[prost(bytes = "vec", tag = "6")]
    pub(crate) body: Vec<u8>,
    /// The content's head: kept of own messages, so that the very same content can be sent again to a device that could not read it.
    #[prost(bytes = "vec", tag = "7")]
    pub(crate) head: Vec<u8>,
    #[prost(bytes = "vec", tag = "8")]
    pub(crate) c_k: Vec<u8>,
    /// An [`crate::Undecryptable`] as number, 0 for none.
    #[prost(uint32, tag = "9")]
    pub(crate) undecryptable: u32,
    /// 0 impossible, 1 waiting, 2 requested, 3 given up.
    #[prost(uint32, tag = "10")]
    pub(crate) repair: u32,
    #[prost(uint32, tag = "11")]
    pub(crate) attempts: u32,
    /// An [`crate::Integrity`] as number, 0 for none.
    #[prost(uint32, tag = "12")]
    pub(crate) integrity: u32,
    /// How many a gap lacks, or where a missing range ends.
    #[prost(uint64, tag = "13")]
    pub(crate) extent: u64,
    #[prost(bool, tag = "14")]
    pub(crate) failed: bool,
    /// List versions it was sent with: a device linked later is not sent it again.
    #[prost(uint64, tag = "15")]
    pub(crate) recipient_list: u64,
    #[prost(uint64, tag = "16")]
    pub(crate) sender_list: u64,
}

/// A message on its way out.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(crate) struct OutboxRecord {
    /// The entry it belongs to; 0 for messages nobody sees.
    #[prost(int64, tag = "1")]
    pub(crate) entry: i64,
    #[prost(uint32, tag = "2")]
    pub(crate) kind: u32,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) client_msg_id: Vec<u8>,
    /// The body of the content.
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) body: Vec<u8>,
    /// The encoded `Send`; empty until composed. A retry sends these very bytes.
    #[prost(bytes = "vec", tag = "5")]
    pub(crate) frame: Vec<u8>,
    /// The sender chain before it was composed, for the case that the server refuses it for good reasons and it is made anew.
    #[prost(bytes = "vec", tag = "6")]
    pub(crate) chain_before: Vec<u8>,
    /// Devices with which to begin a new session (repair).
    #[prost(int64, repeated, tag = "7")]
    pub(crate) renew: Vec<i64>,
    /// For checkpoints: the only devices addressed.
    #[prost(int64, repeated, tag = "8")]
    pub(crate) only: Vec<i64>,
    #[prost(uint64, tag = "9")]
    pub(crate) counter: u64,
    /// The head and hash of the composed content, and the list versions it was made with; they move to the entry with the server's acceptance.
    #[prost(bytes = "vec", tag = "10")]
    pub(crate) head: Vec<u8>,
    #[prost(bytes = "vec", tag = "11")]
    pub(crate) c_k: Vec<u8>,
    #[prost(uint64, tag = "12")]
    pub(crate) sender_list: u64,
    #[prost(uint64, tag = "13")]
    pub(crate) recipient_list: u64,
}

/// Something to tell the user.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(crate) struct NoticeRecord {
    #[prost(uint64, tag = "1")]
    pub(crate) at_ms: u64,
    /// The row of the conversation; 0 for none.
    #[prost(int64, tag = "2")]
    pub(crate) conversation: i64,
    /// A [`crate::NoticeKind`] as number.
    #[prost(uint32, tag = "3")]
    pub(crate) kind: u32,
}

macro_rules! silent_debug {
    ($($name:ident),+) => {$(
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    )+};
}
silent_debug!(SelfRecord, AccountRecord, DeviceRecord, ConversationRecord, PeerRecord, EntryRecord, OutboxRecord, NoticeRecord);
