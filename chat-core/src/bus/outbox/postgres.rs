//! In PostgreSQL.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::{Batch, Outbox, OutboxError, Row, row};
use crate::{
    bus::{Record, Topic},
    postgres::{Alone, Fault, Postgres},
};

/// Names the advisory lock of the relay: "kithbox" in ASCII.
const LOCK: i64 = 0x006b_6974_6862_6f78;
/// PostgreSQL ends a session that asks for nothing in this time, and the lock with it. More than all deadlines between two requests of a relay together.
const IDLE: Duration = Duration::from_secs(60);

/// The outbox in PostgreSQL, over a session of its own.
#[derive(Debug)]
pub struct PostgresOutbox {
    alone: Alone,
}

impl PostgresOutbox {
    /// Of this database.
    #[must_use]
    pub fn new(db: Arc<Postgres>) -> Self {
        Self::idle_at_most(IDLE, db)
    }

    /// Whose session ends when it asks for nothing in this time.
    pub(in crate::bus) fn idle_at_most(idle: Duration, db: Arc<Postgres>) -> Self {
        Self { alone: Alone::new(db, LOCK, idle) }
    }
}

/// Whatever fails ends the session: the next call begins with another one.
#[async_trait]
impl Outbox for PostgresOutbox {
    async fn next(&mut self, limit: usize) -> Result<Batch, OutboxError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let Some(mut turn) = self.alone.turn().await.map_err(unavailable)? else { return Ok(Batch::Elsewhere) };
        let rows = self.alone.within(first(&mut turn.session, limit)).await.map_err(unavailable)?;
        self.alone.keep(turn);
        Ok(Batch::Rows(rows))
    }

    async fn published(&mut self, rows: &[i64]) -> Result<(), OutboxError> {
        // If it is another's turn by now, that one publishes them again and deletes them.
        let Some(mut turn) = self.alone.turn().await.map_err(unavailable)? else { return Ok(()) };
        let deleting = sqlx::query("DELETE FROM outbox WHERE no = ANY ($1)").bind(rows).execute(&mut turn.session);
        self.alone.within(deleting).await.map_err(unavailable)?;
        self.alone.keep(turn);
        Ok(())
    }

    async fn release(&mut self) {
        self.alone.release().await;
    }
}

fn unavailable(fault: Fault) -> OutboxError {
    OutboxError(Box::new(fault))
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
