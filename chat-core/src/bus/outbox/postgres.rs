//! In PostgreSQL.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::{Connection as _, PgConnection, Row as _};
use tokio::time::timeout;
use uuid::Uuid;

use super::{Batch, Outbox, OutboxError, Row, row};
use crate::{
    bus::{Record, Topic},
    postgres::{FaultCause, Postgres},
};

/// Names the advisory lock of the relay: "kithbox" in ASCII.
const LOCK: i64 = 0x006b_6974_6862_6f78;
const WITHIN: Duration = Duration::from_secs(15);
const GOODBYE: Duration = Duration::from_secs(1);
/// PostgreSQL ends a session that asks for nothing in this time, and the lock with it. More than all deadlines between two requests of a relay together.
const IDLE: Duration = Duration::from_secs(60);

/// The outbox in PostgreSQL, over a session of its own.
#[derive(Debug)]
pub struct PostgresOutbox {
    db: Arc<Postgres>,
    session: Option<PgConnection>,
    /// The session holds the lock.
    locked: bool,
    idle: Duration,
}

impl PostgresOutbox {
    /// Of this database.
    #[must_use]
    pub fn new(db: Arc<Postgres>) -> Self {
        Self::idle_at_most(IDLE, db)
    }

    /// Whose session ends when it asks for nothing in this time.
    pub(in crate::bus) fn idle_at_most(idle: Duration, db: Arc<Postgres>) -> Self {
        Self { db, session: None, locked: false, idle }
    }

    /// Whatever fails ends the session: the next call begins with another one.
    async fn asked<T>(&mut self, work: impl AsyncFnOnce(&mut PgConnection, &mut bool) -> Result<T, sqlx::Error>) -> Result<T, OutboxError> {
        let mut locked = std::mem::take(&mut self.locked);
        let mut session = match self.session.take() {
            Some(session) => session,
            None => self.db.connect().await.map_err(|fault| OutboxError(Box::new(fault)))?,
        };
        let done = timeout(WITHIN, work(&mut session, &mut locked)).await;
        let done = done.map_err(|_| FaultCause::TooLate).and_then(|done| done.map_err(FaultCause::from));
        let value = done.map_err(|cause| OutboxError(Box::new(self.db.fault(cause))))?;
        (self.session, self.locked) = (Some(session), locked);
        Ok(value)
    }
}

#[async_trait]
impl Outbox for PostgresOutbox {
    async fn next(&mut self, limit: usize) -> Result<Batch, OutboxError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let idle = self.idle.as_millis().to_string();
        self.asked(async |db, locked| {
            if !*locked {
                sqlx::query("SELECT set_config('idle_session_timeout', $1, false)").bind(idle).execute(&mut *db).await?;
                *locked = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)").bind(LOCK).fetch_one(&mut *db).await?;
            }
            if *locked { first(db, limit).await.map(Batch::Rows) } else { Ok(Batch::Elsewhere) }
        })
        .await
    }

    async fn published(&mut self, rows: &[i64]) -> Result<(), OutboxError> {
        self.asked(async |db, _| sqlx::query("DELETE FROM outbox WHERE no = ANY ($1)").bind(rows).execute(db).await.map(drop)).await
    }

    async fn release(&mut self) {
        self.locked = false;
        if let Some(session) = self.session.take() {
            let _ = timeout(GOODBYE, session.close()).await;
        }
    }
}

async fn first(db: &mut PgConnection, limit: i64) -> Result<Vec<Row>, sqlx::Error> {
    let sql = "SELECT no, (extract(epoch FROM clock_timestamp() - written_at) * 1000)::bigint, topic, key, payload
               FROM outbox WHERE topic = ANY ($1) ORDER BY no LIMIT $2";
    let rows = sqlx::query(sql).bind(Topic::ALL.map(Topic::name)).bind(limit).fetch_all(db).await?;
    let read = rows.iter().map(|r| {
        let key = r.try_get::<Uuid, _>(3)?.into_bytes();
        Ok(row(r.try_get(0)?, r.try_get(1)?, r.try_get(2)?, key, r.try_get(4)?))
    });
    read.filter_map(Result::transpose).collect()
}

/// Writes rows in the caller's transaction, which holds the locks of what their keys name.
pub(crate) async fn write(db: &mut PgConnection, records: &[Record]) -> Result<(), sqlx::Error> {
    if records.is_empty() {
        return Ok(());
    }
    let sql = "INSERT INTO outbox (topic, key, payload) SELECT n.* FROM unnest($1::text[], $2::uuid[], $3::bytea[]) AS n";
    sqlx::query(sql)
        .bind(records.iter().map(|r| r.topic.name()).collect::<Vec<_>>())
        .bind(records.iter().map(|r| Uuid::from_bytes(r.key)).collect::<Vec<_>>())
        .bind(records.iter().map(|r| &r.payload[..]).collect::<Vec<_>>())
        .execute(db)
        .await?;
    Ok(())
}
