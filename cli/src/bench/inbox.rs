//! What one device has received of one conversation, and whether it is what was sent.
//!
//! The wire delivers at least once and in any order; the log's `seq` gives the order. So entries are put in order by `seq` first, as every client must,
//! and only then the sender's own numbers (1, 2, 3 … inside the payload) are compared: a number that never comes is lost, one that comes at two places
//! of the log is duplicated, one that comes after a larger one is misordered.

use std::collections::{BTreeMap, BTreeSet};

/// Entries of one conversation in the order of the log.
#[derive(Debug)]
pub(super) struct Inbox {
    /// The seq that comes next.
    next: u64,
    /// Entries that came early, with the sender's number if they carry one.
    early: BTreeMap<u64, Option<u64>>,
    /// The largest number seen.
    last: u64,
    /// Smaller numbers that have not been seen.
    skipped: BTreeSet<u64>,
    /// What was wrong so far.
    faults: Faults,
    /// Entries that the wire delivered again, which it may.
    repeats: u64,
    /// Messages of the peer taken in order.
    taken: u64,
}

/// Broken promises, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Faults {
    /// Accepted and never delivered.
    pub(super) lost: u64,
    /// At two places of the log.
    pub(super) duplicated: u64,
    /// After a later one.
    pub(super) misordered: u64,
}

impl Faults {
    /// Adds up.
    pub(super) fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.misordered += other.misordered;
    }

    /// Whether every promise was kept.
    pub(super) fn none(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Inbox {
    fn default() -> Self {
        Self { next: 1, early: BTreeMap::new(), last: 0, skipped: BTreeSet::new(), faults: Faults::default(), repeats: 0, taken: 0 }
    }
}

impl Inbox {
    /// Takes an entry; `number` is the peer's own for its messages, `None` for everything else. Returns whether it is new.
    pub(super) fn take(&mut self, seq: u64, number: Option<u64>) -> bool {
        if seq < self.next || self.early.contains_key(&seq) {
            self.repeats += u64::from(number.is_some());
            return false;
        }
        if seq > self.next {
            self.early.insert(seq, number);
            return true;
        }
        self.advance(number);
        while let Some(number) = self.early.remove(&self.next) {
            self.advance(number);
        }
        true
    }

    fn advance(&mut self, number: Option<u64>) {
        self.next += 1;
        let Some(number) = number else { return };
        self.taken += 1;
        if number > self.last {
            self.skipped.extend(self.last + 1..number);
            self.last = number;
        } else if self.skipped.remove(&number) {
            self.faults.misordered += 1;
        } else {
            self.faults.duplicated += 1;
        }
    }

    /// Everything up to here has been received: what may be acknowledged.
    pub(super) fn contiguous(&self) -> u64 {
        self.next - 1
    }

    /// Whether something later has come while something earlier is missing.
    pub(super) fn has_hole(&self) -> bool {
        !self.early.is_empty()
    }

    /// The peer's messages received in order so far.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Entries that the wire delivered more than once.
    pub(super) fn repeats(&self) -> u64 {
        self.repeats
    }

    /// The verdict, if the peer's messages up to `accepted` were accepted.
    pub(super) fn faults(&self, accepted: u64) -> Faults {
        let skipped = self.skipped.range(..=accepted).count() as u64;
        Faults { lost: skipped + accepted.saturating_sub(self.last), ..self.faults }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inbox(entries: &[(u64, Option<u64>)]) -> Inbox {
        let mut inbox = Inbox::default();
        for (seq, number) in entries {
            inbox.take(*seq, *number);
        }
        inbox
    }

    #[test]
    fn what_comes_as_sent_has_no_faults() {
        let inbox = inbox(&[(1, Some(1)), (2, None), (3, Some(2))]);
        assert_eq!((inbox.contiguous(), inbox.taken(), inbox.repeats()), (3, 2, 0));
        assert_eq!(inbox.faults(2), Faults::default());
    }

    #[test]
    fn the_wire_may_repeat_and_reorder() {
        let mut inbox = inbox(&[(2, Some(2)), (2, Some(2))]);
        assert!(inbox.has_hole());
        assert_eq!(inbox.contiguous(), 0);
        assert!(inbox.take(1, Some(1)));
        assert!(!inbox.take(1, Some(1)));
        assert!(!inbox.has_hole());
        assert_eq!((inbox.contiguous(), inbox.taken(), inbox.repeats()), (2, 2, 2));
        assert!(inbox.faults(2).none());
    }

    #[test]
    fn the_same_message_at_two_places_is_duplicated() {
        assert_eq!(inbox(&[(1, Some(1)), (2, Some(1))]).faults(1).duplicated, 1);
    }

    #[test]
    fn a_later_message_first_is_misordered_and_not_lost() {
        assert_eq!(inbox(&[(1, Some(2)), (2, Some(1))]).faults(2), Faults { lost: 0, duplicated: 0, misordered: 1 });
    }

    #[test]
    fn accepted_and_missing_is_lost_in_the_middle_at_the_end_and_in_a_hole() {
        assert_eq!(inbox(&[(1, Some(1)), (2, Some(3))]).faults(3).lost, 1);
        assert_eq!(inbox(&[(1, Some(1))]).faults(3).lost, 2);
        assert_eq!(inbox(&[(1, Some(1)), (3, Some(3))]).faults(3).lost, 2, "what cannot be shown in order has not arrived");
        assert_eq!(inbox(&[(1, Some(1)), (2, Some(3))]).faults(1).lost, 0, "2 was never accepted");
    }
}
