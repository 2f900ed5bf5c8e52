//! Publishes what is kept in the database until it is published: what is in the outbox, and, in `sleeping.rs`, what the log has for devices that are asleep.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use rand::RngExt as _;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    Bus, BusError, Record,
    member::left,
    outbox::{Batch, Outbox, OutboxError},
    sleeping::FromLog,
};
use crate::{
    log::{LogError, Overdue},
    sessions::{Connections, DirectoryError},
};

/// Rows at a time, at most. After a failure half as many, so that a slow bus takes at least the first ones within its deadline; after a success twice as many.
const BATCH: usize = 256;
/// When to look again: when there was nothing, unless looking is dear,
const QUIET: Duration = Duration::from_millis(500);
/// when another process relays,
const ELSEWHERE: Duration = Duration::from_secs(2);
/// and after a failure, at most; it begins with a hundredth of this and doubles.
const FAILED: Duration = Duration::from_secs(10);
/// A relay that is to stop gets so long to finish what it is publishing.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// A task that publishes what waits in the database, and the one in its fleet that does so: it waits, in order and bounded by nothing but the disk, while the bus is away,
/// and goes out when it is back. Dropping it ends it at once, which does no harm.
#[derive(Debug)]
pub struct Relay {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Publishes what is in the outbox. Subscribe first to what must not be missed on a bus that lives in this process.
    #[must_use]
    pub fn start(outbox: Box<dyn Outbox>, bus: Arc<dyn Bus>) -> Self {
        Self::of(FromOutbox { outbox, numbers: Vec::new() }, bus)
    }

    /// Publishes that a message waits for a device, if the device has not acknowledged it for a while and is connected nowhere. That says again what was said when the
    /// message was accepted, and says it where that was lost or the device has gone since. Does nothing while nobody could hear it.
    #[must_use]
    pub fn for_sleeping(log: Box<dyn Overdue>, connections: Arc<dyn Connections>, bus: Arc<dyn Bus>) -> Self {
        Self::of(FromLog::new(log, connections, Arc::clone(&bus)), bus)
    }

    fn of(source: impl Source + 'static, bus: Arc<dyn Bus>) -> Self {
        let (stop, stopping) = watch::channel(false);
        let task = tokio::spawn(Work { source, bus, batch: BATCH, failures: 0 }.run(stopping));
        Self { stop, task }
    }

    /// Finishes what it is publishing and lets another process go on. What is left is for that one.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        if timeout(STOP_WITHIN, &mut self.task).await.is_err() {
            tracing::warn!("the relay was still publishing when its time to stop was over; that is published again");
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where a relay has it from.
#[async_trait]
pub(super) trait Source: Send {
    /// The next records, from at most so many rows. The same again until they are `published`.
    async fn next(&mut self, limit: usize) -> Result<Next, Failed>;

    /// What `next` gave is durable on the bus, if it gave anything.
    async fn published(&mut self) -> Result<(), Failed>;

    /// When to look again when there was nothing.
    fn quiet(&self) -> Duration {
        QUIET
    }

    /// What it is, for the log.
    fn name(&self) -> &'static str;

    /// Counts a failure.
    fn count_failure(&self);

    /// Lets another process go on.
    async fn release(&mut self);
}

/// What comes next.
pub(super) enum Next {
    /// Another process relays.
    Elsewhere,
    /// This, which may be nothing.
    Records {
        records: Vec<Record>,
        /// There is more.
        more: bool,
    },
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Bus(#[from] BusError),
}

struct Work<S> {
    source: S,
    bus: Arc<dyn Bus>,
    batch: usize,
    /// In a row.
    failures: u32,
}

impl<S: Source> Work<S> {
    async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        while !*stopping.borrow() {
            let pause = match self.step().await {
                Ok(pause) => self.succeeded(pause),
                Err(error) => self.failed(&error),
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = left(&mut stopping) => {}
            }
        }
        self.source.release().await;
    }

    /// Publishes what comes next; says when to look again.
    async fn step(&mut self) -> Result<Duration, Failed> {
        let (records, more) = match self.source.next(self.batch).await? {
            Next::Elsewhere => return Ok(ELSEWHERE),
            Next::Records { records, more } => (records, more),
        };
        if !records.is_empty() {
            self.bus.publish(&records).await?;
        }
        self.source.published().await?;
        Ok(if more { Duration::ZERO } else { self.source.quiet() })
    }

    fn succeeded(&mut self, pause: Duration) -> Duration {
        if self.failures > 0 {
            tracing::info!(failures = self.failures, source = self.source.name(), "the relay publishes again");
        }
        self.failures = 0;
        self.batch = BATCH.min(self.batch * 2);
        pause
    }

    /// One line per outage, which names its beginning.
    fn failed(&mut self, error: &Failed) -> Duration {
        if self.failures == 0 {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            tracing::warn!(%error, cause, source = self.source.name(), "the relay cannot publish; events wait in the database");
        }
        self.failures = self.failures.saturating_add(1);
        self.batch = (self.batch / 2).max(1);
        self.source.count_failure();
        let most = FAILED.min(FAILED / 100 * 2_u32.saturating_pow(self.failures - 1));
        rand::rng().random_range(most / 2..=most)
    }
}

struct FromOutbox {
    outbox: Box<dyn Outbox>,
    /// Of the rows that are being published.
    numbers: Vec<i64>,
}

#[async_trait]
impl Source for FromOutbox {
    async fn next(&mut self, limit: usize) -> Result<Next, Failed> {
        let rows = match self.outbox.next(limit).await? {
            Batch::Elsewhere => return Ok(Next::Elsewhere),
            Batch::Rows(rows) => rows,
        };
        metrics::gauge!("kith_outbox_oldest_seconds").set(rows.first().map_or(0.0, |row| row.age.as_secs_f64()));
        let records;
        (self.numbers, records) = rows.into_iter().map(|row| (row.no, row.record)).unzip();
        Ok(Next::Records { records, more: !self.numbers.is_empty() })
    }

    async fn published(&mut self) -> Result<(), Failed> {
        if !self.numbers.is_empty() {
            self.outbox.published(&self.numbers).await?;
            metrics::counter!("kith_outbox_published_total").increment(self.numbers.len() as u64);
        }
        Ok(())
    }

    fn name(&self) -> &'static str {
        "outbox"
    }

    fn count_failure(&self) {
        metrics::counter!("kith_outbox_failures_total").increment(1);
    }

    async fn release(&mut self) {
        self.outbox.release().await;
    }
}
