//! What the log knows when it is opened: the summary, and the rows of the journal after it.

use std::sync::Arc;

use kith_proto::id::ClientMsgId;
use parking_lot::Mutex;
use rusqlite::Connection;

use super::{
    append::{CHECKPOINT, FROM_HIGH},
    directory::Directory,
    engine::{Batch, LogWriter},
    hot::{Hot, Slot},
    load,
    round::Rounds,
};
use crate::{domain::IdMap, log::retention::Retention};

/// A row of the journal without its data.
struct Row {
    no: i64,
    conversation: i64,
    seq: u64,
    sender: i64,
    counter: u64,
    at_ms: u64,
    flags: u8,
    id: ClientMsgId,
}

impl LogWriter {
    /// Reads what is needed. In proportion to what was accepted in the last second or two before the database was closed or the machine died.
    pub(crate) fn open(db: &Connection, hot: Arc<Mutex<Hot>>, retention_ms: u64, now_ms: u64) -> rusqlite::Result<Self> {
        let (summarised, digest_key) = db.query_row("SELECT summarised, digest_key FROM log_meta", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let mut writer = Self {
            hot,
            directory: Directory::default(),
            ids: [IdMap::default(), IdMap::default()],
            counters: IdMap::default(),
            newest: summarised,
            digest_key,
            batch: Batch::default(),
            scratch: Vec::new(),
            rounds: Rounds::new(summarised),
            retention: Retention::new(retention_ms, now_ms),
            unsettled: false,
        };
        writer.replay(db)?;
        Ok(writer)
    }

    /// After a commit whose outcome could not be learnt: takes in what is there. Must succeed before anything else is written.
    pub(crate) fn settle(&mut self, db: &Connection) -> rusqlite::Result<()> {
        if self.unsettled {
            self.replay(db)?;
            self.unsettled = false;
        }
        Ok(())
    }

    fn replay(&mut self, db: &Connection) -> rusqlite::Result<()> {
        let mut slots = IdMap::default();
        let mut query =
            db.prepare("SELECT no, conversation, seq, sender, counter, at_ms, flags, client_msg_id FROM entry WHERE no > ? ORDER BY no")?;
        let rows = query.query_map([self.newest], |row| {
            Ok(Row {
                no: row.get(0)?,
                conversation: row.get(1)?,
                seq: row.get(2)?,
                sender: row.get(3)?,
                counter: row.get(4)?,
                at_ms: row.get(5)?,
                flags: row.get(6)?,
                id: ClientMsgId(row.get(7)?),
            })
        })?;
        for row in rows {
            let row = row?;
            let slot = match slots.get(&row.conversation) {
                Some(slot) => *slot,
                None => self.replay_slot(db, row.conversation)?,
            };
            slots.insert(row.conversation, slot);
            self.replay_row(slot, &row)?;
        }
        Ok(())
    }

    fn replay_slot(&self, db: &Connection, no: i64) -> rusqlite::Result<Slot> {
        let loaded = load::by_no(db, no)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        Ok(self.hot.lock().insert(loaded))
    }

    fn replay_row(&mut self, slot: Slot, row: &Row) -> rusqlite::Result<()> {
        let mut hot = self.hot.lock();
        let conversation = hot.at(slot);
        self.newest = row.no;
        let known = self.counters.entry(row.sender).or_default();
        *known = row.counter.max(*known);
        if row.seq < conversation.first {
            self.rounds.doom(row.no);
        } else {
            self.ids[0].insert((row.conversation, row.sender, row.id), (row.seq, row.at_ms));
        }
        if row.seq > conversation.head {
            if row.seq != conversation.head + 1 {
                let hole = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
                return Err(rusqlite::Error::SqliteFailure(hole, Some("the journal has a hole".to_owned())));
            }
            conversation.recent.push_back(row.no);
            conversation.head = row.seq;
            if row.flags & CHECKPOINT == 0 {
                conversation.shown = conversation.shown.max(row.seq);
            }
            conversation.at_ms = conversation.at_ms.max(row.at_ms);
            conversation.sent |= if row.flags & FROM_HIGH == 0 { 0b01 } else { 0b10 };
            conversation.discard_draft();
            hot.stir(slot);
        }
        hot.mark_dirty(slot);
        Ok(())
    }
}
