//! A server from the moment in which everything it stands on is there, until all of it has ended in order.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use kith_chat_core::{
    accounts::Accounts,
    bus::{Bus, Relay},
    domain::Clock,
    log::Terms,
    sessions::{Connections, Everywhere, GatewayId, SessionDirectory, buckets::Buckets},
};
use kith_proto::id::{AccountId, DeviceId, DeviceRef};
use tokio::{
    net::TcpListener,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    RunError,
    foundation::{self, Foundation, Joined, Names, Secrets},
    lookout::Lookout,
    replica,
};
use crate::{
    challenge::Challenges,
    cluster::{Cluster, ClusterPorts},
    config::{self, Config, Origins},
    health::Health,
    limits::Limits,
    metrics::Metrics,
    rest,
    server::Server,
    sessions::{self, Ports, SessionSettings, Sessions, Sleepers},
    state::AppState,
    storage::{ResolvedAppends, Storage},
    telemetry::{Exporter, Tracer},
    token::TokenKey,
};

/// Pause between two looks at what the server depends on, and the time an answer may take.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// Pause between two purges of ended logins, invites and buckets.
const PURGE_EVERY: Duration = Duration::from_secs(3_600);
/// Clients that are asked to go to another server do so at a random moment within this.
const MOVED_WITHIN: Duration = Duration::from_secs(1);
/// For the background tasks, and the last commit, at the end.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Everything that was started and has to end.
pub(super) struct Running {
    health: Arc<Health>,
    drain_within: Duration,
    pub(super) storage: Storage,
    bus: Arc<dyn Bus>,
    /// With the role: one for the outbox, one for what sleeping devices have not fetched.
    relays: Vec<Relay>,
    /// With the role: what serves clients.
    pub(super) gateway: Option<Arc<AppState>>,
    /// What is served without it.
    beside: axum::Router,
    tasks: TaskTracker,
    /// Ends the background tasks.
    background: CancellationToken,
}

impl Running {
    pub(super) async fn start(config: Config, names: Names, bound: SocketAddr, health: Arc<Health>, metrics: Arc<Metrics>) -> Result<Self, RunError> {
        let (clock, role, run) = (Clock::System, config.role, rand::random());
        let exporter = Exporter::new(&config.telemetry, run)?;
        let laid = foundation::lay(&config, &names, GatewayId(run), &clock, &health).await?;
        let Foundation { storage, resolved, bus, joined, secrets } = laid;
        let (background, tasks) = (CancellationToken::new(), TaskTracker::new());
        let beside = rest::beside(&config, Arc::clone(&health), Arc::clone(&metrics), rest::Refusal::NotHere);
        let drain_within = config::ms(config.http.drain_ms);
        let mut running = Self {
            health: Arc::clone(&health),
            drain_within,
            bus,
            relays: Vec::new(),
            gateway: None,
            beside,
            tasks: tasks.clone(),
            background: background.clone(),
            storage,
        };
        let accounts = running.storage.accounts();
        let terms = Terms { after: config::ms(config.kafka.sleeping_after_ms), retention: config::ms(config.retention.ms()) };
        let everywhere = everywhere(&config, joined.as_ref(), GatewayId(run));
        if role.is_gateway() {
            let (sleepers, told) = Sleepers::new();
            let (publishing, end) = (sessions::publish_sleepers(told, Arc::clone(&running.bus)), background.clone());
            tasks.spawn(async move { end.run_until_cancelled(publishing).await });
            let parts = Parts {
                storage: &running.storage,
                accounts: Arc::clone(&accounts),
                resolved,
                joined,
                sleepers,
                clock: clock.clone(),
                health: Arc::clone(&health),
            };
            let tracer = exporter.as_ref().map(Exporter::tracer);
            running.gateway = Some(parts.assemble(config, bound, secrets, metrics, tracer, &background, &tasks));
            if let Some(exporter) = exporter {
                tasks.spawn(exporter.run(background.clone()));
            }
        }
        if role.is_relay() {
            running.relays.push(Relay::start(running.storage.outbox(), Arc::clone(&running.bus)));
            running.tell_of_sleepers(everywhere, clock.clone(), terms);
            let (accounts, clock) = (Arc::clone(&accounts), clock);
            running.every(PURGE_EVERY, move || purge(Arc::clone(&accounts), clock.now_ms()));
        }
        if let (Some(serves), Some(name)) = (running.storage.replica_serves(), names.replica) {
            replica::tell(serves, name, health.clone(), &background, &tasks);
        }
        let name: Arc<str> = names.storage.into();
        running.every(PROBE_EVERY, move || probe(Arc::clone(&accounts), Arc::clone(&health), Arc::clone(&name)));
        Ok(running)
    }

