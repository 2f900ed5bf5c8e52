//! PostgreSQL, for a service of many processes: a pool of connections for requests, connections of their own for those who write all the time, named
//! transactions that are tried again in one place, and the schema.
//!
//! Invariants: nothing starts on a server whose commits do not outlive it; every wait has a deadline; a connection is used again only after its
//! transaction has ended; no password is in any error, log or `Debug`.
//!
//! A replica may answer those reads whose answer may be old (`replica`); without one nothing of that is there.
//!
//! When PostgreSQL is away, work fails within the connection's deadline and succeeds again as soon as it is back: nothing has to be restarted.

mod address;
mod alone;
mod error;
mod migrate;
mod pool;
mod replica;
mod transaction;

use std::{
    fmt,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use sqlx::{PgConnection, Row as _};

pub(crate) use self::alone::Alone;
#[cfg(test)]
pub(crate) use self::migrate::migrate_until;
#[cfg(test)]
pub(crate) use self::replica::Answered;
pub use self::{
    error::{Class, Failure, Fault, FaultCause, StoreError, Unfit, classify, constraint},
    migrate::{MigrateError, migrate},
    replica::ReplicaOptions,
};
use self::{
    pool::Pool,
    replica::{Identity, Replica},
};
use crate::domain::Address;

/// The oldest server that is supported, as `server_version_num`.
const OLDEST: i32 = 150_000;

/// How to use a server.
#[derive(Clone)]
pub struct Options {
    /// `postgres://user:password@host:port/database?sslmode=…`. A secret.
    pub url: String,
    /// Connections for requests; who asks [`Postgres::connect`] for one has it beside these.
    pub connections: usize,
    /// The longest wait for a connection to be free.
    pub acquire_within: Duration,
    /// The longest wait for a new connection.
    pub connect_within: Duration,
    /// The longest a statement may take; PostgreSQL ends it.
    pub statement_within: Duration,
    /// The longest wait for a row lock; PostgreSQL ends it.
    pub lock_within: Duration,
    /// The longest a transaction may take with all its attempts; then its connection is closed.
    pub transaction_within: Duration,
    /// A standby that may answer some reads.
    pub replica: Option<ReplicaOptions>,
}

impl Options {
    /// What production uses.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            connections: 16,
            acquire_within: Duration::from_secs(5),
            connect_within: Duration::from_secs(5),
            statement_within: Duration::from_secs(10),
            lock_within: Duration::from_secs(5),
            transaction_within: Duration::from_secs(15),
            replica: None,
        }
    }

    /// Where the server is.
    ///
    /// # Errors
    /// If the address is none.
    pub fn address(&self) -> Result<Address, OpenError> {
        Ok(address::parse(&self.url)?.1)
    }
}

/// The address is a secret.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("url", &"..").field("connections", &self.connections).finish_non_exhaustive()
    }
}

/// Why a server cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The address is none.
    #[error("the address of PostgreSQL is not valid: {0}")]
    Url(String),
    /// The address of the replica is none.
    #[error("the address of the replica of PostgreSQL is not valid: {0}")]
    ReplicaUrl(String),
    /// The replica is none of this database.
    #[error("the replica of PostgreSQL cannot be used")]
    WrongReplica(#[source] Fault),
    /// No connection, or the first statement failed.
    #[error(transparent)]
    Unavailable(#[from] Fault),
    /// It is too old.
    #[error("PostgreSQL at {address} is version {found}; 15 is the oldest that is supported")]
    TooOld {
        /// Where.
        address: Address,
        /// Its version.
        found: String,
    },
    /// A commit there would not outlive the machine.
    #[error("PostgreSQL at {address} has {setting} = {value}, with which a crash loses accepted messages; turn it on")]
    NotDurable {
        /// Where.
        address: Address,
        /// The setting.
        setting: &'static str,
        /// Its value.
        value: String,
    },
    /// It is a standby, or made read-only.
    #[error("PostgreSQL at {0} takes no writes: it is a standby or read-only")]
    ReadOnly(Address),
    /// The schema is not the one this program knows.
    #[error("the schema of PostgreSQL at {address} cannot be used")]
    Schema {
        /// Where.
        address: Address,
        /// Why.
        source: MigrateError,
    },
}

impl OpenError {
    /// Whether nobody answered, or the server is not there yet or has no room just now: waiting may mend it. Everything else somebody has to.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable(fault) if fault.may_pass())
    }
}

/// More seconds than this between two looks of autovacuum are worth a warning.
const RARE_VACUUM_S: i32 = 15;

/// A PostgreSQL server that was found fit.
#[derive(Debug)]
pub struct Postgres {
    pool: Arc<Pool>,
    replica: Option<Replica>,
    /// The last transaction found nobody there; only for the log lines.
    away: AtomicBool,
}

