//! Several gateways as one service: which of them holds a device is found in the session directory, and what is for the device goes over a stream between the
//! two. Without the address of a directory in the configuration nothing of this exists.
//!
//! Everything sent here is a hint. Queues are bounded and drop; a link that breaks loses what was under way; the directory may be away, late or empty. What makes
//! that harmless is rule 1 of the design: the receiving side checks the heads of its devices when a link or the directory comes back, when it is told that
//! something was dropped, shortly after a device has connected, and at every keep-alive.
//!
//! Tasks: the router (`router.rs`), the roster (`roster.rs`), the renewal of the lease, the beat by which an interruption of this process is noticed
//! (`lease.rs`), the check of all heads when it is asked for, one task for each link (`dial.rs`, `service.rs`). They end with the shutdown token.

mod counters;
mod dial;
mod gone;
mod lease;
mod links;
mod outbox;
mod places;
mod proof;
mod queue;
mod receive;
mod roster;
mod router;
mod service;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use kith_chat_core::{
    domain::Clock,
    log::Resolved,
    sessions::{AT_ONCE, DirectoryError, GatewayId, Place, SessionDirectory},
};
use kith_proto::{
    id::{AccountId, DeviceId, DeviceRef},
    v1::{ErrorCode, server_frame::Kind},
};
use parking_lot::Mutex;
use tokio::{
    net::TcpListener,
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::counters::ClusterCounters;
pub(crate) use self::roster::Entered;
use self::{lease::Lease, links::Links, places::Places, proof::Proofs, queue::Queue, roster::Roster, router::Job};
use crate::{
    sessions::{Absent, Sessions, Sleepers},
    telemetry::Tracer,
};

/// The largest frame that is taken from another gateway: a full one, whose last item is the largest that any configuration allows.
const MAX_MESSAGE: usize = outbox::FRAME_BYTES + (16 << 20) + (1 << 20);
/// Jobs that may wait for the router, and the bytes of their messages.
const MAX_JOBS: usize = 65_536;
const MAX_JOB_BYTES: usize = 64 << 20;
/// Renewals in one lease at the least, and the longest pause between two: it is also how long a new gateway may stay unknown.
const RENEWALS: u32 = 3;
const RENEW_EVERY: Duration = Duration::from_secs(1);
/// Between two renewals at the least, however many ask for one.
const RENEW_AGAIN: Duration = Duration::from_millis(250);
/// Between two checks of all heads.
const RECHECK_AGAIN: Duration = Duration::from_secs(1);
/// For giving up the lease at the end.
const RESIGN_WITHIN: Duration = Duration::from_secs(2);

/// Told whether the directory can be asked.
pub(crate) type Availability = Box<dyn Fn(bool) + Send + Sync>;

/// What the links stand on.
pub struct ClusterPorts {
    /// Which gateway holds which device.
    pub directory: Arc<dyn SessionDirectory>,
    /// What all gateways of the service know and nobody else.
    pub secret: [u8; 32],
    /// How long a gateway counts as alive without a renewal.
    pub lease: Duration,
    /// Hears, if anybody does, of devices that there is a message for and that are connected nowhere.
    pub sleepers: Option<Sleepers>,
    /// Unix time.
    pub clock: Clock,
    /// Follows some messages all the way, if there is anybody to tell.
    pub tracer: Option<Arc<Tracer>>,
}

impl std::fmt::Debug for ClusterPorts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterPorts").field("directory", &self.directory).finish_non_exhaustive()
    }
}

/// This gateway among the others.
pub struct Cluster {
    directory: Arc<dyn SessionDirectory>,
    sleepers: Option<Sleepers>,
    clock: Clock,
    tracer: Option<Arc<Tracer>>,
    proofs: Proofs,
    lease: Lease,
    renew_every: Duration,
    links: Links,
    places: Mutex<Places>,
    jobs: Queue<Job>,
    roster: Roster,
    counters: Arc<ClusterCounters>,
    /// It is known who has a lease.
    renewed: AtomicBool,
    /// The directory did not answer when it was last asked.
    away: AtomicBool,
    /// Somebody was told that nothing is known of the directory, once per outage.
    told: AtomicBool,
    /// There are sessions that could not be entered.
    unentered: AtomicBool,
    /// Something was dropped before it was known for whom it was.
    missed: AtomicBool,
    /// Nothing is renewed any more.
    resigned: CancellationToken,
    renew_soon: Notify,
    recheck: Notify,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("me", &self.me()).field("links", &self.links.count_up()).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Nothing runs before `start`.
    #[must_use]
    pub fn new(ports: ClusterPorts) -> Arc<Self> {
        let ClusterPorts { directory, secret, lease, sleepers, clock, tracer } = ports;
        let me = directory.gateway();
        let counters = Arc::<ClusterCounters>::default();
        Arc::new(Self {
            proofs: Proofs::new(secret, me),
            sleepers,
            clock,
            tracer,
            lease: Lease::new(lease),
            renew_every: RENEW_EVERY.min(lease / RENEWALS),
            links: Links::new(me, Arc::clone(&counters)),
            places: Mutex::default(),
            jobs: Queue::new(MAX_JOBS, MAX_JOB_BYTES),
            roster: Roster::default(),
            counters,
            renewed: AtomicBool::new(false),
            away: AtomicBool::new(false),
            told: AtomicBool::new(false),
            unentered: AtomicBool::new(false),
            missed: AtomicBool::new(false),
            resigned: CancellationToken::new(),
            renew_soon: Notify::new(),
            recheck: Notify::new(),
            directory,
        })
    }

