//! A fleet in which everything can go wrong: real services, several gateways, and a proxy on every way between them.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use kith_harness::{Database, Kafka, Port, Postgres, PostgresOptions, Proxy, Redis};
use tempfile::TempDir;
use tokio::time::sleep;

use super::fault::{Fault, Link, Party, Trouble};
use crate::{
    balancer::Balancer,
    doors::Doors,
    rest::Rest,
    server::{KEEP_ALIVE_MS, Options, Server},
    shim::WallClock,
    wait,
};

/// The lease of a gateway, which is the default.
pub const LEASE: Duration = Duration::from_secs(10);
/// Enough for the log of the database and what is held for devices that are away.
const DISK_MIB: u32 = 768;
const DISK_SETTINGS: [(&str, &str); 2] = [("max_wal_size", "192MB"), ("min_wal_size", "64MB")];
/// PostgreSQL has come back by itself from a full disk, or else whatever supervises it starts it again.
const BACK_BY_ITSELF: Duration = Duration::from_secs(5);

/// What a fleet is made of.
#[derive(Debug, Clone)]
pub struct FleetOptions {
    /// How many gateways.
    pub gateways: usize,
    /// With Kafka.
    pub kafka: bool,
    /// With a disk of its own for PostgreSQL, which can be filled; takes the right to mount.
    pub disk: bool,
    /// How often heads are checked.
    pub keep_alive: Duration,
    /// How long a gateway counts as alive.
    pub lease: Duration,
}

impl Default for FleetOptions {
    /// Two gateways with the settings that a server has by default, and no Kafka.
    fn default() -> Self {
        Self { gateways: 2, kafka: false, disk: false, keep_alive: Duration::from_secs(30), lease: LEASE }
    }
}

/// A running fleet. Fields are dropped in this order: gateways first.
#[derive(Debug)]
pub struct Fleet {
    gateways: Vec<Gateway>,
    kafka_way: Option<Proxy>,
    balancer: Balancer,
    /// The session directory.
    pub redis: Redis,
    /// The bus.
    pub kafka: Option<Kafka>,
    /// The database that all share.
    pub database: Database,
    /// Its server.
    pub postgres: Postgres,
    _folder: TempDir,
}

/// One of the servers with the ways that lead to and from it.
#[derive(Debug)]
pub struct Gateway {
    /// The process.
    pub server: Server,
    clients: Proxy,
    peers: Proxy,
    postgres: Proxy,
    redis: Proxy,
    clock: WallClock,
    _peer_port: Port,
}

