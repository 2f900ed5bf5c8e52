//! A run of a conversation as one device sees it.

use bytes::Bytes;
use kith_proto::{
    id::{AccountId, ClientMsgId, DeviceId, DeviceRef},
    v1::AbsentReason,
};
use rusqlite::{Connection, OptionalExtension as _, Row, Statement};

use super::{
    append::{CHECKPOINT, FROM_HIGH},
    conversation::Conversation,
};
use crate::log::{AbsentRange, Entry, Page, PageLimit, Payload, row};

/// What memory says about the run; taken before the rows are read, so that whatever a round moves meanwhile is found in both places or in the second.
#[derive(Debug)]
pub(super) struct Plan {
    conversation: i64,
    accounts: [AccountId; 2],
    device_no: i64,

    start: u64,
    head: u64,
    after: u64,
    /// How far `recent` and the summary together go: nothing is known of what comes after.
    end: u64,
    /// Rows after the summary, as far as the limit can need them.
    recent: Vec<i64>,
    limit: PageLimit,
}

impl Plan {
    /// `None` if the device is no member's current device.
    pub(super) fn new(conversation: &Conversation, device: DeviceRef, after: u64, limit: PageLimit) -> Option<Self> {
        let cursor = conversation.cursor(device)?;
        // Nothing is after the head, and SQLite's integers are signed.
        let after = after.min(conversation.head);
        let from = after.max(cursor.start);
        let skip = usize::try_from(from.saturating_sub(conversation.indexed)).unwrap_or(usize::MAX);
        let recent: Vec<i64> = conversation.recent.iter().copied().skip(skip).take(limit.entries.max(1)).collect();
        let end = conversation.indexed.max(from) + recent.len() as u64;
        Some(Self {
            conversation: conversation.no,
            accounts: conversation.members.map(|m| m.account),
            device_no: cursor.device_no,

            start: cursor.start,
            head: conversation.head,
            after,
            end,
            recent,
            limit,
        })
    }

    /// Reads the rows.
    pub(super) fn read(self, db: &Connection) -> rusqlite::Result<Page> {
        let limit = self.limit;
        let mut build = Build::new(&self);
        let from = self.after.max(self.start);
        let mut kept = db.prepare_cached(
            "SELECT e.seq, e.sender, e.at_ms, e.flags, e.client_msg_id, e.sender_list, e.recipient_list, e.data FROM kept k JOIN entry e ON e.no = k.no
             WHERE k.conversation = ? AND k.seq > ? ORDER BY k.seq LIMIT ?",
        )?;
        let mut rows = kept.query((self.conversation, from, limit.entries.max(1)))?;
        while !build.is_full()
            && let Some(row) = rows.next()?
        {
            build.push(db, row)?;
        }
        let mut single =
            db.prepare_cached("SELECT seq, sender, at_ms, flags, client_msg_id, sender_list, recipient_list, data FROM entry WHERE no = ?")?;
        for no in &self.recent {
            if build.is_full() {
                break;
            }
            build.push_single(db, &mut single, *no)?;
        }
        Ok(build.finish())
    }
}

/// A page in the making. Bodies and slices are gathered in one buffer, of which the entries become parts.
struct Build<'a> {
    plan: &'a Plan,
    absent: Vec<AbsentRange>,
    entries: Vec<(Entry, Option<Parts>)>,
    content: Vec<u8>,
    /// The seq that comes next.
    next: u64,
    full: bool,
    senders: Vec<(i64, DeviceId)>,
}

/// Where an entry's body and slice are: start, end of the body, end of the slice.
type Parts = (usize, usize, usize);

impl<'a> Build<'a> {
    fn new(plan: &'a Plan) -> Self {
        let mut build =
            Self { plan, absent: Vec::new(), entries: Vec::new(), content: Vec::new(), next: plan.after + 1, full: false, senders: Vec::new() };
        build.absent_until(plan.start.min(plan.head), AbsentReason::BeforeLinked);
        build
    }