    /// Starts the tasks; they end with `shutdown`, and `tracker` owns them. `listener` takes the calls of other gateways.
    pub(crate) fn start(
        self: &Arc<Self>,
        sessions: &Arc<Sessions>,
        listener: TcpListener,
        availability: Availability,
        shutdown: &CancellationToken,
        tracker: &TaskTracker,
    ) {
        let spawn = |task: Pin<Box<dyn Future<Output = ()> + Send>>| {
            let shutdown = shutdown.clone();
            tracker.spawn(async move { shutdown.run_until_cancelled(task).await });
        };
        let here = || (Arc::clone(self), Arc::clone(sessions));
        let (cluster, hub) = here();
        spawn(Box::pin(service::serve(cluster, hub, listener, tracker.clone(), shutdown.clone())));
        spawn(Box::pin(Arc::clone(self).route_jobs()));
        spawn(Box::pin(Arc::clone(self).keep_roster()));
        spawn(Box::pin(Arc::clone(self).keep_beating()));
        let (cluster, hub) = here();
        spawn(Box::pin(cluster.recheck_when_asked(hub)));
        let (cluster, hub) = here();
        spawn(Box::pin(cluster.keep_renewing(hub, availability, shutdown.clone(), tracker.clone())));
    }

    /// Which gateway this is.
    #[must_use]
    pub fn me(&self) -> GatewayId {
        self.directory.gateway()
    }

    /// Counts for metrics.
    #[must_use]
    pub fn counters(&self) -> &ClusterCounters {
        &self.counters
    }

