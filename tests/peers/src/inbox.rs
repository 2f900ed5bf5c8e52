//! What one user receives of another.

use kith_meter::{Faults, Numbers};

/// A reader's side.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    numbers: Numbers,
    /// Stanzas that stream management counts.
    handled: u32,
}

impl Inbox {
    /// A message with this number has come.
    pub(crate) fn take(&mut self, number: u64) {
        self.numbers.take(number);
    }

    /// A stanza of whatever kind has come; returns how many that makes.
    pub(crate) fn count(&mut self) -> u32 {
        self.handled = self.handled.wrapping_add(1);
        self.handled
    }

    /// What to acknowledge.
    pub(crate) fn handled(&self) -> u32 {
        self.handled
    }

    /// Different messages that have come.
    pub(crate) fn taken(&self) -> u64 {
        self.numbers.taken()
    }

    /// What is wrong, if messages 1 to `accepted` had to come.
    pub(crate) fn faults(&self, accepted: u64) -> Faults {
        self.numbers.faults(accepted)
    }
}
