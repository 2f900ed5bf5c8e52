//! How much anybody may ask for: token buckets.
//!
//! Those that count what an account, a device or an address does over REST hold for the whole service: where there are several gateways they stand in
//! Redis. Every gateway counts for itself as well, and refuses by its own count without asking anybody; if Redis is away its own count is all there is, and
//! nobody is refused for that. Sends are counted by each gateway for itself: a device has one connection, and a message waits for nobody. Requests in all
//! are a bound on load, and likewise.
//!
//! What must not be forgotten (one-time prekeys) is counted in the database.

use std::sync::Arc;

use kith_chat_core::{
    domain::{Clock, Rate},
    log::{Admission, Refusal},
    sessions::buckets::{BucketKey, Buckets, MemoryBuckets, Take},
};
use kith_proto::{
    id::{AccountId, DeviceRef},
    rest::BucketState,
};

use crate::{config, peer::Peer, sessions::Counter};

/// The limits, each a letter in the names of buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    RegisterAddress = b'r',
    LoginAddress = b'a',
    LoginDevice = b'd',
    LookupAccount = b'l',
    LookupDevice = b'L',
    BundlesAccount = b'b',
    ChangeDevice = b'c',
    RequestAccount = b'q',
    SendDevice = b'S',
    SendAccount = b's',
}

/// One limit.
#[derive(Debug, Clone, Copy)]
struct Limit {
    kind: Kind,
    rate: Rate,
}

impl Limit {
    fn key(self, of: [u8; 32]) -> BucketKey {
        BucketKey { kind: self.kind as u8, of }
    }
}

/// A bucket is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many requests")]
pub struct Exceeded {
    /// There will be a token in so many milliseconds.
    pub after_ms: u64,
}

/// All limits.
#[derive(Debug)]
pub struct Limits {
    enforced: bool,
    register_address: Limit,
    login_address: Limit,
    login_device: Limit,
    lookup_account: Limit,
    lookup_device: Limit,
    bundles_account: Limit,
    change_device: Limit,
    request_account: Limit,
    send_device: Limit,
    send_account: Limit,
    one_time: (Rate, Rate),
    own: MemoryBuckets,
    /// Of sends alone, so that they do not wait for others or push them out.
    sends: MemoryBuckets,
    shared: Option<Arc<dyn Buckets>>,
    /// Times that the shared buckets could not be asked.
    pub(crate) unshared: Counter,
}

impl Limits {
    /// With the rates of the configuration; `shared` are the buckets of all gateways, where there are several.
    #[must_use]
    pub fn new(limits: &config::Limits, clock: &Clock, shared: Option<Arc<dyn Buckets>>) -> Self {
        let limit = |kind, capacity, per_minute| Limit { kind, rate: Rate { capacity, per_minute } };
        let half = |n: u32| n.div_ceil(2);
        let (lookup_burst, lookup_per_minute) = (limits.lookup_account_burst, limits.lookup_account_per_minute);
        let (send_burst, send_per_minute) = (limits.send_device_burst, limits.send_device_per_minute);
        Self {
            enforced: limits.enforced,
            register_address: limit(Kind::RegisterAddress, limits.register_address_burst, limits.register_address_per_minute),
            login_address: limit(Kind::LoginAddress, limits.login_address_burst, limits.login_address_per_minute),
            login_device: limit(Kind::LoginDevice, limits.login_device_burst, limits.login_device_per_minute),
            lookup_account: limit(Kind::LookupAccount, lookup_burst, lookup_per_minute),
            lookup_device: limit(Kind::LookupDevice, half(lookup_burst), half(lookup_per_minute)),
            bundles_account: limit(Kind::BundlesAccount, limits.bundles_account_burst, limits.bundles_account_per_minute),
            change_device: limit(Kind::ChangeDevice, limits.change_device_burst, limits.change_device_per_minute),
            request_account: limit(Kind::RequestAccount, limits.request_account_burst, limits.request_account_per_minute),
            send_device: limit(Kind::SendDevice, send_burst, send_per_minute),
            send_account: limit(Kind::SendAccount, send_burst.saturating_mul(2), send_per_minute.saturating_mul(2)),
            one_time: limits.one_time(),
            own: MemoryBuckets::new(clock.clone()),
            sends: MemoryBuckets::new(clock.clone()),
            shared,
            unshared: Counter::default(),
        }
    }

    /// A registration from this peer.
    ///
    /// # Errors
    /// If there were too many.
    pub async fn register(&self, peer: &Peer) -> Result<(), Exceeded> {
        match peer.limit_key() {
            Some(address) => self.take(self.register_address, of_address(address)).await,
            None => Ok(()),
        }
    }

    /// A challenge, login, refresh or rotation from this peer.
    ///
    /// # Errors
    /// If there were too many.
    pub async fn login(&self, peer: &Peer) -> Result<(), Exceeded> {
        match peer.limit_key() {
            Some(address) => self.take(self.login_address, of_address(address)).await,
            None => Ok(()),
        }
    }

