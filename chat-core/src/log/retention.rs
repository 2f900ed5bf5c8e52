//! When an entry is too old, by a clock that may jump.

use std::time::Instant;

/// A clock that is off by more than this has jumped.
pub(super) const JUMP_MS: u64 = 60 * 60 * 1000;

/// What expires when.
#[derive(Debug)]
pub(super) struct Retention {
    keep_ms: u64,
    /// What the clock said when the log was opened.
    opened_ms: u64,
    opened: Instant,
}

impl Retention {
    pub(super) fn new(keep_ms: u64, now_ms: u64) -> Self {
        Self { keep_ms, opened_ms: now_ms, opened: Instant::now() }
    }

    /// Accepted before this is too old. `None` after the clock has jumped: better to keep everything than to trust it.
    pub(super) fn cutoff(&self, now_ms: u64) -> Option<u64> {
        let elapsed = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        if has_jumped(self.opened_ms, elapsed, now_ms) { None } else { now_ms.checked_sub(self.keep_ms) }
    }
}

/// Whether a clock that showed `then` shows something else than an hour about `then + elapsed`.
fn has_jumped(then_ms: u64, elapsed_ms: u64, now_ms: u64) -> bool {
    now_ms.abs_diff(then_ms.saturating_add(elapsed_ms)) > JUMP_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_either_way_is_a_jump() {
        assert!(!has_jumped(10 * JUMP_MS, 5, 11 * JUMP_MS));
        assert!(has_jumped(10 * JUMP_MS, 5, 11 * JUMP_MS + 6));
        assert!(!has_jumped(10 * JUMP_MS, 0, 9 * JUMP_MS));
        assert!(has_jumped(10 * JUMP_MS, 0, 9 * JUMP_MS - 1));
    }
}
