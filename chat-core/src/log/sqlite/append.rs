//! One append: duplicate, gate, admission, recipient, devices, and then a single row in the journal.

use kith_proto::{
    id::{AccountId, ConversationId, DeviceRef},
    v1,
};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{
    conversation::{Conversation, Cursor, Draft, Member, StoredCursor},
    directory::{Account, Device},
    engine::{LogWriter, MessageKey, Original},
    hot::Slot,
};
use crate::{
    log::{Admission, Append, Outcome, Refusal, Resolved, row},
    sqlite::is_fatal,
};

/// Bit 0 of the flags.
pub(super) const CHECKPOINT: u8 = 0b01;
/// Bit 1 of the flags.
pub(super) const FROM_HIGH: u8 = 0b10;

const INSERT: &str = "INSERT INTO entry(no, conversation, seq, sender, counter, at_ms, flags, client_msg_id, sender_list, recipient_list, data)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

/// An append that passed the checks.
struct Admitted<'a> {
    append: &'a Append,
    sender: &'a Account,
    device: Device,
    recipient: &'a Account,
    /// The devices of the slices: the recipient's, then the sender's.
    devices: Vec<i64>,
}

impl LogWriter {
    /// Resolves an append within the transaction. An error means that the transaction is lost; then the append is refused with all others of the batch.
    pub(crate) fn append(&mut self, db: &Connection, append: Append, now_ms: u64) -> rusqlite::Result<()> {
        if append.restart {
            append.gate.open();
        }
        let (outcome, fatal) = match self.resolve(db, &append, now_ms) {
            Ok(outcome) => (outcome, None),
            Err(error) if is_fatal(&error) => (Outcome::Refused(Refusal::StorageUnavailable), Some(error)),
            Err(error) => {
                tracing::error!(%error, "a message could not be stored");
                (Outcome::Refused(Refusal::StorageUnavailable), None)
            }
        };
        if matches!(outcome, Outcome::Refused(_)) {
            append.gate.shut();
        }
        self.batch.resolved.push(Resolved { append, outcome });
        fatal.map_or(Ok(()), Err)
    }

    /// Refuses an append that came after the transaction was lost.
    pub(crate) fn refuse(&mut self, append: Append) {
        self.batch.resolved.push(Resolved { append, outcome: Outcome::Refused(Refusal::StorageUnavailable) });
    }

    fn resolve(&mut self, db: &Connection, append: &Append, now_ms: u64) -> rusqlite::Result<Outcome> {
        let sender = self.account(db, append.sender.account)?;
        let device = sender.as_ref().and_then(|account| account.device(append.sender.device)).copied();
        let slot = self.conversation(db, append.conversation)?;
        if let (Some(device), Some(slot)) = (device, slot)
            && let Some(duplicate) = self.duplicate(db, slot, device.no, append)?
        {
            return Ok(duplicate);
        }
        if append.gate.is_shut() {
            return Ok(Outcome::Refused(Refusal::EarlierRefused));
        }
        if let Admission::DuplicateOnly(refusal) = &append.admission {
            return Ok(Outcome::Refused(refusal.clone()));
        }
        let Some(recipient) = self.account(db, append.recipient)?.filter(|_| append.recipient != append.sender.account) else {
            return Ok(Outcome::Refused(Refusal::UnknownRecipient));
        };
        let (Some(sender), Some(device)) = (sender, device.filter(|d| !d.revoked)) else {
            return Ok(Outcome::Refused(Refusal::SenderRevoked));
        };
        let devices = match check_devices(append, &sender, &recipient) {
            Ok(devices) => devices,
            Err(refusal) => return Ok(Outcome::Refused(refusal)),
        };
        let admitted = Admitted { append, sender: &sender, device, recipient: &recipient, devices };
        let slot = match slot {
            Some(slot) => slot,
            None => self.create(db, &admitted)?,
        };
        self.insert(db, slot, &admitted, now_ms)
    }