impl Postgres {
    /// Connects, and checks that the server is recent enough, takes writes, keeps what is committed, and has the schema of this program. A replica is looked
    /// at as well, and not waited for.
    ///
    /// # Errors
    /// Says what is wrong, and at which address; a missing schema is made by [`migrate`]. A replica that is away is no error; one of another database is.
    pub async fn open(options: &Options) -> Result<Arc<Self>, OpenError> {
        let (connect, address) = address::parse(&options.url)?;
        let pool = Arc::new(Pool::new(connect, address.clone(), options.clone()));
        let mut connection = pool.connect().await?;
        let checks = async {
            check_server(&mut connection, &address).await?;
            warn_of_rare_vacuum(&mut connection, &address).await?;
            let checked = migrate::check(&mut connection).await;
            checked.map_err(|source| OpenError::Schema { address: address.clone(), source })?;
            match &options.replica {
                None => Ok(None),
                Some(replica) => {
                    let identity = Identity::read(&mut connection).await.map_err(|error| pool.fault(error))?;
                    Box::pin(Replica::open(replica, &pool, identity)).await.map(Some)
                }
            }
        };
        let checked = tokio::time::timeout(options.transaction_within, checks).await;
        let replica = checked.unwrap_or_else(|_| Err(pool.fault(FaultCause::TooLate).into()))?;
        Ok(Arc::new(Self { pool, replica, away: AtomicBool::new(false) }))
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.pool.address
    }

    /// A connection beside the pool, for whoever writes all the time: a log writer. The session's time limits are set; the caller sets deadlines of its
    /// own around what it sends, and connects again after a failure.
    ///
    /// # Errors
    /// If none can be had within the time for connecting.
    pub async fn connect(&self) -> Result<PgConnection, Fault> {
        self.pool.connect().await
    }

    /// A failure at this server's address, for those who use connections of their own.
    #[must_use]
    pub fn fault(&self, cause: impl Into<FaultCause>) -> Fault {
        self.pool.fault(cause)
    }

    /// Ends the pool: what is under way finishes, nothing new begins. Dropping does the same, without saying goodbye.
    pub async fn close(&self) {
        if let Some(replica) = &self.replica {
            replica.close().await;
        }
        self.pool.close().await;
    }
}

async fn check_server(connection: &mut PgConnection, address: &Address) -> Result<(), OpenError> {
    let sql = "SELECT current_setting('server_version_num')::integer, current_setting('server_version'), current_setting('fsync'),
               current_setting('full_page_writes'), current_setting('synchronous_commit'),
               pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on'";
    let row = sqlx::query(sql).fetch_one(connection).await;
    let found = row.and_then(|row| {
        let settings: [(&'static str, String); 3] =
            [("fsync", row.try_get(2)?), ("full_page_writes", row.try_get(3)?), ("synchronous_commit", row.try_get(4)?)];
        Ok((row.try_get::<i32, _>(0)?, row.try_get::<String, _>(1)?, settings, row.try_get::<bool, _>(5)?))
    });
    let (version, name, settings, read_only) = found.map_err(|error| Fault::new(address, error))?;
    if version < OLDEST {
        return Err(OpenError::TooOld { address: address.clone(), found: name });
    }
    if read_only {
        return Err(OpenError::ReadOnly(address.clone()));
    }
    match settings.into_iter().find(|(_, value)| value == "off") {
        Some((setting, value)) => Err(OpenError::NotDurable { address: address.clone(), setting, value }),
        None => Ok(()),
    }
}

/// Messages live for moments, and their room is used again only after a vacuum. Without an early one the tables grow by all that is sent meanwhile. Engines
/// that have no vacuum have no such setting either.
async fn warn_of_rare_vacuum(connection: &mut PgConnection, address: &Address) -> Result<(), OpenError> {
    let sql = "SELECT (SELECT setting = 'off' FROM pg_settings WHERE name = 'autovacuum'), (SELECT setting::integer FROM pg_settings WHERE name = 'autovacuum_naptime')";
    let found: (Option<bool>, Option<i32>) = sqlx::query_as(sql).fetch_one(connection).await.map_err(|error| Fault::new(address, error))?;
    match found {
        (Some(true), _) => tracing::warn!("autovacuum is off: the room of messages that everybody has is never used again"),
        (_, Some(seconds)) if seconds > RARE_VACUUM_S => {
            tracing::warn!(
                autovacuum_naptime_s = seconds,
                "vacuum comes late: set autovacuum_naptime to 5s, or the tables of messages grow by what is sent between two of them"
            );
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests;
