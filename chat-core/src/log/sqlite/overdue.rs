//! Messages that are overdue: the journal, read in its order. Rows are numbered in the order of their commits, so that a number is all there is to remember; what everybody
//! has is no longer in it a second or two later. No index is needed: looking costs what is left to be looked at.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use async_trait::async_trait;
use kith_proto::id::{ConversationId, DeviceRef};
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{append::CHECKPOINT, conversation::Conversation, hot::Hot, load};
use crate::{
    domain::Clock,
    log::{
        LogError,
        overdue::{Found, Overdue, OverdueMessage, Terms, TermsMs, WRITTEN_EVERY_MS, late},
        retention::JUMP_MS,
    },
    sqlite::{Database, StoreError},
};

const ROWS: &str = "SELECT no, conversation, seq, sender, at_ms, flags FROM entry WHERE no > ? ORDER BY no LIMIT ?";

/// Rows up to this one were looked at, then.
#[derive(Debug, Clone, Copy)]
struct Mark {
    row: i64,
    at_ms: i64,
}

/// Messages that are overdue in the embedded database.
#[derive(Debug)]
pub struct SqliteOverdue {
    db: Arc<Database>,
    clock: Clock,
    terms: TermsMs,
    /// Where the next look begins, once it is known.
    mark: Option<Mark>,
    /// When it was last written down.
    written_ms: i64,
    /// Where the one after it begins, and whether it is to be written down at once.
    next: Option<(Mark, bool)>,
}

impl SqliteOverdue {
    /// Of this database, whose messages have their times from `clock`.
    #[must_use]
    pub fn new(db: Arc<Database>, clock: Clock, terms: Terms) -> Self {
        Self::on(db, clock, terms.into())
    }

    pub(super) fn on(db: Arc<Database>, clock: Clock, terms: TermsMs) -> Self {
        Self { db, clock, terms, mark: None, written_ms: 0, next: None }
    }

    async fn write(&mut self, mark: Mark) -> Result<(), LogError> {
        let sql = "INSERT OR REPLACE INTO log_overdue(only, upto, at_ms) VALUES (1, ?, ?)";
        let written = self.db.write("log.overdue", move |write| write.tx().execute(sql, [mark.row, mark.at_ms]).map(drop));
        written.await.map_err(unavailable)?;
        self.written_ms = mark.at_ms;
        Ok(())
    }

    async fn begin(&mut self, now_ms: i64) -> Result<Mark, LogError> {
        if let Some(mark) = self.mark {
            return Ok(mark);
        }
        let TermsMs { after, retention } = self.terms;
        let found = self.db.read("log.overdue", move |db| {
            let sql = "SELECT upto, at_ms FROM log_overdue";
            let stored = db.query_row(sql, [], |row| Ok(Mark { row: row.get(0)?, at_ms: row.get(1)? })).optional()?;
            match stored.filter(|mark| mark.at_ms >= now_ms.saturating_sub(retention)) {
                Some(mark) => Ok((mark, true)),
                // Backwards, so that this is as long as what is not overdue yet.
                None => {
                    let sql = "SELECT no FROM entry WHERE at_ms <= ? ORDER BY no DESC LIMIT 1";
                    let row: Option<i64> = db.query_row(sql, [now_ms.saturating_sub(after)], |row| row.get(0)).optional()?;
                    Ok((Mark { row: row.unwrap_or(0), at_ms: now_ms }, false))
                }
            }
        });
        let (mark, is_written) = found.await.map_err(unavailable)?;
        if is_written {
            self.written_ms = mark.at_ms;
        } else {
            self.write(mark).await?;
        }
        self.mark = Some(mark);
        Ok(mark)
    }
}

#[async_trait]
impl Overdue for SqliteOverdue {
    async fn next(&mut self, limit: usize) -> Result<Found, LogError> {
        let now_ms = i64::try_from(self.clock.now_ms()).unwrap_or(i64::MAX);
        let from = self.begin(now_ms).await?;
        let (hot, upto) = (Arc::clone(&self.db.hot), now_ms.saturating_sub(self.terms.after));
        let looked = self.db.read("log.overdue", move |db| Look { db, hot: &hot, now_ms, upto }.look(from.row, limit.max(1)));
        let Looked { messages, last, first_ms, more } = looked.await.map_err(unavailable)?;
        let next = Mark { row: last.unwrap_or(from.row), at_ms: now_ms };
        self.next = Some((next, !messages.is_empty()));
        Ok(Found::Here { messages, more, late: late(first_ms.unwrap_or(upto), upto) })
    }