    /// The answer to an append that was accepted before.
    fn duplicate(&mut self, db: &Connection, slot: Slot, device: i64, append: &Append) -> rusqlite::Result<Option<Outcome>> {
        let (conversation, has_kept, mutual) = {
            let mut hot = self.hot.lock();
            let conversation = hot.at(slot);
            (conversation.no, conversation.first <= conversation.indexed, conversation.draft.sent == 0b11)
        };
        let key = (conversation, device, append.client_msg_id);
        let known = self.ids[0].get(&key).or_else(|| self.ids[1].get(&key)).copied();
        let found = match known {
            None if has_kept => self.kept_original(db, &key)?,
            known => known,
        };
        Ok(found.map(|(seq, at_ms)| Outcome::Accepted { seq, at_ms, duplicate: true, mutual }))
    }

    fn kept_original(&self, db: &Connection, key: &MessageKey) -> rusqlite::Result<Option<Original>> {
        let (conversation, device, id) = key;
        // Left to itself SQLite takes the primary key and looks at the whole conversation.
        let sql = "SELECT e.seq, e.at_ms FROM kept k INDEXED BY kept_digest JOIN entry e ON e.no = k.no
            WHERE k.conversation = ? AND k.digest = ? AND e.sender = ? AND e.client_msg_id = ?";
        let digest = self.digest(*device, &id.0);
        db.prepare_cached(sql)?.query_row(params![conversation, digest, device, id.0], |row| Ok((row.get(0)?, row.get(1)?))).optional()
    }

    fn create(&mut self, db: &Connection, admitted: &Admitted<'_>) -> rusqlite::Result<Slot> {
        let append = admitted.append;
        let sender = Member { no: admitted.sender.no, account: append.sender.account };
        let recipient = Member { no: admitted.recipient.no, account: append.recipient };
        let (members, accounts) = if sender.account < recipient.account {
            ([sender, recipient], [admitted.sender, admitted.recipient])
        } else {
            ([recipient, sender], [admitted.recipient, admitted.sender])
        };
        db.prepare_cached("INSERT INTO conversation(id, low, high) VALUES (?, ?, ?)")?.execute(params![
            append.conversation.0,
            members[0].no,
            members[1].no
        ])?;
        let no = db.last_insert_rowid();
        let mut cursors = Vec::new();
        for (side, account) in (0..).zip(accounts) {
            for device in account.current() {
                db.prepare_cached("INSERT INTO cursor(conversation, device, start, seq, behind) VALUES (?, ?, 0, 0, 0)")?.execute([no, device.no])?;
                let stored = StoredCursor { seq: 0, behind: false };
                cursors.push(Cursor { device_no: device.no, device: device.id, side, start: 0, seq: 0, stored, stirred: 0 });
            }
        }
        cursors.shrink_to_fit();
        let slot = self.hot.lock().insert(empty(append.conversation, no, members, cursors));
        self.batch.loaded.push(slot);
        Ok(slot)
    }

