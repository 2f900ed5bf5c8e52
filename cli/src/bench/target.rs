//! The server under test: somebody's, one of our own on a temporary folder, or a fleet of our own.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, bail};
use clap::{Args, value_parser};
use kith_harness::PostgresOptions;
use tempfile::TempDir;
use tokio::net::lookup_host;

use super::{api::Api, link::Endpoint};
use crate::{
    cluster::{self, Cluster},
    process,
    server_child::ServerChild,
};

/// Which server to measure.
#[derive(Debug, Args)]
pub(super) struct TargetArgs {
    /// Measure the server at this address (http://host:port)
    #[arg(long, value_name = "URL", required_unless_present_any = ["spawn", "spawn_cluster"], conflicts_with_all = ["spawn", "spawn_cluster"])]
    server: Option<String>,
    /// Measure a server process of its own on a temporary folder
    #[arg(long)]
    spawn: bool,
    /// Measure a fleet of its own: PostgreSQL, Redis and gateways, each a process on this machine
    #[arg(long, conflicts_with = "spawn")]
    spawn_cluster: bool,
    /// Gateways of --spawn-cluster; those who write to one another are always on different ones
    #[arg(long, default_value_t = 1, requires = "spawn_cluster", value_parser = value_parser!(u8).range(1..=32))]
    gateways: u8,
    /// Process of the server named by --server, if it runs on this machine: for its processor time and memory
    #[arg(long, value_name = "PID", conflicts_with_all = ["spawn", "spawn_cluster"])]
    server_pid: Option<u32>,
    /// Invite code for registrations, if the server named by --server wants one
    #[arg(long, value_name = "CODE", conflicts_with_all = ["spawn", "spawn_cluster"])]
    invite: Option<String>,
    /// Put the temporary folder of --spawn here (the disk matters)
    #[arg(long, value_name = "DIR", requires = "spawn")]
    scratch: Option<std::path::PathBuf>,
    /// Let the server of --spawn keep everything in this PostgreSQL (postgres://…), whose schema is brought up to date first
    #[arg(long, value_name = "URL", requires = "spawn", conflicts_with = "scratch")]
    postgres: Option<String>,
}

/// Limits that would measure themselves are out of the way, everything else is as shipped: durability, cursors, purge.
const SETTINGS: [(&str, &str); 1] = [("KITH_LIMITS_ENFORCED", "false")];

/// What the gateways of a fleet of our own are called by their clients. Nobody dials it: the generator connects to each gateway by its own address.
const PUBLIC_URL: &str = "http://kith.bench:7400";

/// A server to measure.
#[derive(Debug)]
pub(super) struct Target {
    /// The WebSocket of each gateway; one if there is one server.
    endpoints: Vec<Endpoint>,
    /// Its REST side.
    pub(super) api: Api,
    runs: Runs,
}

/// Whose processes they are.
#[derive(Debug)]
enum Runs {
    Elsewhere { pid: Option<u32> },
    Server(Box<ServerChild>, TempDir),
    Cluster(Box<Cluster>),
}

/// Processor time that has been used, where it can be known.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cpu {
    /// The server, or all gateways.
    pub(super) server: Option<Duration>,
    /// PostgreSQL.
    pub(super) postgres: Option<Duration>,
    /// Redis.
    pub(super) redis: Option<Duration>,
}

impl Cpu {
    /// What was used since `before`.
    pub(super) fn since(self, before: Self) -> Self {
        let between = |after: Option<Duration>, before: Option<Duration>| Some(after?.saturating_sub(before?));
        Self {
            server: between(self.server, before.server),
            postgres: between(self.postgres, before.postgres),
            redis: between(self.redis, before.redis),
        }
    }
}

impl Target {
    /// Starts or finds the server.
    ///
    /// # Errors
    /// If it does not start, or its address cannot be used.
    pub(super) async fn resolve(args: &TargetArgs) -> anyhow::Result<Self> {
        let files = process::raise_open_files();
        tracing::debug!(files, "open files allowed");
        match &args.server {
            Some(url) => Self::elsewhere(url, args).await,
            None if args.spawn_cluster => Self::cluster(args.gateways.into()).await,
            None => Self::spawn(args).await,
        }
    }

