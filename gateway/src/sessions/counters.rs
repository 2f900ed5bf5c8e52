//! Counts of what connections do, for `/metrics`. Labels are closed sets; nothing here names anybody.

use std::sync::atomic::{AtomicU64, Ordering};

use kith_proto::v1;

/// Upper bounds of the latency buckets, in microseconds; the last bucket has none.
pub const LATENCY_BOUNDS_US: [u64; 18] =
    [10, 20, 50, 100, 200, 400, 700, 1_000, 2_000, 4_000, 7_000, 10_000, 20_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000];

const CODES: usize = 64;

/// One number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn one(&self) {
        self.add(1);
    }

    /// Some more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// So far.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many are there just now.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub(super) fn up(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn down(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Just now.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Latencies in fixed buckets.
#[derive(Debug, Default)]
pub struct Latency {
    buckets: [AtomicU64; LATENCY_BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Latency {
    /// Notes one.
    pub fn record(&self, us: u64) {
        self.record_many(us, 1);
    }

    /// Notes the same for so many.
    pub fn record_many(&self, us: u64, n: u64) {
        let at = LATENCY_BOUNDS_US.partition_point(|bound| *bound < us);
        self.buckets[at].fetch_add(n, Ordering::Relaxed);
        self.sum_us.fetch_add(us.saturating_mul(n), Ordering::Relaxed);
    }

    /// Counts per bucket of [`LATENCY_BOUNDS_US`], not cumulative, the unbounded one last; and the sum in microseconds.
    #[must_use]
    pub fn snapshot(&self) -> ([u64; LATENCY_BOUNDS_US.len() + 1], u64) {
        (std::array::from_fn(|at| self.buckets[at].load(Ordering::Relaxed)), self.sum_us.load(Ordering::Relaxed))
    }
}

/// A duration as histograms count it.
pub(crate) fn us(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Where the time of a message goes, stage by stage.
#[derive(Debug, Default)]
pub struct Stages {
    /// From the turn in which a connection was read to the log's queue; one send in sixteen.
    pub receive: Latency,
    /// In that queue; the same ones.
    pub queue: Latency,
    /// The transaction; one measurement per batch, counted once for each message of it.
    pub commit: Latency,
    /// From there to the connection of a receiver that is here; one delivery in sixteen.
    pub deliver: Latency,
    /// From there to its acknowledgement; the same ones, wherever they came from.
    pub acknowledge: Latency,
}

impl Stages {
    /// Each with its name, in the order in which a message goes through them.
    #[must_use]
    pub fn named(&self) -> [(&'static str, &Latency); 5] {
        [("receive", &self.receive), ("queue", &self.queue), ("commit", &self.commit), ("deliver", &self.deliver), ("acknowledge", &self.acknowledge)]
    }
}

/// Everything the sessions count.
#[derive(Debug)]
pub struct Counters {
    /// Sockets that are open.
    pub connections: Gauge,
    /// Of these, the ones that have not said who they are.
    pub unauthenticated: Gauge,
    /// Upgrades refused because there were too many connections.
    pub turned_away: Counter,
    /// Connections that became usable.
    pub logins: Counter,
    /// Appends that the log accepted, duplicates left out.
    pub accepted: Counter,
    /// Appends that were duplicates.
    pub duplicates: Counter,
    /// Live deliveries put into an inbox.
    pub delivered_live: Counter,
    /// Entries delivered from the log.
    pub delivered_from_log: Counter,
    /// Inboxes that ran over.
    pub overflows: Counter,
    /// Devices that the keep-alive found behind.
    pub rescues: Counter,
    /// Connections that took longer to take what was sent than the keep-alive allows.
    pub too_slow: Counter,
    /// Times that a connection was not read for a while, because its sends brought nothing new.
    pub slowed: Counter,
    /// Appends that found the log's queue full.
    pub log_full: Counter,
    /// Appends on their way through the log.
    pub in_log: Gauge,
    /// From the frame to the answer of the log; one send in sixteen is measured.
    pub accept_latency: Latency,
    /// The parts of a message's way.
    pub stages: Stages,
    refused: [Counter; CODES],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            connections: Gauge::default(),
            unauthenticated: Gauge::default(),
            turned_away: Counter::default(),
            logins: Counter::default(),
            accepted: Counter::default(),
            duplicates: Counter::default(),
            delivered_live: Counter::default(),
            delivered_from_log: Counter::default(),
            overflows: Counter::default(),
            rescues: Counter::default(),
            too_slow: Counter::default(),
            slowed: Counter::default(),
            log_full: Counter::default(),
            in_log: Gauge::default(),
            accept_latency: Latency::default(),
            stages: Stages::default(),
            refused: std::array::from_fn(|_| Counter::default()),
        }
    }
}

impl Counters {
    /// An error or goodbye went out.
    pub fn refused(&self, code: i32) {
        let at = usize::try_from(code).ok().filter(|at| *at < CODES).unwrap_or(0);
        self.refused[at].one();
    }

    /// Errors and goodbyes by code, those that occurred.
    pub fn refusals(&self) -> impl Iterator<Item = (v1::ErrorCode, u64)> + '_ {
        self.refused.iter().enumerate().filter_map(|(code, count)| {
            let code = v1::ErrorCode::try_from(i32::try_from(code).ok()?).ok()?;
            Some((code, count.value())).filter(|(_, count)| *count > 0)
        })
    }
}