impl Fleet {
    /// Starts everything.
    ///
    /// # Errors
    /// If something does not start; the message says what to install, or ends with its log.
    pub async fn start(options: &FleetOptions) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let settings = DISK_SETTINGS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let postgres = PostgresOptions { settings, disk: options.disk.then_some(DISK_MIB), ..PostgresOptions::default() };
        let kafka = async {
            match options.kafka {
                true => Kafka::start().await.map(Some),
                false => Ok(None),
            }
        };
        let (postgres, redis, kafka) = tokio::try_join!(Postgres::start_with(postgres), Redis::start(), kafka)?;
        let database = postgres.create_database().await?;
        kith_chat_core::postgres::migrate(&database.url(), 1).await?;
        let kafka_way = match &kafka {
            Some(kafka) => Some(kafka.proxy().await?),
            None => None,
        };
        let backends = Arc::<OnceLock<_>>::default();
        let balancer = Balancer::start(Arc::clone(&backends)).await?;
        let mut fleet = Self { gateways: Vec::new(), kafka_way, balancer, redis, kafka, database, postgres, _folder: folder };
        for n in 0..options.gateways {
            let gateway = fleet.gateway_number(n, options).await?;
            fleet.gateways.push(gateway);
        }
        // Filled once, here.
        let _ = backends.set(fleet.gateways.iter().map(Gateway::address).collect());
        Ok(fleet)
    }

    async fn gateway_number(&self, n: usize, options: &FleetOptions) -> anyhow::Result<Gateway> {
        let (port, peer_port) = (Port::reserve()?, Port::reserve()?);
        let (clients, peers) = (Proxy::start(port.address()).await?, Proxy::start(peer_port.address()).await?);
        let (postgres, redis) = (Proxy::start(self.postgres.address()).await?, Proxy::start(self.redis.address()).await?);
        let clock = WallClock::new(self._folder.path().join(format!("clock-{n}")))?;
        let mut server = Options::new()
            .set("KITH_PUBLIC_URL", &self.origin())
            .set("KITH_REGISTRATION_POLICY", "open")
            .set("KITH_POSTGRES_URL", &self.database.url_through(postgres.address()))
            .set("KITH_POSTGRES_CONNECTIONS", "6")
            .set("KITH_REDIS_URL", &self.redis.url_through(redis.address()))
            .set("KITH_CLUSTER_LISTEN", &peer_port.address().to_string())
            .set("KITH_CLUSTER_ADVERTISE", &peers.address().to_string())
            .set("KITH_CLUSTER_LEASE_MS", &options.lease.as_millis().to_string())
            .set(KEEP_ALIVE_MS, &options.keep_alive.as_millis().to_string());
        if let Some(way) = &self.kafka_way {
            server = server.set("KITH_KAFKA_BROKERS", &way.address().to_string());
        }
        for (name, value) in clock.environment()? {
            server = server.set(name, &value);
        }
        Ok(Gateway { server: server.start_on(port).await?, clients, peers, postgres, redis, clock, _peer_port: peer_port })
    }

    /// How many gateways there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.gateways.len()
    }

    /// The n-th gateway.
    #[must_use]
    pub fn gateway(&self, n: usize) -> &Gateway {
        &self.gateways[n]
    }

    /// What a device dials that leaves the choice of the gateway to the balancer.
    #[must_use]
    pub fn origin(&self) -> String {
        self.balancer.origin()
    }

    /// REST of the n-th gateway, over the way that devices take.
    ///
    /// # Errors
    /// If no HTTP client can be made.
    pub fn rest(&self, n: usize) -> anyhow::Result<Rest> {
        Rest::behind(&format!("http://{}", self.gateways[n].address()), &self.origin())
    }

    /// How devices reach the gateways.
    ///
    /// # Errors
    /// If no HTTP client can be made.
    pub fn doors(&self) -> anyhow::Result<Doors> {
        let rests: anyhow::Result<Vec<_>> = (0..self.count()).map(|n| self.rest(n)).collect();
        Ok(Doors::new(rests?))
    }

    /// Makes something go wrong.
    ///
    /// # Errors
    /// If that cannot be done.
    pub async fn inject(&mut self, fault: &Fault) -> anyhow::Result<()> {
        match fault {
            Fault::Kill(Party::Gateway(n)) => self.gateways[*n].server.kill().await,
            Fault::Kill(Party::Postgres) => self.postgres.kill().await,
            Fault::Kill(Party::Redis) => self.redis.kill().await,
            Fault::Kill(Party::Kafka) => self.kafka()?.kill().await,
            Fault::Pause(Party::Gateway(n)) => self.gateways[*n].server.pause().await,
            Fault::Pause(Party::Postgres) => self.postgres.pause().await,
            Fault::Pause(Party::Redis) => self.redis.pause().await,
            Fault::Pause(Party::Kafka) => self.kafka()?.pause().await,
            Fault::Stop(Party::Gateway(n)) => self.gateways[*n].server.terminate(),
            Fault::Stop(Party::Postgres) => self.postgres.stop().await,
            Fault::Stop(Party::Redis) => self.redis.stop().await,
            Fault::Stop(Party::Kafka) => self.kafka()?.stop().await,
            Fault::Way(link, trouble) => trouble.befall(self.way(*link)?),
            Fault::Flush => self.redis.flush().await,
            Fault::FullDisk => self.postgres.fill_disk().await,
            Fault::RollingRestart => self.restart_all().await,
            Fault::Clock(n, ahead_ms) => self.gateways[*n].clock.set(*ahead_ms),
        }
    }

    /// Ends what [`inject`](Self::inject) began.
    ///
    /// # Errors
    /// If that cannot be done, or a gateway that was asked to end has not ended in order.
    pub async fn heal(&mut self, fault: &Fault) -> anyhow::Result<()> {
        match fault {
            Fault::Stop(Party::Gateway(n)) => self.started_again(*n).await,
            Fault::Kill(Party::Gateway(n)) => self.gateways[*n].server.start().await,
            Fault::Kill(Party::Postgres) | Fault::Stop(Party::Postgres) => self.postgres.restart().await,
            Fault::Kill(Party::Redis) | Fault::Stop(Party::Redis) => self.redis.restart().await,
            Fault::Kill(Party::Kafka) | Fault::Stop(Party::Kafka) => self.kafka()?.restart().await,
            Fault::Pause(Party::Gateway(n)) => self.gateways[*n].server.resume(),
            Fault::Pause(Party::Postgres) => self.postgres.resume().await,
            Fault::Pause(Party::Redis) => self.redis.resume().await,
            Fault::Pause(Party::Kafka) => self.kafka()?.resume().await,
            Fault::Way(link, _) => {
                self.way(*link)?.heal();
                Ok(())
            }
            Fault::Flush | Fault::RollingRestart => Ok(()),
            Fault::FullDisk => self.free_disk().await,
            Fault::Clock(n, _) => self.gateways[*n].clock.set(0),
        }
    }

    fn kafka(&self) -> anyhow::Result<&Kafka> {
        self.kafka.as_ref().context("this fleet has no Kafka")
    }

    fn way(&self, link: Link) -> anyhow::Result<&Proxy> {
        match link {
            Link::Clients(n) => Ok(&self.gateways[n].clients),
            Link::Peers(n) => Ok(&self.gateways[n].peers),
            Link::Postgres(n) => Ok(&self.gateways[n].postgres),
            Link::Redis(n) => Ok(&self.gateways[n].redis),
            Link::Kafka => self.kafka_way.as_ref().context("this fleet has no Kafka"),
        }
    }

    async fn restart_all(&mut self) -> anyhow::Result<()> {
        for n in 0..self.gateways.len() {
            self.gateways[n].server.terminate()?;
            self.started_again(n).await.with_context(|| format!("gateway {n}"))?;
        }
        Ok(())
    }

    async fn started_again(&mut self, n: usize) -> anyhow::Result<()> {
        let server = &mut self.gateways[n].server;
        ensure!(server.ended().await?, "a gateway that was asked to end did not end in order");
        server.start().await
    }

    async fn free_disk(&self) -> anyhow::Result<()> {
        self.postgres.free_disk().await?;
        let back = wait::until("PostgreSQL is back", BACK_BY_ITSELF, async || self.postgres.admin("select 1").await.ok());
        match back.await {
            Ok(_) => Ok(()),
            Err(_) => self.postgres.restart().await,
        }
    }

    /// All gateways run that are meant to.
    ///
    /// # Errors
    /// Which one has ended by itself.
    pub fn all_run(&mut self) -> anyhow::Result<()> {
        self.gateways.iter_mut().enumerate().try_for_each(|(n, gateway)| {
            ensure!(gateway.server.runs(), "gateway {n} has ended by itself");
            Ok(())
        })
    }

    /// Copies what everybody has logged.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn keep_logs(&self, folder: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(folder)?;
        for (n, gateway) in self.gateways.iter().enumerate() {
            fs::write(folder.join(format!("gateway-{n}.log")), gateway.server.log()?)?;
        }
        let services = [Some(("postgres", self.postgres.folder())), Some(("redis", self.redis.folder()))];
        let kafka = self.kafka.as_ref().map(|kafka| ("kafka", kafka.folder()));
        for (name, home) in services.into_iter().chain([kafka]).flatten() {
            // One that never wrote anything has no log.
            let _ = fs::copy(home.join("log"), folder.join(format!("{name}.log")));
        }
        Ok(())
    }
}

impl Gateway {
    /// Where devices reach it.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.clients.address()
    }
}

impl Trouble {
    fn befall(self, way: &Proxy) -> anyhow::Result<()> {
        match self {
            Self::Cut => way.cut(),
            Self::Slow(by) => way.delay(by),
            Self::OneWay(direction) => way.one_way(direction),
            Self::BlackHole => way.blackhole(),
        }
        Ok(())
    }
}

/// Lets time pass, looking at something now and then.
///
/// # Errors
/// Whatever the look finds.
pub(super) async fn pass(until: tokio::time::Instant, mut look: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    const EVERY: Duration = Duration::from_millis(20);
    loop {
        look()?;
        let now = tokio::time::Instant::now();
        if now >= until {
            return Ok(());
        }
        sleep(EVERY.min(until - now)).await;
    }
}
