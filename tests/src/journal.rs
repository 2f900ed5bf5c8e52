//! What one person saw of one conversation, and whether two people saw the same.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context as _, bail, ensure};
use kith_proto::{
    id::ClientMsgId,
    v1::{AbsentReason, Accepted, Deliver},
};

/// A conversation as one side saw it: own messages from their `Accepted`, the peer's from `Deliver`.
#[derive(Debug, Default)]
pub struct Journal {
    entries: BTreeMap<u64, Entry>,
    by_id: HashMap<ClientMsgId, u64>,
    contiguous: u64,
    /// Up to here everything was compared and forgotten.
    forgotten: u64,
    /// Own messages among the forgotten, and when the last of all was accepted.
    forgotten_own: u64,
    forgotten_at_ms: u64,
    /// Deliveries of what had been delivered before.
    pub repeats: u64,
}

/// Messages that must never be accepted, because whoever could accept them must know that it may not, are numbered from here.
pub const GHOST: u64 = 1 << 48;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The sender's name for it.
    pub id: ClientMsgId,
    /// Sent by the owner of the journal.
    pub own: bool,
    /// When it was accepted.
    pub at_ms: u64,
    /// Its number among the sender's messages, from the body.
    pub number: u64,
}

impl Journal {
    /// Up to here nothing is missing.
    #[must_use]
    pub fn contiguous(&self) -> u64 {
        self.contiguous
    }

    /// Something above a hole is known.
    #[must_use]
    pub fn has_hole(&self) -> bool {
        self.entries.last_key_value().is_some_and(|(seq, _)| *seq > self.contiguous)
    }

    /// The highest place known.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.entries.last_key_value().map_or(self.forgotten, |(seq, _)| *seq)
    }

    /// Forgets what was compared. Nothing may be missing.
    fn forget(&mut self) {
        self.forgotten_own += self.entries.values().filter(|entry| entry.own).count() as u64;
        self.forgotten_at_ms = self.entries.last_key_value().map_or(self.forgotten_at_ms, |(_, entry)| entry.at_ms);
        self.forgotten = self.contiguous;
        self.entries.clear();
        self.by_id.clear();
    }

    /// Notes that an own message has its place.
    ///
    /// # Errors
    /// If that contradicts what was seen before.
    pub fn accepted(&mut self, number: u64, accepted: &Accepted) -> anyhow::Result<()> {
        let id = ClientMsgId::try_from(accepted.client_msg_id.as_ref())?;
        self.enter(accepted.seq, Entry { id, own: true, at_ms: accepted.at_ms, number })
    }

    /// Notes a delivery. One's own messages come as absent and are only compared.
    ///
    /// # Errors
    /// If that contradicts what was seen before.
    pub fn delivered(&mut self, deliver: &Deliver) -> anyhow::Result<()> {
        let id = ClientMsgId::try_from(deliver.client_msg_id.as_ref())?;
        match deliver.absent() {
            AbsentReason::Unspecified => {
                let number = number_of(&deliver.body)?;
                self.enter(deliver.seq, Entry { id, own: false, at_ms: deliver.at_ms, number })
            }
            AbsentReason::Own => match self.entries.get(&deliver.seq) {
                Some(known) if known.id != id => bail!("seq {} was {:?} and is {id:?}", deliver.seq, known.id),
                _ => Ok(()),
            },
            reason => bail!("seq {} is absent: {reason:?}", deliver.seq),
        }
    }

    fn enter(&mut self, seq: u64, entry: Entry) -> anyhow::Result<()> {
        ensure!(entry.number < GHOST, "seq {seq} is a message from before an interruption, which nobody may handle");
        if seq <= self.forgotten {
            self.repeats += 1;
            return Ok(());
        }
        if let Some(known) = self.entries.get(&seq) {
            ensure!(*known == entry, "seq {seq} was {known:?} and is {entry:?}");
            self.repeats += 1;
            return Ok(());
        }
        if let Some(other) = self.by_id.insert(entry.id, seq) {
            bail!("message {} of {} has two places: {other} and {seq}", entry.number, if entry.own { "mine" } else { "the peer" });
        }
        self.entries.insert(seq, entry);
        while self.entries.contains_key(&(self.contiguous + 1)) {
            self.contiguous += 1;
        }
        Ok(())
    }

    /// Own messages, in their order.
    fn own_numbers(&self) -> Vec<u64> {
        self.entries.values().filter(|entry| entry.own).map(|entry| entry.number).collect()
    }
}

/// A body that carries its number.
#[must_use]
pub fn body(number: u64, size: usize) -> Vec<u8> {
    let mut body = number.to_be_bytes().to_vec();
    body.resize(size.max(8), 0xAB);
    body
}

/// The number in a body.
///
/// # Errors
/// If the body is too short.
pub fn number_of(body: &[u8]) -> anyhow::Result<u64> {
    let first = body.first_chunk().with_context(|| format!("a body of {} bytes", body.len()))?;
    Ok(u64::from_be_bytes(*first))
}

