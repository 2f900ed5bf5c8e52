//! Named places between any two steps of sending and receiving, at which a test may kill its own process.
//!
//! The hook is compiled always and called always, so that what is tested is what is shipped; without a hook a point costs one branch.

use std::fmt;
use std::sync::Arc;

/// A place between two steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultPoint {
    /// The text was taken from the app; nothing is written.
    BeforeQueue,
    /// The text is durable in the outbox; nothing is encrypted.
    AfterQueue,
    /// A message was encrypted and its rows written; the transaction is open.
    Composed,
    /// Ratchet, counters and ciphertext are durable; nothing was sent.
    ComposeCommitted,
    /// The frame was handed to the socket.
    SendWritten,
    /// The server's `Accepted` has arrived; nothing of it is written.
    AcceptedArrived,
    /// `Accepted` was written; the transaction is open.
    AcceptedWritten,
    /// `Accepted` is durable.
    AcceptedCommitted,
    /// A message has arrived; nothing of it is written.
    DeliverArrived,
    /// A message was decrypted and its rows written; the transaction is open.
    DeliverWritten,
    /// Ratchet, inbox, chain and cursor are durable; no acknowledgement was sent.
    DeliverCommitted,
    /// The acknowledgement was handed to the socket.
    AckWritten,
    /// The connection epoch is durable; nothing was dialled.
    EpochCommitted,
}

impl FaultPoint {
    /// Every point, in the order of a message's life.
    pub const ALL: [Self; 13] = [
        Self::BeforeQueue,
        Self::AfterQueue,
        Self::Composed,
        Self::ComposeCommitted,
        Self::SendWritten,
        Self::AcceptedArrived,
        Self::AcceptedWritten,
        Self::AcceptedCommitted,
        Self::DeliverArrived,
        Self::DeliverWritten,
        Self::DeliverCommitted,
        Self::AckWritten,
        Self::EpochCommitted,
    ];

    /// The point with this name, as `Debug` writes it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|point| format!("{point:?}") == name)
    }
}

/// What a test does at a point; see [`crate::ClientBuilder::fault`].
#[derive(Clone, Default)]
pub struct FaultHook(Option<Arc<dyn Fn(FaultPoint) + Send + Sync>>);

impl FaultHook {
    /// Calls `hook` at every point.
    pub fn new(hook: impl Fn(FaultPoint) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hook)))
    }

    pub(crate) fn at(&self, point: FaultPoint) {
        if let Some(hook) = &self.0 {
            hook(point);
        }
    }
}

impl fmt::Debug for FaultHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultHook").field("set", &self.0.is_some()).finish()
    }
}