    /// Links that work, and accounts in the cache.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.links.count_up(), self.places.lock().len())
    }

    /// The present era; see [`Lease`].
    pub(crate) fn era(&self) -> u64 {
        self.lease.era()
    }

    /// A message that was accepted just now, for devices at other gateways, with those that are not here.
    pub(crate) fn route(&self, message: &Arc<Resolved>, accepted_us: u64, absent: Absent) {
        self.job(Job::Message(Arc::clone(message), accepted_us, absent));
    }

    /// A message that had been accepted before.
    pub(crate) fn route_again(&self, message: &Arc<Resolved>) {
        self.job(Job::Again(Arc::clone(message)));
    }

    /// A push for the account's devices at other gateways, or for one of them.
    pub(crate) fn tell(&self, account: AccountId, device: Option<DeviceId>, kind: Kind) {
        self.job(Job::Tell(account, device, Box::new(kind)));
    }

    /// Ends connections of the device at other gateways, wherever they are.
    pub(crate) fn cut(&self, device: DeviceRef, reason: ErrorCode) {
        self.links.put_everywhere(&[wire::cut(device, u64::MAX, reason)]);
    }

    /// Tells all gateways of accounts that have come, gone, or changed whether they hide.
    pub(crate) fn tell_presence(&self, changes: impl Iterator<Item = (AccountId, Option<u64>, bool)>) {
        let items: Vec<_> = changes.map(|(account, last_seen_ms, setting)| wire::presence(account, last_seen_ms, setting)).collect();
        self.links.put_everywhere(&items);
    }

    /// Those of the accounts that have a device at another gateway. Nobody, if the directory cannot be asked. Accounts of which a gateway has just said that
    /// they have gone from it may still stand there: those places are passed over.
    pub(crate) async fn online_elsewhere(&self, accounts: &[AccountId], gone_from: &HashMap<AccountId, GatewayId>) -> HashSet<AccountId> {
        let is_there = |account: &AccountId, places: &[Place]| {
            places.iter().any(|place| gone_from.get(account) != Some(&place.gateway) && self.links.get(place.gateway).is_some())
        };
        let mut online = HashSet::new();
        let mut unknown = Vec::new();
        {
            let mut places = self.places.lock();
            for account in accounts {
                if !places.knows(account) {
                    unknown.push(*account);
                } else if is_there(account, places.peek(account)) {
                    online.insert(*account);
                }
            }
        }
        for some in unknown.chunks(AT_ONCE) {
            if self.is_away() {
                break;
            }
            self.counters.looked_up.add(some.len() as u64);
            match self.directory.find(some).await {
                // Not kept: only the router hears what becomes stale while a question is under way.
                Ok(found) => {
                    let online_now = some.iter().zip(&found).filter(|(account, places)| is_there(account, places));
                    online.extend(online_now.map(|(account, _)| *account));
                }
                Err(error) => self.failed(&error),
            }
        }
        online
    }

    /// Something is known to have changed about them.
    fn forget_places(&self, accounts: impl Iterator<Item = AccountId>) {
        let mut places = self.places.lock();
        accounts.for_each(|account| places.forget(&account));
    }

    /// At the end of a drain: others know at once that nobody is here.
    pub(crate) async fn resign(&self) {
        self.resigned.cancel();
        if !matches!(timeout(RESIGN_WITHIN, self.directory.resign()).await, Ok(Ok(()))) {
            tracing::info!("the session directory was not told of the end; it will notice when the lease is over");
        }
    }

    fn job(&self, job: Job) {
        let bytes = job.bytes();
        if !self.jobs.put(job, bytes) {
            self.drop_job();
        }
    }

    fn is_away(&self) -> bool {
        self.away.load(Ordering::Acquire)
    }

    /// The directory did not answer. Until a renewal succeeds it is not asked.
    fn failed(&self, error: &DirectoryError) {
        self.counters.failed.one();
        self.away.store(true, Ordering::Release);
        self.renew_soon.notify_one();
        if !self.told.swap(true, Ordering::AcqRel) {
            let error: &dyn std::error::Error = error;
            tracing::warn!(error, "the session directory is away: what is for devices at other gateways waits in the log");
        }
    }

    async fn keep_beating(self: Arc<Self>) {
        let mut era = self.era();
        loop {
            sleep(self.lease.beat_every()).await;
            self.lease.beat();
            let now = self.era();
            if now != era {
                tracing::warn!("this process did not run for a while: connections from before are closed");
                era = now;
            }
        }
    }

    /// Renews the lease, follows who else has one, and enters what the directory does not know.
    async fn keep_renewing(self: Arc<Self>, sessions: Arc<Sessions>, availability: Availability, shutdown: CancellationToken, tracker: TaskTracker) {
        while !self.resigned.is_cancelled() {
            let begun = Instant::now();
            let there = self.renew(&sessions, &shutdown, &tracker).await;
            availability(there);
            let pause = if there { self.renew_every } else { RENEW_AGAIN };
            // An early call is heard, but not at once.
            let _ = timeout(pause, self.renew_soon.notified()).await;
            sleep(RENEW_AGAIN.min(self.renew_every).saturating_sub(begun.elapsed())).await;
        }
    }

    async fn renew(self: &Arc<Self>, sessions: &Arc<Sessions>, shutdown: &CancellationToken, tracker: &TaskTracker) -> bool {
        let renewal = match self.directory.renew().await {
            Ok(renewal) => renewal,
            Err(error) => {
                self.failed(&error);
                return false;
            }
        };
        let changes = self.links.renewed(&renewal.gateways);
        self.renewed.store(true, Ordering::Release);
        changes.gone.iter().for_each(|gateway| self.places.lock().forget_gateway(*gateway));
        if !changes.gone.is_empty() {
            let telling = Arc::clone(self).tell_who_is_gone(Arc::clone(sessions), changes.gone);
            let shutdown = shutdown.clone();
            tracker.spawn(async move { shutdown.run_until_cancelled(telling).await });
        }
        for link in changes.new.into_iter().filter(|link| self.dials(link.gateway)) {
            let (cluster, sessions, shutdown) = (Arc::clone(self), Arc::clone(sessions), shutdown.clone());
            tracker.spawn(async move { shutdown.run_until_cancelled(cluster.keep_link(sessions, link)).await });
        }
        let was_away = self.away.swap(false, Ordering::AcqRel);
        if self.told.swap(false, Ordering::AcqRel) {
            tracing::info!("the session directory answers again");
        }
        let unentered = self.unentered.swap(false, Ordering::AcqRel);
        if (renewal.anew || unentered || was_away) && !self.enter_all(sessions).await {
            self.unentered.store(true, Ordering::Release);
            return false;
        }
        if renewal.anew || was_away {
            // Until now others could not know what is here.
            self.recheck.notify_one();
        }
        if self.missed.swap(false, Ordering::AcqRel) {
            self.links.all().iter().for_each(|link| link.outbox.note_gap());
        }
        self.resume_roster();
        true
    }

    /// Checks the heads of all devices here whenever that is asked for.
    async fn recheck_when_asked(self: Arc<Self>, sessions: Arc<Sessions>) {
        loop {
            self.recheck.notified().await;
            self.counters.rechecks.one();
            sessions.check_all_heads().await;
            sleep(RECHECK_AGAIN).await;
        }
    }
}

/// Unix microseconds, for measuring.
pub(crate) fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
