//! How many sockets may be open, and how many of them may not have said who they are.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use parking_lot::Mutex;

use super::Sessions;

/// Sockets that have not said who they are, by address.
#[derive(Debug, Default)]
pub(super) struct Lobby {
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

/// Counts a socket for as long as it is held.
#[derive(Debug)]
pub struct Permit {
    sessions: Arc<Sessions>,
    /// While it counts as unauthenticated.
    waiting: Option<IpAddr>,
}

impl Lobby {
    pub(super) fn admit(sessions: &Arc<Sessions>, address: IpAddr) -> Option<Permit> {
        let settings = &sessions.shared().settings;
        let counters = sessions.counters();
        let address = network(address);
        let mut by_address = sessions.lobby.by_address.lock();
        let here = by_address.get(&address).copied().unwrap_or(0);
        let full = counters.connections.value() >= settings.max_connections as u64
            || counters.unauthenticated.value() >= settings.max_unauthenticated as u64
            || here >= settings.max_unauthenticated_per_address;
        if full {
            return None;
        }
        by_address.insert(address, here + 1);
        counters.connections.up();
        counters.unauthenticated.up();
        drop(by_address);
        Some(Permit { sessions: Arc::clone(sessions), waiting: Some(address) })
    }
}

impl Permit {
    /// The connection has said who it is.
    pub fn identified(&mut self) {
        let Some(address) = self.waiting.take() else { return };
        self.sessions.counters().unauthenticated.down();
        let mut by_address = self.sessions.lobby.by_address.lock();
        if let Some(count) = by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&address);
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.identified();
        self.sessions.counters().connections.down();
    }
}

/// An IPv6 host has a whole /64 to choose from.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        },
        v4 => v4,
    }
}
