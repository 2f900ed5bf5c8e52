//! Going away in order: everything submitted gets its answer, then every connection is told to come back elsewhere.

use std::{sync::Arc, time::Duration};

use kith_proto::v1;
use tokio::time::timeout;

use super::Sessions;
use crate::connection::Signal;

/// After the time is over, connections that still wait are cut; this is for their last frames.
const LAST_FRAMES_WITHIN: Duration = Duration::from_secs(1);

impl Sessions {
    /// Takes no new connections, lets those that there are finish, and says `Goodbye` to them. Returns when all are gone or `within` is over.
    pub async fn drain(self: &Arc<Self>, within: Duration) {
        // Those that have not said who they are end at this, at once.
        self.draining.cancel();
        tracing::info!(connections = self.counters.connections.value(), "connections are asked to go");
        self.directory.all().iter().for_each(|session| session.signal(Signal::Drain));
        if timeout(within, self.all_gone()).await.is_err() {
            tracing::warn!(connections = self.sessions.value(), "connections have not finished in time and are cut");
            self.directory.all().iter().for_each(|session| session.signal(Signal::Cut(v1::ErrorCode::Draining)));
            let _ = timeout(LAST_FRAMES_WITHIN, self.all_gone()).await;
        }
    }

    async fn all_gone(&self) {
        while self.sessions.value() > 0 {
            self.drained.notified().await;
        }
    }
}
