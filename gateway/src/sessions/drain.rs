//! Going away in order: everything submitted gets its answer, then every connection is told to come back elsewhere.

use std::{sync::Arc, time::Duration};

use kith_proto::v1;
use tokio::time::{sleep, timeout};

use super::Sessions;
use crate::connection::Signal;

/// Between two connections, or groups of them, that are asked to go.
const STEP: Duration = Duration::from_millis(20);
/// After the time is over, connections that still wait are cut; this is for their last frames.
const LAST_FRAMES_WITHIN: Duration = Duration::from_secs(1);

impl Sessions {
    /// Takes no new connections, lets those that there are finish, and says `Goodbye` to them. Returns when all are gone or `within` is over.
    pub async fn drain(self: &Arc<Self>, within: Duration) {
        // Those that have not said who they are end at this, at once.
        self.draining.cancel();
        tracing::info!(connections = self.counters.connections.value(), "connections are asked to go");
        let going = async {
            self.ask_all_to_go(self.shared.settings.drain_over.min(within / 2)).await;
            self.all_gone().await;
        };
        if timeout(within, going).await.is_err() {
            tracing::warn!(connections = self.sessions.value(), "connections have not finished in time and are cut");
            self.directory.all().iter().for_each(|session| session.signal(Signal::Cut(v1::ErrorCode::Draining)));
            let _ = timeout(LAST_FRAMES_WITHIN, self.all_gone()).await;
        }
    }

    /// In an order that nobody knows, evenly over the time: wherever they go, they come one by one, and nobody is without a server for long.
    async fn ask_all_to_go(&self, over: Duration) {
        let mut sessions = self.directory.all();
        let steps = usize::try_from(over.as_millis() / STEP.as_millis()).unwrap_or(usize::MAX).max(1);
        sessions.sort_by_cached_key(|_| rand::random::<u64>());
        for (at, some) in sessions.chunks(sessions.len().div_ceil(steps).max(1)).enumerate() {
            if at > 0 {
                sleep(STEP).await;
            }
            some.iter().for_each(|session| session.signal(Signal::Drain));
        }
    }

    async fn all_gone(&self) {
        while self.sessions.value() > 0 {
            self.drained.notified().await;
        }
    }
}
