//! How many connections may speak HTTP at a time.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

/// A bounded number of slots, in all and per address.
#[derive(Debug)]
pub(super) struct Slots {
    most: usize,
    most_per_address: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_address: HashMap<[u8; 16], usize>,
}

/// A slot, free again when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    address: Option<[u8; 16]>,
}

impl Slots {
    pub(super) fn new(most: usize, most_per_address: usize) -> Self {
        Self { most, most_per_address, taken: Mutex::default() }
    }

    /// A slot, if one is free. Without an address only the whole is counted.
    pub(super) fn take(self: &Arc<Self>, address: Option<[u8; 16]>) -> Option<Slot> {
        let mut taken = self.taken.lock();
        if taken.all >= self.most {
            return None;
        }
        if let Some(address) = address {
            let here = taken.by_address.entry(address).or_default();
            if *here >= self.most_per_address {
                return None;
            }
            *here += 1;
        }
        taken.all += 1;
        Some(Slot { slots: Arc::clone(self), address })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.taken.lock();
        taken.all -= 1;
        let Some(address) = self.address else { return };
        if let Some(here) = taken.by_address.get_mut(&address) {
            *here -= 1;
            if *here == 0 {
                taken.by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_bounded_and_come_back() {
        let slots = Arc::new(Slots::new(4, 2));
        let (a, b) = (Some([1; 16]), Some([2; 16]));
        let mut held: Vec<_> = [a, a].into_iter().map(|address| slots.take(address).unwrap()).collect();
        assert!(slots.take(a).is_none(), "two per address");
        held.push(slots.take(b).unwrap());
        held.push(slots.take(None).unwrap());
        assert!(slots.take(None).is_none() && slots.take(b).is_none(), "four in all");
        held.clear();
        let taken = slots.taken.lock();
        assert_eq!((taken.all, taken.by_address.len()), (0, 0));
    }
}
