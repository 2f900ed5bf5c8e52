//! Working on one event: attempts, pauses, and what becomes of it.

use std::{sync::Arc, time::Duration};

use rand::RngExt as _;
use tokio::{task::JoinHandle, time::timeout};

use super::{Event, Handler, HandlerError, Retry, Subscription};

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It was worked on.
    Done,
    /// It never will be.
    Dead { reason: &'static str, attempts: u32 },
}

/// Tries until it is decided. Dropping the future ends the attempt that is under way.
pub(super) async fn work_on(subscription: &Subscription, handler: &Arc<dyn Handler>, payload: &[u8]) -> Verdict {
    let verdict = match Event::from_payload(payload) {
        Ok(event) => attempts(subscription, handler, event).await,
        Err(unreadable) => Verdict::Dead { reason: unreadable.reason(), attempts: 0 },
    };
    let (topic, group) = (subscription.topic.name(), subscription.group);
    match verdict {
        Verdict::Done => metrics::counter!("kith_bus_handled_total", "topic" => topic, "group" => group).increment(1),
        Verdict::Dead { reason, attempts } => {
            metrics::counter!("kith_bus_dead_letters_total", "topic" => topic, "group" => group, "reason" => reason).increment(1);
            tracing::warn!(topic, group, reason, attempts, "an event becomes a dead letter");
        }
    }
    verdict
}

async fn attempts(subscription: &Subscription, handler: &Arc<dyn Handler>, event: Event) -> Verdict {
    let retry = &subscription.retry;
    let mut attempts = 0;
    loop {
        attempts += 1;
        let reason = match attempt(retry, handler, event).await {
            Ok(()) => return Verdict::Done,
            Err(HandlerError::Never(reason)) => return Verdict::Dead { reason, attempts },
            Err(HandlerError::Again(reason)) => reason,
        };
        if attempts >= retry.attempts {
            return Verdict::Dead { reason, attempts };
        }
        metrics::counter!("kith_bus_retries_total", "topic" => subscription.topic.name(), "group" => subscription.group).increment(1);
        tokio::time::sleep(pause(retry, attempts)).await;
    }
}

/// In a task of its own, so that a handler that panics fails like another.
async fn attempt(retry: &Retry, handler: &Arc<dyn Handler>, event: Event) -> Result<(), HandlerError> {
    let handler = Arc::clone(handler);
    let mut running = EndsWithMe(tokio::spawn(async move { handler.handle(&event).await }));
    match timeout(retry.attempt_within, &mut running.0).await {
        Ok(Ok(handled)) => handled,
        Ok(Err(_)) => Err(HandlerError::Again("panicked")),
        Err(_) => Err(HandlerError::Again("deadline")),
    }
}

struct EndsWithMe<T>(JoinHandle<T>);

impl<T> Drop for EndsWithMe<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Doubled each time up to the longest, and drawn from the upper half: those who failed together do not come back together.
fn pause(retry: &Retry, attempts: u32) -> Duration {
    let most = retry.longest_pause.min(retry.first_pause.saturating_mul(2_u32.saturating_pow(attempts - 1)));
    rand::rng().random_range(most / 2..=most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let retry = Retry { first_pause: Duration::from_millis(100), longest_pause: Duration::from_millis(500), ..Retry::default() };
        for (attempts, most) in [(1, 100), (2, 200), (3, 400), (4, 500), (40, 500)] {
            let pause = pause(&retry, attempts);
            assert!(pause <= Duration::from_millis(most) && pause >= Duration::from_millis(most / 2), "{attempts}: {pause:?}");
        }
    }
}
