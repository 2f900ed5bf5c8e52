//! What every handler can reach.

use std::sync::Arc;

use kith_chat_core::{accounts::Accounts, domain::Clock, log::MessageLog};
use tokio_util::task::TaskTracker;

use crate::{
    challenge::Challenges,
    cluster::Cluster,
    config::{Config, Origins},
    health::Health,
    limits::Limits,
    metrics::Metrics,
    peer::Network,
    sessions::Sessions,
    telemetry::Tracer,
    token::TokenKey,
};

/// The parts of a running server.
#[derive(Debug)]
pub struct AppState {
    /// The message log.
    pub log: Arc<dyn MessageLog>,
    /// Accounts, devices, keys.
    pub accounts: Arc<dyn Accounts>,
    /// Live connections.
    pub sessions: Arc<Sessions>,
    /// The other gateways, if this one is not alone.
    pub cluster: Option<Arc<Cluster>>,
    /// Makes and checks access tokens.
    pub tokens: TokenKey,
    /// Makes and checks login challenges.
    pub challenges: Challenges,
    /// Origins a login may be signed for.
    pub origins: Origins,
    /// The configuration, validated.
    pub config: Config,
    /// Proxies whose word about addresses is taken.
    pub trusted: Vec<Network>,
    /// Token buckets.
    pub limits: Arc<Limits>,
    /// Unix time.
    pub clock: Clock,
    /// Readiness.
    pub health: Arc<Health>,
    /// Counts for `/metrics`.
    pub metrics: Arc<Metrics>,
    /// Follows some messages, if there is anybody to tell.
    pub tracer: Option<Arc<Tracer>>,
    /// Owns the tasks that outlive a request.
    pub tasks: TaskTracker,
}
