//! Sweeps: find conversations that hold something which every device has (because a device was revoked since) or whose retention is over, and leave
//! the deleting to the next round.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension as _};
use tokio::sync::oneshot;

use super::{engine::LogWriter, hot::Hot, load};
use crate::log::{Purged, retention::JUMP_MS};

/// Conversations looked at in one step.
const CONVERSATIONS: usize = 64;
/// Rows looked at in one step.
const ROWS: usize = 512;

/// Under way.
#[derive(Debug)]
pub(super) struct Sweep {
    now_ms: u64,
    stage: Stage,
    answers: Vec<oneshot::Sender<Purged>>,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// Conversations with entries in `kept`, after this number.
    Kept(i64),
    /// The journal after this row, for what is too old.
    Journal(i64),
    /// Done when this round is over.
    Round(u64),
}

impl Sweep {
    pub(super) fn awaits_round(&self) -> bool {
        matches!(self.stage, Stage::Round(_))
    }

    /// A round is over: answers if it was the one waited for.
    pub(super) fn round_ended(self, round: u64, purged: &mut Purged) -> Option<Self> {
        match self.stage {
            Stage::Round(awaited) if round >= awaited => {
                let total = std::mem::take(purged);
                for answer in self.answers {
                    let _ = answer.send(total);
                }
                None
            }
            _ => Some(self),
        }
    }
}

impl LogWriter {
    /// Starts a sweep, or joins the one under way.
    pub(crate) fn purge(&mut self, now_ms: u64, answer: Option<oneshot::Sender<Purged>>) {
        let fresh = || Sweep { now_ms, stage: Stage::Kept(i64::MIN), answers: Vec::new() };
        self.rounds.sweep.get_or_insert_with(fresh).answers.extend(answer);
    }

    pub(super) fn sweep_step(&mut self, db: &Connection) -> rusqlite::Result<()> {
        let Some(sweep) = &self.rounds.sweep else { return Ok(()) };
        let next = match sweep.stage {
            Stage::Kept(after) => self.sweep_kept(db, after)?,
            Stage::Journal(after) => self.sweep_journal(db, after, sweep.now_ms)?,
            Stage::Round(round) => Stage::Round(round),
        };
        if let Some(sweep) = &mut self.rounds.sweep {
            sweep.stage = next;
        }
        Ok(())
    }

    fn sweep_kept(&mut self, db: &Connection, mut after: i64) -> rusqlite::Result<Stage> {
        let mut next = db.prepare_cached("SELECT conversation FROM kept WHERE conversation > ? ORDER BY conversation LIMIT 1")?;
        for _ in 0..CONVERSATIONS {
            match next.query_row([after], |row| row.get(0)).optional()? {
                Some(conversation) => after = conversation,
                None => return Ok(Stage::Journal(i64::MIN)),
            }
            self.mark(db, after, 0)?;
        }
        Ok(Stage::Kept(after))
    }

    fn sweep_journal(&mut self, db: &Connection, mut after: i64, now_ms: u64) -> rusqlite::Result<Stage> {
        let done = Stage::Round(self.rounds.next());
        let Some(cutoff) = self.retention.cutoff(now_ms) else {
            tracing::warn!("the clock has jumped: nothing expires until it is right or the server is started anew");
            return Ok(done);
        };
        let rows: Vec<(i64, i64, u64, u64)> = db
            .prepare_cached("SELECT no, conversation, seq, at_ms FROM entry WHERE no > ? ORDER BY no LIMIT ?")?
            .query_map((after, ROWS), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
            .collect::<Result<_, _>>()?;
        let mut expired = HashMap::new();
        let mut exhausted = rows.len() < ROWS;
        for (no, conversation, seq, at_ms) in rows {
            // Rows from a time when the clock was ahead must not hide those behind them.
            if at_ms > cutoff && at_ms <= now_ms.saturating_add(JUMP_MS) {
                exhausted = true;
                break;
            }
            after = no;
            if at_ms <= cutoff {
                expired.insert(conversation, seq);
            }
        }
        expired.into_iter().try_for_each(|(conversation, seq)| self.mark(db, conversation, seq))?;
        Ok(if exhausted { done } else { Stage::Journal(after) })
    }

    /// Puts a conversation on the list of the next round if something can be deleted there.
    fn mark(&mut self, db: &Connection, no: i64, expired: u64) -> rusqlite::Result<()> {
        let Some(mut loaded) = load::by_no(db, no)? else { return Ok(()) };
        let hot: Arc<Mutex<Hot>> = Arc::clone(&self.hot);
        let mut hot = hot.lock();
        let slot = match hot.slot(loaded.id) {
            Some(slot) => slot,
            None => {
                loaded.expired = expired;
                if !loaded.has_removable() {
                    return Ok(());
                }
                let slot = hot.insert(loaded);
                self.batch.loaded.push(slot);
                slot
            }
        };
        let conversation = hot.at(slot);
        conversation.expired = conversation.expired.max(expired);
        if conversation.has_removable() {
            hot.mark_dirty(slot);
        }
        Ok(())
    }
}
