//! Every connection of this process: who is connected, what is delivered to whom, and the few tasks that serve all connections together.
//!
//! Tasks: the dispatcher (what the log has resolved goes to senders and receivers), the courier (watermarks, and in a task of
//! its own presence, gathered for some milliseconds), the sweep (keep-alive, tokens that end, heads). They end with the shutdown token. Nothing here is the truth about a message: whatever
//! is dropped, a device finds it in the log.

mod counters;
mod courier;
mod directory;
mod dispatcher;
mod drain;
mod execute;
mod lobby;
mod peers;
mod presence;
mod session;
mod settings;
mod sleepers;
mod sweep;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    future::Future,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use kith_chat_core::{
    domain::Clock,
    log::{Admission, Append, MessageLog, Resolved},
};
use kith_proto::{
    id::{AccountId, DeviceRef},
    v1,
    v1::server_frame::Kind,
};
use parking_lot::Mutex;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use self::{
    counters::us,
    dispatcher::Awake,
    execute::execute,
    sleepers::{Absent, publish as publish_sleepers},
};
pub use self::{
    counters::{Counter, Counters, Gauge, LATENCY_BOUNDS_US, Latency, Stages},
    lobby::Permit,
    presence::PresenceStore,
    session::{Delivered, Event, InboxLimit, Session, Taken},
    settings::SessionSettings,
    sleepers::Sleepers,
};
use self::{courier::Courier, directory::Directory, lobby::Lobby, presence::Presence};
use crate::{
    cluster::Cluster,
    connection::{Now, Shared, Signal},
    telemetry::Tracer,
    token::TokenKey,
};

/// Says whether a device may append just now; asked once per send.
pub type AdmitSend = Box<dyn Fn(&DeviceRef) -> Admission + Send + Sync>;

/// What the sessions stand on.
pub struct Ports {
    /// The message log.
    pub log: Arc<dyn MessageLog>,
    /// What the log has resolved, in commit order.
    pub resolved: mpsc::Receiver<Vec<Resolved>>,
    /// Who hides, and when accounts were last seen.
    pub presence: Arc<dyn PresenceStore>,
    /// Checks access tokens.
    pub tokens: TokenKey,
    /// Unix time.
    pub clock: Clock,
    /// Limits of sending, per device and account.
    pub admit_send: AdmitSend,
    /// The other gateways, if this one is not alone.
    pub cluster: Option<Arc<Cluster>>,
    /// Hears, if anybody does, which devices there is a message for that are not connected; with other gateways these are asked first.
    pub sleepers: Option<Sleepers>,
    /// Follows some messages all the way, if there is anybody to tell.
    pub tracer: Option<Arc<Tracer>>,
}

impl std::fmt::Debug for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ports").finish_non_exhaustive()
    }
}

/// The hub of all connections.
pub struct Sessions {
    shared: Arc<Shared>,
    log: Arc<dyn MessageLog>,
    clock: Clock,
    started: Instant,
    next_connection: AtomicU64,
    directory: Directory,
    establishing: Mutex<()>,
    lobby: Lobby,
    counters: Counters,
    courier: Courier,
    presence: Presence,
    admit_send: AdmitSend,
    cluster: Option<Arc<Cluster>>,
    sleepers: Option<Sleepers>,
    tracer: Option<Arc<Tracer>>,
    draining: CancellationToken,
    drained: tokio::sync::Notify,
    sessions: Gauge,
    tracker: TaskTracker,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions").field("connections", &self.counters.connections.value()).finish_non_exhaustive()
    }
}

