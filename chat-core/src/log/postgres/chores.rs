//! What may be tidied up: noted by those who notice, done by the keeper. Nothing is lost if it is forgotten: the sweep finds what may be purged, and a mark
//! that is left costs a look.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use kith_proto::id::ConversationId;

/// Conversations remembered of each kind.
const MOST: usize = 1 << 17;
/// Devices that have been level for so long are no longer marked as behind. Long against the pauses of a conversation, since clearing a mark and setting it
/// again both cost a row.
const LEVEL_FOR: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct Chores {
    /// Some cursor has moved.
    touched: HashMap<ConversationId, ()>,
    /// Some device reached the head then.
    level: HashMap<ConversationId, Instant>,
}

impl Chores {
    pub(super) fn acknowledged(&mut self, conversation: ConversationId, level: bool, now: Instant) {
        self.touch(conversation);
        if level && (self.level.len() < MOST || self.level.contains_key(&conversation)) {
            self.level.insert(conversation, now);
        }
    }

    pub(super) fn touch(&mut self, conversation: ConversationId) {
        if self.touched.len() < MOST {
            self.touched.insert(conversation, ());
        }
    }

    /// Conversations to be purged.
    pub(super) fn take_touched(&mut self) -> Vec<ConversationId> {
        std::mem::take(&mut self.touched).into_keys().collect()
    }

    /// Conversations in which marks are to be cleared.
    pub(super) fn take_level(&mut self, now: Instant) -> Vec<ConversationId> {
        self.level.extract_if(|_, since| now.saturating_duration_since(*since) >= LEVEL_FOR).map(|(conversation, _)| conversation).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_cleared_when_it_has_been_quiet() {
        let (mut chores, id, begun) = (Chores::default(), ConversationId([1; 16]), Instant::now());
        chores.acknowledged(id, true, begun);
        chores.acknowledged(id, true, begun + LEVEL_FOR / 2);
        assert!(chores.take_level(begun + LEVEL_FOR).is_empty());
        assert_eq!(chores.take_level(begun + LEVEL_FOR * 2), [id]);
        assert!(chores.take_level(begun + LEVEL_FOR * 3).is_empty());
        assert_eq!(chores.take_touched(), [id]);
        assert!(chores.take_touched().is_empty());
    }
}
