//! When a message passed where, for measuring. Nothing is decided by it.

use std::time::Instant;

/// What a message has behind it.
#[derive(Debug, Default)]
pub struct Course {
    /// The transaction that it was part of; set by the log.
    pub commit: Option<CommitTimes>,
    /// It is one of the few that are followed all the way. The log hands this on untouched.
    pub trace: Option<Box<Trace>>,
}

/// One transaction; the same for all messages of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitTimes {
    /// The batch was taken out of the queue.
    pub taken: Instant,
    /// It was durable, or refused.
    pub committed: Instant,
}

/// A message that is followed, under ids that are drawn for it and say nothing about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    /// All that happens to the message.
    pub id: u128,
    /// What has happened to it so far, to which the next is added.
    pub span: u64,
    /// It came into this process.
    pub received: Instant,
    /// It was handed to the log, or to the connections here if it comes from another gateway.
    pub submitted: Instant,
}
