//! Says when messages are due in an open loop: a thread, because the runtime's timers are good to a millisecond only.

use std::{
    thread,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::client::Client;

/// The thread never sleeps longer than this, so that it ends soon after nobody listens any more.
const LONGEST_NAP: Duration = Duration::from_millis(50);

/// Hands every message to its sender when it is due, all senders in turn, `rate` a second from now on. Ends only when it is dropped.
pub(crate) async fn offer(rate: f64, senders: &[Client]) {
    let start = Instant::now();
    let (counter, mut due) = watch::channel(0_u64);
    // It ends when `due` is dropped, 50 ms later at most.
    thread::spawn(move || {
        while counter.send(count_due(rate, start.elapsed())).is_ok() {
            let next = due_after(rate, *counter.borrow()).saturating_sub(start.elapsed());
            thread::sleep(next.min(LONGEST_NAP));
        }
    });
    let mut next = 0;
    while due.changed().await.is_ok() {
        let count = *due.borrow_and_update();
        for n in next..count {
            let sender = &senders[usize::try_from(n).unwrap_or(0) % senders.len()];
            sender.change(|outbox| outbox.offer(start + due_after(rate, n)));
        }
        next = count;
    }
}

/// When the n-th message (from 0) is due after the start.
fn due_after(rate: f64, n: u64) -> Duration {
    #[expect(clippy::cast_precision_loss, reason = "a run has far fewer than 2^52 messages")]
    Duration::from_secs_f64(n as f64 / rate)
}

/// How many messages are due `since` the start.
fn count_due(rate: f64, since: Duration) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and far fewer than 2^52")]
    let count = (since.as_secs_f64() * rate).floor() as u64;
    count + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_counted_when_it_is_due_and_not_before() {
        for (rate, n) in [(0.5, 1), (3.0, 2), (1_000.0, 999), (33_333.0, 100_000)] {
            let at = due_after(rate, n);
            assert!(count_due(rate, at + Duration::from_nanos(50)) > n, "{rate} {n}");
            assert!(count_due(rate, at.checked_sub(Duration::from_nanos(50)).unwrap()) <= n, "{rate} {n}");
        }
    }
}
