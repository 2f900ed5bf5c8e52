//! Waiting for conditions.

use std::time::Duration;

use anyhow::bail;
use tokio::time::{Instant, sleep};

/// How often a condition that announces nothing is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Looks until `probe` finds something, or fails with `what` after `within`.
///
/// # Errors
/// If the time is over.
pub async fn until<T>(what: &str, within: Duration, mut probe: impl AsyncFnMut() -> Option<T>) -> anyhow::Result<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = probe().await {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("not within {within:?}: {what}");
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// The future's result, or an error naming `what` after `within`.
///
/// # Errors
/// If the time is over.
pub async fn within<T>(what: &str, within: Duration, future: impl Future<Output = T>) -> anyhow::Result<T> {
    match tokio::time::timeout(within, future).await {
        Ok(value) => Ok(value),
        Err(_) => bail!("not within {within:?}: {what}"),
    }
}
