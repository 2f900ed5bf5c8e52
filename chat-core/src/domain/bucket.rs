//! Token buckets, as the one number that says when a bucket is full again.

/// How much a bucket holds and how fast it refills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Tokens at most.
    pub capacity: u32,
    /// Tokens that come back in a minute.
    pub per_minute: u32,
}

/// A bucket. The default is a full one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bucket {
    /// When it is full again if nothing more is taken; microseconds since the Unix epoch.
    pub full_at_us: u64,
}

impl Rate {
    /// How long one token takes to come back; microseconds.
    pub(crate) fn interval_us(self) -> u64 {
        60_000_000 / u64::from(self.per_minute.max(1))
    }

    /// How long an empty bucket takes to fill; microseconds.
    pub(crate) fn span_us(self) -> u64 {
        self.interval_us() * u64::from(self.capacity)
    }
}

impl Bucket {
    /// Takes one token, at a time in milliseconds.
    ///
    /// # Errors
    /// If the bucket is empty: in how many milliseconds there will be one. The bucket is as it was.
    pub fn take(&mut self, rate: Rate, now_ms: u64) -> Result<(), u64> {
        let now_us = now_ms.saturating_mul(1_000);
        // A clock that was set back must not lock anybody out for longer than an empty bucket does.
        let full_at_us = self.full_at_us.clamp(now_us, now_us.saturating_add(rate.span_us()));
        let after_us = full_at_us.saturating_add(rate.interval_us());
        let latest_us = now_us.saturating_add(rate.span_us());
        if after_us > latest_us {
            return Err((after_us - latest_us).div_ceil(1_000));
        }
        self.full_at_us = after_us;
        Ok(())
    }

    /// Whole tokens that are left.
    #[must_use]
    pub fn remaining(self, rate: Rate, now_ms: u64) -> u32 {
        let missing_us = self.full_at_us.saturating_sub(now_ms.saturating_mul(1_000));
        let missing = missing_us.div_ceil(rate.interval_us());
        rate.capacity.saturating_sub(u32::try_from(missing).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate { capacity: 3, per_minute: 60 };

    #[test]
    fn holds_its_capacity_and_refills() {
        let mut bucket = Bucket::default();
        assert_eq!(bucket.remaining(RATE, 10_000), 3);
        for left in [2, 1, 0] {
            assert_eq!(bucket.take(RATE, 10_000), Ok(()));
            assert_eq!(bucket.remaining(RATE, 10_000), left);
        }
        assert_eq!(bucket.take(RATE, 10_000), Err(1_000));
        assert_eq!(bucket.take(RATE, 10_400), Err(600));
        assert_eq!(bucket.take(RATE, 11_000), Ok(()));
        assert_eq!(bucket.remaining(RATE, 14_000), 3);
    }

    #[test]
    fn a_clock_set_back_locks_nobody_out() {
        let mut bucket = Bucket { full_at_us: u64::MAX };
        assert_eq!(bucket.take(RATE, 5_000), Err(1_000));
        assert_eq!(bucket.take(RATE, 6_000), Err(1_000), "nothing was stored by a refusal");
        let mut bucket = Bucket::default();
        bucket.take(RATE, 1_000_000).unwrap();
        assert!(bucket.take(RATE, 2_000).is_err());
    }

    #[test]
    fn a_capacity_of_none_gives_none() {
        assert!(Bucket::default().take(Rate { capacity: 0, per_minute: 60 }, 1).is_err());
    }

    proptest! {
        #[test]
        fn never_gives_more_than_capacity_and_refill(steps in prop::collection::vec(0_u64..2_000, 1..200)) {
            let (mut bucket, mut now, mut taken) = (Bucket::default(), 1_000_000, 0_u64);
            let start = now;
            for step in steps {
                now += step;
                taken += u64::from(bucket.take(RATE, now).is_ok());
                prop_assert!(taken <= 3 + (now - start) / 1_000);
            }
        }

        #[test]
        fn waiting_as_told_is_enough(steps in prop::collection::vec(0_u64..700, 1..50)) {
            let (mut bucket, mut now) = (Bucket::default(), 1_000_000);
            for step in steps {
                now += step;
                if let Err(after) = bucket.take(RATE, now) {
                    prop_assert!(bucket.take(RATE, now + after).is_ok());
                    now += after;
                }
            }
        }
    }
}