    fn absent_until(&mut self, to: u64, reason: AbsentReason) {
        if self.next <= to {
            self.absent.push(AbsentRange { from: self.next, to, reason });
            self.next = to + 1;
        }
    }

    fn is_full(&self) -> bool {
        self.full || self.entries.len() >= self.plan.limit.entries.max(1)
    }

    fn push_single(&mut self, db: &Connection, single: &mut Statement<'_>, no: i64) -> rusqlite::Result<()> {
        let mut rows = single.query([no])?;
        rows.next()?.map_or(Ok(()), |row| self.push(db, row))
    }

    fn push(&mut self, db: &Connection, row: &Row<'_>) -> rusqlite::Result<()> {
        let seq: u64 = row.get(0)?;
        // A row that a round has moved meanwhile comes twice; one committed meanwhile is beyond the head that the page tells.
        if seq < self.next || seq > self.plan.head {
            return Ok(());
        }
        let (payload, parts) = self.payload(row, seq)?;
        if self.full {
            return Ok(());
        }
        self.absent_until(seq - 1, AbsentReason::Expired);
        let flags: u8 = row.get(3)?;
        let account = self.plan.accounts[usize::from(flags & FROM_HIGH != 0)];
        let entry = Entry {
            seq,
            at_ms: row.get(2)?,
            sender: DeviceRef { account, device: self.sender(db, row.get(1)?)? },
            client_msg_id: ClientMsgId(row.get(4)?),
            checkpoint: flags & CHECKPOINT != 0,
            sender_list_version: row.get(5)?,
            recipient_list_version: row.get(6)?,
            payload,
        };
        self.entries.push((entry, parts));
        self.next = seq + 1;
        Ok(())
    }

    /// Copies what there is for the device, unless the page is full with it.
    fn payload(&mut self, row: &Row<'_>, seq: u64) -> rusqlite::Result<(Payload, Option<Parts>)> {
        if row.get::<_, i64>(1)? == self.plan.device_no {
            return Ok((Payload::Absent(AbsentReason::Own), None));
        }
        let data = row.get_ref(7)?.as_blob()?;
        let view = row::view(data, self.plan.device_no.to_le_bytes()).ok_or_else(|| damaged(seq))?;
        let Some(slice) = view.slice else { return Ok((Payload::Absent(AbsentReason::NotAddressed), None)) };
        let size = view.body.len() + slice.len();
        if !self.entries.is_empty() && self.content.len() + size > self.plan.limit.bytes {
            self.full = true;
            return Ok((Payload::Absent(AbsentReason::Unspecified), None));
        }
        let start = self.content.len();
        self.content.extend_from_slice(view.body);
        self.content.extend_from_slice(slice);
        // Filled in when the buffer is complete.
        Ok((Payload::Absent(AbsentReason::Unspecified), Some((start, start + view.body.len(), start + size))))
    }

    fn sender(&mut self, db: &Connection, no: i64) -> rusqlite::Result<DeviceId> {
        if let Some((_, id)) = self.senders.iter().find(|(known, _)| *known == no) {
            return Ok(*id);
        }
        let id = db.prepare_cached("SELECT id FROM device WHERE no = ?")?.query_row([no], |row| row.get(0)).optional()?;
        let id = DeviceId(id.ok_or_else(|| damaged(self.next))?);
        self.senders.push((no, id));
        Ok(id)
    }

    fn finish(mut self) -> Page {
        if !self.is_full() {
            self.absent_until(self.plan.end, AbsentReason::Expired);
        }
        let content = Bytes::from(self.content);
        let fill = |(mut entry, parts): (Entry, Option<Parts>)| {
            if let Some((start, middle, end)) = parts {
                entry.payload = Payload::Sealed { body: content.slice(start..middle), slice: content.slice(middle..end) };
            }
            entry
        };
        Page { absent: self.absent, entries: self.entries.into_iter().map(fill).collect(), head: self.plan.head }
    }
}

fn damaged(seq: u64) -> rusqlite::Error {
    let error = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    rusqlite::Error::SqliteFailure(error, Some(format!("entry {seq} of a conversation is damaged")))
}
