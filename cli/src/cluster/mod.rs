//! A fleet of one's own: PostgreSQL, Redis and some gateways, each a process on this machine with a temporary folder, all gone when this is dropped.
//!
//! Gateways have one public address, as behind any load balancer: logins are bound to it and not to a gateway.

mod balancer;

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use kith_gateway::config::Config;
use kith_harness::{Database, Postgres, PostgresOptions, Redis};
use tempfile::TempDir;

pub(crate) use self::balancer::Balancer;
use crate::{process, server_child::ServerChild};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// A running fleet.
#[derive(Debug)]
pub(crate) struct Cluster {
    gateways: Vec<Option<ServerChild>>,
    settings: Vec<(String, String)>,
    // The database goes before its server.
    _database: Database,
    postgres: Postgres,
    redis: Redis,
    folder: TempDir,
}

/// Processor time since the start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cpu {
    /// All gateways that run.
    pub(crate) gateways: Duration,
    /// PostgreSQL, all its processes.
    pub(crate) postgres: Duration,
    /// Redis.
    pub(crate) redis: Duration,
}

impl Cluster {
    /// Starts the services, PostgreSQL as `options` say, then `gateways` gateways that clients reach as `public_url`, and waits until each is linked with each. `settings` are further
    /// `KITH_…` variables.
    ///
    /// # Errors
    /// If something does not start; the message says what to install, or ends with its log.
    pub(crate) async fn start(options: PostgresOptions, gateways: usize, public_url: &str, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("kith-cluster-").tempdir().context("no temporary folder")?;
        let (postgres, redis) = tokio::try_join!(Postgres::start_with(options), Redis::start())?;
        let database = postgres.create_database().await?;
        migrate(&database.url()).await?;
        let mut all = owned(settings);
        let (postgres_url, redis_url) = (database.url(), redis.url());
        all.extend(owned(&[
            ("KITH_POSTGRES_URL", &postgres_url),
            ("KITH_REDIS_URL", &redis_url),
            ("KITH_PUBLIC_URL", public_url),
            ("KITH_REGISTRATION_POLICY", "open"),
            // They share this machine, as docs/operations.md says: threads beyond its processors only take turns.
            ("TOKIO_WORKER_THREADS", &share(gateways).to_string()),
        ]));
        let mut cluster = Self { gateways: Vec::new(), settings: all, _database: database, postgres, redis, folder };
        for _ in 0..gateways {
            cluster.add().await?;
        }
        // What one says to another before they are linked is lost, as it may be; what is shown or measured here is not that.
        for gateway in cluster.gateways() {
            gateway.linked_with(gateways.saturating_sub(1)).await?;
        }
        Ok(cluster)
    }

    /// Readies PostgreSQL for being measured; see [`Postgres::season`].
    ///
    /// # Errors
    /// If the server refuses.
    pub(crate) async fn season(&self) -> anyhow::Result<()> {
        self.postgres.season().await
    }

    /// Whether PostgreSQL's memory is in huge pages.
    pub(crate) fn has_huge_pages(&self) -> bool {
        self.postgres.has_huge_pages()
    }

    /// Starts one more gateway and gives its number.
    ///
    /// # Errors
    /// If it does not become ready.
    pub(crate) async fn add(&mut self) -> anyhow::Result<usize> {
        let settings: Vec<_> = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let data = self.folder.path().join(format!("gateway-{}", self.gateways.len()));
        self.gateways.push(Some(ServerChild::start(&data, LOOPBACK, &settings).await?));
        Ok(self.gateways.len() - 1)
    }

    /// The n-th gateway, if it was not killed.
    pub(crate) fn gateway(&self, n: usize) -> Option<&ServerChild> {
        self.gateways.get(n)?.as_ref()
    }

    /// Those that run.
    pub(crate) fn gateways(&self) -> impl Iterator<Item = &ServerChild> {
        self.gateways.iter().flatten()
    }

    /// Ends a gateway without warning (SIGKILL), as a crash would.
    ///
    /// # Errors
    /// If the system refuses, or it was killed before.
    pub(crate) async fn kill(&mut self, n: usize) -> anyhow::Result<()> {
        let gateway = self.gateways.get_mut(n).and_then(Option::take).context("there is no such gateway")?;
        gateway.kill().await
    }

    /// Where the time goes.
    ///
    /// # Errors
    /// If a process is gone.
    pub(crate) fn cpu(&self) -> anyhow::Result<Cpu> {
        let gateways = self.gateways().map(|gateway| process::cpu_time(gateway.pid())).sum::<Result<Duration, _>>()?;
        Ok(Cpu { gateways, postgres: self.postgres.cpu()?, redis: self.redis.cpu()? })
    }

    /// Drains all gateways at once; the services end with the value.
    ///
    /// # Errors
    /// If one does not end, or not well.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        let ended = self.gateways.into_iter().flatten().map(ServerChild::stop);
        futures_util::future::try_join_all(ended).await.map(|_| ())
    }
}

/// Processors of each of so many gateways on this machine.
fn share(gateways: usize) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    (processors / gateways.max(1)).max(1)
}

/// Brings the schema of a database up to date.
///
/// # Errors
/// If it cannot be reached.
pub(crate) async fn migrate(url: &str) -> anyhow::Result<()> {
    let config = Config::from_parts(None, [("KITH_POSTGRES_URL".to_owned(), url.to_owned())])?;
    kith_gateway::migrate(&config).await?;
    Ok(())
}

fn owned(settings: &[(&str, &str)]) -> Vec<(String, String)> {
    settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}
