//! What the story is played on: one server, or a fleet behind one address.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use kith_harness::{Port, PostgresOptions};

use super::transcript::Transcript;
use crate::{
    cluster::{Balancer, Cluster},
    server_child::ServerChild,
};

/// What is running.
#[derive(Debug)]
pub(super) enum Stage {
    /// One process with a folder of its own, killed and started again.
    OneServer { server: Option<Box<ServerChild>>, port: Port, pid: u32, data: PathBuf },
    /// Two gateways behind one address, of which the first is killed for good.
    Fleet { cluster: Box<Cluster>, balancer: Balancer, pid: u32 },
}

impl Stage {
    /// Starts a server on `data`.
    ///
    /// # Errors
    /// If it is not ready in time.
    pub(super) async fn one_server(t: Transcript, data: &Path) -> anyhow::Result<Self> {
        t.title("kith demo: one server, two people, and a crash");
        let port = Port::reserve()?;
        let server = ServerChild::start(data, port.address(), &[]).await?;
        t.explain("A server of its own: one process, one folder, nothing to configure.");
        let (address, pid, ready) = (server.address(), server.pid(), server.started_in().as_millis());
        t.event(&format!("the server listens on http://{address} (process {pid}, ready after {ready} ms)"));
        Ok(Self::OneServer { server: Some(Box::new(server)), port, pid, data: data.to_owned() })
    }

    /// Starts PostgreSQL, Redis and two gateways.
    ///
    /// # Errors
    /// If something does not start; the message says what to install.
    pub(super) async fn fleet(t: Transcript) -> anyhow::Result<Self> {
        t.title("kith demo --cluster: two gateways, two people, and a crash");
        let balancer = Balancer::start().await?;
        let cluster =
            Cluster::start(PostgresOptions { huge_pages: false, ..PostgresOptions::measured() }, 2, &format!("http://{}", balancer.address()), &[])
                .await?;
        t.explain("The same program as a fleet: two gateways that share PostgreSQL and Redis, behind one address.");
        t.event(&format!("PostgreSQL and Redis run, clients dial http://{}", balancer.address()));
        for (name, gateway) in ["first", "second"].iter().zip(cluster.gateways()) {
            let ready = gateway.started_in().as_millis();
            t.event(&format!("the {name} gateway is on {} (process {}, ready after {ready} ms)", gateway.address(), gateway.pid()));
        }
        let pid = cluster.gateway(0).context("there is a first gateway")?.pid();
        Ok(Self::Fleet { cluster: Box::new(cluster), balancer, pid })
    }

    /// What clients dial.
    pub(super) fn url(&self) -> String {
        match self {
            Self::OneServer { port, .. } => format!("http://{}", port.address()),
            Self::Fleet { balancer, .. } => format!("http://{}", balancer.address()),
        }
    }

    /// Whoever connects from now on gets to the first gateway.
    pub(super) fn leads_to_first(&self) {
        if let Self::Fleet { cluster, balancer, .. } = self {
            balancer.set(cluster.gateways().map(ServerChild::address).collect());
        }
    }

    /// Whoever connects from now on gets to the last gateway.
    pub(super) fn leads_to_last(&self) {
        if let Self::Fleet { cluster, balancer, .. } = self {
            let mut gateways: Vec<_> = cluster.gateways().map(ServerChild::address).collect();
            gateways.reverse();
            balancer.set(gateways);
        }
    }

    /// What will be killed, for the transcript.
    pub(super) fn victim(&self) -> &'static str {
        match self {
            Self::OneServer { .. } => "the server",
            Self::Fleet { .. } => "alice's gateway",
        }
    }

    /// Its process.
    pub(super) fn victim_pid(&self) -> u32 {
        match self {
            Self::OneServer { pid, .. } | Self::Fleet { pid, .. } => *pid,
        }
    }

    /// Kills it (SIGKILL).
    ///
    /// # Errors
    /// If the system refuses.
    pub(super) async fn strike(&mut self) -> anyhow::Result<()> {
        match self {
            Self::OneServer { server, .. } => server.take().context("the server was killed before")?.kill().await,
            Self::Fleet { cluster, .. } => cluster.kill(0).await,
        }
    }

    /// Starts the server again; a fleet needs nobody to do anything.
    ///
    /// # Errors
    /// If it is not ready in time.
    pub(super) async fn mend(&mut self, t: Transcript) -> anyhow::Result<()> {
        match self {
            Self::OneServer { server, port, data, .. } => {
                let again = ServerChild::start(data, port.address(), &[]).await?;
                let (pid, ready) = (again.pid(), again.started_in().as_millis());
                t.event(&format!("the server is started again on the same folder (process {pid}, ready after {ready} ms)"));
                *server = Some(Box::new(again));
            }
            Self::Fleet { .. } => t.event("nobody starts anything: the other gateway takes her in"),
        }
        Ok(())
    }

    /// Ends everything in order.
    ///
    /// # Errors
    /// If it does not end well.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        match self {
            Self::OneServer { server, .. } => server.context("the server was not started again")?.stop().await,
            Self::Fleet { cluster, .. } => cluster.stop().await,
        }
    }
}
