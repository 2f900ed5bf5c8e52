//! The one place where transactions begin, end and are tried again.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use rand::RngExt as _;
use sqlx::PgConnection;
use tokio::time::timeout;

use super::{
    Postgres,
    error::{Class, Failure, FaultCause, StoreError, classify},
    pool::{TakeError, Taken},
};

/// A transaction that loses against others is tried so often.
const ATTEMPTS: u32 = 8;
/// The pause before the second attempt, at most; doubled each time, up to the longest.
const PAUSE: Duration = Duration::from_millis(4);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// Connections that may turn out dead in a row: all that were idle when the server restarted, which are forgotten at the first, and one more.
const DEAD_CONNECTIONS: u32 = 2;

/// What surrounds the work.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Each statement sees what was committed before it.
    ReadWrite,
    /// All statements see the same.
    Snapshot,
    /// Nothing: each statement is a transaction of its own.
    Statement,
}

impl Kind {
    /// Says what it wants, since the defaults are the operator's; and so refuses a server that takes no writes.
    fn begin(self) -> Option<&'static str> {
        match self {
            Self::ReadWrite => Some("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"),
            Self::Snapshot => Some("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"),
            Self::Statement => None,
        }
    }
}

/// How an attempt failed.
enum Lost<E> {
    Refused(E),
    Sql(sqlx::Error),
    Commit(sqlx::Error),
    /// While beginning: nothing had been done.
    Stale(sqlx::Error),
}

impl Postgres {
    /// Runs `work` in a transaction (READ COMMITTED) and answers after its commit. If the work refuses, what it did is undone. If the transaction loses
    /// against another one, or the connection turns out dead before the commit, the work is **run again**: it must have no effect but on the database.
    /// It must pass on every SQL error: after one the transaction can only be undone.
    ///
    /// The work gets what it needs as `given` and captures nothing: the compiler cannot see that a future of a closure with borrowed captures may go to
    /// another thread.
    ///
    /// # Errors
    /// What the work refuses with; [`StoreError::Overloaded`]; [`StoreError::Unavailable`]. When the connection is lost during the commit the cause is
    /// [`FaultCause::CommitUnknown`] and nothing is tried again.
    pub async fn transaction<A: Sync, T, E>(
        &self,
        name: &'static str,
        given: &A,
        work: impl AsyncFn(&mut PgConnection, &A) -> Result<T, Failure<E>>,
    ) -> Result<T, StoreError<E>> {
        self.run(name, Kind::ReadWrite, given, work).await
    }

    /// As [`Self::transaction`], for several reads that must see the same state. Writes nothing and locks nothing.
    ///
    /// # Errors
    /// As [`Self::transaction`].
    pub async fn snapshot<A: Sync, T, E>(
        &self,
        name: &'static str,
        given: &A,
        work: impl AsyncFn(&mut PgConnection, &A) -> Result<T, Failure<E>>,
    ) -> Result<T, StoreError<E>> {
        self.run(name, Kind::Snapshot, given, work).await
    }

    /// As [`Self::transaction`], for statements that need none around them: one round trip instead of three. They must be reads, or writes that may be
    /// run twice.
    ///
    /// # Errors
    /// As [`Self::transaction`], the unknown commit aside: there the statement is run again.
    pub async fn statement<A: Sync, T, E>(
        &self,
        name: &'static str,
        given: &A,
        work: impl AsyncFn(&mut PgConnection, &A) -> Result<T, Failure<E>>,
    ) -> Result<T, StoreError<E>> {
        self.run(name, Kind::Statement, given, work).await
    }

    async fn run<A: Sync, T, E>(
        &self,
        name: &'static str,
        kind: Kind,
        given: &A,
        work: impl AsyncFn(&mut PgConnection, &A) -> Result<T, Failure<E>>,
    ) -> Result<T, StoreError<E>> {
        let begun = Instant::now();
        let deadline = self.pool.options.transaction_within;
        // Dropped at the deadline, the connection it holds is closed and PostgreSQL undoes what was done.
        let outcome = timeout(deadline, self.attempts(name, kind, given, work)).await;
        metrics::histogram!("kith_postgres_transaction_seconds", "transaction" => name).record(begun.elapsed().as_secs_f64());
        let outcome = outcome.unwrap_or_else(|_| Err(StoreError::Unavailable(self.pool.fault(FaultCause::TooLate))));
        self.note(name, outcome.as_ref().err());
        outcome
    }

