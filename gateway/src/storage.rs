//! What holds accounts and messages: the embedded database, or PostgreSQL when the configuration has its address.

use std::{path::Path, path::PathBuf, sync::Arc};

use kith_chat_core::{
    accounts::{Accounts, PostgresAccounts, SqliteAccounts},
    bus::outbox::{Outbox, PostgresOutbox, SqliteOutbox},
    domain::Clock,
    log::{
        MessageLog, Overdue, Resolved, SqliteOverdue, Terms,
        postgres::{Options as LogOptions, PostgresLog, PostgresOverdue},
    },
    postgres::{self, Postgres},
    sqlite::{self, Database, Durability},
};
use tokio::sync::{mpsc, watch};

use crate::config::{self, Config, Synchronous};

/// Why accounts and messages cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The data folder cannot be made.
    #[error("cannot use the data folder {path}")]
    DataFolder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The embedded database cannot be opened.
    #[error("cannot open the database")]
    Embedded(#[from] sqlite::OpenError),
    /// PostgreSQL cannot be used; names its address.
    #[error(transparent)]
    Postgres(#[from] postgres::OpenError),
}

impl StorageError {
    /// Whether waiting may mend it.
    pub(crate) fn is_outage(&self) -> bool {
        matches!(self, Self::Postgres(error) if error.is_outage())
    }
}

/// Storage that is open.
pub(crate) enum Storage {
    Embedded(Arc<Database>),
    Postgres { server: Arc<Postgres>, log: Arc<PostgresLog> },
}

/// What becomes of appends, in batches.
pub(crate) type ResolvedAppends = mpsc::Receiver<Vec<Resolved>>;

impl Storage {
    /// Opens what the configuration says.
    pub(crate) async fn open(config: &Config, clock: Clock) -> Result<(Self, ResolvedAppends), StorageError> {
        match config.postgres.options() {
            None => open_embedded(config, clock).await,
            Some(options) => open_postgres(config, &options, clock).await,
        }
    }

    pub(crate) fn accounts(&self) -> Arc<dyn Accounts> {
        match self {
            Self::Embedded(database) => Arc::new(SqliteAccounts::new(Arc::clone(database))),
            Self::Postgres { server, .. } => Arc::new(PostgresAccounts::new(Arc::clone(server))),
        }
    }

    pub(crate) fn log(&self) -> Arc<dyn MessageLog> {
        match self {
            Self::Embedded(database) => Arc::clone(database) as _,
            Self::Postgres { log, .. } => Arc::clone(log) as _,
        }
    }

    /// Whether the replica answers reads, and each change of that; `None` if there is none.
    pub(crate) fn replica_serves(&self) -> Option<watch::Receiver<bool>> {
        match self {
            Self::Embedded(_) => None,
            Self::Postgres { server, .. } => server.replica_serves(),
        }
    }

    /// The events that changes have left behind.
    pub(crate) fn outbox(&self) -> Box<dyn Outbox> {
        match self {
            Self::Embedded(database) => Box::new(SqliteOutbox::new(Arc::clone(database))),
            Self::Postgres { server, .. } => Box::new(PostgresOutbox::new(Arc::clone(server))),
        }
    }

    /// What devices have not fetched for a while.
    pub(crate) fn overdue(&self, clock: Clock, terms: Terms) -> Box<dyn Overdue> {
        match self {
            Self::Embedded(database) => Box::new(SqliteOverdue::new(Arc::clone(database), clock, terms)),
            Self::Postgres { server, .. } => Box::new(PostgresOverdue::new(Arc::clone(server), terms)),
        }
    }

    /// Returns when messages can be written no more, which is a fault of the program. An outage of PostgreSQL is none, and ends by itself.
    pub(crate) async fn ended(&self) {
        match self {
            Self::Embedded(database) => database.ended().await,
            Self::Postgres { log, .. } => log.ended().await,
        }
    }

    /// Finishes what is waiting and lets go.
    pub(crate) async fn close(self) {
        match self {
            Self::Embedded(database) => {
                let _ = tokio::task::spawn_blocking(move || database.close()).await;
            }
            Self::Postgres { server, log } => {
                log.close().await;
                server.close().await;
            }
        }
    }
}

async fn open_embedded(config: &Config, clock: Clock) -> Result<(Storage, ResolvedAppends), StorageError> {
    let (folder, path) = (config.data.clone(), config.database());
    let durability = match config.storage.synchronous {
        Synchronous::Full => Durability::Full,
        Synchronous::Off => Durability::None,
    };
    let options = sqlite::Options {
        durability,
        retention_ms: config.retention.ms(),
        purge_every: Some(config::ms(config.retention.purge_every_ms)),
        ..sqlite::Options::new(clock)
    };
    let opening = tokio::task::spawn_blocking(move || {
        make_folder(&folder).map_err(|source| StorageError::DataFolder { path: folder, source })?;
        let (database, resolved) = Database::open(&path, options)?;
        Ok((Storage::Embedded(database), resolved))
    });
    opening.await.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
}

async fn open_postgres(config: &Config, options: &postgres::Options, clock: Clock) -> Result<(Storage, ResolvedAppends), StorageError> {
    let server = Postgres::open(options).await?;
    // What everybody has is deleted without a sweep; looking at everything that is kept is work beside the way of messages.
    let purge_every = config.role.is_relay().then(|| config::ms(config.postgres.sweep_every_ms));
    let options = LogOptions { retention_ms: config.retention.ms(), purge_every, ..LogOptions::new(clock) };
    let (log, resolved) = PostgresLog::start(Arc::clone(&server), &options);
    Ok((Storage::Postgres { server, log }, resolved))
}

/// Makes the folder, for its owner alone.
fn make_folder(path: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Brings the schema of the configured PostgreSQL up to date; gives the names of what was applied. `None` without one: the embedded database does that by
/// itself when it is opened.
///
/// # Errors
/// If it cannot be reached, is newer than this program, or a migration fails.
pub async fn migrate(config: &Config) -> Result<Option<Vec<&'static str>>, postgres::OpenError> {
    match config.postgres.options() {
        None => Ok(None),
        Some(options) => postgres::migrate(&options.url, Clock::System.now_ms()).await.map(Some),
    }
}
