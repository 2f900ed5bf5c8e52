//! The buckets of one process.
//!
//! Memory is bounded whatever comes, and only buckets that were not used for a long while are forgotten.

use std::hash::RandomState;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::{BucketKey, Buckets, BucketsError, Take};
use crate::domain::{Bucket, Clock, Generations, Rate};

/// Buckets in one generation; twice as many are kept at most. A bucket takes about 64 bytes.
const BUCKETS: usize = 131_072;

/// Buckets in memory, for one process.
#[derive(Debug)]
pub struct MemoryBuckets {
    clock: Clock,
    /// Some keys are chosen by strangers: hashed as the standard library does.
    buckets: Mutex<Generations<BucketKey, Bucket, RandomState>>,
}

impl MemoryBuckets {
    /// Full ones.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { clock, buckets: Mutex::new(Generations::new(BUCKETS)) }
    }

    /// As [`Buckets::take`], at once.
    pub fn take_now(&self, key: BucketKey, rate: Rate) -> Take {
        let now_ms = self.clock.now_ms();
        let mut buckets = self.buckets.lock();
        let taken = |bucket: &mut Bucket| bucket.take(rate, now_ms).map_or_else(|after_ms| Take::Empty { after_ms }, |()| Take::Taken);
        if let Some(bucket) = buckets.get(&key) {
            return taken(bucket);
        }
        let mut bucket = Bucket::default();
        let take = taken(&mut bucket);
        buckets.insert(key, bucket);
        take
    }

    /// As [`Buckets::remaining`] of one, at once.
    #[must_use]
    pub fn remaining_now(&self, key: BucketKey, rate: Rate) -> u32 {
        let now_ms = self.clock.now_ms();
        let bucket = self.buckets.lock().peek(&key).copied().unwrap_or_default();
        bucket.remaining(rate, now_ms)
    }
}

#[async_trait]
impl Buckets for MemoryBuckets {
    async fn take(&self, key: BucketKey, rate: Rate) -> Result<Take, BucketsError> {
        Ok(self.take_now(key, rate))
    }

    async fn remaining(&self, buckets: &[(BucketKey, Rate)]) -> Result<Vec<u32>, BucketsError> {
        Ok(buckets.iter().map(|(key, rate)| self.remaining_now(*key, *rate)).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::sessions::buckets::conformance::{self, Fixture};

    struct Memory(Arc<MemoryBuckets>);

    #[async_trait(?Send)]
    impl Fixture for Memory {
        async fn new() -> Self {
            Self(Arc::new(MemoryBuckets::new(Clock::System)))
        }

        async fn member(&self) -> Arc<dyn Buckets> {
            Arc::clone(&self.0) as _
        }
    }

    conformance::bucket_tests!(Memory);

    const ONE: Rate = Rate { capacity: 1, per_minute: 1 };

    fn key(n: u64) -> BucketKey {
        let mut of = [0; 32];
        of[..8].copy_from_slice(&n.to_be_bytes());
        BucketKey { kind: b'x', of }
    }

    #[test]
    fn the_number_of_buckets_is_bounded_and_one_in_use_outlives_a_flood_of_others() {
        let buckets = MemoryBuckets::new(Clock::Manual(Arc::default()));
        assert_eq!(buckets.take_now(key(u64::MAX), ONE), Take::Taken);
        for n in 0..4 * BUCKETS as u64 {
            assert_eq!(buckets.take_now(key(n), ONE), Take::Taken);
            if n % 10_000 == 0 {
                assert_ne!(buckets.take_now(key(u64::MAX), ONE), Take::Taken);
            }
        }
        assert!(buckets.buckets.lock().len() <= 2 * BUCKETS);
    }
}
