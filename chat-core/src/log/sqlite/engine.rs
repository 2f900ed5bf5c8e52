//! The writer's side of the log: what a transaction is about to change, and how that becomes what everybody sees, or is forgotten.

use std::sync::Arc;

use kith_proto::id::{AccountId, ClientMsgId, ConversationId};
use parking_lot::Mutex;
use rusqlite::Connection;
use sha2::{Digest as _, Sha256};

use super::{
    conversation::{Cursor, StoredCursor},
    directory::{self, Account, Directory},
    hot::{Hot, Slot},
    load,
    round::Rounds,
};
use crate::{
    domain::IdMap,
    log::{Outcome, Refusal, Resolved, retention::Retention},
};

/// Names a message within its conversation: conversation, sender device, client message id.
pub(super) type MessageKey = (i64, i64, ClientMsgId);

/// Seq and time of an accepted message.
pub(super) type Original = (u64, u64);

/// Owned by the writer thread.
pub(crate) struct LogWriter {
    pub(super) hot: Arc<Mutex<Hot>>,
    pub(super) directory: Directory,
    /// The messages of the journal that are not in the summary: since the last round began, and those that the round under way is about.
    pub(super) ids: [IdMap<MessageKey, Original>; 2],
    /// Largest counters of devices that have sent since the last round began.
    pub(super) counters: IdMap<i64, u64>,
    /// The newest committed row.
    pub(super) newest: i64,
    pub(super) digest_key: [u8; 16],
    pub(super) batch: Batch,
    pub(super) scratch: Vec<u8>,
    pub(super) rounds: Rounds,
    pub(super) retention: Retention,
    /// A commit failed and the database could not be asked what became of it.
    pub(super) unsettled: bool,
}

/// What the transaction under way changes in memory once it is committed.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) resolved: Vec<Resolved>,
    /// New rows in order. Their numbers follow `newest`.
    pub(super) rows: Vec<Slot>,
    pub(super) ids: Vec<MessageKey>,
    pub(super) counters: Vec<(i64, u64)>,
    /// Conversations with an open draft.
    pub(super) drafted: Vec<Slot>,
    /// Conversations brought into memory, some of them created.
    pub(super) loaded: Vec<Slot>,
    /// Devices that got their cursors in conversations which existed before them.
    pub(super) linked: Vec<Link>,
    /// Conversations of accounts with revoked devices.
    pub(super) thinned: Vec<(ConversationId, AccountId, Arc<Account>)>,
}

/// A new device in an old conversation.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) conversation: ConversationId,
    pub(super) account: AccountId,
    pub(super) device: directory::Device,
    pub(super) start: u64,
}

impl LogWriter {
    /// The number of the row appended next.
    pub(super) fn next_row(&self) -> i64 {
        self.newest + i64::try_from(self.batch.rows.len()).unwrap_or(i64::MAX) + 1
    }

    /// An account with its devices; new ones are given their cursors first.
    pub(super) fn account(&mut self, db: &Connection, id: AccountId) -> rusqlite::Result<Option<Arc<Account>>> {
        if let Some(account) = self.directory.get(id) {
            return Ok(Some(Arc::clone(account)));
        }
        let Some(account) = directory::load(db, id)? else { return Ok(None) };
        let account = Arc::new(account);
        for device in account.current().filter(|d| !d.enrolled) {
            self.enroll(db, id, account.no, *device)?;
        }
        self.directory.insert(id, Arc::clone(&account));
        Ok(Some(account))
    }

    /// A device linked later starts at the head of every conversation that is there already.
    fn enroll(&mut self, db: &Connection, id: AccountId, account_no: i64, device: directory::Device) -> rusqlite::Result<()> {
        for (conversation_no, conversation, stored_head) in conversations_of(db, account_no)? {
            let start = {
                let mut hot = self.hot.lock();
                let slot = hot.slot(conversation);
                slot.map_or(stored_head, |slot| hot.at(slot).draft.head)
            };
            db.prepare_cached("INSERT OR IGNORE INTO cursor(conversation, device, start, seq, behind) VALUES (?, ?, ?, ?, 0)")?.execute((
                conversation_no,
                device.no,
                start,
                start,
            ))?;
            self.batch.linked.push(Link { conversation, account: id, device, start });
        }
        db.prepare_cached("INSERT OR IGNORE INTO enrolled(device) VALUES (?)")?.execute([device.no])?;
        Ok(())
    }

    /// Reads an account's devices again. Revoked ones no longer hold back anything.
    pub(crate) fn devices_changed(&mut self, db: &Connection, id: AccountId) -> rusqlite::Result<()> {
        self.directory.forget(id);
        let Some(account) = self.account(db, id)? else { return Ok(()) };
        if account.devices.iter().any(|d| d.revoked) {
            let affected = conversations_of(db, account.no)?;
            self.batch.thinned.extend(affected.into_iter().map(|(_, conversation, _)| (conversation, id, Arc::clone(&account))));
        }
        Ok(())
    }

