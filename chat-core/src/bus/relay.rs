//! Publishes what is in the outbox.

use std::{sync::Arc, time::Duration};

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
};

/// Rows at a time, at most. After a failure half as many, so that a slow bus takes at least the first ones within its deadline; after a success twice as many.
const BATCH: usize = 256;
/// When to look again: when there was nothing,
const QUIET: Duration = Duration::from_millis(500);
/// when another process relays,
const ELSEWHERE: Duration = Duration::from_secs(2);
/// and after a failure, at most; it begins with a hundredth of this and doubles.
const FAILED: Duration = Duration::from_secs(10);
/// A relay that is to stop gets so long to finish what it is publishing.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// A task that publishes what is in the outbox, and the one in its fleet that does so: rows wait, in order and bounded by nothing but the disk, while the bus is away,
/// and go out when it is back. Dropping it ends it at once, which does no harm.
#[derive(Debug)]
pub struct Relay {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Starts it. Subscribe first to what must not be missed on a bus that lives in this process.
    #[must_use]
    pub fn start(outbox: Box<dyn Outbox>, bus: Arc<dyn Bus>) -> Self {
        let (stop, stopping) = watch::channel(false);
        let task = tokio::spawn(Work { outbox, bus, batch: BATCH, failures: 0 }.run(stopping));
        Self { stop, task }
    }

    /// Finishes what it is publishing and lets another process go on. What is left in the outbox is for that one.
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

struct Work {
    outbox: Box<dyn Outbox>,
    bus: Arc<dyn Bus>,
    batch: usize,
    /// In a row.
    failures: u32,
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    #[error(transparent)]
    Bus(#[from] BusError),
}

impl Work {
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
        self.outbox.release().await;
    }

    /// Publishes what comes next; says when to look again.
    async fn step(&mut self) -> Result<Duration, Failed> {
        let rows = match self.outbox.next(self.batch).await? {
            Batch::Elsewhere => return Ok(ELSEWHERE),
            Batch::Rows(rows) => rows,
        };
        metrics::gauge!("kith_outbox_oldest_seconds").set(rows.first().map_or(0.0, |row| row.age.as_secs_f64()));
        if rows.is_empty() {
            return Ok(QUIET);
        }
        let (numbers, records): (Vec<i64>, Vec<Record>) = rows.into_iter().map(|row| (row.no, row.record)).unzip();
        self.bus.publish(&records).await?;
        self.outbox.published(&numbers).await?;
        metrics::counter!("kith_outbox_published_total").increment(numbers.len() as u64);
        Ok(Duration::ZERO)
    }

    fn succeeded(&mut self, pause: Duration) -> Duration {
        if self.failures > 0 {
            tracing::info!(failures = self.failures, "the relay publishes again");
        }
        self.failures = 0;
        self.batch = BATCH.min(self.batch * 2);
        pause
    }

    /// One line per outage, which names its beginning.
    fn failed(&mut self, error: &Failed) -> Duration {
        if self.failures == 0 {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            tracing::warn!(%error, cause, "the relay cannot publish; events wait in the outbox");
        }
        self.failures = self.failures.saturating_add(1);
        self.batch = (self.batch / 2).max(1);
        metrics::counter!("kith_outbox_failures_total").increment(1);
        let most = FAILED.min(FAILED / 100 * 2_u32.saturating_pow(self.failures - 1));
        rand::rng().random_range(most / 2..=most)
    }
}
