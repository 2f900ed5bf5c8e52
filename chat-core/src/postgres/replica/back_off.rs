//! How long a replica rests that was found away.

use std::time::Duration;

#[derive(Debug)]
pub(super) struct BackOff {
    pub(super) look_every: Duration,
    rest: Duration,
}

impl BackOff {
    /// After so many strikes the rest grows no longer: 32 times the first.
    pub(super) const STRIKES: u32 = 6;

    pub(super) fn new(look_every: Duration, rest: Duration) -> Self {
        Self { look_every, rest }
    }

    /// After the first strike the shortest, and twice as long with each further one.
    pub(super) fn pause(&self, strikes: u32) -> Duration {
        self.rest * 2_u32.pow(strikes.clamp(1, Self::STRIKES) - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_grow_up_to_a_bound() {
        let back_off = BackOff::new(Duration::from_secs(5), Duration::from_secs(1));
        assert_eq!([0, 1, 2, 6, u32::MAX].map(|strikes| back_off.pause(strikes).as_secs()), [1, 1, 2, 32, 32]);
    }
}