    async fn elsewhere(url: &str, args: &TargetArgs) -> anyhow::Result<Self> {
        let Some(authority) = url.strip_prefix("http://") else {
            bail!("the load generator speaks http:// only: TLS would measure TLS");
        };
        let host = authority.trim_end_matches('/').to_owned();
        let with_port = if host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) { host.clone() } else { format!("{host}:80") };
        let address = lookup_host(&with_port).await?.next().with_context(|| format!("{host} has no address"))?;
        let api = Api::new(url, url, args.invite.clone())?;
        Ok(Self { endpoints: vec![Endpoint { address, host }], api, runs: Runs::Elsewhere { pid: args.server_pid } })
    }

    async fn spawn(args: &TargetArgs) -> anyhow::Result<Self> {
        let folder = match &args.scratch {
            Some(parent) => tempfile::Builder::new().prefix("kith-bench-").tempdir_in(parent),
            None => tempfile::Builder::new().prefix("kith-bench-").tempdir(),
        };
        let folder = folder.context("no temporary folder")?;
        let mut settings = SETTINGS.to_vec();
        if let Some(url) = &args.postgres {
            cluster::migrate(url).await?;
            settings.push(("KITH_POSTGRES_URL", url));
        }
        let child = ServerChild::start(folder.path(), SocketAddr::from(([127, 0, 0, 1], 0)), &settings).await?;
        let url = format!("http://{}", child.address());
        Ok(Self { endpoints: vec![endpoint(&child)], api: Api::new(&url, &url, None)?, runs: Runs::Server(Box::new(child), folder) })
    }

    async fn cluster(gateways: usize) -> anyhow::Result<Self> {
        let cluster = Cluster::start(PostgresOptions::measured(), gateways, PUBLIC_URL, &SETTINGS).await?;
        cluster.season().await?;
        let endpoints: Vec<_> = cluster.gateways().map(endpoint).collect();
        let first = endpoints.first().context("a fleet has at least one gateway")?;
        let api = Api::new(&format!("http://{}", first.address), PUBLIC_URL, None)?;
        Ok(Self { endpoints, api, runs: Runs::Cluster(Box::new(cluster)) })
    }

    /// Whether the memory of a PostgreSQL of our own is in huge pages.
    pub(super) fn postgres_has_huge_pages(&self) -> Option<bool> {
        match &self.runs {
            Runs::Cluster(cluster) => Some(cluster.has_huge_pages()),
            _ => None,
        }
    }

    /// Where the n-th connection goes: to the gateways in turn.
    pub(super) fn endpoint(&self, n: usize) -> &Endpoint {
        &self.endpoints[n % self.endpoints.len()]
    }

    /// All of them.
    pub(super) fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Kills a gateway of a fleet of our own.
    ///
    /// # Errors
    /// If there is no such gateway, or the system refuses.
    pub(super) async fn kill(&mut self, gateway: usize) -> anyhow::Result<()> {
        match &mut self.runs {
            Runs::Cluster(cluster) => cluster.kill(gateway).await,
            _ => bail!("only gateways of --spawn-cluster can be killed"),
        }
    }

    /// Processor time used so far.
    ///
    /// # Errors
    /// If a process is gone.
    pub(super) fn cpu(&self) -> anyhow::Result<Cpu> {
        let of = |pid| process::cpu_time(pid).context("the server's processor time cannot be read");
        Ok(match &self.runs {
            Runs::Elsewhere { pid } => Cpu { server: pid.map(of).transpose()?, ..Cpu::default() },
            Runs::Server(child, _) => Cpu { server: Some(of(child.pid())?), ..Cpu::default() },
            Runs::Cluster(cluster) => {
                let cluster::Cpu { gateways, postgres, redis } = cluster.cpu()?;
                Cpu { server: Some(gateways), postgres: Some(postgres), redis: Some(redis) }
            }
        })
    }

    /// Memory of the server, or of all gateways, if it can be known.
    ///
    /// # Errors
    /// If a process is gone.
    pub(super) fn memory(&self) -> anyhow::Result<Option<u64>> {
        let of = |pid| process::proportional_set_size(pid).context("the server's memory cannot be read");
        match &self.runs {
            Runs::Elsewhere { pid } => pid.map(of).transpose(),
            Runs::Server(child, _) => of(child.pid()).map(Some),
            Runs::Cluster(cluster) => cluster.gateways().map(|gateway| of(gateway.pid())).sum::<anyhow::Result<u64>>().map(Some),
        }
    }

    /// Ends what is our own, by draining it.
    ///
    /// # Errors
    /// If it does not end, or not well.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        match self.runs {
            Runs::Elsewhere { .. } => Ok(()),
            Runs::Server(child, _folder) => child.stop().await,
            Runs::Cluster(cluster) => cluster.stop().await,
        }
    }
}

fn endpoint(child: &ServerChild) -> Endpoint {
    Endpoint { address: child.address(), host: child.address().to_string() }
}
