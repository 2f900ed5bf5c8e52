//! The replica of the database is never waited for, and named while it is away.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::health::Health;

/// Keeps `/readyz` up to date until `end`.
pub(super) fn tell(mut serves: watch::Receiver<bool>, name: String, health: Arc<Health>, end: &CancellationToken, tasks: &TaskTracker) {
    let end = end.clone();
    let telling = async move {
        loop {
            if *serves.borrow_and_update() {
                health.present(&name);
            } else {
                health.absent(&name);
            }
            if serves.changed().await.is_err() {
                return;
            }
        }
    };
    tasks.spawn(async move { end.run_until_cancelled(telling).await });
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_is_named_while_it_is_away() {
        let (health, end, tasks) = (Arc::new(Health::new(&["replica"])), CancellationToken::new(), TaskTracker::new());
        let serves = watch::Sender::new(true);
        tell(serves.subscribe(), "replica".to_owned(), Arc::clone(&health), &end, &tasks);
        for is_there in [true, false, true] {
            serves.send_replace(is_there);
            let told = async {
                while health.readiness().missing.is_empty() != is_there {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(30), told).await.expect("it is told");
        }
        end.cancel();
        tasks.close();
        tokio::time::timeout(Duration::from_secs(30), tasks.wait()).await.expect("it ends");
    }
}
