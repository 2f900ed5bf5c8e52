//! From a configuration to a running server, and back to nothing in order.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use kith_chat_core::{
    accounts::{Accounts, AccountsError},
    bus::{self, Bus, Relay},
    domain::Clock,
    sessions::{
        GatewayId,
        redis::{self, RedisDirectory},
    },
};
use kith_proto::id::{AccountId, DeviceId, DeviceRef};
use tokio::{
    net::{TcpListener, TcpSocket},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    challenge::Challenges,
    cluster::{Cluster, ClusterPorts},
    config::{self, Config, ConfigError, Origins},
    health::Health,
    limits::Limits,
    metrics::Metrics,
    rest,
    server::Server,
    sessions::{Ports, SessionSettings, Sessions},
    state::AppState,
    storage::{Storage, StorageError},
    tls::{self, TlsError},
    token::TokenKey,
};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4_096;
/// Pause between two looks at what the server depends on, and the time an answer may take.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// Pause between two purges of ended logins, invites and buckets.
const PURGE_EVERY: Duration = Duration::from_secs(3_600);
/// Clients that are asked to go to another server do so at a random moment within this.
const MOVED_WITHIN: Duration = Duration::from_secs(1);
/// For the background tasks, and the last commit, at the end.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Why the server did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is not valid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Kafka cannot be used; names its address.
    #[error(transparent)]
    Bus(#[from] bus::OpenError),
    /// Accounts and messages cannot be had.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The directory that several servers share cannot be used; names its address.
    #[error(transparent)]
    Redis(#[from] redis::OpenError),
    /// The database was opened and fails.
    #[error("cannot read the accounts")]
    Accounts(#[from] AccountsError),
    /// Certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The thread that writes has ended by itself: a fault of the program. What was accepted is on the disk, and a new process begins from there.
    #[error("the database has stopped writing")]
    NotWriting,
    /// The task that accepts connections has ended by itself: a fault of the program.
    #[error("the server has stopped accepting connections")]
    NotAccepting,
}

/// Listens where the configuration says. Port 0 takes any that is free.
///
/// # Errors
/// Names the address if it cannot be had.
pub fn bind(config: &Config) -> Result<TcpListener, RunError> {
    listen_on(config.listen)
}

fn listen_on(address: SocketAddr) -> Result<TcpListener, RunError> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A server that was killed must be able to come back at once.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|source| RunError::Listen { address, source })
}

/// Serves until `shutdown`, then drains: stops accepting, lets requests and sockets finish, makes everything durable, closes the database.
///
/// # Errors
/// If it cannot start.
pub async fn run(config: Config, listener: TcpListener, shutdown: CancellationToken) -> Result<(), RunError> {
    config.validate()?;
    raise_file_limit();
    let tls = if config.has_tls() { Some(tls::acceptor(&config.tls)?) } else { None };
    Running::start(config, &listener).await?.serve(listener, tls, shutdown).await
}

/// Everything that was started and has to end.
struct Running {
    state: Arc<AppState>,
    storage: Storage,
    bus: Arc<dyn Bus>,
    relay: Relay,
    /// Ends the background tasks.
    background: CancellationToken,
}

