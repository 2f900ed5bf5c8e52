//! What everything stands on: the storage, the bus, the directory of several servers. Each is waited for, all at the same time.

use std::{net::SocketAddr, sync::Arc};

use kith_chat_core::{
    bus::{self, Bus},
    domain::Clock,
    sessions::{
        GatewayId,
        redis::{self, RedisDirectory},
    },
};
use tokio::{net::TcpListener, try_join};

use super::{RunError, listen_on, waiting};
use crate::{
    config::{self, Config, ConfigError},
    health::Health,
    storage::{ResolvedAppends, Storage, StorageError},
};

/// All of it.
pub(super) struct Foundation {
    pub(super) storage: Storage,
    pub(super) resolved: ResolvedAppends,
    pub(super) bus: Arc<dyn Bus>,
    pub(super) joined: Option<Joined>,
    pub(super) secrets: Secrets,
}

/// What all gateways of the service know and nobody else, by what it is for.
#[derive(Clone, Copy)]
pub(super) struct Secrets {
    /// Signs access tokens.
    pub(super) token: [u8; 32],
    /// Makes login challenges.
    pub(super) challenge: [u8; 32],
    /// Tells gateways from strangers. Zeros where there is one gateway.
    link: [u8; 32],
}

/// What it takes to be one of several.
pub(super) struct Joined {
    pub(super) directory: Arc<RedisDirectory>,
    /// For other gateways.
    pub(super) listener: TcpListener,
    /// What all gateways of the service know and nobody else.
    pub(super) secret: [u8; 32],
    /// What `/readyz` calls the directory when it is away.
    pub(super) name: String,
}

/// The names of what has to be there, with addresses, as `/readyz` tells them.
pub(super) fn names(config: &Config) -> Result<Names, RunError> {
    let storage = match config.postgres.options() {
        None => "database".to_owned(),
        Some(options) => format!("postgres {}", options.address().map_err(StorageError::from)?),
    };
    let replica = config.postgres.options().and_then(|options| options.replica);
    let replica = replica.map(|replica| Ok::<_, StorageError>(format!("replica {}", replica.address()?))).transpose()?;
    let redis = match is_one_of_several(config) {
        true => Some(format!("redis {}", redis::address_of(config.redis.url.reveal())?)),
        false => None,
    };
    let brokers = Some(&config.kafka.brokers).filter(|brokers| !brokers.is_empty());
    let kafka = brokers.map(|brokers| format!("kafka {brokers}"));
    Ok(Names { storage, replica, redis, kafka })
}

/// See [`names`].
pub(super) struct Names {
    pub(super) storage: String,
    /// Never waited for.
    pub(super) replica: Option<String>,
    pub(super) redis: Option<String>,
    pub(super) kafka: Option<String>,
}

impl Names {
    pub(super) fn all(&self) -> Vec<&str> {
        [Some(&self.storage), self.replica.as_ref(), self.redis.as_ref(), self.kafka.as_ref()].into_iter().flatten().map(String::as_str).collect()
    }
}

/// Only gateways have sessions that others look for.
fn is_one_of_several(config: &Config) -> bool {
    config.role.is_gateway() && config.redis.url.is_set()
}

/// Waits for everything.
pub(super) async fn lay(config: &Config, names: &Names, gateway: GatewayId, clock: &Clock, health: &Health) -> Result<Foundation, RunError> {
    let listener = if is_one_of_several(config) { Some(listen_on(config.cluster.listen)?) } else { None };
    let address = listener.as_ref().map(|listener| advertised(config, listener)).transpose()?;
    let ((storage, resolved, secrets), bus, directory) = try_join!(
        open_storage(config, &names.storage, clock, health),
        open_bus(config, names, health),
        join(config, names, gateway, address, health)
    )?;
    let joined = listener.zip(directory).zip(names.redis.clone());
    let joined = joined.map(|((listener, directory), name)| Joined { directory: Arc::new(directory), listener, secret: secrets.link, name });
    Ok(Foundation { storage, resolved, bus, joined, secrets })
}

async fn open_storage(config: &Config, name: &str, clock: &Clock, health: &Health) -> Result<(Storage, ResolvedAppends, Secrets), RunError> {
    let (storage, resolved) = waiting::wait_for(name, health, StorageError::is_outage, || Storage::open(config, clock.clone())).await?;
    let accounts = &storage.accounts();
    let secret = |what| waiting::wait_for(name, health, waiting::is_outage_of_accounts, move || accounts.secret(what, rand::random()));
    let (token, challenge) = (secret("access_token").await?, secret("login_challenge").await?);
    let link = if is_one_of_several(config) { secret("gateway_link").await? } else { [0; 32] };
    Ok((storage, resolved, Secrets { token, challenge, link }))
}

async fn open_bus(config: &Config, names: &Names, health: &Health) -> Result<Arc<dyn Bus>, RunError> {
    let options = config.kafka.options().map_err(ConfigError::from)?;
    let name = names.kafka.as_deref().unwrap_or_default();
    Ok(waiting::wait_for(name, health, bus::OpenError::is_outage, || bus::open(options.as_ref())).await?)
}

/// Nothing without an address for others.
async fn join(
    config: &Config,
    names: &Names,
    gateway: GatewayId,
    address: Option<String>,
    health: &Health,
) -> Result<Option<RedisDirectory>, RunError> {
    let (Some(address), Some(name)) = (address, &names.redis) else { return Ok(None) };
    let lease = config::ms(config.cluster.lease_ms);
    let options = redis::Options { lease, ..redis::Options::new(config.redis.url.reveal(), gateway, address) };
    let directory = waiting::wait_for(name, health, redis::OpenError::is_outage, || RedisDirectory::open(&options)).await?;
    Ok(Some(directory))
}

/// Under which address others reach this one.
fn advertised(config: &Config, listener: &TcpListener) -> Result<String, RunError> {
    let bound: SocketAddr = listener.local_addr().map_err(|source| RunError::Listen { address: config.cluster.listen, source })?;
    Ok(if config.cluster.advertise.is_empty() { bound.to_string() } else { config.cluster.advertise.clone() })
}
