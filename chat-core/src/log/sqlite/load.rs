//! Reads a conversation's summary.

use std::collections::VecDeque;

use kith_proto::id::{AccountId, ConversationId, DeviceId};
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::conversation::{Conversation, Cursor, Draft, Member, StoredCursor};

const CONVERSATION: &str = "SELECT c.no, c.id, c.low, l.id, c.high, h.id, c.head, c.at_ms, c.first, c.sent, c.low_read, c.high_read, c.low_delivered,
    c.high_delivered, c.shown FROM conversation c JOIN account l ON l.no = c.low JOIN account h ON h.no = c.high WHERE c.";

const CURSORS: &str = "SELECT k.device, d.id, d.account_no, k.start, k.seq, k.behind FROM cursor k JOIN device d ON d.no = k.device
    WHERE k.conversation = ? AND d.revoked_ms IS NULL";

/// The conversation as of its last summary, with the members' current devices.
pub(super) fn by_id(db: &Connection, id: ConversationId) -> rusqlite::Result<Option<Conversation>> {
    let found = db.prepare_cached(&format!("{CONVERSATION}id = ?"))?.query_row([id.0], conversation).optional()?;
    found.map(|conversation| with_cursors(db, conversation)).transpose()
}

/// The same by number.
pub(super) fn by_no(db: &Connection, no: i64) -> rusqlite::Result<Option<Conversation>> {
    let found = db.prepare_cached(&format!("{CONVERSATION}no = ?"))?.query_row([no], conversation).optional()?;
    found.map(|conversation| with_cursors(db, conversation)).transpose()
}

fn conversation(row: &Row<'_>) -> rusqlite::Result<Conversation> {
    let mut conversation = Conversation {
        no: row.get(0)?,
        id: ConversationId(row.get(1)?),
        members: [Member { no: row.get(2)?, account: AccountId(row.get(3)?) }, Member { no: row.get(4)?, account: AccountId(row.get(5)?) }],
        head: row.get(6)?,
        shown: row.get(14)?,
        at_ms: row.get(7)?,
        first: row.get(8)?,
        indexed: row.get(6)?,
        recent: VecDeque::new(),
        expired: 0,
        sent: row.get(9)?,
        read: [row.get(10)?, row.get(11)?],
        delivered: [row.get(12)?, row.get(13)?],
        cursors: Vec::new(),
        draft: Draft::default(),
        dirty: false,
        touched: true,
    };
    conversation.discard_draft();
    Ok(conversation)
}

fn with_cursors(db: &Connection, mut conversation: Conversation) -> rusqlite::Result<Conversation> {
    let low = conversation.members[0].no;
    let mut query = db.prepare_cached(CURSORS)?;
    let cursors = query.query_map([conversation.no], |row| {
        let seq = row.get(4)?;
        Ok(Cursor {
            device_no: row.get(0)?,
            device: DeviceId(row.get(1)?),
            side: u8::from(row.get::<_, i64>(2)? != low),
            start: row.get(3)?,
            seq,
            stored: StoredCursor { seq, behind: row.get(5)? },
            stirred: 0,
        })
    })?;
    conversation.cursors = cursors.collect::<Result<_, _>>()?;
    Ok(conversation)
}
