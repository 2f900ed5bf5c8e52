//! Token buckets that all gateways of a service take from: what somebody may do in a minute does not grow with the number of gateways.
//!
//! Like the directory this may be empty, late or away at any time, and whoever asks goes on without it: a bucket that is forgotten is full again. What must not
//! be forgotten is counted in the database.
//!
//! [`MemoryBuckets`] are those of one process, [`RedisDirectory`](super::redis::RedisDirectory) has those that many share.

mod memory;

#[cfg(test)]
pub(super) mod conformance;

use async_trait::async_trait;

pub use self::memory::MemoryBuckets;
use crate::domain::Rate;

/// Names a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BucketKey {
    /// What is limited; different letters are different limits.
    pub kind: u8,
    /// Whose it is: an account, or account and device, or an address.
    pub of: [u8; 32],
}

/// What became of taking a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// There was one.
    Taken,
    /// There is none, and nothing has changed.
    Empty {
        /// There will be one in so many milliseconds.
        after_ms: u64,
    },
}

/// The buckets cannot be asked just now. Nobody is refused for that.
#[derive(Debug, thiserror::Error)]
#[error("the shared limits are unavailable")]
pub struct BucketsError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// The port. Every method has a deadline of its own (at most 300 ms) and fails rather than waits.
#[async_trait]
pub trait Buckets: Send + Sync + std::fmt::Debug {
    /// Takes a token, in one step, however many ask at the same time.
    async fn take(&self, key: BucketKey, rate: Rate) -> Result<Take, BucketsError>;

    /// Whole tokens that are left in each, in the order asked.
    async fn remaining(&self, buckets: &[(BucketKey, Rate)]) -> Result<Vec<u32>, BucketsError>;
}
