//! The server under test: somebody's, or one of our own on a temporary folder.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, bail};
use clap::Args;
use kith_gateway::config::Config;
use tempfile::TempDir;
use tokio::net::lookup_host;

use super::{api::Api, link::Endpoint};
use crate::{process, server_child::ServerChild};

/// Which server to measure.
#[derive(Debug, Args)]
pub(super) struct TargetArgs {
    /// Measure the server at this address (http://host:port)
    #[arg(long, value_name = "URL", required_unless_present = "spawn", conflicts_with = "spawn")]
    server: Option<String>,
    /// Measure a server process of its own on a temporary folder
    #[arg(long)]
    spawn: bool,
    /// Process of the server named by --server, if it runs on this machine: for its processor time and memory
    #[arg(long, value_name = "PID", conflicts_with = "spawn")]
    server_pid: Option<u32>,
    /// Invite code for registrations, if the server named by --server wants one
    #[arg(long, value_name = "CODE", conflicts_with = "spawn")]
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

async fn migrate(url: &str) -> anyhow::Result<()> {
    let config = Config::from_parts(None, [("KITH_POSTGRES_URL".to_owned(), url.to_owned())])?;
    kith_gateway::migrate(&config).await?;
    Ok(())
}

/// A server to measure.
#[derive(Debug)]
pub(super) struct Target {
    /// Its WebSocket.
    pub(super) endpoint: Endpoint,
    /// Its REST side.
    pub(super) api: Api,
    pid: Option<u32>,
    child: Option<(ServerChild, TempDir)>,
}

impl Target {
    /// Starts or finds the server.
    ///
    /// # Errors
    /// If it does not start, or its address cannot be used.
    pub(super) async fn resolve(args: &TargetArgs) -> anyhow::Result<Self> {
        let files = process::raise_open_files();
        tracing::debug!(files, "open files allowed");
        let Some(url) = &args.server else {
            let folder = match &args.scratch {
                Some(parent) => tempfile::Builder::new().prefix("kith-bench-").tempdir_in(parent),
                None => tempfile::Builder::new().prefix("kith-bench-").tempdir(),
            };
            let folder = folder.context("no temporary folder")?;
            let mut settings = SETTINGS.to_vec();
            if let Some(url) = &args.postgres {
                migrate(url).await?;
                settings.push(("KITH_POSTGRES_URL", url));
            }
            let child = ServerChild::start(folder.path(), SocketAddr::from(([127, 0, 0, 1], 0)), &settings).await?;
            let address = child.address();
            let api = Api::new(&format!("http://{address}"), None)?;
            return Ok(Self { endpoint: Endpoint { address, host: address.to_string() }, api, pid: Some(child.pid()), child: Some((child, folder)) });
        };
        let Some(authority) = url.strip_prefix("http://") else {
            bail!("the load generator speaks http:// only: TLS would measure TLS");
        };
        let host = authority.trim_end_matches('/').to_owned();
        let with_port = if host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) { host.clone() } else { format!("{host}:80") };
        let address = lookup_host(&with_port).await?.next().with_context(|| format!("{host} has no address"))?;
        Ok(Self { endpoint: Endpoint { address, host }, api: Api::new(url, args.invite.clone())?, pid: args.server_pid, child: None })
    }

    /// Processor time the server has used, if it can be known.
    ///
    /// # Errors
    /// If its process is gone.
    pub(super) fn cpu_time(&self) -> anyhow::Result<Option<Duration>> {
        self.pid.map(process::cpu_time).transpose().context("the server's processor time cannot be read")
    }

    /// Memory of the server, if it can be known.
    ///
    /// # Errors
    /// If its process is gone.
    pub(super) fn memory(&self) -> anyhow::Result<Option<u64>> {
        self.pid.map(process::proportional_set_size).transpose().context("the server's memory cannot be read")
    }

    /// Ends a server of our own, by draining it.
    ///
    /// # Errors
    /// If it does not end, or not well.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        match self.child {
            Some((child, _folder)) => child.stop().await,
            None => Ok(()),
        }
    }
}