    pub(super) async fn serve(self, server: Arc<Server>, mut accepting: JoinHandle<()>, shutdown: CancellationToken) -> Result<(), RunError> {
        server.open(self.gateway.as_ref().map_or_else(|| self.beside.clone(), |state| rest::router(Arc::clone(state))));
        self.health.begin();
        tracing::info!("ready");
        let fault = tokio::select! {
            () = shutdown.cancelled() => None,
            _ = &mut accepting => Some(RunError::NotAccepting),
            () = self.storage.ended() => Some(RunError::NotWriting),
        };
        if let Some(fault) = &fault {
            tracing::error!(%fault, "cannot go on");
            self.health.fail();
        }
        tracing::info!(asked = fault.is_none(), "draining");
        // What waits for the log would wait in vain.
        let within = if matches!(fault, Some(RunError::NotWriting)) { Duration::ZERO } else { self.drain_within };
        self.stop(&server, within).await;
        tracing::info!("stopped");
        fault.map_or(Ok(()), Err)
    }

    /// Who is connected is known from the directory of all gateways, or here if there is no other.
    fn tell_of_sleepers(&mut self, everywhere: Option<Arc<dyn Connections>>, clock: Clock, terms: Terms) {
        let here = || self.gateway.as_ref().map(|state| Arc::clone(&state.sessions) as Arc<dyn Connections>);
        match everywhere.or_else(here) {
            Some(connections) => {
                let overdue = self.storage.overdue(clock, terms);
                self.relays.push(Relay::for_sleeping(overdue, connections, Arc::clone(&self.bus)));
            }
            None => {
                tracing::warn!("without redis.url nobody here knows who is connected: messages for sleeping devices are not looked for in the log");
            }
        }
    }

    /// Runs a task again and again until the end.
    fn every<F: Future<Output = ()> + Send>(&self, pause: Duration, task: impl Fn() -> F + Send + Sync + 'static) {
        let end = self.background.clone();
        self.tasks.spawn(async move {
            let turns = async {
                loop {
                    sleep(pause).await;
                    task().await;
                }
            };
            end.run_until_cancelled(turns).await;
        });
    }

    async fn stop(self, server: &Server, within: Duration) {
        self.health.drain();
        // Both at a time: requests that are under way and sockets do not wait for each other.
        tokio::join!(server.drain(within), self.say_goodbye(within));
        self.background.cancel();
        self.tasks.close();
        if timeout(END_WITHIN, self.tasks.wait()).await.is_err() {
            tracing::error!("background tasks did not end in time");
        }
        for relay in self.relays {
            relay.stop().await;
        }
        self.bus.close().await;
        self.storage.close().await;
    }

    /// To clients, to other gateways, and to the log.
    async fn say_goodbye(&self, within: Duration) {
        let Some(state) = &self.gateway else { return };
        state.sessions.drain(within).await;
        if let Some(cluster) = &state.cluster {
            cluster.resign().await;
        }
        if !matches!(timeout(END_WITHIN, state.log.flush()).await, Ok(Ok(()))) {
            tracing::error!("the last cursors could not be made durable; messages may be delivered again");
        }
    }
}

/// What a gateway is made of.
struct Parts<'a> {
    storage: &'a Storage,
    accounts: Arc<dyn Accounts>,
    resolved: ResolvedAppends,
    joined: Option<Joined>,
    sleepers: Sleepers,
    clock: Clock,
    health: Arc<Health>,
}

impl Parts<'_> {
    #[allow(clippy::too_many_arguments, reason = "called once, by the one who has all that")]
    fn assemble(
        self,
        config: Config,
        bound: SocketAddr,
        secrets: Secrets,
        metrics: Arc<Metrics>,
        tracer: Option<Arc<Tracer>>,
        background: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Arc<AppState> {
        let Self { storage, accounts, resolved, joined, sleepers, clock, health } = self;
        let (tokens, log) = (TokenKey::new(secrets.token), storage.log());
        let shared = joined.as_ref().map(|joined| Arc::clone(&joined.directory) as Arc<dyn Buckets>);
        let limits = Arc::new(Limits::new(&config.limits, &clock, shared));
        let entered = joined.map(|joined| Entered::new(joined, &config, &clock, &sleepers, tracer.as_ref()));
        let cluster = entered.as_ref().map(|entered| Arc::clone(&entered.cluster));
        let admitting = Arc::clone(&limits);
        let ports = Ports {
            log: Arc::clone(&log),
            resolved,
            presence: Arc::new(Arc::clone(&accounts)),
            tokens: tokens.clone(),
            clock: clock.clone(),
            admit_send: Box::new(move |device| admitting.send(device)),
            cluster: cluster.clone(),
            sleepers: Some(sleepers),
            tracer: tracer.clone(),
        };
        let sessions = Sessions::start(session_settings(&config), ports, background, tasks);
        if let Some(entered) = entered {
            entered.start(&sessions, Arc::clone(&health), background, tasks);
        }
        Arc::new(AppState {
            log,
            accounts,
            sessions,
            cluster,
            tokens,
            challenges: Challenges::new(secrets.challenge),
            origins: Origins::new(&config, bound),
            trusted: config.http.trusted(),
            limits,
            clock,
            health,
            metrics,
            tracer,
            tasks: tasks.clone(),
            config,
        })
    }
}

