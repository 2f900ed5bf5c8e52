//! Deterministic randomness for the tests of this crate.

use rand::SeedableRng;
use rand::rngs::StdRng;

/// A reproducible generator.
pub(crate) fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}