/// Both people saw the same messages at the same places, without a hole; each sender's are there once and in order, `sent` of them in all.
///
/// # Errors
/// Names the first thing that does not hold.
pub fn agree(one: &Journal, other: &Journal, sent: (u64, u64)) -> anyhow::Result<()> {
    let head = one.head();
    ensure!(one.forgotten == other.forgotten, "one has forgotten more than the other");
    ensure!(one.contiguous == head && !other.has_hole() && other.contiguous == head, "holes: {} and {} of {head}", one.contiguous, other.contiguous);
    let mut before = one.forgotten_at_ms;
    for ((seq, mine), (_, theirs)) in one.entries.iter().zip(&other.entries) {
        let same = mine.id == theirs.id && mine.own != theirs.own && mine.number == theirs.number && mine.at_ms == theirs.at_ms;
        ensure!(same, "seq {seq} is {mine:?} for one and {theirs:?} for the other");
        ensure!(mine.at_ms >= before, "time went back at seq {seq}");
        before = mine.at_ms;
    }
    for (journal, sent) in [(one, sent.0), (other, sent.1)] {
        let numbers = journal.own_numbers();
        ensure!(numbers.iter().copied().eq(journal.forgotten_own + 1..=sent), "of {sent} accepted messages the order is {numbers:?}");
    }
    Ok(())
}

/// Compares like [`agree`], then forgets what was compared, so that a conversation may go on for ever. Returns how many messages were compared.
///
/// # Errors
/// As [`agree`].
pub fn agree_and_forget(one: &mut Journal, other: &mut Journal, sent: (u64, u64)) -> anyhow::Result<u64> {
    agree(one, other, sent)?;
    let compared = one.entries.len() as u64;
    one.forget();
    other.forget();
    Ok(compared)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(seq: u64, id: u8) -> Accepted {
        Accepted { client_msg_id: vec![id; 16].into(), seq, at_ms: seq, duplicate: false }
    }

    fn deliver(seq: u64, id: u8, number: u64) -> Deliver {
        Deliver { seq, at_ms: seq, client_msg_id: vec![id; 16].into(), body: body(number, 8).into(), ..Deliver::default() }
    }

    /// Alice sends 1, Bob answers, Alice sends 2.
    fn told() -> (Journal, Journal) {
        let (mut alice, mut bob) = (Journal::default(), Journal::default());
        for (seq, id, number) in [(1, 1, 1), (3, 3, 2)] {
            alice.accepted(number, &accepted(seq, id)).unwrap();
            bob.delivered(&deliver(seq, id, number)).unwrap();
        }
        alice.delivered(&deliver(2, 2, 1)).unwrap();
        bob.accepted(1, &accepted(2, 2)).unwrap();
        (alice, bob)
    }

    #[test]
    fn two_who_saw_the_same_agree() {
        let (alice, bob) = told();
        agree(&alice, &bob, (2, 1)).unwrap();
    }

    #[test]
    fn a_lost_message_is_noticed() {
        let (mut alice, bob) = told();
        alice.accepted(3, &accepted(4, 4)).unwrap();
        assert!(agree(&alice, &bob, (3, 1)).is_err());
        let (alice, bob) = told();
        assert!(agree(&alice, &bob, (3, 1)).is_err());
    }

    #[test]
    fn a_doubled_or_renamed_message_is_noticed() {
        let (mut alice, _) = told();
        assert!(alice.delivered(&deliver(4, 2, 1)).is_err());
        assert!(alice.delivered(&deliver(2, 9, 1)).is_err());
        alice.delivered(&deliver(2, 2, 1)).unwrap();
        assert_eq!(alice.repeats, 1);
    }

    #[test]
    fn what_was_forgotten_is_still_counted() {
        let (mut alice, mut bob) = told();
        assert_eq!(agree_and_forget(&mut alice, &mut bob, (2, 1)).unwrap(), 3);
        agree(&alice, &bob, (2, 1)).unwrap();
        bob.delivered(&deliver(3, 3, 2)).unwrap();
        assert_eq!((alice.head(), bob.head(), bob.repeats), (3, 3, 1));
        // The same message at a second place carries a number that was there before.
        alice.accepted(2, &accepted(4, 3)).unwrap();
        bob.delivered(&deliver(4, 3, 2)).unwrap();
        assert!(agree(&alice, &bob, (3, 1)).is_err());
    }

    #[test]
    fn a_ghost_is_noticed() {
        assert!(Journal::default().delivered(&deliver(1, 1, GHOST)).is_err());
    }

    #[test]
    fn a_wrong_order_is_noticed() {
        let (mut alice, mut bob) = (Journal::default(), Journal::default());
        for (seq, id, number) in [(1, 1, 2), (2, 2, 1)] {
            alice.accepted(number, &accepted(seq, id)).unwrap();
            bob.delivered(&deliver(seq, id, number)).unwrap();
        }
        assert!(agree(&alice, &bob, (2, 0)).is_err());
    }
}
