//! A connection of one's own, for a task that writes all the time: made again when it is lost, and a statement whose fate is unknown is settled.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rand::RngExt as _;
use sqlx::PgConnection;
use tokio::time::{sleep, timeout};

use crate::postgres::{Class, Fault, FaultCause, Postgres, classify};

/// A statement that loses against others is tried so often.
const CONTENDED_AT_MOST: u32 = 8;
/// The pause before trying again, at most; it is random, so that those who met do not meet again.
const PAUSE: Duration = Duration::from_millis(20);
/// While the server is away nobody waits longer for it than this,
const AWAY_WITHIN: Duration = Duration::from_secs(1);
/// and it is not asked more often.
const AWAY_EVERY: Duration = Duration::from_millis(100);
/// A connection unused for longer is tried before something that must not be sent twice.
const TRUSTED_FOR: Duration = Duration::from_secs(1);

/// Small tables make other plans look cheaper; these statements look up what they are given, in the order in which they are given it, whatever the
/// statistics say. Planning them anew each time would cost more than running them.
pub(super) const SETTINGS: &str =
    "SET plan_cache_mode = force_generic_plan; SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_seqscan = off;
    SET jit = off";

/// One statement, a transaction of its own.
pub(super) trait Call: Sync {
    type Answer: Send;

    /// Sends it. May be called again after a failure.
    fn run(&self, connection: &mut PgConnection) -> impl Future<Output = Result<Self::Answer, sqlx::Error>> + Send;
}

/// Whether a statement may be sent again when nobody knows whether it was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Twice {
    Harmless,
    Never,
}

/// Whether an answer may come before what was written is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Commit {
    Durable,
    Behind,
}

/// Why a call has no answer.
#[derive(Debug)]
pub(super) enum Failed {
    /// The server refused it; nothing was changed.
    Sql(sqlx::Error),
    /// The server is away. Whether anything was changed is unknown.
    Away(Fault),
}

/// The connection.
pub(super) struct Session {
    postgres: Arc<Postgres>,
    /// Known to the server, so that what an earlier connection has left there can be ended.
    name: String,
    commit: Commit,
    within: Duration,
    connection: Option<PgConnection>,
    used_at: Instant,
    /// An earlier connection may still be at work on the server.
    suspect: bool,
    /// The server is away; ask again then.
    away: Option<Instant>,
    /// Why there was no connection.
    reason: Option<Fault>,
}

impl Session {
    /// Connects when first used. `within` is the longest that a call may take, with all that is done to make it.
    pub(super) fn new(postgres: Arc<Postgres>, role: &str, commit: Commit, within: Duration) -> Self {
        let name = format!("kith log {role} {:016x}", rand::rng().random::<u64>());
        Self { postgres, name, commit, within, connection: None, used_at: Instant::now(), suspect: false, away: None, reason: None }
    }

    /// Sends a call until there is an answer, the server refuses it, or time is up. After this has failed with [`Failed::Away`] once, calls fail soon,
    /// until one succeeds.
    pub(super) async fn call<C: Call>(&mut self, twice: Twice, call: &C) -> Result<C::Answer, Failed> {
        let within = match self.away {
            Some(until) if Instant::now() < until => return Err(self.too_late()),
            Some(_) => AWAY_WITHIN,
            None => self.within,
        };
        let outcome = timeout(within, self.attempts(twice, call)).await.unwrap_or_else(|_| Err(self.too_late()));
        let was_away = self.away.take().is_some();
        if let Err(Failed::Away(fault)) = &outcome {
            self.away = Some(Instant::now() + AWAY_EVERY);
            if !was_away {
                tracing::warn!(error = fault as &dyn std::error::Error, "PostgreSQL is away");
            }
        } else if was_away {
            tracing::info!("PostgreSQL is back");
        }
        outcome
    }

    async fn attempts<C: Call>(&mut self, twice: Twice, call: &C) -> Result<C::Answer, Failed> {
        let mut contended = 0;
        loop {
            let mut connection = match self.take(twice).await {
                Ok(connection) => connection,
                Err(fault) => {
                    self.reason = Some(fault);
                    pause().await;
                    continue;
                }
            };
            self.reason = None;
            self.suspect = true;
            // The connection is held here: if this is dropped at the deadline, it is closed.
            let outcome = call.run(&mut connection).await;
            let class = outcome.as_ref().err().map(classify);
            if class != Some(Class::Disconnected) {
                self.suspect = false;
                self.used_at = Instant::now();
                self.connection = Some(connection);
            }
            match (outcome, class) {
                (Ok(answer), _) => return Ok(answer),
                (Err(_), Some(Class::Contended)) if contended < CONTENDED_AT_MOST => contended += 1,
                (Err(error), Some(Class::Disconnected)) if twice == Twice::Never => return Err(Failed::Away(self.postgres.fault(error))),
                (Err(_), Some(Class::Disconnected)) => {}
                (Err(error), _) => return Err(Failed::Sql(error)),
            }
            metrics::counter!("kith_log_retries_total").increment(1);
            pause().await;
        }
    }

    async fn take(&mut self, twice: Twice) -> Result<PgConnection, Fault> {
        if let Some(mut connection) = self.connection.take()
            && (twice == Twice::Harmless || self.used_at.elapsed() < TRUSTED_FOR || is_alive(&mut connection).await)
        {
            return Ok(connection);
        }
        self.connect().await
    }

    async fn connect(&mut self) -> Result<PgConnection, Fault> {
        let mut connection = self.postgres.connect().await?;
        let prepared = async {
            sqlx::raw_sql(SETTINGS).execute(&mut connection).await?;
            if self.commit == Commit::Behind {
                sqlx::raw_sql("SET synchronous_commit = off").execute(&mut connection).await?;
            }
            sqlx::query("SELECT set_config('application_name', $1, false)").bind(&self.name).execute(&mut connection).await?;
            if self.suspect {
                // What it may still be doing would do no harm, but it holds locks.
                let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE application_name = $1 AND usename = current_user AND pid <> pg_backend_pid()";
                sqlx::query(sql).bind(&self.name).execute(&mut connection).await?;
            }
            Ok(())
        };
        prepared.await.map_err(|error: sqlx::Error| self.postgres.fault(error))?;
        Ok(connection)
    }

    fn too_late(&self) -> Failed {
        Failed::Away(self.reason.clone().unwrap_or_else(|| self.postgres.fault(FaultCause::TooLate)))
    }
}

async fn is_alive(connection: &mut PgConnection) -> bool {
    sqlx::query("SELECT 1").execute(connection).await.is_ok()
}

async fn pause() {
    let pause = rand::rng().random_range(PAUSE / 10..=PAUSE);
    sleep(pause).await;
}

/// What is never negative in the database.
pub(super) fn unsigned(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}
