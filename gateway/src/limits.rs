//! Token buckets in memory: a bounded number of them, cheap enough for every send.
//!
//! Each kind of bucket has two maps. A bucket that is used moves into the young one; when that is full it becomes the old one and the old one is dropped.
//! So memory is bounded whatever comes, and only buckets that were not used for a long while are forgotten, which makes them full again. What must not be
//! forgotten (one-time prekeys) is counted in the database.

use std::{collections::HashMap, hash::Hash};

use kith_chat_core::{
    domain::{Bucket, Rate},
    log::{Admission, Refusal},
};
use kith_proto::{
    id::{AccountId, DeviceRef},
    rest::BucketState,
};
use parking_lot::Mutex;

use crate::{config, peer::Peer};

/// Buckets of one kind in one map; twice as many are kept at most. A bucket takes about 64 bytes.
const BUCKETS: usize = 32_768;

/// One kind of bucket.
#[derive(Debug)]
struct Buckets<K> {
    rate: Rate,
    enforced: bool,
    generations: Mutex<Generations<K>>,
}

#[derive(Debug)]
struct Generations<K> {
    young: HashMap<K, Bucket>,
    old: HashMap<K, Bucket>,
}

impl<K: Hash + Eq> Buckets<K> {
    fn new(rate: Rate, enforced: bool) -> Self {
        Self { rate, enforced, generations: Mutex::new(Generations { young: HashMap::new(), old: HashMap::new() }) }
    }

    fn take(&self, key: K, now_ms: u64) -> Result<(), Exceeded> {
        if !self.enforced {
            return Ok(());
        }
        let mut generations = self.generations.lock();
        let generations = &mut *generations;
        if let Some(bucket) = generations.young.get_mut(&key) {
            return bucket.take(self.rate, now_ms).map_err(|after_ms| Exceeded { after_ms });
        }
        let mut bucket = generations.old.remove(&key).unwrap_or_default();
        let taken = bucket.take(self.rate, now_ms);
        if generations.young.len() >= BUCKETS {
            generations.old = std::mem::take(&mut generations.young);
        }
        generations.young.insert(key, bucket);
        taken.map_err(|after_ms| Exceeded { after_ms })
    }

    fn remaining(&self, key: &K, now_ms: u64) -> u32 {
        let generations = self.generations.lock();
        let bucket = generations.young.get(key).or_else(|| generations.old.get(key)).copied().unwrap_or_default();
        bucket.remaining(self.rate, now_ms)
    }
}

/// A bucket is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many requests")]
pub struct Exceeded {
    /// There will be a token in so many milliseconds.
    pub after_ms: u64,
}

/// All limits that are counted in memory.
#[derive(Debug)]
pub struct Limits {
    register_address: Buckets<[u8; 16]>,
    login_address: Buckets<[u8; 16]>,
    login_device: Buckets<DeviceRef>,
    lookup_account: Buckets<AccountId>,
    lookup_device: Buckets<DeviceRef>,
    bundles_account: Buckets<AccountId>,
    change_device: Buckets<DeviceRef>,
    request_account: Buckets<AccountId>,
    send_device: Buckets<DeviceRef>,
    send_account: Buckets<AccountId>,
    one_time: (Rate, Rate),
}

impl Limits {
    /// With the rates of the configuration.
    #[must_use]
    pub fn new(limits: &config::Limits) -> Self {
        let rate = |capacity, per_minute| Rate { capacity, per_minute };
        let half = |n: u32| n.div_ceil(2);
        let on = limits.enforced;
        let (lookup_burst, lookup_per_minute) = (limits.lookup_account_burst, limits.lookup_account_per_minute);
        let (send_burst, send_per_minute) = (limits.send_device_burst, limits.send_device_per_minute);
        Self {
            register_address: Buckets::new(rate(limits.register_address_burst, limits.register_address_per_minute), on),
            login_address: Buckets::new(rate(limits.login_address_burst, limits.login_address_per_minute), on),
            login_device: Buckets::new(rate(limits.login_device_burst, limits.login_device_per_minute), on),
            lookup_account: Buckets::new(rate(lookup_burst, lookup_per_minute), on),
            lookup_device: Buckets::new(rate(half(lookup_burst), half(lookup_per_minute)), on),
            bundles_account: Buckets::new(rate(limits.bundles_account_burst, limits.bundles_account_per_minute), on),
            change_device: Buckets::new(rate(limits.change_device_burst, limits.change_device_per_minute), on),
            request_account: Buckets::new(rate(limits.request_account_burst, limits.request_account_per_minute), on),
            send_device: Buckets::new(rate(send_burst, send_per_minute), on),
            send_account: Buckets::new(rate(send_burst.saturating_mul(2), send_per_minute.saturating_mul(2)), on),
            one_time: limits.one_time(),
        }
    }

    /// A registration from this peer.
    ///
    /// # Errors
    /// If there were too many.
    pub fn register(&self, peer: &Peer, now_ms: u64) -> Result<(), Exceeded> {
        peer.limit_key().map_or(Ok(()), |key| self.register_address.take(key, now_ms))
    }

    /// A challenge, login, refresh or rotation from this peer.
    ///
    /// # Errors
    /// If there were too many.
    pub fn login(&self, peer: &Peer, now_ms: u64) -> Result<(), Exceeded> {
        peer.limit_key().map_or(Ok(()), |key| self.login_address.take(key, now_ms))
    }