    /// A login of a device that has shown its key; before that anybody could use up its tokens.
    ///
    /// # Errors
    /// If there were too many.
    pub async fn login_device(&self, peer: &Peer, device: DeviceRef) -> Result<(), Exceeded> {
        if peer.is_local { Ok(()) } else { self.take(self.login_device, of_device(device)).await }
    }

    /// A look-up by name.
    ///
    /// # Errors
    /// If there were too many.
    pub async fn lookup(&self, caller: DeviceRef) -> Result<(), Exceeded> {
        self.take_own(self.lookup_device, of_device(caller))?;
        self.take(self.lookup_account, of_account(caller.account)).await
    }

    /// A request for bundles.
    ///
    /// # Errors
    /// If there were too many.
    pub async fn bundles(&self, caller: DeviceRef) -> Result<(), Exceeded> {
        self.take(self.bundles_account, of_account(caller.account)).await
    }

    /// A change of keys or of the device list.
    ///
    /// # Errors
    /// If there were too many.
    pub async fn change(&self, caller: DeviceRef) -> Result<(), Exceeded> {
        self.take(self.change_device, of_device(caller)).await
    }

    /// Any authenticated request.
    ///
    /// # Errors
    /// If there were too many.
    pub fn request(&self, caller: DeviceRef) -> Result<(), Exceeded> {
        self.take_own(self.request_account, of_account(caller.account))
    }

    /// A send. Asked for every message: two look-ups.
    #[must_use]
    pub fn send(&self, device: &DeviceRef) -> Admission {
        if !self.enforced {
            return Admission::Admitted;
        }
        let of_device = self.send_device.key(of_device(*device));
        let taken = match self.sends.take_now(of_device, self.send_device.rate) {
            Take::Taken => self.sends.take_now(self.send_account.key(of_account(device.account)), self.send_account.rate),
            empty @ Take::Empty { .. } => empty,
        };
        match taken {
            Take::Taken => Admission::Admitted,
            Take::Empty { after_ms } => Admission::DuplicateOnly(Refusal::RateLimited { after_ms }),
        }
    }

    fn take_own(&self, limit: Limit, of: [u8; 32]) -> Result<(), Exceeded> {
        if !self.enforced {
            return Ok(());
        }
        allowed(self.own.take_now(limit.key(of), limit.rate))
    }

    /// One's own count first: it is never above the shared one but where that was forgotten, and costs nothing.
    async fn take(&self, limit: Limit, of: [u8; 32]) -> Result<(), Exceeded> {
        self.take_own(limit, of)?;
        let Some(shared) = self.shared.as_ref().filter(|_| self.enforced) else { return Ok(()) };
        match shared.take(limit.key(of), limit.rate).await {
            Ok(take) => allowed(take),
            Err(error) => {
                self.unshared.one();
                tracing::debug!(error = &error as &dyn std::error::Error, "counted by this gateway alone");
                Ok(())
            }
        }
    }

    /// What is published, with what is left to the caller.
    pub async fn states(&self, peer: &Peer, caller: Option<DeviceRef>) -> Vec<BucketState> {
        let address = peer.limit_key().map(of_address);
        let account = caller.map(|caller| of_account(caller.account));
        let device = caller.map(of_device);
        let mut states = vec![
            (self.state("register_per_address", self.register_address, address), true),
            (self.state("login_per_address", self.login_address, address), true),
            (self.state("login_per_device", self.login_device, device), true),
            (self.state("lookup_per_account", self.lookup_account, account), true),
            (self.state("lookup_per_device", self.lookup_device, device), false),
            (self.state("bundles_per_account", self.bundles_account, account), true),
            (self.state("change_per_device", self.change_device, device), true),
            (self.state("request_per_account", self.request_account, account), false),
            (self.state("send_per_device", self.send_device, device), false),
            (self.state("send_per_account", self.send_account, account), false),
        ];
        self.correct(&mut states).await;
        let (pair, target) = self.one_time;
        let counted_elsewhere = [("one_time_prekeys_per_pair", pair), ("one_time_prekeys_per_target", target)];
        states.into_iter().map(|(state, _)| state.published).chain(counted_elsewhere.map(|(name, rate)| published(name, rate, None))).collect()
    }

    fn state(&self, name: &str, limit: Limit, of: Option<[u8; 32]>) -> State {
        let buckets = if matches!(limit.kind, Kind::SendDevice | Kind::SendAccount) { &self.sends } else { &self.own };
        let bucket = of.map(|of| (limit.key(of), limit.rate));
        let remaining = bucket.map(|(key, rate)| buckets.remaining_now(key, rate));
        State { bucket, published: published(name, limit.rate, remaining) }
    }

