//! What one device has received of one conversation, and whether it is what was sent.
//!
//! The wire delivers at least once and in any order; the log's `seq` gives the order. So entries are put in order by `seq` first, as every client must,
//! and only then the sender's own numbers (1, 2, 3 … inside the payload) are compared.

use std::collections::BTreeMap;

use kith_meter::{Faults, Numbers};

/// Entries of one conversation in the order of the log.
#[derive(Debug)]
pub(super) struct Inbox {
    /// The seq that comes next.
    next: u64,
    /// Entries that came early, with the sender's number if they carry one.
    early: BTreeMap<u64, Option<u64>>,
    /// The peer's own numbers, in that order.
    numbers: Numbers,
    /// Entries that the wire delivered again, which it may.
    repeats: u64,
    /// Messages of the peer taken in order.
    taken: u64,
}

impl Default for Inbox {
    fn default() -> Self {
        Self { next: 1, early: BTreeMap::new(), numbers: Numbers::default(), repeats: 0, taken: 0 }
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
        self.numbers.take(number);
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
        self.numbers.faults(accepted)
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
