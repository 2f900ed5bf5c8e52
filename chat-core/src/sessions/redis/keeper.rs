//! Makes links, one after another, and tells what each leaves stale.

use std::{sync::Arc, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use fred::types::{ClusterStateChange, client::Invalidation, config::Config};
use parking_lot::Mutex;
use tokio::{
    sync::{broadcast, mpsc},
    task::JoinHandle,
    time::{self, Instant},
};

use super::{ANSWERED_WITHIN, Address, CallError, OpenError, link::Link, link::Running, record::Keys};
use crate::sessions::{GatewayId, Stale, stale::Stales};

/// How often a link that nobody doubts is examined. Bounds, with [`ANSWERED_WITHIN`], for how long a link that broke without a sound is believed.
const EXAMINED_EVERY: Duration = Duration::from_secs(1);
const MADE_WITHIN: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Owns the task that keeps a link.
#[derive(Debug)]
pub(super) struct Keeper {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    address: Address,
    link: Mutex<Option<Arc<Link>>>,
    stales: Stales,
}

impl Keeper {
    /// Returns when the first link is there.
    pub(super) async fn start(config: Config, address: Address, keys: Keys, gateway: GatewayId) -> Result<(Self, mpsc::Receiver<Stale>), OpenError> {
        let maker = Maker { config, keys, gateway };
        let first = maker.make().await.map_err(|source| OpenError::Unreachable { address: address.clone(), source })?;
        let (stales, receiver) = Stales::new();
        let shared = Arc::new(Shared { address, link: Mutex::new(Some(Arc::clone(&first.0))), stales });
        let task = tokio::spawn(keep(maker, Arc::clone(&shared), first));
        Ok((Self { shared, task }, receiver))
    }

    pub(super) fn address(&self) -> &Address {
        &self.shared.address
    }

    /// The link, unless it is broken, or doubted and not yet seen to work.
    pub(super) fn link(&self) -> Option<Arc<Link>> {
        self.shared.link.lock().clone().filter(|link| !link.is_doubted())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What every link of a directory is made of.
struct Maker {
    config: Config,
    keys: Keys,
    gateway: GatewayId,
}

impl Maker {
    async fn make(&self) -> Result<(Arc<Link>, Watch), CallError> {
        time::timeout(MADE_WITHIN, Link::make(&self.config, &self.keys, self.gateway)).await.unwrap_or(Err(CallError::Late))
    }

    /// Tries until it succeeds.
    async fn make_another(&self, pause: &mut Duration) -> (Arc<Link>, Watch) {
        loop {
            // Not all gateways at the same moment.
            time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            *pause = (*pause * 2).min(LONGEST_PAUSE);
            match self.make().await {
                Ok(made) => return made,
                Err(error) => tracing::debug!(%error, "no link to Redis yet"),
            }
        }
    }
}

async fn keep(maker: Maker, shared: Arc<Shared>, mut made: (Arc<Link>, Watch)) {
    let mut pause = FIRST_PAUSE;
    loop {
        let (link, mut watch) = made;
        let begun = Instant::now();
        *shared.link.lock() = Some(Arc::clone(&link));
        let error = watch.until_over(&link, &shared.stales).await;
        // In this order: whoever is told and asks again must not be answered by what is over.
        *shared.link.lock() = None;
        shared.stales.tell(Stale::Everything);
        drop(watch);
        tracing::warn!(address = %shared.address, %error, "the link to Redis is broken: devices at other gateways are not found until it is back");
        if begun.elapsed() > LONGEST_PAUSE {
            pause = FIRST_PAUSE;
        }
        made = maker.make_another(&mut pause).await;
        tracing::info!(address = %shared.address, "linked to Redis again");
    }
}

/// Sees to a link: passes on its news, examines it, and notices its end. Owns the driver's tasks, which end with it.
#[derive(Debug)]
pub(super) struct Watch {
    running: [Running; 2],
    invalidations: broadcast::Receiver<Invalidation>,
    changes: broadcast::Receiver<Vec<ClusterStateChange>>,
    keys: Keys,
    markers: Markers,
}

impl Watch {
    pub(super) fn new(
        running: [Running; 2],
        invalidations: broadcast::Receiver<Invalidation>,
        changes: broadcast::Receiver<Vec<ClusterStateChange>>,
        keys: Keys,
        markers: Vec<Bytes>,
        gateway: GatewayId,
    ) -> Self {
        Self { running, invalidations, changes, keys, markers: Markers { keys: markers, seen: Vec::new(), gateway, looks: 0 } }
    }

    /// The first examination.
    pub(super) async fn look(&mut self, link: &Link) -> Result<(), CallError> {
        self.markers.look(link).await.map(drop)
    }

    /// Returns why it is over.
    async fn until_over(&mut self, link: &Link, stales: &Stales) -> CallError {
        let [Running(reading), Running(writing)] = &mut self.running;
        tokio::select! {
            ended = reading => over(ended),
            ended = writing => over(ended),
            // The driver may have connected to another server by itself, and is not tracked there.
            _ = self.changes.recv() => CallError::Away,
            () = pass_on(&mut self.invalidations, &self.keys, stales) => CallError::Away,
            error = self.markers.examine(link, stales) => error,
        }
    }
}

fn over(ended: Result<Result<(), fred::error::Error>, tokio::task::JoinError>) -> CallError {
    match ended {
        Ok(Err(error)) => CallError::Redis(error),
        Ok(Ok(())) | Err(_) => CallError::Away,
    }
}

async fn pass_on(invalidations: &mut broadcast::Receiver<Invalidation>, keys: &Keys, stales: &Stales) {
    loop {
        match invalidations.recv().await {
            Ok(invalidation) => {
                let accounts = invalidation.keys.iter().filter_map(|key| keys.account(key.as_bytes()));
                accounts.for_each(|account| stales.tell(Stale::Account(account)));
            }
            Err(broadcast::error::RecvError::Lagged(_)) => stales.tell(Stale::Everything),
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// One key on each server, whose value nobody writes twice. Redis says by an empty invalidation that it was flushed, and forgets what it has tracked, but the
/// driver drops that message. A flushed server has lost its marker, or has another.
#[derive(Debug)]
struct Markers {
    keys: Vec<Bytes>,
    seen: Vec<Bytes>,
    gateway: GatewayId,
    looks: u64,
}

impl Markers {
    /// Goes on until the link fails.
    async fn examine(&mut self, link: &Link, stales: &Stales) -> CallError {
        loop {
            // Either is a reason to look.
            let _ = time::timeout(EXAMINED_EVERY, link.doubts()).await;
            match time::timeout(ANSWERED_WITHIN, self.look(link)).await {
                Ok(Ok(true)) => link.trust(),
                Ok(Ok(false)) => {
                    stales.tell(Stale::Everything);
                    link.trust();
                }
                Ok(Err(error)) => return error,
                Err(_) => return CallError::Late,
            }
        }
    }

    /// Whether they are as they were.
    async fn look(&mut self, link: &Link) -> Result<bool, CallError> {
        self.looks += 1;
        let mut value = BytesMut::with_capacity(16);
        value.put_u64(self.gateway.0);
        value.put_u64(self.looks);
        let now = link.mark(&self.keys, &value.freeze()).await?;
        let same = now == self.seen;
        self.seen = now;
        Ok(same)
    }
}
