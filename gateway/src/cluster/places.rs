//! What was found in the directory, kept until it is said to be stale. Only places at other gateways; that an account has none is kept as well, since that is
//! what is nearly always found.
//!
//! Bounded by two generations, like the buckets of the limits: an entry that is used moves into the young one, and when that is full the old one goes.

use std::collections::HashMap;

use kith_chat_core::sessions::{GatewayId, Place};
use kith_proto::id::AccountId;

/// Accounts in one generation. An entry takes about 64 bytes, and 32 more for each place.
const GENERATION: usize = 131_072;

/// Places of one account.
pub(super) type Elsewhere = Box<[Place]>;

#[derive(Debug, Default)]
pub(super) struct Places {
    young: HashMap<AccountId, Elsewhere>,
    old: HashMap<AccountId, Elsewhere>,
}

impl Places {
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// What is known of the account, if anything.
    pub(super) fn get(&mut self, account: &AccountId) -> Option<&[Place]> {
        if !self.young.contains_key(account) {
            let found = self.old.remove(account)?;
            self.insert(*account, found);
        }
        self.young.get(account).map(|places| &places[..])
    }

    /// The same without counting as use; nothing if nothing is known.
    pub(super) fn peek(&self, account: &AccountId) -> &[Place] {
        self.young.get(account).or_else(|| self.old.get(account)).map_or(&[], |places| &places[..])
    }

    pub(super) fn insert(&mut self, account: AccountId, places: Elsewhere) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(account, places);
    }

    pub(super) fn forget(&mut self, account: &AccountId) {
        self.young.remove(account);
        self.old.remove(account);
    }

    pub(super) fn forget_all(&mut self) {
        *self = Self::default();
    }

    /// A gateway is gone: what was found there is no more.
    pub(super) fn forget_gateway(&mut self, gateway: GatewayId) {
        for generation in [&mut self.young, &mut self.old] {
            generation.retain(|_, places| places.iter().all(|place| place.gateway != gateway));
        }
    }
}

#[cfg(test)]
mod tests {
    use kith_proto::id::DeviceId;

    use super::*;

    fn account(n: u32) -> AccountId {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&n.to_be_bytes());
        AccountId(id)
    }

    fn at(gateway: u64) -> Elsewhere {
        Box::new([Place { device: DeviceId([1; 16]), gateway: GatewayId(gateway), epoch: 1 }])
    }

    #[test]
    fn it_is_bounded_and_what_is_used_stays() {
        let mut places = Places::default();
        places.insert(account(0), at(1));
        for n in 1..500_000 {
            places.insert(account(n), Elsewhere::default());
            if n % 10_000 == 0 {
                assert_eq!(places.get(&account(0)).unwrap().len(), 1);
            }
        }
        assert!(places.len() <= 2 * GENERATION);
        assert!(places.get(&account(1)).is_none());
    }

    #[test]
    fn what_is_stale_goes() {
        let mut places = Places::default();
        for n in 0..10 {
            places.insert(account(n), at(u64::from(n % 2)));
        }
        places.insert(account(10), Elsewhere::default());
        places.forget(&account(0));
        assert!(places.get(&account(0)).is_none());
        places.forget_gateway(GatewayId(1));
        assert!(places.get(&account(1)).is_none());
        assert_eq!(places.get(&account(2)).map(<[Place]>::len), Some(1));
        assert_eq!(places.get(&account(10)).map(<[Place]>::len), Some(0));
        places.forget_all();
        assert_eq!(places.len(), 0);
    }
}
