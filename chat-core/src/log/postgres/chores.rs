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

/// A conversation is worth a purge when so many acknowledgements have come,
const ENOUGH: u32 = 16;
/// or the first of them so long ago. What a purge costs lies in the conversation more than in its messages.
const AFTER: Duration = Duration::from_secs(16);

#[derive(Debug, Default)]
pub(super) struct Chores {
    /// Some cursor has moved.
    touched: HashMap<ConversationId, Touched>,
    /// Some device reached the head then.
    level: HashMap<ConversationId, Instant>,
}

/// Acknowledgements in a conversation since it was last purged.
#[derive(Debug, Clone, Copy)]
struct Touched {
    times: u32,
    since: Instant,
}

impl Touched {
    fn is_ripe(&self, now: Instant) -> bool {
        self.times >= ENOUGH || now.saturating_duration_since(self.since) >= AFTER
    }
}

impl Chores {
    pub(super) fn acknowledged(&mut self, conversation: ConversationId, level: bool, now: Instant) {
        self.touch(conversation, now);
        if level && (self.level.len() < MOST || self.level.contains_key(&conversation)) {
            self.level.insert(conversation, now);
        }
    }

    fn touch(&mut self, conversation: ConversationId, now: Instant) {
        if self.touched.len() < MOST || self.touched.contains_key(&conversation) {
            self.touched.entry(conversation).or_insert(Touched { times: 0, since: now }).times += 1;
        }
    }

    /// Conversations in which there is something to purge.
    pub(super) fn take_touched(&mut self) -> Vec<ConversationId> {
        std::mem::take(&mut self.touched).into_keys().collect()
    }

    /// Those in which a purge is worth it by now, and all of them while there is little room for more.
    pub(super) fn take_ripe(&mut self, now: Instant) -> Vec<ConversationId> {
        let crowded = self.touched.len() > MOST / 2;
        self.touched.extract_if(|_, touched| crowded || touched.is_ripe(now)).map(|(conversation, _)| conversation).collect()
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

    #[test]
    fn a_purge_waits_for_many_acknowledgements_or_a_while() {
        let (mut chores, busy, quiet, begun) = (Chores::default(), ConversationId([1; 16]), ConversationId([2; 16]), Instant::now());
        chores.acknowledged(quiet, true, begun);
        for _ in 1..ENOUGH {
            chores.acknowledged(busy, true, begun);
        }
        assert!(chores.take_ripe(begun).is_empty());
        chores.acknowledged(busy, true, begun);
        assert_eq!(chores.take_ripe(begun), [busy]);
        chores.acknowledged(quiet, true, begun + AFTER / 2);
        assert!(chores.take_ripe(begun + AFTER / 2).is_empty());
        assert_eq!(chores.take_ripe(begun + AFTER), [quiet]);
        assert!(chores.take_touched().is_empty());
    }
}
