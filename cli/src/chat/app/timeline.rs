//! The entries of the conversation on the screen, in order.

use kith_client::{Author, Entry, Position};

/// More than this is not kept on the screen; the oldest go first and can be fetched again.
const MOST: usize = 5_000;

/// Entries by position, each once.
#[derive(Debug, Default)]
pub(in crate::chat) struct Timeline {
    entries: Vec<Entry>,
}

impl Timeline {
    /// Takes entries that are new or have changed.
    pub(super) fn merge(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            match self.entries.iter_mut().rev().find(|known| known.id == entry.id) {
                Some(known) => *known = entry,
                None => self.entries.push(entry),
            }
        }
        // An entry moves when it gets its place in the log.
        self.entries.sort_by_key(Entry::position);
        let surplus = self.entries.len().saturating_sub(MOST);
        self.entries.drain(..surplus);
    }

    /// In order.
    pub(in crate::chat) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Where the oldest stands.
    pub(super) fn oldest(&self) -> Option<Position> {
        self.entries.first().map(Entry::position).filter(|_| self.entries.len() < MOST)
    }

    /// The newest place at which the other has written.
    pub(super) fn newest_of_peer(&self) -> Option<u64> {
        self.entries.iter().rev().filter(|entry| entry.author == Author::Peer).find_map(|entry| entry.seq)
    }
}