    /// A login of a device that has shown its key; before that anybody could use up its tokens.
    ///
    /// # Errors
    /// If there were too many.
    pub fn login_device(&self, peer: &Peer, device: DeviceRef, now_ms: u64) -> Result<(), Exceeded> {
        if peer.is_local { Ok(()) } else { self.login_device.take(device, now_ms) }
    }

    /// A look-up by name.
    ///
    /// # Errors
    /// If there were too many.
    pub fn lookup(&self, caller: DeviceRef, now_ms: u64) -> Result<(), Exceeded> {
        self.lookup_device.take(caller, now_ms)?;
        self.lookup_account.take(caller.account, now_ms)
    }

    /// A request for bundles.
    ///
    /// # Errors
    /// If there were too many.
    pub fn bundles(&self, caller: DeviceRef, now_ms: u64) -> Result<(), Exceeded> {
        self.bundles_account.take(caller.account, now_ms)
    }

    /// A change of keys or of the device list.
    ///
    /// # Errors
    /// If there were too many.
    pub fn change(&self, caller: DeviceRef, now_ms: u64) -> Result<(), Exceeded> {
        self.change_device.take(caller, now_ms)
    }

    /// Any authenticated request.
    ///
    /// # Errors
    /// If there were too many.
    pub fn request(&self, caller: DeviceRef, now_ms: u64) -> Result<(), Exceeded> {
        self.request_account.take(caller.account, now_ms)
    }

    /// A send. Asked for every message: two look-ups.
    #[must_use]
    pub fn send(&self, device: &DeviceRef, now_ms: u64) -> Admission {
        let taken = self.send_device.take(*device, now_ms).and_then(|()| self.send_account.take(device.account, now_ms));
        match taken {
            Ok(()) => Admission::Admitted,
            Err(Exceeded { after_ms }) => Admission::DuplicateOnly(Refusal::RateLimited { after_ms }),
        }
    }

    /// What is published, with what is left to the caller.
    #[must_use]
    pub fn states(&self, peer: &Peer, caller: Option<DeviceRef>, now_ms: u64) -> Vec<BucketState> {
        let address = peer.limit_key();
        let account = caller.map(|c| c.account);
        let (pair, target) = self.one_time;
        vec![
            state("register_per_address", &self.register_address, address.as_ref(), now_ms),
            state("login_per_address", &self.login_address, address.as_ref(), now_ms),
            state("login_per_device", &self.login_device, caller.as_ref(), now_ms),
            state("lookup_per_account", &self.lookup_account, account.as_ref(), now_ms),
            state("lookup_per_device", &self.lookup_device, caller.as_ref(), now_ms),
            state("bundles_per_account", &self.bundles_account, account.as_ref(), now_ms),
            state("change_per_device", &self.change_device, caller.as_ref(), now_ms),
            state("request_per_account", &self.request_account, account.as_ref(), now_ms),
            state("send_per_device", &self.send_device, caller.as_ref(), now_ms),
            state("send_per_account", &self.send_account, account.as_ref(), now_ms),
            published("one_time_prekeys_per_pair", pair, None),
            published("one_time_prekeys_per_target", target, None),
        ]
    }
}

fn state<K: Hash + Eq>(name: &str, buckets: &Buckets<K>, key: Option<&K>, now_ms: u64) -> BucketState {
    published(name, buckets.rate, key.map(|key| buckets.remaining(key, now_ms)))
}

fn published(name: &str, rate: Rate, remaining: Option<u32>) -> BucketState {
    BucketState { name: name.to_owned(), capacity: rate.capacity, per_minute: rate.per_minute, remaining }
}

#[cfg(test)]
mod tests {
    use kith_proto::id::DeviceId;

    use super::*;

    #[test]
    fn the_number_of_buckets_is_bounded() {
        let buckets = Buckets::new(Rate { capacity: 1, per_minute: 1 }, true);
        for n in 0..100_000_u64 {
            buckets.take(n, 1_000).unwrap();
            assert!(buckets.take(n, 1_000).is_err());
        }
        let generations = buckets.generations.lock();
        assert!(generations.young.len() + generations.old.len() <= 2 * BUCKETS);
    }

    #[test]
    fn a_bucket_in_use_outlives_a_flood_of_others() {
        let buckets = Buckets::new(Rate { capacity: 1, per_minute: 1 }, true);
        buckets.take(u64::MAX, 1_000).unwrap();
        for n in 0..100_000_u64 {
            let _ = buckets.take(n, 1_000);
            if n % 10_000 == 0 {
                assert!(buckets.take(u64::MAX, 1_000).is_err());
            }
        }
    }

    #[test]
    fn sends_are_limited_per_device_and_account() {
        let limits = Limits::new(&config::Limits { send_device_burst: 2, send_device_per_minute: 60, ..config::Limits::default() });
        let device = |n| DeviceRef { account: AccountId([1; 16]), device: DeviceId([n; 16]) };
        let empty = Admission::DuplicateOnly(Refusal::RateLimited { after_ms: 1_000 });
        assert_eq!(
            (limits.send(&device(1), 0), limits.send(&device(1), 0), limits.send(&device(1), 0)),
            (Admission::Admitted, Admission::Admitted, empty)
        );
        assert_eq!((limits.send(&device(2), 0), limits.send(&device(2), 0)), (Admission::Admitted, Admission::Admitted));
        assert_eq!(limits.send(&device(3), 0), Admission::DuplicateOnly(Refusal::RateLimited { after_ms: 500 }), "the account's own bucket");
        assert_eq!(limits.send(&device(1), 1_000), Admission::Admitted);
    }
}
