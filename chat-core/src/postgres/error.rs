//! What may go wrong with PostgreSQL, sorted by what to do about it.

use std::sync::Arc;

use super::migrate::MigrateError;
use crate::domain::Address;

/// What to do about an error of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The transaction lost against another one (serialization failure, deadlock): the same transaction again may succeed.
    Contended,
    /// The connection is gone, or leads to a server that takes no writes: on another connection it may succeed.
    Disconnected,
    /// Anything else: a full disk, a time limit, a broken constraint, a mistake in the SQL. Trying again at once will not help.
    Other,
}

/// Sorts an error.
#[must_use]
pub fn classify(error: &sqlx::Error) -> Class {
    let database = match error {
        sqlx::Error::Database(database) => database,
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => return Class::Disconnected,
        _ => return Class::Other,
    };
    match database.code().as_deref().unwrap_or_default() {
        // serialization_failure, deadlock_detected
        "40001" | "40P01" => Class::Contended,
        // admin_shutdown, crash_shutdown, cannot_connect_now, idle_session_timeout, read_only_sql_transaction (the server has become a standby)
        "57P01" | "57P02" | "57P03" | "57P05" | "25006" => Class::Disconnected,
        code if code.starts_with("08") => Class::Disconnected,
        _ => Class::Other,
    }
}

/// The name of the constraint that an error is about.
#[must_use]
pub fn constraint(error: &sqlx::Error) -> Option<&str> {
    error.as_database_error().and_then(sqlx::error::DatabaseError::constraint)
}

/// A failure of PostgreSQL itself, with the address it happened at.
#[derive(Debug, Clone, thiserror::Error)]
#[error("PostgreSQL at {address} failed")]
pub struct Fault {
    address: Address,
    #[source]
    source: Arc<FaultCause>,
}

/// The cause of a [`Fault`].
#[derive(Debug, thiserror::Error)]
pub enum FaultCause {
    /// A statement or a connection failed. (The driver's own text tells the whole chain.)
    #[error("{0}")]
    Sql(sqlx::Error),
    /// The connection was lost while the commit was under way: whether it was made is not known.
    #[error("the outcome of a commit is unknown: {0}")]
    CommitUnknown(sqlx::Error),
    /// There was no answer in time.
    #[error("no answer in time")]
    TooLate,
    /// The pool was closed.
    #[error("the pool is closed")]
    Closed,
    /// It is there, and not to be used as a replica.
    #[error(transparent)]
    Unfit(#[from] Unfit),
}

/// Why a server is not asked in place of the primary.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// What it holds is nothing of ours.
    #[error("it holds another database than the primary")]
    Stranger,
    /// It is the primary itself, or was made one: what it holds may be another history by now.
    #[error("it is no standby: it takes writes")]
    TakesWrites,
    /// It has not replayed the newest migration yet, or one that this program does not know.
    #[error("its schema cannot be used")]
    Schema(#[source] MigrateError),
    /// It follows from too far behind, or not at all.
    #[error("it lags too far behind the primary")]
    Late,
}

impl From<sqlx::Error> for FaultCause {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl Fault {
    pub(crate) fn new(address: &Address, cause: impl Into<FaultCause>) -> Self {
        Self { address: address.clone(), source: Arc::new(cause.into()) }
    }

    /// Whether nobody answered, or the connection was lost, rather than a statement refused.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match self.cause() {
            FaultCause::Sql(error) => classify(error) == Class::Disconnected,
            FaultCause::TooLate => true,
            FaultCause::CommitUnknown(_) | FaultCause::Closed | FaultCause::Unfit(_) => false,
        }
    }

    /// Whether it may pass while somebody waits who has not been let in yet. A password, a database that does not exist, or TLS that is not agreed on do not.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self.cause() {
            FaultCause::Sql(sqlx::Error::Tls(_)) | FaultCause::Closed | FaultCause::Unfit(_) => false,
            // Insufficient resources (too many connections), operator intervention (it is starting).
            FaultCause::Sql(sqlx::Error::Database(error)) if error.code().is_some_and(|code| code.starts_with("53") || code.starts_with("57")) => {
                true
            }
            FaultCause::Sql(error) => classify(error) == Class::Disconnected,
            FaultCause::TooLate | FaultCause::CommitUnknown(_) => true,
        }
    }

    /// Why.
    #[must_use]
    pub fn cause(&self) -> &FaultCause {
        &self.source
    }
}

/// Why work in the database gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum StoreError<E> {
    /// The work said so; nothing of it was kept.
    #[error(transparent)]
    Refused(E),
    /// No connection was free in time, or the transaction lost against others again and again; nothing was kept, it may be tried again.
    #[error("the database is overloaded")]
    Overloaded,
    /// PostgreSQL is away or failing. Nothing was kept, unless the cause is [`FaultCause::CommitUnknown`].
    #[error(transparent)]
    Unavailable(Fault),
}

/// Why a piece of work inside a transaction ends without a result.
#[derive(Debug)]
pub enum Failure<E> {
    /// A refusal, which undoes what the work did.
    Refused(E),
    /// A statement failed.
    Sql(sqlx::Error),
}

impl<E> From<sqlx::Error> for Failure<E> {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}
