//! Starts the real services that tests and demonstrations need, on free ports in temporary folders, and ends them.
//!
//! - [`Postgres`]: one server per test process for everybody ([`Postgres::shared`]), or one of your own to treat badly ([`Postgres::start`]).
//!   [`Standby`]: follows one of them, and lags as far behind as a test wants.
//! - [`Redis`] (alone, [as a cluster](RedisCluster), [with Sentinels](RedisSentinel)) and [`Kafka`]: servers of your own, or one broker for all tests of the
//!   process ([`Kafka::shared`]).
//! - [`Service`]: what these have in common, and what runs any other [`Program`] in the same manner.
//! - [`Port`]: where anything else of the test's own may listen, over restarts.
//! - [`Proxy`]: a link between two parties that can be cut, held, slowed and healed.
//!
//! Everything ends with the process that started it, however that ends, SIGKILL included: each service lives in a temporary folder with a watcher (see
//! `folder.rs`). Processes that test in parallel do not share anything. Servers listen on 127.0.0.1 only. Linux only: processes are found through
//! `/proc`.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use kith_harness::{Direction, Postgres, Proxy};
//!
//! // For nearly every test: an empty database on the server that all tests of the process share.
//! let database = Postgres::shared().database().await;
//! println!("{}", database.url());
//!
//! // For faults: a server of one's own, behind a link of one's own.
//! let server = Postgres::start().await?;
//! let (database, link) = (server.database().await, Proxy::start(server.address()).await?);
//! println!("{}", database.url_through(link.address()));
//! // The commit arrives, its answer does not.
//! link.one_way(Direction::ToServer);
//! link.cut();
//! link.heal();
//! server.kill().await?;
//! server.restart().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Not here: anything of Kith. The harness knows no crate of the workspace, so that every one of them can test with it.

mod folder;
mod kafka;
mod port;
mod postgres;
mod process;
mod proxy;
mod random;
mod redis;
mod service;
mod user;

pub use kafka::Kafka;
pub use port::Port;
pub use postgres::{Database, Options as PostgresOptions, Postgres, Standby};
pub use proxy::{Direction, Proxy};
pub use redis::{Redis, RedisCluster, RedisSentinel};
pub use service::{Program, Service};
