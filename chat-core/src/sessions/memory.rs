//! The directory of one process, in memory: the embedded shape, and several gateways of one process in tests.
//!
//! It behaves as the one in Redis does, so that a gateway cannot tell them apart: a reader is told of a change only if it has found that account since it was last
//! told, one's own changes are told too, leases end by themselves, and [`Hub::forget`] and [`Hub::set_away`] are a Redis that is flushed or gone.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use kith_proto::id::{AccountId, DeviceRef};
use parking_lot::Mutex;
use tokio::{sync::mpsc, time::Instant};

use super::{DirectoryError, Gateway, GatewayId, Place, Renewal, SessionDirectory, Stale, stale::Stales};

/// Accounts that one gateway is told of, at most; beyond it everything becomes stale and it begins again. As Redis does with its table of what is tracked.
const MOST_WATCHED: usize = 1 << 20;

/// What the gateways of one process share. Clones are the same hub.
#[derive(Debug, Clone)]
pub struct Hub {
    lease: Duration,
    state: Arc<Mutex<State>>,
}

impl Hub {
    /// An empty one. Leases end by Tokio's clock, which a test can stop and move.
    #[must_use]
    pub fn new(lease: Duration) -> Self {
        Self { lease, state: Arc::default() }
    }

    /// A gateway's own access. It becomes known to others with its first renewal.
    #[must_use]
    pub fn join(&self, id: GatewayId, address: impl Into<String>) -> MemoryDirectory {
        let (stales, receiver) = Stales::new();
        self.state.lock().readers.insert(id, Reader { stales, watched: HashSet::new() });
        MemoryDirectory { gateway: Gateway { id, address: address.into() }, hub: self.clone(), stale: Mutex::new(Some(receiver)) }
    }

    /// Loses everything that it holds, as a directory may at any time.
    pub fn forget(&self) {
        let mut state = self.state.lock();
        state.gateways.clear();
        state.accounts.clear();
        state.everything_is_stale();
    }

    /// Every call fails from now on, or no longer.
    pub fn set_away(&self, away: bool) {
        let mut state = self.state.lock();
        state.away = away;
        state.everything_is_stale();
    }
}

/// One gateway's access to a [`Hub`].
#[derive(Debug)]
pub struct MemoryDirectory {
    gateway: Gateway,
    hub: Hub,
    stale: Mutex<Option<mpsc::Receiver<Stale>>>,
}

impl MemoryDirectory {
    fn ask<T>(&self, question: impl FnOnce(&mut State) -> T) -> Result<T, DirectoryError> {
        let mut state = self.hub.state.lock();
        if state.away {
            return Err(DirectoryError("it was sent away".into()));
        }
        Ok(question(&mut state))
    }
}

#[async_trait]
impl SessionDirectory for MemoryDirectory {
    fn gateway(&self) -> GatewayId {
        self.gateway.id
    }

    async fn enter(&self, sessions: &[(DeviceRef, u64)]) -> Result<Vec<(DeviceRef, Place)>, DirectoryError> {
        let place = |(device, epoch): &(DeviceRef, u64)| (*device, Place { device: device.device, gateway: self.gateway.id, epoch: *epoch });
        self.ask(|state| {
            let others = sessions.iter().map(place).filter_map(|(device, place)| Some((device, state.enter(device.account, place)?)));
            others.filter(|(_, other)| other.gateway != self.gateway.id).collect()
        })
    }

    async fn leave(&self, sessions: &[(DeviceRef, u64)]) -> Result<(), DirectoryError> {
        self.ask(|state| {
            for (device, epoch) in sessions {
                state.leave(device.account, Place { device: device.device, gateway: self.gateway.id, epoch: *epoch });
            }
        })
    }

    async fn find(&self, accounts: &[AccountId]) -> Result<Vec<Vec<Place>>, DirectoryError> {
        self.ask(|state| {
            state.watch(self.gateway.id, accounts);
            accounts.iter().map(|account| state.accounts.get(account).cloned().unwrap_or_default()).collect()
        })
    }

    async fn renew(&self) -> Result<Renewal, DirectoryError> {
        self.ask(|state| state.renew(&self.gateway, self.hub.lease, Instant::now()))
    }

    async fn gateways(&self) -> Result<Vec<GatewayId>, DirectoryError> {
        let now = Instant::now();
        self.ask(|state| state.gateways.iter().filter(|(_, lease)| lease.ends > now).map(|(id, _)| *id).collect())
    }

    async fn resign(&self) -> Result<(), DirectoryError> {
        self.ask(|state| state.dismiss(self.gateway.id))
    }