    fn insert(&mut self, db: &Connection, slot: Slot, admitted: &Admitted<'_>, now_ms: u64) -> rusqlite::Result<Outcome> {
        let (append, no) = (admitted.append, self.next_row());
        let (conversation, side, before, after) = {
            let mut hot = self.hot.lock();
            let conversation = hot.at(slot);
            let side = conversation.side(append.sender.account).unwrap_or(0);
            let before = conversation.draft;
            let shown = if admitted.append.checkpoint { before.shown } else { before.head + 1 };
            let after = Draft { head: before.head + 1, shown, at_ms: before.at_ms.max(now_ms), sent: before.sent | (1 << side), open: true };
            (conversation.no, side, before, after)
        };
        if after.sent != before.sent {
            db.prepare_cached("UPDATE conversation SET sent = ? WHERE no = ?")?.execute(params![after.sent, conversation])?;
        }
        let flags = (u8::from(append.checkpoint) * CHECKPOINT) | (side * FROM_HIGH);
        let slices = append.slices.iter().chain(&append.own_slices).map(|slice| &slice.data[..]);
        let slices = admitted.devices.iter().map(|no| no.to_le_bytes()).zip(slices).collect::<Vec<_>>();
        self.scratch.clear();
        row::encode(&mut self.scratch, &append.body, slices.iter().copied()).ok_or(rusqlite::Error::ToSqlConversionFailure("too large".into()))?;
        db.prepare_cached(INSERT)?.execute(params![
            no,
            conversation,
            after.head,
            admitted.device.no,
            bounded(append.device_counter),
            after.at_ms,
            flags,
            append.client_msg_id.0,
            bounded(append.sender_list_version),
            bounded(append.recipient_list_version),
            self.scratch,
        ])?;
        self.note(slot, admitted, conversation, after, before.open);
        Ok(Outcome::Accepted { seq: after.head, at_ms: after.at_ms, duplicate: false, mutual: after.sent == 0b11 })
    }

    fn note(&mut self, slot: Slot, admitted: &Admitted<'_>, conversation: i64, after: Draft, was_open: bool) {
        self.hot.lock().at(slot).draft = after;
        if !was_open {
            self.batch.drafted.push(slot);
        }
        let key = (conversation, admitted.device.no, admitted.append.client_msg_id);
        self.ids[0].insert(key, (after.head, after.at_ms));
        self.batch.ids.push(key);
        self.batch.rows.push(slot);
        self.batch.counters.push((admitted.device.no, bounded(admitted.append.device_counter)));
    }
}

fn empty(id: ConversationId, no: i64, members: [Member; 2], cursors: Vec<Cursor>) -> Conversation {
    Conversation {
        no,
        id,
        members,
        head: 0,
        shown: 0,
        at_ms: 0,
        first: 1,
        indexed: 0,
        recent: std::collections::VecDeque::new(),
        expired: 0,
        sent: 0,
        read: [0; 2],
        delivered: [0; 2],
        cursors,
        draft: Draft::default(),
        dirty: false,
        touched: true,
    }
}

/// SQLite's integers are signed.
fn bounded(n: u64) -> u64 {
    n.min(i64::MAX.unsigned_abs())
}

/// Compares the slices with the devices of both accounts and returns the devices' numbers in the order of the slices.
fn check_devices(append: &Append, sender: &Account, recipient: &Account) -> Result<Vec<i64>, Refusal> {
    let mut devices = Vec::with_capacity(append.slices.len() + append.own_slices.len());
    let (mut missing, mut extra) = (Vec::new(), Vec::new());
    let theirs = recipient.current();
    compare(append.recipient, &append.slices, theirs, &mut devices, &mut missing, &mut extra);
    let ours = sender.current().filter(|d| d.id != append.sender.device);
    compare(append.sender.account, &append.own_slices, ours, &mut devices, &mut missing, &mut extra);
    if append.checkpoint {
        missing.clear();
    }
    if missing.is_empty() && extra.is_empty() { Ok(devices) } else { Err(Refusal::DevicesChanged { missing, extra }) }
}

fn compare<'a>(
    account: AccountId,
    slices: &[v1::Slice],
    wanted: impl Iterator<Item = &'a Device> + Clone,
    devices: &mut Vec<i64>,
    missing: &mut Vec<DeviceRef>,
    extra: &mut Vec<DeviceRef>,
) {
    let begin = devices.len();
    for slice in slices {
        match wanted.clone().find(|d| slice.device[..] == d.id.0) {
            Some(device) if !devices[begin..].contains(&device.no) => devices.push(device.no),
            _ => extra.extend(slice.device[..].try_into().map(|device| DeviceRef { account, device })),
        }
    }
    let unnamed = wanted.filter(|d| !devices[begin..].contains(&d.no));
    missing.extend(unnamed.map(|d| DeviceRef { account, device: d.id }));
}
