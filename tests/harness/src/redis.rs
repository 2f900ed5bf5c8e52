//! Redis from the system's packages. Nothing is written to disk: a restart begins empty, which is the worst that can happen to its users.

mod cluster;
mod sentinel;
mod server;

use std::{net::SocketAddr, ops::Deref, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::time;

use self::server::{Kind, Server};
pub use self::{cluster::RedisCluster, sentinel::RedisSentinel};
use crate::{port::Port, process::on_path, random::random_text, service::Service};

const MISSING: &str = "Redis is not installed: there is no redis-server on PATH (on Debian and Ubuntu: apt-get install redis-server)";
/// Until several servers agree.
const AGREED_WITHIN: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

/// A server with a folder of its own, and a [`Service`]: kill it, stop it, restart it, pause it, ask for its processor time. It ends when this is dropped,
/// and when this process ends, however it ends.
#[derive(Debug)]
pub struct Redis {
    service: Service,
    server: Arc<Server>,
}

impl Redis {
    /// A server of your own.
    ///
    /// # Errors
    /// If it cannot be started; the message says what to install, or ends with the server's log.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(&[]).await
    }

    /// A server of your own with other lines of `redis.conf`, which win over those of the harness.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_with(settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let settings = settings.iter().map(|(name, value)| format!("{name} {value}\n")).collect();
        Self::run(Server { port: Port::reserve()?, bus: None, password: random_text()?, kind: Kind::Store, settings }).await
    }

    async fn run(server: Server) -> anyhow::Result<Self> {
        on_path("redis-server").context(MISSING)?;
        let server = Arc::new(server);
        let service = Service::start(Arc::<Server>::clone(&server)).await?;
        Ok(Self { service, server })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.port.address()
    }

    /// With a password.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_through(self.address())
    }

    /// The same server reached at another address, such as that of a proxy.
    #[must_use]
    pub fn url_through(&self, address: SocketAddr) -> String {
        format!("redis://:{}@{address}", self.server.password)
    }

    /// Runs one command and returns its answer: a number or a text; empty if there is none.
    ///
    /// # Errors
    /// If the server refuses, does not answer within 5 s, or answers with a list.
    pub async fn ask(&self, command: &[&str]) -> anyhow::Result<String> {
        let server = Arc::clone(&self.server);
        let command: Vec<_> = command.iter().map(|word| (*word).to_owned()).collect();
        tokio::task::spawn_blocking(move || server.ask(&command)).await?
    }

    /// Forgets everything.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn flush(&self) -> anyhow::Result<()> {
        self.ask(&["FLUSHALL"]).await.map(drop)
    }
}

/// Asks each until its answer holds all the words.
async fn until_all_say(nodes: impl IntoIterator<Item = &Redis>, command: &[&str], words: &[&str]) -> anyhow::Result<()> {
    for node in nodes {
        let agreed = async {
            while !node.ask(command).await.is_ok_and(|answer| words.iter().all(|word| answer.contains(word))) {
                time::sleep(LOOK).await;
            }
        };
        time::timeout(AGREED_WITHIN, agreed).await.with_context(|| format!("{command:?} does not show {words:?}"))?;
    }
    Ok(())
}

impl Deref for Redis {
    type Target = Service;

    fn deref(&self) -> &Service {
        &self.service
    }
}