    fn stale(&self) -> Option<mpsc::Receiver<Stale>> {
        self.stale.lock().take()
    }
}

impl Drop for MemoryDirectory {
    fn drop(&mut self) {
        self.hub.state.lock().readers.remove(&self.gateway.id);
    }
}

#[derive(Debug, Default)]
struct State {
    away: bool,
    gateways: HashMap<GatewayId, Lease>,
    accounts: HashMap<AccountId, Vec<Place>>,
    readers: HashMap<GatewayId, Reader>,
}

#[derive(Debug)]
struct Lease {
    address: String,
    ends: Instant,
}

#[derive(Debug)]
struct Reader {
    stales: Stales,
    watched: HashSet<AccountId>,
}

impl State {
    /// Returns the place that was replaced, or that stayed because it is newer.
    fn enter(&mut self, account: AccountId, place: Place) -> Option<Place> {
        let places = self.accounts.entry(account).or_default();
        let old = places.iter_mut().find(|old| old.device == place.device);
        let before = old.as_deref().copied();
        match old {
            Some(old) if old.epoch > place.epoch => return before,
            Some(old) => *old = place,
            None => places.push(place),
        }
        self.changed(account);
        before
    }

    fn leave(&mut self, account: AccountId, place: Place) {
        let Some(places) = self.accounts.get_mut(&account) else { return };
        let Some(index) = places.iter().position(|held| *held == place) else { return };
        places.swap_remove(index);
        if places.is_empty() {
            self.accounts.remove(&account);
        }
        self.changed(account);
    }

    fn renew(&mut self, gateway: &Gateway, lease: Duration, now: Instant) -> Renewal {
        let dead: Vec<_> = self.gateways.iter().filter(|(_, lease)| lease.ends <= now).map(|(id, _)| *id).collect();
        dead.into_iter().for_each(|id| self.dismiss(id));
        let renewed = self.gateways.insert(gateway.id, Lease { address: gateway.address.clone(), ends: now + lease });
        let gateways = self.gateways.iter().map(|(id, lease)| Gateway { id: *id, address: lease.address.clone() }).collect();
        Renewal { gateways, anew: renewed.is_none() }
    }

    fn dismiss(&mut self, gateway: GatewayId) {
        self.gateways.remove(&gateway);
        self.accounts.retain(|_, places| {
            places.retain(|place| place.gateway != gateway);
            !places.is_empty()
        });
    }

    fn watch(&mut self, gateway: GatewayId, accounts: &[AccountId]) {
        let Some(reader) = self.readers.get_mut(&gateway) else { return };
        if reader.watched.len() + accounts.len() > MOST_WATCHED {
            reader.watched.clear();
            reader.stales.tell(Stale::Everything);
        }
        reader.watched.extend(accounts);
    }

    fn changed(&mut self, account: AccountId) {
        for reader in self.readers.values_mut() {
            if reader.watched.remove(&account) {
                reader.stales.tell(Stale::Account(account));
            }
        }
    }

    fn everything_is_stale(&mut self) {
        for reader in self.readers.values_mut() {
            reader.watched.clear();
            reader.stales.tell(Stale::Everything);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sessions::conformance::{Fixture, address, conformance_tests, each};

    /// Each gateway may have a lease of its own.
    struct Memory(Hub);

    #[async_trait(?Send)]
    impl Fixture for Memory {
        async fn new() -> Self {
            Self(Hub::new(Duration::ZERO))
        }

        async fn join(&self, gateway: GatewayId, lease: Duration) -> Arc<dyn SessionDirectory> {
            Arc::new(Hub { lease, state: Arc::clone(&self.0.state) }.join(gateway, address(gateway)))
        }

        async fn flush(&self) {
            self.0.forget();
        }

        async fn pause(&self) {
            self.0.set_away(true);
        }

        async fn resume(&self) {
            self.0.set_away(false);
        }

        async fn cut(&self) {
            self.0.set_away(true);
            self.0.set_away(false);
        }
    }

    conformance_tests!(Memory);

    #[tokio::test(start_paused = true)]
    async fn a_lease_lasts_as_long_as_promised() {
        let hub = Hub::new(Duration::from_secs(10));
        let [one, two] = [1, 2].map(|id| hub.join(GatewayId(id), address(GatewayId(id))));
        assert!(one.renew().await.unwrap().anew);
        tokio::time::advance(Duration::from_millis(9_999)).await;
        assert_eq!(two.renew().await.unwrap().gateways.len(), 2);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(two.renew().await.unwrap().gateways.len(), 1);
        assert!(one.renew().await.unwrap().anew);
    }
}
