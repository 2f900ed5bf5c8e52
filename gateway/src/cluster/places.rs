//! What was found in the directory, kept until it is said to be stale. Only places at other gateways; that an account has none is kept as well, since that is
//! what is nearly always found.

use kith_chat_core::{
    domain::Generations,
    sessions::{GatewayId, Place},
};
use kith_proto::id::AccountId;

/// Accounts in one generation. An entry takes about 64 bytes, and 32 more for each place.
const GENERATION: usize = 131_072;

/// Places of one account.
pub(super) type Elsewhere = Box<[Place]>;

#[derive(Debug)]
pub(super) struct Places(Generations<AccountId, Elsewhere>);

impl Default for Places {
    fn default() -> Self {
        Self(Generations::new(GENERATION))
    }
}

impl Places {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether anything is known of the account, be it that it has none; counts as use.
    pub(super) fn knows(&mut self, account: &AccountId) -> bool {
        self.0.touch(account)
    }

    /// What is known of the account; nothing if nothing is.
    pub(super) fn peek(&self, account: &AccountId) -> &[Place] {
        self.0.peek(account).map_or(&[], |places| &places[..])
    }

    pub(super) fn insert(&mut self, account: AccountId, places: Elsewhere) {
        self.0.insert(account, places);
    }

    pub(super) fn forget(&mut self, account: &AccountId) {
        self.0.remove(account);
    }

    pub(super) fn forget_all(&mut self) {
        self.0.clear();
    }

    /// A gateway is gone: what was found there is no more.
    pub(super) fn forget_gateway(&mut self, gateway: GatewayId) {
        self.0.retain(|_, places| places.iter().all(|place| place.gateway != gateway));
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
