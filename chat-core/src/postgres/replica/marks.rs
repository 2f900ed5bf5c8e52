//! Where the primary was, and when. A replica's lag is told by whether it has come to an old mark: by no clock but ours, and also when nothing is written.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Marks within the time that counts as lag.
const MOST: u32 = 8;

/// Positions in the primary's log, oldest first.
#[derive(Debug, Default)]
pub(super) struct Marks(VecDeque<(Instant, String)>);

impl Marks {
    /// Remembers where the primary is, unless that was done just now.
    pub(super) fn add(&mut self, now: Instant, position: String, lag: Duration) {
        if self.0.back().is_none_or(|(at, _)| now.duration_since(*at) >= lag / MOST) {
            self.0.push_back((now, position));
        }
    }

    /// The newest that is at least so old; older ones are forgotten.
    pub(super) fn older_than(&mut self, now: Instant, lag: Duration) -> Option<&str> {
        let old = self.0.iter().take_while(|(at, _)| now.duration_since(*at) >= lag).count();
        self.0.drain(..old.saturating_sub(1));
        self.0.front().filter(|_| old > 0).map(|(_, position)| position.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_old_enough_counts_and_few_are_kept() {
        let (begun, lag) = (Instant::now(), Duration::from_secs(8));
        let mut marks = Marks::default();
        assert_eq!(marks.older_than(begun, lag), None);
        for ms in (0..60_000_u64).step_by(100) {
            let now = begun + Duration::from_millis(ms);
            marks.add(now, ms.to_string(), lag);
            let expected = (ms >= 8_000).then(|| ((ms - 8_000) / 1_000 * 1_000).to_string());
            assert_eq!(marks.older_than(now, lag), expected.as_deref());
            assert!(marks.0.len() <= 10);
        }
    }
}
