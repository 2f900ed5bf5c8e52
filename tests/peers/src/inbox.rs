//! Whether what one user receives of another is what was sent: every number once, in order.

use std::collections::BTreeSet;

/// Broken promises, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    /// Accepted and never delivered.
    pub(crate) lost: u64,
    /// Delivered twice.
    pub(crate) duplicated: u64,
    /// Delivered after a later one.
    pub(crate) misordered: u64,
}

impl Faults {
    /// Adds up.
    pub(crate) fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.misordered += other.misordered;
    }
}

/// A reader's side.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    last: u64,
    skipped: BTreeSet<u64>,
    faults: Faults,
    /// Stanzas that stream management counts.
    handled: u32,
}

impl Inbox {
    /// A message with this number has come.
    pub(crate) fn take(&mut self, number: u64) {
        if number > self.last {
            self.skipped.extend(self.last + 1..number);
            self.last = number;
        } else if self.skipped.remove(&number) {
            self.faults.misordered += 1;
        } else {
            self.faults.duplicated += 1;
        }
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
        self.last - self.skipped.len() as u64
    }

    /// What is wrong, if messages 1 to `accepted` had to come.
    pub(crate) fn faults(&self, accepted: u64) -> Faults {
        let missing = self.skipped.iter().filter(|number| **number <= accepted).count() as u64;
        Faults { lost: missing + accepted.saturating_sub(self.last), ..self.faults }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_told_apart() {
        let mut inbox = Inbox::default();
        [1, 2, 5, 3, 5, 1].into_iter().for_each(|number| inbox.take(number));
        assert_eq!(inbox.taken(), 4);
        assert_eq!(inbox.faults(7), Faults { lost: 3, duplicated: 2, misordered: 1 });
        assert_eq!(inbox.faults(3), Faults { lost: 0, duplicated: 2, misordered: 1 });
        assert_eq!(Inbox::default().faults(0), Faults::default());
    }
}
