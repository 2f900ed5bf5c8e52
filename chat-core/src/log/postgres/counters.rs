//! The largest counter that a writer has seen of each device, for a guess at what may be a retry: only the database knows. A guess too few costs an attempt, one too many a slower statement for
//! that conversation.

use kith_proto::id::DeviceId;

use crate::domain::IdMap;

/// Devices in each half of the memory: when one half is full the other, older half is forgotten.
const HALF: usize = 50_000;

#[derive(Debug, Default)]
pub(super) struct Counters {
    recent: IdMap<DeviceId, u64>,
    older: IdMap<DeviceId, u64>,
}

impl Counters {
    /// Whether this is above everything seen of the device. It is seen now.
    pub(super) fn rises(&mut self, device: DeviceId, counter: u64) -> bool {
        if let Some(known) = self.recent.get_mut(&device) {
            let rises = counter > *known;
            *known = counter.max(*known);
            return rises;
        }
        let known = self.older.remove(&device).unwrap_or(0);
        if self.recent.len() >= HALF {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(device, counter.max(known));
        counter > known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(n: usize) -> DeviceId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&n.to_be_bytes());
        DeviceId(id)
    }

    #[test]
    fn what_was_seen_does_not_rise_again() {
        let mut counters = Counters::default();
        assert!([1, 2, 9].into_iter().all(|n| counters.rises(device(1), n)));
        assert!([9, 1, 8].into_iter().all(|n| !counters.rises(device(1), n)));
        assert!(counters.rises(device(2), 1) && counters.rises(device(1), 10));
    }

    #[test]
    fn it_is_bounded_and_who_sends_is_remembered() {
        let mut counters = Counters::default();
        for n in 0..4 * HALF {
            counters.rises(device(n), 5);
            assert!(n == 0 || n % 1_000 != 0 || !counters.rises(device(0), 5));
        }
        assert!(counters.recent.len() + counters.older.len() <= 2 * HALF);
        assert!(counters.rises(device(1), 5), "forgotten");
    }
}