    async fn done(&mut self) -> Result<(), LogError> {
        let Some((next, found)) = self.next else { return Ok(()) };
        let moved = self.mark.is_none_or(|mark| mark.row != next.row);
        if found || (moved && next.at_ms.abs_diff(self.written_ms) >= WRITTEN_EVERY_MS.unsigned_abs()) {
            self.write(next).await?;
        }
        self.mark = Some(next);
        self.next = None;
        Ok(())
    }

    async fn release(&mut self) {}
}

/// One look.
struct Look<'a> {
    db: &'a Connection,
    hot: &'a Mutex<Hot>,
    now_ms: i64,
    upto: i64,
}

#[derive(Default)]
struct Looked {
    messages: Vec<OverdueMessage>,
    /// The last row that was looked at.
    last: Option<i64>,
    /// The time of the first one.
    first_ms: Option<i64>,
    more: bool,
}

/// Where the devices of a conversation are.
struct Standing {
    id: ConversationId,
    cursors: Vec<(i64, DeviceRef, u64)>,
}

impl Look<'_> {
    fn look(&self, after: i64, limit: usize) -> rusqlite::Result<Looked> {
        let (mut looked, mut known) = (Looked::default(), HashMap::new());
        let mut query = self.db.prepare_cached(ROWS)?;
        let mut rows = query.query(params![after, i64::try_from(limit).unwrap_or(i64::MAX)])?;
        let mut count = 0;
        while let Some(row) = rows.next()? {
            let at_ms: i64 = row.get(4)?;
            // Rows from a time when the clock was ahead must not hide those behind them.
            if at_ms > self.upto && at_ms <= self.now_ms.saturating_add_unsigned(JUMP_MS) {
                return Ok(looked);
            }
            count += 1;
            looked.last = Some(row.get(0)?);
            looked.first_ms.get_or_insert(at_ms);
            if row.get::<_, u8>(5)? & CHECKPOINT != 0 {
                continue;
            }
            let (conversation, seq, sender): (i64, u64, i64) = (row.get(1)?, row.get(2)?, row.get(3)?);
            let standing = match known.entry(conversation) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(unknown) => unknown.insert(self.standing(conversation)?),
            };
            let Some(Standing { id, cursors }) = standing else { continue };
            let lacking = cursors.iter().filter(|(no, _, cursor)| *no != sender && *cursor < seq);
            let devices: Vec<_> = lacking.map(|(_, device, _)| *device).collect();
            if !devices.is_empty() {
                looked.messages.push(OverdueMessage { conversation: *id, seq, at_ms: u64::try_from(at_ms).unwrap_or(0), devices });
            }
        }
        looked.more = count >= limit;
        Ok(looked)
    }

    /// Memory after database: what is there is newer, and what is not there is no older in the database.
    fn standing(&self, conversation: i64) -> rusqlite::Result<Option<Standing>> {
        let Some(loaded) = load::by_no(self.db, conversation)? else { return Ok(None) };
        let hot = self.hot.lock();
        Ok(Some(Standing::of(hot.get(loaded.id).unwrap_or(&loaded))))
    }
}

impl Standing {
    fn of(conversation: &Conversation) -> Self {
        let device = |side: u8, device| DeviceRef { account: conversation.members[usize::from(side)].account, device };
        let cursors = conversation.cursors.iter().map(|cursor| (cursor.device_no, device(cursor.side, cursor.device), cursor.seq));
        Self { id: conversation.id, cursors: cursors.collect() }
    }
}

fn unavailable(error: StoreError<rusqlite::Error>) -> LogError {
    match error {
        StoreError::Overloaded => LogError::Overloaded,
        error => LogError::Unavailable(Box::new(error)),
    }
}