    /// Logs a failure, an outage only when it begins and ends: it fails whatever is asked meanwhile.
    fn note<E>(&self, name: &'static str, error: Option<&StoreError<E>>) {
        match error {
            Some(StoreError::Unavailable(fault)) if fault.is_outage() => {
                if !self.away.swap(true, Ordering::Relaxed) {
                    tracing::warn!(name, error = %chain(fault), "PostgreSQL is away");
                }
            }
            Some(StoreError::Unavailable(fault)) => tracing::warn!(name, error = %chain(fault), "a transaction failed"),
            Some(StoreError::Overloaded) => tracing::debug!(name, "PostgreSQL is overloaded"),
            Some(StoreError::Refused(_)) | None => {
                if self.away.load(Ordering::Relaxed) && self.away.swap(false, Ordering::Relaxed) {
                    tracing::info!("PostgreSQL is back");
                }
            }
        }
    }

    async fn attempts<A: Sync, T, E>(
        &self,
        name: &'static str,
        kind: Kind,
        given: &A,
        work: impl AsyncFn(&mut PgConnection, &A) -> Result<T, Failure<E>>,
    ) -> Result<T, StoreError<E>> {
        let (mut contended, mut dead) = (0, 0);
        loop {
            let error = match self.attempt(kind, given, &work).await? {
                Ok(value) => return Ok(value),
                Err(Lost::Refused(refusal)) => return Err(StoreError::Refused(refusal)),
                Err(Lost::Commit(error)) if classify(&error) == Class::Disconnected => {
                    return Err(StoreError::Unavailable(self.pool.fault(FaultCause::CommitUnknown(error))));
                }
                Err(Lost::Sql(error) | Lost::Commit(error) | Lost::Stale(error)) => error,
            };
            match classify(&error) {
                Class::Contended => contended += 1,
                Class::Disconnected => dead += 1,
                Class::Other => return Err(StoreError::Unavailable(self.pool.fault(error))),
            }
            if contended == ATTEMPTS {
                return Err(StoreError::Overloaded);
            }
            if dead == DEAD_CONNECTIONS {
                return Err(StoreError::Unavailable(self.pool.fault(error)));
            }
            metrics::counter!("kith_postgres_retries_total", "transaction" => name).increment(1);
            tokio::time::sleep(pause(contended)).await;
        }
    }

    /// The outer error is that there is no connection.
    async fn attempt<A: Sync, T, E>(
        &self,
        kind: Kind,
        given: &A,
        work: &impl AsyncFn(&mut PgConnection, &A) -> Result<T, Failure<E>>,
    ) -> Result<Result<T, Lost<E>>, StoreError<E>> {
        let mut taken = self.pool.take().await.map_err(|error| match error {
            TakeError::Busy => StoreError::Overloaded,
            TakeError::Failed(fault) => StoreError::Unavailable(fault),
        })?;
        let ended = once(&mut taken, kind, given, work).await;
        match &ended {
            Err(Lost::Sql(error) | Lost::Commit(error) | Lost::Stale(error)) if !is_answer(error) => self.pool.forget_idle(),
            _ => taken.put_back(),
        }
        Ok(ended)
    }
}

/// Whether the server itself said so, on a connection that goes on.
fn is_answer(error: &sqlx::Error) -> bool {
    classify(error) != Class::Disconnected
}

async fn once<A: Sync, T, E>(
    connection: &mut Taken,
    kind: Kind,
    given: &A,
    work: &impl AsyncFn(&mut PgConnection, &A) -> Result<T, Failure<E>>,
) -> Result<T, Lost<E>> {
    if let Some(begin) = kind.begin() {
        sqlx::raw_sql(begin).execute(&mut **connection).await.map_err(Lost::Stale)?;
    }
    let outcome = work(connection, given).await;
    let ended = kind.begin().is_some();
    match outcome {
        Ok(value) if ended => sqlx::raw_sql("COMMIT").execute(&mut **connection).await.map(|_| value).map_err(Lost::Commit),
        Ok(value) => Ok(value),
        Err(failure) => {
            let lost = match failure {
                Failure::Refused(refusal) => Lost::Refused(refusal),
                Failure::Sql(error) if !is_answer(&error) => return Err(Lost::Sql(error)),
                Failure::Sql(error) => Lost::Sql(error),
            };
            if ended {
                sqlx::raw_sql("ROLLBACK").execute(&mut **connection).await.map_err(Lost::Sql)?;
            }
            Err(lost)
        }
    }
}

/// Random, so that those who lost together do not meet again.
fn pause(attempt: u32) -> Duration {
    if attempt == 0 {
        return Duration::ZERO;
    }
    let most = LONGEST_PAUSE.min(PAUSE * 2_u32.saturating_pow(attempt - 1));
    rand::rng().random_range(Duration::ZERO..=most)
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        next = cause.source();
    }
    line
}
