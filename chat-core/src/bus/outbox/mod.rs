//! Events that must be published if, and only if, a change was made: rows written in the transaction of the change, published afterwards by the
//! [`Relay`](super::Relay), then deleted.
//!
//! # Why no row is passed over
//!
//! Rows are numbered when they are written and seen when they are committed, in another order: of two open transactions the one with the higher number may commit first.
//! A relay that remembered "published up to number n" would pass over whatever commits later with a lower number. There are three ways out: to stay behind the oldest
//! transaction that is still open (one forgotten session in the database stops the relay), to stay behind a time by which every transaction must have ended
//! (30 s of delay, and a loss if one takes longer), or to remember nothing. This relay remembers nothing: a row that was published is deleted, by its own number, and a
//! row that is there was not published, whenever it was committed and whatever its number is. (A log whose rows stay needs one of the other two.)
//!
//! Events of one key are in order all the same: who writes a row holds the lock of the account or conversation that is its key, from before the row gets its
//! number until the commit. So of two rows of one key the lower number is committed first, and a reader that sees the higher one sees the lower one too.
//!
//! # Once, or again
//!
//! One relay works at a time: in PostgreSQL it holds an advisory lock of its session, which ends with the session, however that ends. A relay that stands still (a stopped
//! process, a cut link) loses its session to `idle_session_timeout`, so that another one takes over. When a relay dies between publishing and deleting, or
//! goes on after it lost its session, events are published again, with the same [`EventId`](super::EventId).

mod postgres;
mod sqlite;

use std::{fmt, time::Duration};

use async_trait::async_trait;

pub use self::{postgres::PostgresOutbox, sqlite::SqliteOutbox};
pub(crate) use self::{postgres::write as write_to_postgres, sqlite::write as write_to_sqlite};
use super::{Record, Topic};

/// What a relay reads at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Batch {
    /// Another process relays.
    Elsewhere,
    /// In the order in which to publish; none if all was published.
    Rows(Vec<Row>),
}

/// A row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its number.
    pub no: i64,
    /// How long it has been waiting, by the database's clock.
    pub age: Duration,
    /// What to publish.
    pub record: Record,
}

/// The outbox cannot be read or written just now.
#[derive(Debug, thiserror::Error)]
#[error("the outbox is unavailable")]
pub struct OutboxError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// The outbox as a relay sees it. Every method has a deadline.
#[async_trait]
pub trait Outbox: Send + fmt::Debug {
    /// The first rows, at most `limit`, for the one who relays.
    async fn next(&mut self, limit: usize) -> Result<Batch, OutboxError>;

    /// Deletes rows that were published.
    async fn published(&mut self, rows: &[i64]) -> Result<(), OutboxError>;

    /// Lets another process relay.
    async fn release(&mut self);
}

fn row(no: i64, age_ms: i64, topic: &str, key: [u8; 16], payload: Vec<u8>) -> Option<Row> {
    let topic = Topic::named(topic)?;
    Some(Row { no, age: Duration::from_millis(u64::try_from(age_ms).unwrap_or(0)), record: Record { topic, key, payload } })
}