impl Sessions {
    /// Starts the tasks that all connections share; they end with `shutdown`. `tracker` owns them and every connection.
    #[must_use]
    pub fn start(settings: SessionSettings, ports: Ports, shutdown: &CancellationToken, tracker: &TaskTracker) -> Arc<Self> {
        let Ports { log, resolved, presence, tokens, clock, admit_send, cluster, sleepers, tracer } = ports;
        let sessions = Arc::new(Self {
            shared: Arc::new(Shared { settings, tokens }),
            log,
            clock,
            started: Instant::now(),
            next_connection: AtomicU64::new(1),
            directory: Directory::default(),
            establishing: Mutex::new(()),
            lobby: Lobby::default(),
            counters: Counters::default(),
            courier: Courier::default(),
            presence: Presence::new(presence),
            admit_send,
            cluster,
            sleepers,
            tracer,
            draining: CancellationToken::new(),
            drained: tokio::sync::Notify::new(),
            sessions: Gauge::default(),
            tracker: tracker.clone(),
        });
        let spawn = |task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            let shutdown = shutdown.clone();
            tracker.spawn(async move { shutdown.run_until_cancelled(task).await });
        };
        spawn(Box::pin(Arc::clone(&sessions).dispatch(resolved)));
        spawn(Box::pin(Arc::clone(&sessions).carry()));
        spawn(Box::pin(Arc::clone(&sessions).carry_presence()));
        spawn(Box::pin(Arc::clone(&sessions).sweep()));
        sessions
    }

    /// Settings and token key.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Counts for metrics.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The time as connections see it.
    #[must_use]
    pub fn now(&self) -> Now {
        self.now_at(Instant::now())
    }

    /// The same for somebody who has just read the running clock.
    pub(crate) fn now_at(&self, at: Instant) -> Now {
        let running_ms = u64::try_from(at.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX);
        Now { unix_ms: self.clock.now_ms(), running_ms }
    }

    /// Whether a device of the account is connected here.
    #[must_use]
    pub fn online(&self, account: AccountId) -> bool {
        self.directory.of(&account, |sessions| sessions.iter().any(|s| s.is_established()))
    }

    /// Ends the connections of a device wherever they are, also one that is just coming about. Call it after the change that is the reason has been committed.
    pub fn cut(&self, device: DeviceRef, reason: v1::ErrorCode) {
        self.cut_through(device, u64::MAX, reason);
        if let Some(cluster) = &self.cluster {
            cluster.cut(device, reason);
        }
    }

    /// Pushes to all live devices of an account. A hint: a connection without room does not get it.
    pub fn tell(&self, account: AccountId, kind: &Kind) {
        self.tell_here(account, None, kind);
        if let Some(cluster) = &self.cluster {
            cluster.tell(account, None, kind.clone());
        }
    }

    /// Pushes to the live connection of one device. A hint like [`Self::tell`].
    pub fn tell_device(&self, device: DeviceRef, kind: &Kind) {
        self.tell_here(device.account, Some(device.device), kind);
        if let Some(cluster) = &self.cluster {
            cluster.tell(device.account, Some(device.device), kind.clone());
        }
    }

    /// The stretch of time, without an interruption of this process, in which a connection lives: it ends unheard in the next one. `None` for a server that
    /// is alone.
    pub(crate) fn era(&self) -> Option<u64> {
        self.cluster.as_ref().map(|cluster| cluster.era())
    }

    /// Who follows messages, if anybody does.
    pub(crate) fn tracer(&self) -> Option<&Tracer> {
        self.tracer.as_deref()
    }

    /// Lets a new socket in, or not.
    #[must_use]
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Permit> {
        if self.draining.is_cancelled() {
            return None;
        }
        let permit = Lobby::admit(self, address);
        if permit.is_none() {
            self.counters.turned_away.one();
        }
        permit
    }

    /// Runs a connection's task.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(task);
    }

    /// Cancelled when the server is going away.
    pub(crate) fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    pub(crate) fn next_connection(&self) -> u64 {
        self.next_connection.fetch_add(1, Ordering::Relaxed)
    }

    /// A connection has shown a token. From here it can be cut; live deliveries are noted for it but not put in.
    pub(crate) fn register(&self, id: u64, device: DeviceRef, token_until_ms: u64) -> Arc<Session> {
        let session = Arc::new(Session::new(id, device, token_until_ms, self.now().running_ms));
        self.sessions.up();
        self.directory.insert(Arc::clone(&session));
        if self.draining.is_cancelled() {
            session.signal(Signal::Drain);
        }
        session
    }

    /// The log has let the connection in: it takes over from older ones of its device.
    ///
    /// # Errors
    /// Why it must end at once: a newer connection was faster, or it was cut meanwhile.
    pub(crate) fn establish(&self, session: &Session, epoch: u64) -> Result<(), v1::ErrorCode> {
        let account = session.device().account;
        let first = {
            let _one_at_a_time = self.establishing.lock();
            let mut others = self.directory.of(&account, |all| all.iter().filter(|s| s.id() != session.id()).cloned().collect::<Vec<_>>());
            others.retain(|other| other.is_established());
            let older = || others.iter().filter(|other| other.device() == session.device());
            if older().any(|other| other.epoch() > epoch) {
                return Err(v1::ErrorCode::Replaced);
            }
            session.establish(epoch);
            older().for_each(|other| other.signal(Signal::Cut(v1::ErrorCode::Replaced)));
            others.is_empty()
        };
        if let Some(reason) = session.cut_reason() {
            return Err(reason);
        }
        self.counters.logins.one();
        tracing::debug!(connection = session.id(), "open");
        if first {
            self.presence_changed(account, false);
        }
        Ok(())
    }

    pub(crate) fn unregister(&self, session: &Session) {
        session.close();
        self.directory.remove(session);
        self.presence.forget(session.id());
        let account = session.device().account;
        if session.is_established() {
            if let Some(cluster) = &self.cluster {
                cluster.leave(session.device(), session.epoch());
            }
            if !self.online(account) {
                self.last_seen(account);
            }
        }
        tracing::debug!(connection = session.id(), "over");
        self.sessions.down();
        self.drained.notify_one();
    }

    pub(crate) fn renew(&self, session: &Session, token_until_ms: u64) {
        session.set_token_until(token_until_ms);
    }

    pub(crate) fn go_live(&self, session: &Session, force: bool) -> bool {
        session.go_live(force)
    }

    pub(crate) fn goodbye(&self, connection: u64, reason: v1::ErrorCode) {
        tracing::debug!(connection, reason = reason.as_str_name(), "goodbye");
        self.counters.refused(reason.into());
        if reason == v1::ErrorCode::TooSlow {
            self.counters.too_slow.one();
        }
    }

    /// Hands an append to the log, after the limits have said whether it may be new.
    pub(crate) fn submit(&self, mut append: Append) -> Result<(), Box<Append>> {
        if append.admission == Admission::Admitted {
            append.admission = (self.admit_send)(&append.sender);
        }
        self.counters.in_log.up();
        self.log.submit(append).inspect_err(|_| {
            self.counters.in_log.down();
            self.counters.log_full.one();
        })
    }

    fn inbox_limit(&self) -> InboxLimit {
        InboxLimit { count: self.shared.settings.inbox_messages, bytes: self.shared.settings.inbox_bytes }
    }
}
