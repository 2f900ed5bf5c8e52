//! What of a peer's messages is on its way on one connection.

use std::time::Duration;

use anyhow::ensure;
use kith_proto::v1::{self, Retry};
use tokio::time::Instant;

/// Ids of requests that are no sends stay below.
const FIRST_ID: u64 = 1_000_000;

/// The first `unanswered` of what is pending were sent and not answered; ids are contiguous from `oldest_id`.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) unanswered: usize,
    oldest_id: u64,
    next_id: u64,
    /// A refusal has come: wait for the answers of what was sent behind it, then start again from the oldest at this time.
    pub(super) again_at: Option<Instant>,
    restart: bool,
    /// Since when nothing was answered although something is waiting.
    waiting_since: Instant,
    pub(super) acked: u64,
    hole_since: Option<Instant>,
}

impl Default for Flight {
    fn default() -> Self {
        let ids = FIRST_ID;
        Self {
            unanswered: 0,
            oldest_id: ids,
            next_id: ids,
            again_at: None,
            restart: false,
            waiting_since: Instant::now(),
            acked: 0,
            hole_since: None,
        }
    }
}

impl Flight {
    /// Whether an answer with this id is one to a send.
    pub(super) fn is_send(id: u64) -> bool {
        id >= FIRST_ID
    }

    /// Whether anything may be sent; after a refusal only when its time has come.
    pub(super) fn may_send(&mut self) -> bool {
        if let Some(at) = self.again_at {
            if self.unanswered > 0 || Instant::now() < at {
                return false;
            }
            (self.again_at, self.restart, self.oldest_id) = (None, true, self.next_id);
        }
        true
    }

    /// The next one is sent: under which id, and whether it restarts the conversation.
    pub(super) fn sent(&mut self) -> (u64, bool) {
        if self.unanswered == 0 {
            self.waiting_since = Instant::now();
        }
        let id = self.next_id;
        (self.next_id, self.unanswered) = (id + 1, self.unanswered + 1);
        (id, std::mem::take(&mut self.restart))
    }

    /// The oldest one has its answer.
    pub(super) fn answered(&mut self, id: u64) -> anyhow::Result<()> {
        ensure!(self.unanswered > 0 && id == self.oldest_id, "an answer out of order: {id} instead of {}", self.oldest_id);
        self.oldest_id += 1;
        self.unanswered -= 1;
        self.waiting_since = Instant::now();
        Ok(())
    }

    /// The oldest one was refused, which must not be for good.
    pub(super) fn refused(&mut self, id: u64, error: &v1::Error) -> anyhow::Result<()> {
        ensure!(matches!(error.retry(), Retry::Same | Retry::After), "refused for good: {error:?}");
        self.answered(id)?;
        let at = Instant::now() + Duration::from_millis(error.after_ms);
        self.again_at = Some(self.again_at.map_or(at, |known| known.max(at)));
        Ok(())
    }

    pub(super) fn is_stalled(&self, patience: Option<Duration>) -> bool {
        patience.is_some_and(|patience| self.unanswered > 0 && self.waiting_since.elapsed() > patience)
    }

    /// Whether there has been a hole for so long; then begins to wait anew.
    pub(super) fn hole_is_old(&mut self, has_hole: bool, limit: Duration) -> bool {
        if !has_hole {
            self.hole_since = None;
            return false;
        }
        let old = self.hole_since.get_or_insert_with(Instant::now).elapsed() >= limit;
        if old {
            self.hole_since = None;
        }
        old
    }
}