impl Running {
    async fn start(config: Config, listener: &TcpListener) -> Result<Self, RunError> {
        let bound = listener.local_addr().map_err(|source| RunError::Listen { address: config.listen, source })?;
        let clock = Clock::System;
        let (storage, resolved) = Storage::open(&config, clock.clone()).await?;
        let (accounts, log, name) = (storage.accounts(), storage.log(), storage.name());
        let bus = bus::open(config.kafka.options().as_ref()).await?;
        let tokens = TokenKey::new(accounts.secret("access_token", rand::random()).await?);
        let limits = Arc::new(Limits::new(&config.limits));
        let (background, tasks) = (CancellationToken::new(), TaskTracker::new());
        let joined = Joined::open(&config, &accounts, clock.clone()).await?;
        let cluster = joined.as_ref().map(|joined| Arc::clone(&joined.cluster));
        let (admit_limits, admit_clock) = (Arc::clone(&limits), clock.clone());
        let ports = Ports {
            log: Arc::clone(&log),
            resolved,
            presence: Arc::new(Arc::clone(&accounts)),
            tokens: tokens.clone(),
            clock: clock.clone(),
            admit_send: Box::new(move |device| admit_limits.send(device, admit_clock.now_ms())),
            cluster: cluster.clone(),
        };
        let sessions = Sessions::start(session_settings(&config), ports, &background, &tasks);
        let missing: Vec<&str> = [&*name, "listener"].into_iter().chain(joined.as_ref().map(|joined| &*joined.name)).collect();
        let state = Arc::new(AppState {
            log,
            accounts,
            sessions,
            cluster,
            tokens,
            challenges: Challenges::new(rand::random()),
            origins: Origins::new(&config, bound),
            trusted: config.http.trusted(),
            limits,
            clock,
            health: Arc::new(Health::new(&missing)),
            metrics: Metrics::start(),
            tasks,
            config,
        });
        state.health.present(&name);
        if let Some(joined) = joined {
            joined.start(&state, &background);
        }
        let relay = Relay::start(storage.outbox(), Arc::clone(&bus));
        let running = Self { state, storage, bus, relay, background };
        running.every(PURGE_EVERY, purge);
        let name: Arc<str> = name.into();
        running.every(PROBE_EVERY, move |state| probe(state, Arc::clone(&name)));
        Ok(running)
    }

    async fn serve(self, listener: TcpListener, tls: Option<TlsAcceptor>, shutdown: CancellationToken) -> Result<(), RunError> {
        let server = Arc::new(Server::new(Arc::clone(&self.state), rest::router(Arc::clone(&self.state)), tls));
        let address = listener.local_addr().ok();
        let mut accepting = tokio::spawn(Arc::clone(&server).accept(listener));
        self.state.health.present("listener");
        tracing::info!(address = address.map(tracing::field::display), "ready");
        let fault = tokio::select! {
            () = shutdown.cancelled() => None,
            _ = &mut accepting => Some(RunError::NotAccepting),
            () = self.storage.ended() => Some(RunError::NotWriting),
        };
        if let Some(fault) = &fault {
            tracing::error!(%fault, "cannot go on");
            self.state.health.fail();
        }
        tracing::info!(asked = fault.is_none(), "draining");
        // What waits for the log would wait in vain.
        let within = if matches!(fault, Some(RunError::NotWriting)) { Duration::ZERO } else { config::ms(self.state.config.http.drain_ms) };
        self.stop(&server, within).await;
        tracing::info!("stopped");
        fault.map_or(Ok(()), Err)
    }

    /// Runs a task again and again until the end.
    fn every<F: Future<Output = ()> + Send>(&self, pause: Duration, task: impl Fn(Arc<AppState>) -> F + Send + Sync + 'static) {
        let (state, end) = (Arc::clone(&self.state), self.background.clone());
        self.state.tasks.spawn(async move {
            let turns = async {
                loop {
                    tokio::time::sleep(pause).await;
                    task(Arc::clone(&state)).await;
                }
            };
            end.run_until_cancelled(turns).await;
        });
    }

