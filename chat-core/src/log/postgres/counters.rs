//! The largest counter that a writer has seen of each device, for a guess at what may be a retry: only the database knows. A guess too few costs an attempt, one too many a slower statement for
//! that conversation. Only within a batch it is no guess: far more devices are remembered than fit in one, and what does not rise there must not go on a chain.

use kith_proto::id::DeviceId;

use crate::domain::Generations;

/// Devices in one generation of the memory.
const GENERATION: usize = 50_000;

#[derive(Debug)]
pub(super) struct Counters(Generations<DeviceId, u64>);

impl Default for Counters {
    fn default() -> Self {
        Self(Generations::new(GENERATION))
    }
}

impl Counters {
    /// Whether this is above everything seen of the device. It is seen now.
    pub(super) fn rises(&mut self, device: DeviceId, counter: u64) -> bool {
        let Some(known) = self.0.get(&device) else {
            self.0.insert(device, counter);
            return counter > 0;
        };
        let rises = counter > *known;
        *known = counter.max(*known);
        rises
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(n: u8) -> DeviceId {
        DeviceId([n; 16])
    }

    #[test]
    fn what_was_seen_does_not_rise_again() {
        let mut counters = Counters::default();
        assert!([1, 2, 9].into_iter().all(|n| counters.rises(device(1), n)));
        assert!([9, 1, 8].into_iter().all(|n| !counters.rises(device(1), n)));
        assert!(counters.rises(device(2), 1) && counters.rises(device(1), 10) && !counters.rises(device(3), 0));
    }
}
