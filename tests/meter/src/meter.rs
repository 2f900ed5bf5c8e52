//! What is measured: counts and latencies within a window of time, in constant memory.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

/// Latencies above this are recorded as this.
const LONGEST: Duration = Duration::from_secs(120);

/// A latency distribution with three significant digits.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

/// Percentiles in microseconds, as they are reported.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half were faster.
    pub p50: f64,
    /// Ninety-nine in a hundred were faster.
    pub p99: f64,
    /// All but one in a thousand were faster.
    pub p999: f64,
}

impl Default for Latencies {
    /// Nothing recorded yet.
    fn default() -> Self {
        let longest = u64::try_from(LONGEST.as_nanos()).unwrap_or(u64::MAX);
        Self(Histogram::new_with_bounds(100, longest, 3).expect("the bounds are constants and valid"))
    }
}

impl Latencies {
    /// Records one.
    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// The percentiles; zeros if nothing was recorded.
    #[must_use]
    pub fn percentiles(&self) -> Percentiles {
        #[expect(clippy::cast_precision_loss, reason = "two minutes in nanoseconds are exact in a double")]
        let at = |quantile| (self.0.value_at_quantile(quantile) as f64 / 100.0).round() / 10.0;
        if self.0.is_empty() { Percentiles { p50: 0.0, p99: 0.0, p999: 0.0 } } else { Percentiles { p50: at(0.5), p99: at(0.99), p999: at(0.999) } }
    }
}

/// Counts nothing until a window is opened, and then what happens within it; latencies are those of messages that were due within it, however late they come.
#[derive(Debug, Default)]
pub struct Meter {
    window: Option<(Instant, Instant)>,
    /// Messages accepted within the window.
    pub accepted: u64,
    /// Messages whose acknowledgement was sent within the window.
    pub delivered: u64,
    /// From due to accepted.
    pub accepted_latencies: Latencies,
    /// From due to acknowledged.
    pub delivered_latencies: Latencies,
}

impl Meter {
    /// Measures from `start` for `length`.
    pub fn open(&mut self, start: Instant, length: Duration) {
        self.window = Some((start, start + length));
    }

    /// Ends the window earlier or later than planned, at the moment the other side of a ratio was read.
    pub fn close(&mut self, end: Instant) {
        if let Some(window) = &mut self.window {
            window.1 = end;
        }
    }

    fn is_within(&self, at: Instant) -> bool {
        self.window.is_some_and(|(start, end)| at >= start && at < end)
    }

    /// A message due at `due` was accepted at `now`.
    pub fn accepted(&mut self, due: Instant, now: Instant) {
        self.accepted += u64::from(self.is_within(now));
        if self.is_within(due) {
            self.accepted_latencies.record(now.saturating_duration_since(due));
        }
    }

    /// The acknowledgement of a message due at `due` was sent at `now`.
    pub fn delivered(&mut self, due: Instant, now: Instant) {
        self.delivered += u64::from(self.is_within(now));
        if self.is_within(due) {
            self.delivered_latencies.record(now.saturating_duration_since(due));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_in_microseconds() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentiles(), Percentiles { p50: 0.0, p99: 0.0, p999: 0.0 });
        for us in 1..=1000 {
            latencies.record(Duration::from_micros(us));
        }
        let Percentiles { p50, p99, p999 } = latencies.percentiles();
        assert!((499.0..=501.0).contains(&p50) && (989.0..=991.0).contains(&p99) && (998.0..=1000.0).contains(&p999), "{p50} {p99} {p999}");
    }

    #[test]
    fn a_latency_beyond_the_bound_is_kept_as_the_bound() {
        let mut latencies = Latencies::default();
        latencies.record(Duration::from_secs(1000));
        assert!(latencies.percentiles().p50 >= 119_000_000.0);
    }

    #[test]
    fn only_the_window_counts_but_stragglers_keep_their_latency() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut meter = Meter::default();
        meter.delivered(start, start);
        meter.open(start + second, second);
        meter.delivered(start, start + second);
        assert_eq!((meter.delivered, meter.delivered_latencies.0.len()), (1, 0), "due in the warm-up");
        meter.delivered(start + second, start + 3 * second);
        assert_eq!((meter.delivered, meter.delivered_latencies.0.len()), (1, 1), "late");
        assert!(meter.delivered_latencies.percentiles().p50 >= 1_990_000.0);
        meter.accepted(start + second, start + second);
        assert_eq!((meter.accepted, meter.accepted_latencies.0.len()), (1, 1));
    }
}