    async fn stop(self, server: &Server, within: Duration) {
        self.state.health.drain();
        // Both at a time: requests that are under way and sockets do not wait for each other.
        tokio::join!(server.drain(within), self.state.sessions.drain(within));
        if let Some(cluster) = &self.state.cluster {
            cluster.resign().await;
        }
        if !matches!(timeout(END_WITHIN, self.state.log.flush()).await, Ok(Ok(()))) {
            tracing::error!("the last cursors could not be made durable; messages may be delivered again");
        }
        self.background.cancel();
        self.state.tasks.close();
        if timeout(END_WITHIN, self.state.tasks.wait()).await.is_err() {
            tracing::error!("background tasks did not end in time");
        }
        self.relay.stop().await;
        self.bus.close().await;
        self.storage.close().await;
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

/// What it takes to be one of several.
struct Joined {
    cluster: Arc<Cluster>,
    listener: TcpListener,
    /// What `/readyz` calls the directory when it is away.
    name: String,
}

impl Joined {
    /// Nothing without the address of a directory.
    async fn open(config: &Config, accounts: &Arc<dyn Accounts>, clock: Clock) -> Result<Option<Self>, RunError> {
        if !config.redis.url.is_set() {
            return Ok(None);
        }
        let secret = accounts.secret("gateway_link", rand::random()).await?;
        let listener = listen_on(config.cluster.listen)?;
        let bound = listener.local_addr().map_err(|source| RunError::Listen { address: config.cluster.listen, source })?;
        let address = if config.cluster.advertise.is_empty() { bound.to_string() } else { config.cluster.advertise.clone() };
        let lease = config::ms(config.cluster.lease_ms);
        let options = redis::Options { lease, ..redis::Options::new(config.redis.url.reveal(), GatewayId(rand::random()), address) };
        let directory = RedisDirectory::open(&options).await?;
        let name = format!("redis {}", directory.address());
        let cluster = Cluster::new(ClusterPorts { directory: Arc::new(directory), secret, lease, clock });
        Ok(Some(Self { cluster, listener, name }))
    }

    fn start(self, state: &AppState, background: &CancellationToken) {
        let (health, name) = (Arc::clone(&state.health), self.name);
        let availability = move |there: bool| if there { health.present(&name) } else { health.absent(&name) };
        tracing::info!(gateway = %self.cluster.me(), "one of several");
        self.cluster.start(&state.sessions, self.listener, Box::new(availability), background, &state.tasks);
    }
}

async fn purge(state: Arc<AppState>) {
    match state.accounts.purge(state.clock.now_ms()).await {
        Ok(rows) => tracing::debug!(rows, "purged what has ended"),
        Err(error) => tracing::warn!(%error, "could not purge what has ended"),
    }
}

/// Asks for a device that nobody has, and writes what is there already: a full disk still reads.
async fn probe(state: Arc<AppState>, storage: Arc<str>) {
    let nobody = DeviceRef { account: AccountId([0; 16]), device: DeviceId([0; 16]) };
    let asked = async { state.accounts.signing_key(nobody).await.is_ok() && state.accounts.probe().await.is_ok() };
    if timeout(PROBE_EVERY, asked).await.unwrap_or(false) {
        state.health.present(&storage);
    } else {
        state.health.absent(&storage);
    }
}

/// Raises the limit on open files as far as the process may: every connection is one.
#[cfg(unix)]
#[allow(unsafe_code, reason = "the limit can only be had through libc; both calls get a valid pointer to a live value")]
fn raise_file_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a live, writable rlimit; the second call only reads it.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

#[cfg(not(unix))]
fn raise_file_limit() {}

#[cfg(test)]
mod tests {
    use kith_chat_core::sqlite::Database;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    /// A value that panics where the writer throws it away: as a fault in the writer's own code would.
    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            if std::thread::current().name() == Some("kith-db-write") {
                panic!("a fault in the writer");
            }
        }
    }

    async fn break_writer(database: &Database) {
        let (release, held) = std::sync::mpsc::channel::<()>();
        let mut holding = Box::pin(database.write("hold", move |_| {
            let _ = held.recv();
            Ok::<_, std::convert::Infallible>(())
        }));
        assert!(timeout(Duration::ZERO, holding.as_mut()).await.is_err());
        assert!(timeout(Duration::ZERO, database.write("break", |_| Ok::<_, std::convert::Infallible>(Bomb))).await.is_err());
        drop(release);
    }

    /// Otherwise it would go on for ever, refusing everybody, and no supervisor would know.
    #[tokio::test]
    async fn a_server_whose_writer_has_ended_ends_as_well() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { data: folder.path().to_owned(), listen: "127.0.0.1:0".parse().unwrap(), ..Config::default() };
        let listener = bind(&config).unwrap();
        let running = Running::start(config, &listener).await.unwrap();
        let state = Arc::clone(&running.state);
        let Storage::Embedded(database) = &running.storage else { panic!("nothing else was configured") };
        let database = Arc::clone(database);
        let serving = tokio::spawn(running.serve(listener, None, CancellationToken::new()));
        break_writer(&database).await;
        let ended = timeout(DEADLINE, serving).await.expect("it ends").unwrap();
        assert!(matches!(ended, Err(RunError::NotWriting)), "{ended:?}");
        assert!(!state.health.readiness().ready);
    }
}