    /// What other gateways have given counts as well; if it is not known, this gateway's own count is told.
    async fn correct(&self, states: &mut [(State, bool)]) {
        let Some(shared) = &self.shared else { return };
        let mut of_all: Vec<&mut State> =
            states.iter_mut().filter(|(state, is_shared)| *is_shared && state.bucket.is_some()).map(|(state, _)| state).collect();
        let asked: Vec<_> = of_all.iter().filter_map(|state| state.bucket).collect();
        if let Ok(left) = shared.remaining(&asked).await {
            for (state, left) in of_all.iter_mut().zip(left) {
                state.published.remaining = state.published.remaining.map(|own| own.min(left));
            }
        }
    }
}

/// One limit as it stands for the caller.
struct State {
    bucket: Option<(BucketKey, Rate)>,
    published: BucketState,
}

fn allowed(take: Take) -> Result<(), Exceeded> {
    match take {
        Take::Taken => Ok(()),
        Take::Empty { after_ms } => Err(Exceeded { after_ms }),
    }
}

fn published(name: &str, rate: Rate, remaining: Option<u32>) -> BucketState {
    BucketState { name: name.to_owned(), capacity: rate.capacity, per_minute: rate.per_minute, remaining }
}

fn of_account(account: AccountId) -> [u8; 32] {
    both(account.0, [0; 16])
}

fn of_device(device: DeviceRef) -> [u8; 32] {
    both(device.account.0, device.device.0)
}

fn of_address(address: [u8; 16]) -> [u8; 32] {
    both(address, [0; 16])
}

fn both(first: [u8; 16], second: [u8; 16]) -> [u8; 32] {
    let mut of = [0; 32];
    of[..16].copy_from_slice(&first);
    of[16..].copy_from_slice(&second);
    of
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use async_trait::async_trait;
    use kith_chat_core::sessions::buckets::BucketsError;
    use kith_proto::id::DeviceId;

    use super::*;

    fn device(n: u8) -> DeviceRef {
        DeviceRef { account: AccountId([1; 16]), device: DeviceId([n; 16]) }
    }

    #[test]
    fn sends_are_limited_per_device_and_account() {
        let hand = Arc::new(AtomicU64::new(0));
        let few = config::Limits { send_device_burst: 2, send_device_per_minute: 60, ..config::Limits::default() };
        let limits = Limits::new(&few, &Clock::Manual(Arc::clone(&hand)), None);
        let empty = |after_ms| Admission::DuplicateOnly(Refusal::RateLimited { after_ms });
        assert_eq!(
            (limits.send(&device(1)), limits.send(&device(1)), limits.send(&device(1))),
            (Admission::Admitted, Admission::Admitted, empty(1_000))
        );
        assert_eq!((limits.send(&device(2)), limits.send(&device(2))), (Admission::Admitted, Admission::Admitted));
        assert_eq!(limits.send(&device(3)), empty(500), "the account's own bucket");
        hand.store(1_000, Ordering::Release);
        assert_eq!(limits.send(&device(1)), Admission::Admitted);
    }

    /// Buckets that may be sent away.
    #[derive(Debug)]
    struct Remote {
        buckets: MemoryBuckets,
        away: AtomicBool,
    }

    #[async_trait]
    impl Buckets for Remote {
        async fn take(&self, key: BucketKey, rate: Rate) -> Result<Take, BucketsError> {
            if self.away.load(Ordering::Acquire) { Err(BucketsError("away".into())) } else { self.buckets.take(key, rate).await }
        }

        async fn remaining(&self, buckets: &[(BucketKey, Rate)]) -> Result<Vec<u32>, BucketsError> {
            if self.away.load(Ordering::Acquire) { Err(BucketsError("away".into())) } else { self.buckets.remaining(buckets).await }
        }
    }

    #[tokio::test]
    async fn several_gateways_have_one_limit_and_nobody_is_refused_because_it_is_away() {
        let clock = Clock::Manual(Arc::default());
        let remote = Arc::new(Remote { buckets: MemoryBuckets::new(clock.clone()), away: AtomicBool::new(false) });
        let few = config::Limits { bundles_account_burst: 4, bundles_account_per_minute: 1, ..config::Limits::default() };
        let [one, two] = [(); 2].map(|()| Limits::new(&few, &clock, Some(Arc::clone(&remote) as _)));
        for limits in [&one, &two, &one] {
            limits.bundles(device(1)).await.unwrap();
        }
        let peer = Peer { address: [8, 8, 8, 8].into(), is_local: false };
        let left = async |limits: &Limits| {
            let states = limits.states(&peer, Some(device(2))).await;
            states.into_iter().find(|state| state.name == "bundles_per_account").unwrap().remaining
        };
        assert_eq!((left(&one).await, left(&two).await), (Some(1), Some(1)));
        two.bundles(device(2)).await.unwrap();
        one.bundles(device(1)).await.unwrap_err();
        two.bundles(device(1)).await.unwrap_err();
        remote.away.store(true, Ordering::Release);
        // Each has been asked three times.
        for limits in [&one, &two] {
            limits.bundles(device(1)).await.unwrap();
            limits.bundles(device(1)).await.unwrap_err();
            assert_eq!(limits.unshared.value(), 1);
        }
    }
}