    /// The slot of a conversation, brought into memory if it exists.
    pub(super) fn conversation(&mut self, db: &Connection, id: ConversationId) -> rusqlite::Result<Option<Slot>> {
        if let Some(slot) = self.hot.lock().slot(id) {
            return Ok(Some(slot));
        }
        let Some(conversation) = load::by_id(db, id)? else { return Ok(None) };
        let slot = self.hot.lock().insert(conversation);
        self.batch.loaded.push(slot);
        Ok(Some(slot))
    }

    /// The keyed digest under which a message is found once it is in the summary.
    pub(super) fn digest(&self, device: i64, id: &[u8; 16]) -> i64 {
        let hash = Sha256::new().chain_update(self.digest_key).chain_update(device.to_le_bytes()).chain_update(id).finalize();
        i64::from_le_bytes([hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7]])
    }

    /// Makes what was committed visible and returns what became of the appends.
    pub(crate) fn committed(&mut self) -> Vec<Resolved> {
        let mut hot = self.hot.lock();
        for slot in self.batch.rows.drain(..) {
            self.newest += 1;
            hot.at(slot).recent.push_back(self.newest);
        }
        for slot in self.batch.drafted.drain(..) {
            hot.at(slot).adopt_draft();
            hot.stir(slot);
            hot.mark_dirty(slot);
        }
        apply_devices(&mut hot, &mut self.batch);
        drop(hot);
        for (device, counter) in self.batch.counters.drain(..) {
            let known = self.counters.entry(device).or_default();
            *known = counter.max(*known);
        }
        self.rounds.committed(&self.hot);
        self.batch.ids.clear();
        self.batch.loaded.clear();
        std::mem::take(&mut self.batch.resolved)
    }

    /// Forgets what was not committed and refuses all appends of the batch.
    pub(crate) fn rolled_back(&mut self) -> Vec<Resolved> {
        self.rounds.rolled_back(&self.hot);
        let mut hot = self.hot.lock();
        for slot in self.batch.drafted.drain(..) {
            hot.at(slot).discard_draft();
        }
        // What was read inside the transaction may have shown its changes.
        self.batch.loaded.drain(..).for_each(|slot| hot.remove(slot));
        drop(hot);
        self.directory.clear();
        for key in self.batch.ids.drain(..) {
            self.ids[0].remove(&key);
        }
        self.batch.rows.clear();
        self.batch.counters.clear();
        self.batch.linked.clear();
        self.batch.thinned.clear();
        let mut resolved = std::mem::take(&mut self.batch.resolved);
        for item in &mut resolved {
            item.outcome = Outcome::Refused(Refusal::StorageUnavailable);
            item.append.gate.shut();
        }
        resolved
    }

    /// After a commit that reported a failure: whether it happened all the same. Until the database can tell, nothing later is written.
    pub(crate) fn was_committed(&mut self, db: &Connection) -> bool {
        let Some(last) = self.batch.rows.len().checked_sub(1).map(|_| self.next_row() - 1) else { return false };
        match db.query_row("SELECT EXISTS (SELECT 1 FROM entry WHERE no = ?)", [last], |row| row.get(0)) {
            Ok(found) => found,
            Err(_) => {
                self.unsettled = true;
                false
            }
        }
    }

    /// What the device has sent most recently, as far as it is not in the database yet.
    pub(super) fn counter(&self, device: i64) -> u64 {
        let batch = self.batch.counters.iter().filter(|(d, _)| *d == device).map(|(_, counter)| *counter).max();
        let known = self.counters.get(&device).copied().max(self.rounds.counter(device));
        known.max(batch).unwrap_or(0)
    }
}

fn apply_devices(hot: &mut Hot, batch: &mut Batch) {
    if batch.linked.is_empty() && batch.thinned.is_empty() {
        return;
    }
    hot.invalidate_loads();
    for link in batch.linked.drain(..) {
        let Some(slot) = hot.slot(link.conversation) else { continue };
        let conversation = hot.at(slot);
        let Some(side) = conversation.side(link.account) else { continue };
        if conversation.cursors.iter().all(|c| c.device_no != link.device.no) {
            let stored = StoredCursor { seq: link.start, behind: false };
            let Link { device, start, .. } = link;
            conversation.cursors.push(Cursor { device_no: device.no, device: device.id, side, start, seq: start, stored, stirred: 0 });
        }
        hot.stir(slot);
        hot.mark_dirty(slot);
    }
    for (id, member, account) in batch.thinned.drain(..) {
        let Some(slot) = hot.slot(id) else { continue };
        let conversation = hot.at(slot);
        let Some(side) = conversation.side(member) else { continue };
        conversation.cursors.retain(|c| c.side != side || account.current().any(|d| d.no == c.device_no));
        hot.mark_dirty(slot);
    }
}

fn conversations_of(db: &Connection, account_no: i64) -> rusqlite::Result<Vec<(i64, ConversationId, u64)>> {
    let mut query =
        db.prepare_cached("SELECT no, id, head FROM conversation WHERE low = ?1 UNION ALL SELECT no, id, head FROM conversation WHERE high = ?1")?;
    let rows = query.query_map([account_no], |row| Ok((row.get(0)?, ConversationId(row.get(1)?), row.get(2)?)))?;
    rows.collect()
}
