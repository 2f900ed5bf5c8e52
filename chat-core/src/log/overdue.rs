//! Messages whose acknowledgement is overdue: for whoever tells devices that are asleep.
//!
//! Everything that was accepted is looked at once, in the order in which it was accepted, when it has had time enough to be acknowledged. How far that has come is a
//! watermark in the log's own database, by that database's clock, so that it matters neither which process looks nor what its clock says.
//!
//! # Why no message is passed over
//!
//! Messages are seen when they are committed, which is another order than that of their times. So what is looked at lies so far back that whatever was going to be
//! committed with an earlier time has been: a commit takes far less than the 30 s that design rule 9 asks for, or fails. In the embedded database, which
//! one process has, rows are numbered in the order of their commits. A clock that was set back takes the watermark back with it.
//!
//! # Once, or again
//!
//! The watermark moves when [`Overdue::done`] says that what was found is dealt with. Whoever dies before that leaves it to the next one, who finds it again. What was acknowledged
//! a moment ago may be among it: a hint to fetch a message is for whoever has fetched it no harm.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use kith_proto::id::{ConversationId, DeviceRef};

use super::LogError;

/// What counts as overdue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// A message that is older and that some device has not acknowledged. At least 30 s, or a slow commit may be passed over.
    pub after: Duration,
    /// A watermark that is older than this is taken for none, and looking begins at the present: messages are kept no longer.
    pub retention: Duration,
}

/// A message that some current device has not acknowledged, other than the one that sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverdueMessage {
    /// Where it is.
    pub conversation: ConversationId,
    /// Which it is.
    pub seq: u64,
    /// When it was accepted; Unix milliseconds.
    pub at_ms: u64,
    /// The devices that lack it: at least one.
    pub devices: Vec<DeviceRef>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Another process looks.
    Elsewhere,
    /// What comes after the watermark, in an order that is that of their numbers within each conversation.
    Here {
        /// Checkpoints left out, which wake nobody, and what everybody has.
        messages: Vec<OverdueMessage>,
        /// There is more to be looked at now.
        more: bool,
        /// How long ago all this could have been looked at, at most.
        late: Duration,
    },
}

/// The port. Every method has a deadline.
#[async_trait]
pub trait Overdue: Send + fmt::Debug {
    /// Looks at the next `limit` messages at most. The same again until they are [`done`](Self::done).
    ///
    /// # Errors
    /// If the database cannot be asked.
    async fn next(&mut self, limit: usize) -> Result<Found, LogError>;

    /// What was found last is dealt with.
    ///
    /// # Errors
    /// If the database cannot be asked. What was found may then be found again.
    async fn done(&mut self) -> Result<(), LogError>;

    /// Lets another process look.
    async fn release(&mut self);
}

/// A watermark that moves over nothing but messages that everybody has is written down when it has come so far: what is looked at again after a fall is little.
pub(super) const WRITTEN_EVERY_MS: i64 = 10_000;

/// As databases count. Tests may ask for what is not there yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct TermsMs {
    pub(super) after: i64,
    pub(super) retention: i64,
}

impl From<Terms> for TermsMs {
    fn from(terms: Terms) -> Self {
        let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4);
        Self { after: ms(terms.after), retention: ms(terms.retention) }
    }
}

/// How late a look is that begins here.
pub(super) fn late(from_ms: i64, upto_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(upto_ms.saturating_sub(from_ms)).unwrap_or(0))
}
