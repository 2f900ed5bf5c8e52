//! The other gateways, each with what waits for it.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use kith_chat_core::sessions::{Gateway, GatewayId};
use parking_lot::{Mutex, RwLock};
use tokio_util::sync::CancellationToken;

use super::{counters::ClusterCounters, outbox::Outbox, wire::Parcel};

/// Other gateways at most. Every pair has a stream, so that a service has far fewer.
const MAX_LINKS: usize = 1_024;

/// Another gateway.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) gateway: GatewayId,
    /// Where it is dialled; not known while it is only known from its own call.
    pub(super) address: Mutex<Option<String>>,
    pub(super) outbox: Arc<Outbox>,
    /// Streams that both sides have proven. Two for the moment in which a new one takes over.
    up: AtomicUsize,
    /// The gateway is gone.
    pub(super) gone: CancellationToken,
}

impl Link {
    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire) > 0
    }

    /// Counts a stream for as long as it is held.
    pub(super) fn up(self: &Arc<Self>) -> Up {
        self.up.fetch_add(1, Ordering::AcqRel);
        Up(Arc::clone(self))
    }
}

/// A stream that works.
#[derive(Debug)]
pub(super) struct Up(Arc<Link>);

impl Drop for Up {
    fn drop(&mut self) {
        self.0.up.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What a renewal has changed.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Gateways that were not known.
    pub(super) new: Vec<Arc<Link>>,
    /// Gateways that have neither a lease nor a stream.
    pub(super) gone: Vec<GatewayId>,
}

/// All other gateways that are known.
#[derive(Debug)]
pub(super) struct Links {
    me: GatewayId,
    counters: Arc<ClusterCounters>,
    table: RwLock<HashMap<GatewayId, Arc<Link>>>,
}

impl Links {
    pub(super) fn new(me: GatewayId, counters: Arc<ClusterCounters>) -> Self {
        Self { me, counters, table: RwLock::default() }
    }

    pub(super) fn get(&self, gateway: GatewayId) -> Option<Arc<Link>> {
        self.table.read().get(&gateway).cloned()
    }

    /// Whether it is known.
    pub(super) fn has(&self, gateway: GatewayId) -> bool {
        self.table.read().contains_key(&gateway)
    }

    pub(super) fn all(&self) -> Vec<Arc<Link>> {
        self.table.read().values().cloned().collect()
    }

    pub(super) fn count_up(&self) -> usize {
        self.table.read().values().filter(|link| link.is_up()).count()
    }

    /// Puts the same into every outbox.
    pub(super) fn put_everywhere(&self, items: &[Parcel]) {
        if !items.is_empty() {
            self.all().iter().for_each(|link| link.outbox.put(items.iter().cloned()));
        }
    }

    /// A gateway that has proven who it is. `None` if there are too many.
    pub(super) fn called_by(&self, gateway: GatewayId) -> Option<Arc<Link>> {
        let mut table = self.table.write();
        if let Some(link) = table.get(&gateway) {
            return Some(Arc::clone(link));
        }
        (table.len() < MAX_LINKS).then(|| self.add(&mut table, gateway))
    }

    /// Takes over who has a lease. A gateway without one whose stream works has only lost it for the moment, for instance because the directory was flushed.
    pub(super) fn renewed(&self, gateways: &[Gateway]) -> Changes {
        let mut changes = Changes::default();
        let mut table = self.table.write();
        for gateway in gateways.iter().filter(|gateway| gateway.id != self.me) {
            let known = table.get(&gateway.id).cloned();
            if known.is_none() && table.len() >= MAX_LINKS {
                continue;
            }
            let link = known.unwrap_or_else(|| {
                let link = self.add(&mut table, gateway.id);
                changes.new.push(Arc::clone(&link));
                link
            });
            *link.address.lock() = Some(gateway.address.clone());
        }
        table.retain(|id, link| {
            let stays = link.is_up() || gateways.iter().any(|gateway| gateway.id == *id);
            if !stays {
                link.gone.cancel();
                changes.gone.push(*id);
            }
            stays
        });
        changes
    }

    fn add(&self, table: &mut HashMap<GatewayId, Arc<Link>>, gateway: GatewayId) -> Arc<Link> {
        let link = Arc::new(Link {
            gateway,
            address: Mutex::new(None),
            outbox: Arc::new(Outbox::new(Arc::clone(&self.counters))),
            up: AtomicUsize::new(0),
            gone: CancellationToken::new(),
        });
        table.insert(gateway, Arc::clone(&link));
        link
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateways(ids: &[u64]) -> Vec<Gateway> {
        ids.iter().map(|id| Gateway { id: GatewayId(*id), address: format!("host:{id}") }).collect()
    }

    #[test]
    fn a_gateway_goes_when_it_has_neither_lease_nor_stream() {
        let links = Links::new(GatewayId(2), Arc::default());
        let changes = links.renewed(&gateways(&[1, 2, 3]));
        assert_eq!((changes.new.len(), changes.gone.len()), (2, 0), "oneself is no peer");
        let up = links.get(GatewayId(3)).unwrap().up();
        let changes = links.renewed(&gateways(&[2]));
        assert_eq!(changes.gone, [GatewayId(1)]);
        assert!(links.get(GatewayId(1)).is_none());
        drop(up);
        assert_eq!(links.renewed(&gateways(&[2])).gone, [GatewayId(3)]);
        assert!(links.called_by(GatewayId(9)).is_some());
        assert!(links.renewed(&gateways(&[9])).new.is_empty(), "it has called already");
    }
}
