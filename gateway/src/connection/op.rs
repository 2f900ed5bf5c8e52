//! What a connection asks of the log and of the hub, and what comes back. One operation runs at a time per connection; the rest waits its turn, so
//! that a client cannot make the server work in parallel for it.

use kith_chat_core::log::{Behind, ConnectError, Connected, LogError, Page, PageLimit, State};
use kith_proto::{
    id::{AccountId, ConversationId},
    v1,
};

/// Something to be done outside. `request` is the id of the frame that asked, 0 for a notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Raise the device's epoch; on success take over from older connections of the device.
    Connect {
        /// The request.
        request: u64,
        /// The epoch from Hello.
        epoch: u64,
    },
    /// Conversations in which the device is behind.
    Heads,
    /// Let live deliveries in from now on, unless some were dropped since catch-up began; with `force` in any case.
    GoLive {
        /// Even if some were dropped.
        force: bool,
    },
    /// A run of entries to be pushed.
    CatchUp {
        /// The conversation.
        conversation: ConversationId,
        /// What the device has already.
        after: u64,
        /// How far it has to come; what came later may be missing.
        head: u64,
        /// How much.
        limit: PageLimit,
    },
    /// Move cursors.
    Acknowledge {
        /// The request.
        request: u64,
        /// Cursors, at most one per conversation.
        cursors: Vec<(ConversationId, u64)>,
    },
    /// Move the read watermark.
    Read {
        /// The request.
        request: u64,
        /// The conversation.
        conversation: ConversationId,
        /// Seen up to here.
        seq: u64,
    },
    /// A run of entries as an answer.
    Page {
        /// The request.
        request: u64,
        /// The conversation.
        conversation: ConversationId,
        /// After this one.
        after: u64,
        /// How much.
        limit: PageLimit,
    },
    /// Where conversations stand.
    States {
        /// The request.
        request: u64,
        /// Which.
        conversations: Vec<ConversationId>,
    },
    /// Replace the set of watched accounts.
    Watch {
        /// The request.
        request: u64,
        /// Who.
        accounts: Vec<AccountId>,
    },
    /// Change the caller's own presence setting.
    SetPresence {
        /// The request.
        request: u64,
        /// Hidden from others and others from the caller.
        hidden: bool,
    },
    /// Pass a typing notice on, if both have sent.
    Typing {
        /// The request.
        request: u64,
        /// The conversation.
        conversation: ConversationId,
        /// The other member.
        peer: AccountId,
        /// Types, or has stopped.
        active: bool,
    },
}

/// What became of an [`Op`].
#[derive(Debug)]
pub enum Done {
    /// Of [`Op::Connect`].
    Connect {
        /// The request.
        request: u64,
        /// Where the device stands.
        result: Result<Connected, ConnectFailure>,
    },
    /// Of [`Op::Heads`].
    Heads(Result<Vec<Behind>, LogError>),
    /// Of [`Op::GoLive`]: whether nothing was dropped since catch-up began.
    Live {
        /// Nothing was dropped.
        clean: bool,
    },
    /// Of [`Op::CatchUp`].
    CatchUp {
        /// The conversation.
        conversation: ConversationId,
        /// The entries.
        result: Result<Page, LogError>,
    },
    /// Of [`Op::Acknowledge`].
    Acknowledge {
        /// The request.
        request: u64,
        /// As asked.
        cursors: Vec<(ConversationId, u64)>,
        /// Whether they moved.
        result: Result<(), LogError>,
    },
    /// Of [`Op::Read`], [`Op::SetPresence`] and [`Op::Typing`].
    Plain {
        /// The request.
        request: u64,
        /// Whether it was done.
        result: Result<(), LogError>,
    },
    /// Of [`Op::Page`].
    Page {
        /// The request.
        request: u64,
        /// The conversation.
        conversation: ConversationId,
        /// The entries.
        result: Result<Page, LogError>,
    },
    /// Of [`Op::States`].
    States {
        /// The request.
        request: u64,
        /// Where they stand.
        result: Result<Vec<State>, LogError>,
    },
    /// Of [`Op::Watch`]: the current state of those who may be seen.
    Watch {
        /// The request.
        request: u64,
        /// Their presence.
        result: Result<Vec<v1::Presence>, LogError>,
    },
}

/// Why a connection did not come about.
#[derive(Debug)]
pub enum ConnectFailure {
    /// The log said no.
    Refused(ConnectError),
    /// A newer connection of the device, or a cut, came in between.
    Cut(v1::ErrorCode),
}
