//! What the server depends on may come after it, as when a whole fleet is started at once: it waits, and says what for.

use std::time::Duration;

use kith_chat_core::accounts::AccountsError;
use tokio::time::sleep;

use crate::health::Health;

/// Pauses between attempts grow from the first to the last; each is drawn from its second half.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// The operator is reminded after so many attempts, which at the last pause is about once in a minute.
const REMIND_AFTER: u32 = 16;

/// Tries until it succeeds; `health` then no longer calls it missing. What is no outage, somebody has to mend: the first such failure is returned.
pub(super) async fn wait_for<T, E: std::error::Error + 'static, F: Future<Output = Result<T, E>>>(
    name: &str,
    health: &Health,
    is_outage: impl Fn(&E) -> bool,
    attempt: impl Fn() -> F,
) -> Result<T, E> {
    let mut pause = FIRST_PAUSE;
    let mut attempts = 0_u32;
    loop {
        match attempt().await {
            Ok(value) => {
                if attempts > 0 {
                    tracing::info!(name, "found what was waited for");
                }
                health.present(name);
                return Ok(value);
            }
            Err(error) if is_outage(&error) => {
                if attempts.is_multiple_of(REMIND_AFTER) {
                    tracing::warn!(missing = name, error = &error as &dyn std::error::Error, "not ready: waiting for what this server needs");
                }
                attempts = attempts.saturating_add(1);
            }
            Err(error) => return Err(error),
        }
        sleep(pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// Whether waiting may mend it.
pub(super) fn is_outage_of_accounts(error: &AccountsError) -> bool {
    matches!(error, AccountsError::Overloaded | AccountsError::Unavailable(_))
}

#[cfg(test)]
mod tests {
    use std::{io, sync::atomic::AtomicU32, sync::atomic::Ordering};

    use super::*;

    fn is_outage(error: &io::Error) -> bool {
        error.kind() == io::ErrorKind::ConnectionRefused
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_waited_out_and_named_until_then() {
        let health = Health::new(&["it"]);
        let attempts = AtomicU32::new(0);
        let attempt = || {
            let attempt = attempts.fetch_add(1, Ordering::Relaxed);
            async move { if attempt >= 100 { Ok(7) } else { Err(io::Error::from(io::ErrorKind::ConnectionRefused)) } }
        };
        let begun = tokio::time::Instant::now();
        assert_eq!(wait_for("it", &health, is_outage, attempt).await.unwrap(), 7);
        assert!(health.readiness().missing.is_empty());
        let took = begun.elapsed();
        assert!(took <= 100 * LAST_PAUSE && took >= 90 * LAST_PAUSE / 2, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_somebody_has_to_mend_ends_the_waiting() {
        let health = Health::new(&["it"]);
        let attempt = || async { Err::<(), _>(io::Error::from(io::ErrorKind::PermissionDenied)) };
        let error = wait_for("it", &health, is_outage, attempt).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(health.readiness().missing, ["it"]);
    }
}
