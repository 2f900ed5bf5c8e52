//! What was found in the directory, kept until it is said to be stale. Only places at other gateways; that an account has none is kept as well, since that is
//! what is nearly always found.
//!
//! Bounded by two generations, like the buckets of the limits: an entry that is used moves into the young one, and when that is full the old one goes.

use kith_chat_core::{
    domain::IdMap,
    sessions::{GatewayId, Place},
};
use kith_proto::id::AccountId;

/// Accounts in one generation. An entry takes about 64 bytes, and 32 more for each place.
const GENERATION: usize = 131_072;

/// Places of one account.
pub(super) type Elsewhere = Box<[Place]>;

#[derive(Debug, Default)]
pub(super) struct Places {
    young: IdMap<AccountId, Elsewhere>,
    old: IdMap<AccountId, Elsewhere>,
}

impl Places {
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether anything is known of the account, be it that it has none; counts as use.
    pub(super) fn knows(&mut self, account: &AccountId) -> bool {
        self.young.contains_key(account) || self.old.remove(account).map(|found| self.insert(*account, found)).is_some()
    }

    /// What is known of the account; nothing if nothing is.
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
                assert!(places.knows(&account(0)) && places.peek(&account(0)).len() == 1);
            }
        }
        assert!(places.len() <= 2 * GENERATION);
        assert!(!places.knows(&account(1)));
    }

    #[test]
    fn what_is_stale_goes() {
        let mut places = Places::default();
        for n in 0..10 {
            places.insert(account(n), at(u64::from(n % 2)));
        }
        places.insert(account(10), Elsewhere::default());
        places.forget(&account(0));
        assert!(!places.knows(&account(0)));
        places.forget_gateway(GatewayId(1));
        assert!(!places.knows(&account(1)));
        assert!(places.knows(&account(2)) && places.peek(&account(2)).len() == 1);
        assert!(places.knows(&account(10)) && places.peek(&account(10)).is_empty());
        places.forget_all();
        assert_eq!(places.len(), 0);
    }
}