/// One of several, before it has begun to talk to the others.
struct Entered {
    cluster: Arc<Cluster>,
    listener: TcpListener,
    name: String,
}

impl Entered {
    fn new(joined: Joined, config: &Config, clock: &Clock, sleepers: &Sleepers, tracer: Option<&Arc<Tracer>>) -> Self {
        let Joined { directory, listener, secret, name } = joined;
        let lease = config::ms(config.cluster.lease_ms);
        let ports = ClusterPorts { directory, secret, lease, sleepers: Some(sleepers.clone()), clock: clock.clone(), tracer: tracer.cloned() };
        Self { cluster: Cluster::new(ports), listener, name }
    }

    fn start(self, sessions: &Arc<Sessions>, health: Arc<Health>, background: &CancellationToken, tasks: &TaskTracker) {
        let name = self.name;
        let availability = move |there: bool| if there { health.present(&name) } else { health.absent(&name) };
        tracing::info!(gateway = %self.cluster.me(), "one of several");
        self.cluster.start(sessions, self.listener, Box::new(availability), background, tasks);
    }
}

/// As all gateways know it; nothing for a server that is alone.
fn everywhere(config: &Config, joined: Option<&Joined>, me: GatewayId) -> Option<Arc<dyn Connections>> {
    match joined {
        Some(joined) => Some(Arc::new(Everywhere::new(Arc::clone(&joined.directory) as Arc<dyn SessionDirectory>))),
        None if config.redis.url.is_set() => Some(Arc::new(Lookout::new(config, me))),
        None => None,
    }
}

fn session_settings(config: &Config) -> SessionSettings {
    let set = &config.sessions;
    SessionSettings {
        max_frame_bytes: set.max_frame_bytes,
        keep_alive: config::ms(set.keep_alive_ms),
        hello_within: config::ms(set.hello_timeout_ms),
        max_sends_in_flight: set.max_sends_in_flight,
        catch_up_window: set.catch_up_window,
        max_page: set.max_page,
        max_connections: set.max_connections,
        max_unauthenticated: set.max_unauthenticated,
        max_unauthenticated_per_address: set.max_unauthenticated_per_address,
        allowed_origins: set.allowed_origins.clone(),
        keys_low_below: config.prekeys.low_below,
        drop_live_deliveries: set.drop_deliveries,
        ..drain_settings(config)
    }
}

/// Clients of a server that is alone come back to it after it has begun again; those of one among several go to the others, one after the other.
fn drain_settings(config: &Config) -> SessionSettings {
    let alone = SessionSettings::default();
    if config.redis.url.is_set() {
        SessionSettings { drain_over: config::ms(config.http.drain_ms) / 2, drain_spread: MOVED_WITHIN, ..alone }
    } else {
        alone
    }
}

async fn purge(accounts: Arc<dyn Accounts>, now_ms: u64) {
    match accounts.purge(now_ms).await {
        Ok(rows) => tracing::debug!(rows, "purged what has ended"),
        Err(error) => tracing::warn!(%error, "could not purge what has ended"),
    }
}

/// Asks for a device that nobody has, and writes what is there already: a full disk still reads.
async fn probe(accounts: Arc<dyn Accounts>, health: Arc<Health>, storage: Arc<str>) {
    let nobody = DeviceRef { account: AccountId([0; 16]), device: DeviceId([0; 16]) };
    let asked = async { accounts.signing_key(nobody).await.is_ok() && accounts.probe().await.is_ok() };
    if timeout(PROBE_EVERY, asked).await.unwrap_or(false) {
        health.present(&storage);
    } else {
        health.absent(&storage);
    }
}
