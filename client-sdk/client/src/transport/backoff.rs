//! When to dial again.

use rand::RngExt as _;
use std::time::Duration;

const FIRST_MS: u64 = 250;
const LAST_MS: u64 = 30_000;

/// Doubles with every failure up to half a minute; each wait is a random part of that, so that clients cut off together do not come back together.
#[derive(Debug, Default)]
pub(super) struct BackOff {
    failures: u32,
}

impl BackOff {
    /// A connection was usable.
    pub(super) const fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// How long to wait after this failure.
    pub(super) fn next(&mut self) -> Duration {
        let most = (FIRST_MS << self.failures.min(16)).min(LAST_MS);
        self.failures = self.failures.saturating_add(1);
        Duration::from_millis(rand::rng().random_range(most / 2..=most))
    }

    /// How long to wait when the server asked to come back within a time.
    pub(super) fn within(&self, within_ms: u64) -> Duration {
        Duration::from_millis(rand::rng().random_range(0..=within_ms.min(600_000)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_half_a_minute_and_begin_anew() {
        let mut back_off = BackOff::default();
        assert!(back_off.next() <= Duration::from_millis(FIRST_MS));
        for _ in 0..20 {
            assert!(back_off.next() <= Duration::from_millis(LAST_MS));
        }
        assert!(back_off.next() >= Duration::from_millis(LAST_MS / 2));
        back_off.succeeded();
        assert!(back_off.next() <= Duration::from_millis(FIRST_MS));
        assert!(back_off.within(100) <= Duration::from_millis(100));
    }
}
