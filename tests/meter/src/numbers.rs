//! The sender's own numbers (1, 2, 3 …) as they come out at the other end: one that never comes is lost, one that comes twice is duplicated, one that comes
//! after a larger one is misordered.

use std::collections::BTreeSet;

/// Broken promises, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// Accepted and never delivered.
    pub lost: u64,
    /// Delivered as two messages.
    pub duplicated: u64,
    /// After a later one.
    pub misordered: u64,
}

impl Faults {
    /// Adds up.
    pub fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.misordered += other.misordered;
    }

    /// Whether every promise was kept.
    #[must_use]
    pub fn none(&self) -> bool {
        *self == Self::default()
    }
}

/// The numbers of one sender that have come, in memory that grows only with what is missing.
#[derive(Debug, Default)]
pub struct Numbers {
    /// The largest one.
    last: u64,
    /// Smaller ones that have not come.
    skipped: BTreeSet<u64>,
    faults: Faults,
}

impl Numbers {
    /// This one has come.
    pub fn take(&mut self, number: u64) {
        if number > self.last {
            self.skipped.extend(self.last + 1..number);
            self.last = number;
        } else if self.skipped.remove(&number) {
            self.faults.misordered += 1;
        } else {
            self.faults.duplicated += 1;
        }
    }

    /// Different ones that have come.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.last - self.skipped.len() as u64
    }

    /// The verdict, if 1 to `accepted` had to come.
    #[must_use]
    pub fn faults(&self, accepted: u64) -> Faults {
        let skipped = self.skipped.range(..=accepted).count() as u64;
        Faults { lost: skipped + accepted.saturating_sub(self.last), ..self.faults }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_told_apart() {
        let mut numbers = Numbers::default();
        [1, 2, 5, 3, 5, 1].into_iter().for_each(|number| numbers.take(number));
        assert_eq!(numbers.taken(), 4);
        assert_eq!(numbers.faults(7), Faults { lost: 3, duplicated: 2, misordered: 1 });
        assert_eq!(numbers.faults(3), Faults { lost: 0, duplicated: 2, misordered: 1 });
        assert!(Numbers::default().faults(0).none());
    }
}
