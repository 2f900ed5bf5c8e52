//! Events that could not be worked on.

use super::{Event, Topic, Unreadable};

/// Where something is in a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Which partition.
    pub partition: i32,
    /// Which place in it.
    pub offset: i64,
}

/// An event that a group could not work on, with what is known about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Where it is among the dead letters.
    pub place: Place,
    /// Of which topic.
    pub topic: Topic,
    /// Where it was there.
    pub origin: Place,
    /// The group that gave up.
    pub group: String,
    /// Why: the code that its handler gave, `deadline`, `panicked`, or why it could not be read.
    pub reason: String,
    /// After how many attempts.
    pub attempts: u32,
    /// When; Unix milliseconds.
    pub at_ms: u64,
    /// The key of the event.
    pub key: [u8; 16],
    /// The event as it was published.
    pub payload: Vec<u8>,
}

impl DeadLetter {
    /// The event, if this program can read it.
    ///
    /// # Errors
    /// If it cannot.
    pub fn event(&self) -> Result<Event, Unreadable> {
        Event::from_payload(&self.payload)
    }
}
