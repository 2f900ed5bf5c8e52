//! Apache Kafka on the JVM: one broker that is its own controller, from the artifacts that its makers publish on Maven Central.

mod artifacts;
mod broker;

use std::{
    net::SocketAddr,
    ops::Deref,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use self::broker::Broker;
use crate::{proxy::Proxy, service::Service};

/// A broker with a folder of its own, and a [`Service`]: kill it, stop it, restart it, pause it, ask for its processor time. It ends when this is dropped,
/// and when this process ends, however it ends. Topics are made when they are first asked for.
#[derive(Debug)]
pub struct Kafka {
    service: Service,
    broker: Arc<Broker>,
}

impl Kafka {
    /// The broker that all tests of this process share, each with topics of its own name; started by the first who asks, which takes a few seconds.
    ///
    /// Do not kill, pause or put a proxy before it: [`start`](Self::start) another for that.
    ///
    /// # Panics
    /// If it cannot be started; the message says what to install. A test without its broker cannot go on.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Result<Kafka, String>> = OnceLock::new();
        match SHARED.get_or_init(|| Self::start_blocking(String::new()).map_err(|error| format!("{error:#}"))) {
            Ok(broker) => broker,
            Err(error) => panic!("no Kafka: {error}"),
        }
    }

    /// A broker of your own. The first on a machine fetches the artifacts (about 45 MB) with Maven into the user's cache.
    ///
    /// # Errors
    /// If it cannot be started; the message says what to install, or ends with the broker's log.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(&[]).await
    }

    /// A broker of your own with other lines of `server.properties`, which win over those of the harness.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_with(settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let settings = settings.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        tokio::task::spawn_blocking(move || Self::start_blocking(settings)).await?
    }

    fn start_blocking(settings: String) -> anyhow::Result<Self> {
        let broker = Arc::new(Broker::new(artifacts::ensure()?, settings)?);
        let service = Service::start_blocking(Arc::<Broker>::clone(&broker))?;
        Ok(Self { service, broker })
    }

    /// Makes sure that the artifacts are in the cache, and says where.
    ///
    /// # Errors
    /// If they are not, and Maven is missing or cannot fetch them.
    pub async fn fetch() -> anyhow::Result<PathBuf> {
        tokio::task::spawn_blocking(artifacts::ensure).await?
    }

    /// The bootstrap address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.broker.direct()
    }

    /// A link to the broker that can be treated badly. Clients that start from the proxy's address stay with it, since the broker names that address to
    /// whoever comes through it.
    ///
    /// # Errors
    /// If there is already one.
    pub async fn proxy(&self) -> anyhow::Result<Proxy> {
        Proxy::listen(self.broker.advertised(), self.broker.proxied()).await
    }
}

impl Deref for Kafka {
    type Target = Service;

    fn deref(&self) -> &Service {
        &self.service
    }
}
