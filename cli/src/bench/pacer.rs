//! Says when messages are due in an open loop. A thread of its own, because the runtime's timers are good to a millisecond and this one is to be far
//! better: a message's latency counts from the moment it was due.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::peer::Peer;

/// The thread never sleeps longer than this, so that it ends soon after it is told to.
const LONGEST_NAP: Duration = Duration::from_millis(50);

/// When the n-th message (from 0) is due after the start.
pub(super) fn due(rate: f64, n: u64) -> Duration {
    #[expect(clippy::cast_precision_loss, reason = "a run has far fewer than 2^52 messages")]
    Duration::from_secs_f64(n as f64 / rate)
}

/// How many messages are due `since` the start.
fn count_due(rate: f64, since: Duration) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and far fewer than 2^52")]
    let count = (since.as_secs_f64() * rate).floor() as u64;
    count + 1
}

/// Counts the messages that are due. Its thread ends when it is dropped.
#[derive(Debug)]
pub(super) struct Pacer {
    rate: f64,
    start: Instant,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// How many messages have come due so far.
    due: watch::Receiver<u64>,
}

impl Pacer {
    /// `rate` messages a second from `start` on.
    pub(super) fn start(rate: f64, start: Instant) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, due) = watch::channel(0);
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let count = count_due(rate, start.elapsed());
                sender.send_replace(count);
                let next = self::due(rate, count).saturating_sub(start.elapsed());
                thread::sleep(next.min(LONGEST_NAP));
            }
        });
        Self { rate, start, stop, thread: Some(thread), due }
    }

    /// Hands every message to its sender when it is due, all senders in turn. Does not end while this exists.
    pub(super) async fn offer(&self, senders: &[Peer]) {
        let (mut due, mut next) = (self.due.clone(), 0_u64);
        while due.changed().await.is_ok() {
            let count = *due.borrow_and_update();
            for n in next..count {
                let sender = &senders[usize::try_from(n).unwrap_or(0) % senders.len()];
                sender.change(|participant| {
                    if let Some(outbox) = &mut participant.outbox {
                        outbox.offer(self.start + self::due(self.rate, n));
                    }
                });
            }
            next = count;
        }
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_is_counted_when_it_is_due_and_not_before() {
        for rate in [0.5, 3.0, 1_000.0, 33_333.0] {
            for n in [0, 1, 2, 999, 100_000] {
                let at = due(rate, n);
                assert!(count_due(rate, at + Duration::from_nanos(50)) > n, "{rate} {n}");
                if n > 0 {
                    assert!(count_due(rate, at.checked_sub(Duration::from_nanos(50)).unwrap()) <= n, "{rate} {n}");
                }
            }
        }
    }
}
