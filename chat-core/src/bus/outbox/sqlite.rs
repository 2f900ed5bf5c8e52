//! In the embedded database.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, params};

use super::{Batch, Outbox, OutboxError, Row, row};
use crate::{
    bus::Record,
    sqlite::{Database, StoreError},
};

/// The outbox in the embedded database, which one process has open.
#[derive(Debug)]
pub struct SqliteOutbox {
    db: Arc<Database>,
}

impl SqliteOutbox {
    /// Of this database.
    #[must_use]
    pub fn new(db: Arc<Database>) -> Self {
        Self { db }
    }
}

#[async_trait]
impl Outbox for SqliteOutbox {
    async fn next(&mut self, limit: usize) -> Result<Batch, OutboxError> {
        let rows = self.db.read("outbox.next", move |db| first(db, limit)).await;
        rows.map(Batch::Rows).map_err(unavailable)
    }

    async fn published(&mut self, rows: &[i64]) -> Result<(), OutboxError> {
        let rows = rows.to_vec();
        let deleted = self.db.write("outbox.published", move |write| {
            let mut delete = write.tx().prepare_cached("DELETE FROM outbox WHERE no = ?")?;
            rows.iter().try_for_each(|no| delete.execute([no]).map(drop))
        });
        deleted.await.map_err(unavailable)
    }

    async fn release(&mut self) {}
}

fn first(db: &Connection, limit: usize) -> Result<Vec<Row>, rusqlite::Error> {
    let sql = "SELECT no, CAST(unixepoch('subsec') * 1000 AS INTEGER) - written_ms, topic, key, payload FROM outbox ORDER BY no LIMIT ?";
    let mut query = db.prepare_cached(sql)?;
    let read = query
        .query_map([i64::try_from(limit).unwrap_or(i64::MAX)], |r| Ok(row(r.get(0)?, r.get(1)?, &r.get::<_, String>(2)?, r.get(3)?, r.get(4)?)))?;
    read.filter_map(Result::transpose).collect()
}

/// Writes rows in the caller's transaction.
pub(crate) fn write(db: &Connection, records: &[Record], now_ms: u64) -> Result<(), rusqlite::Error> {
    let sql = "INSERT INTO outbox (topic, key, payload, written_ms) VALUES (?, ?, ?, ?)";
    let now = i64::try_from(now_ms).unwrap_or(i64::MAX);
    for record in records {
        db.prepare_cached(sql)?.execute(params![record.topic.name(), record.key, record.payload, now])?;
    }
    Ok(())
}

fn unavailable(error: StoreError<rusqlite::Error>) -> OutboxError {
    OutboxError(Box::new(error))
}
