//! Accounts, devices, conversations, sessions, chains, prekeys, outbox, notices and the store's own record.

use super::records::{AccountRecord, ConversationRecord, DeviceRecord, NoticeRecord, OutboxRecord, SelfRecord};
use super::{Store, StoreError};
use kith_crypto::chain::ReceiverChain;
use kith_crypto::prekey::{PrekeyId, PrekeySecret};
use kith_crypto::replay::ReplayMemory;
use kith_crypto::session_set::SessionSet;
use prost::Message;
use rusqlite::{OptionalExtension as _, params};
use zeroize::Zeroizing;

/// A conversation and a device: the row of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SessionRow {
    pub(crate) conversation: i64,
    pub(crate) device: i64,
}

impl SessionRow {
    fn to_bytes(self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.conversation.to_be_bytes());
        out[8..].copy_from_slice(&self.device.to_be_bytes());
        out
    }
}

/// A row of the outbox.
#[derive(Debug, Clone)]
pub(crate) struct StoredOutbox {
    pub(crate) no: i64,
    pub(crate) conversation: i64,
    pub(crate) record: OutboxRecord,
}

fn encode(record: &impl Message) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(record.encode_to_vec())
}

fn decode<M: Message + Default>(what: &'static str, bytes: &[u8]) -> Result<M, StoreError> {
    M::decode(bytes).map_err(|_| StoreError::Malformed(what))
}

impl Store {
    /// A named value.
    pub(crate) fn meta(&self, name: &'static str) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let sealed: Option<Vec<u8>> =
            self.conn.prepare_cached("SELECT value FROM meta WHERE name = ?")?.query_row([name], |row| row.get(0)).optional()?;
        sealed.map(|sealed| self.vault.open("meta", name.as_bytes(), "value", &sealed)).transpose()
    }

    pub(crate) fn set_meta(&mut self, name: &'static str, value: &[u8]) -> Result<(), StoreError> {
        self.begin()?;
        let sealed = self.vault.seal(&mut self.rng, "meta", name.as_bytes(), "value", value);
        self.conn.prepare_cached("INSERT OR REPLACE INTO meta VALUES (?, ?)")?.execute(params![name, sealed])?;
        Ok(())
    }

    pub(crate) fn self_record(&self) -> Result<Option<SelfRecord>, StoreError> {
        self.meta("self")?.map(|bytes| decode("self", &bytes)).transpose()
    }

    pub(crate) fn set_self_record(&mut self, record: &SelfRecord) -> Result<(), StoreError> {
        self.set_meta("self", &encode(record))
    }

    fn all<M: Message + Default>(&self, table: &'static str, query: &str) -> Result<Vec<(i64, M)>, StoreError> {
        let mut statement = self.conn.prepare(query)?;
        let mut rows = statement.query([])?;
        let mut out = Vec::new();
        while let Some(row) = rows.next()? {
            let (no, sealed): (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
            out.push((no, decode(table, &self.vault.open_at(table, no, "value", &sealed)?)?));
        }
        Ok(out)
    }

    pub(crate) fn accounts(&self) -> Result<Vec<(i64, AccountRecord)>, StoreError> {
        self.all("account", "SELECT no, value FROM account ORDER BY no")
    }

    pub(crate) fn set_account(&mut self, no: i64, record: &AccountRecord) -> Result<(), StoreError> {
        self.begin()?;
        let sealed = self.seal_at("account", no, "value", &encode(record));
        self.conn.prepare_cached("INSERT OR REPLACE INTO account VALUES (?, ?)")?.execute(params![no, sealed])?;
        Ok(())
    }

    /// Every device with the row of its account.
    pub(crate) fn devices(&self) -> Result<Vec<(i64, i64, DeviceRecord)>, StoreError> {
        let records = self.all::<DeviceRecord>("device", "SELECT no, value FROM device ORDER BY no")?;
        let mut statement = self.conn.prepare("SELECT account FROM device WHERE no = ?")?;
        records.into_iter().map(|(no, record)| Ok((no, statement.query_row([no], |row| row.get(0))?, record))).collect()
    }

    pub(crate) fn set_device(&mut self, no: i64, account: i64, record: &DeviceRecord) -> Result<(), StoreError> {
        self.begin()?;
        let sealed = self.seal_at("device", no, "value", &encode(record));
        self.conn
            .prepare_cached("INSERT INTO device (no, account, value) VALUES (?1, ?2, ?3) ON CONFLICT (no) DO UPDATE SET value = ?3")?
            .execute(params![no, account, sealed])?;
        Ok(())
    }

    /// The first messages accepted from a device.
    pub(crate) fn replay(&self, device: i64) -> Result<ReplayMemory, StoreError> {
        let sealed: Option<Vec<u8>> =
            self.conn.prepare_cached("SELECT replay FROM device WHERE no = ?")?.query_row([device], |row| row.get(0)).optional()?.flatten();
        match sealed {
            None => Ok(ReplayMemory::new()),
            Some(sealed) => Ok(ReplayMemory::from_bytes(&self.vault.open_at("device", device, "replay", &sealed)?)?),
        }
    }

    pub(crate) fn set_replay(&mut self, device: i64, memory: &ReplayMemory) -> Result<(), StoreError> {
        self.begin()?;
        let sealed = self.seal_at("device", device, "replay", &memory.to_bytes());
        let updated = self.conn.prepare_cached("UPDATE device SET replay = ? WHERE no = ?")?.execute(params![sealed, device])?;
        // A first message that is not remembered could be replayed.
        if updated == 1 { Ok(()) } else { Err(StoreError::Malformed("device")) }
    }

    pub(crate) fn conversations(&self) -> Result<Vec<(i64, ConversationRecord)>, StoreError> {
        self.all("conversation", "SELECT no, value FROM conversation ORDER BY no")
    }

    pub(crate) fn set_conversation(&mut self, no: i64, record: &ConversationRecord) -> Result<(), StoreError> {
        self.begin()?;
        let sealed = self.seal_at("conversation", no, "value", &encode(record));
        self.conn.prepare_cached("INSERT OR REPLACE INTO conversation VALUES (?, ?)")?.execute(params![no, sealed])?;
        Ok(())
    }

    /// The sessions of a row; `None` only if there never were any.
    pub(crate) fn sessions(&self, row: SessionRow) -> Result<Option<SessionSet>, StoreError> {
        let found: Option<(Vec<u8>, Option<Vec<u8>>)> = self
            .conn
            .prepare_cached("SELECT state, skipped FROM session WHERE conversation = ? AND device = ?")?
            .query_row(params![row.conversation, row.device], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((state, skipped)) = found else { return Ok(None) };
        let state = self.vault.open("session", &row.to_bytes(), "state", &state)?;
        let skipped = skipped.map(|sealed| self.vault.open("session", &row.to_bytes(), "skipped", &sealed)).transpose()?;
        Ok(Some(SessionSet::from_bytes(&state, skipped.as_ref().map(|bytes| bytes.as_slice()))?))
    }

    pub(crate) fn set_sessions(&mut self, row: SessionRow, sessions: &SessionSet, skipped_changed: bool) -> Result<(), StoreError> {
        self.begin()?;
        let key = row.to_bytes();
        let state = self.vault.seal(&mut self.rng, "session", &key, "state", &sessions.to_bytes());
        let insert = "INSERT INTO session (conversation, device, state) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET state = ?3";
        self.conn.prepare_cached(insert)?.execute(params![row.conversation, row.device, state])?;
        if skipped_changed {
            let skipped = self.vault.seal(&mut self.rng, "session", &key, "skipped", &sessions.skipped_to_bytes());
            let update = "UPDATE session SET skipped = ? WHERE conversation = ? AND device = ?";
            self.conn.prepare_cached(update)?.execute(params![skipped, row.conversation, row.device])?;
        }
        Ok(())
    }

    /// Erases the sessions with one device, in all conversations.
    pub(crate) fn drop_sessions_with(&mut self, device: i64) -> Result<(), StoreError> {
        self.begin()?;
        self.conn.execute("DELETE FROM session WHERE device = ?", [device])?;
        Ok(())
    }

    /// Where there are sessions.
    pub(crate) fn session_rows(&self) -> Result<Vec<SessionRow>, StoreError> {
        let mut statement = self.conn.prepare("SELECT conversation, device FROM session")?;
        let rows = statement.query_map([], |row| Ok(SessionRow { conversation: row.get(0)?, device: row.get(1)? }))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Erases every session and every prekey.
    pub(crate) fn drop_sessions_and_prekeys(&mut self) -> Result<(), StoreError> {
        self.begin()?;
        self.conn.execute("DELETE FROM session", [])?;
        self.conn.execute("DELETE FROM prekey", [])?;
        Ok(())
    }

    /// The chains known of a device in a conversation, with their rows.
    pub(crate) fn chains(&self, row: SessionRow) -> Result<Vec<(i64, ReceiverChain)>, StoreError> {
        let mut statement = self.conn.prepare_cached("SELECT no, value FROM chain WHERE conversation = ? AND device = ?")?;
        let mut rows = statement.query(params![row.conversation, row.device])?;
        let mut out = Vec::new();
        while let Some(row) = rows.next()? {
            let (no, sealed): (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
            out.push((no, ReceiverChain::from_bytes(&self.vault.open_at("chain", no, "value", &sealed)?)?));
        }
        Ok(out)
    }

    pub(crate) fn new_chain_row(&mut self, row: SessionRow) -> Result<i64, StoreError> {
        self.begin()?;
        let insert = "INSERT INTO chain (conversation, device, value) VALUES (?, ?, x'')";
        self.conn.prepare_cached(insert)?.execute(params![row.conversation, row.device])?;
        Ok(self.conn.last_insert_rowid())
    }

    pub(crate) fn set_chain(&mut self, no: i64, chain: &ReceiverChain) -> Result<(), StoreError> {
        self.begin()?;
        let sealed = self.seal_at("chain", no, "value", &chain.to_bytes());
        self.conn.prepare_cached("UPDATE chain SET value = ? WHERE no = ?")?.execute(params![sealed, no])?;
        Ok(())
    }

    pub(crate) fn prekey(&self, id: PrekeyId) -> Result<Option<PrekeySecret>, StoreError> {
        let sealed: Option<Vec<u8>> =
            self.conn.prepare_cached("SELECT value FROM prekey WHERE id = ?")?.query_row([id.get()], |row| row.get(0)).optional()?;
        let Some(sealed) = sealed else { return Ok(None) };
        Ok(Some(PrekeySecret::from_bytes(&self.vault.open_at("prekey", i64::from(id.get()), "value", &sealed)?)?))
    }

    pub(crate) fn add_prekey(&mut self, secret: &PrekeySecret) -> Result<(), StoreError> {
        self.begin()?;
        let sealed = self.seal_at("prekey", i64::from(secret.id().get()), "value", &secret.to_bytes());
        self.conn.prepare_cached("INSERT INTO prekey VALUES (?, NULL, ?)")?.execute(params![secret.id().get(), sealed])?;
        Ok(())
    }

    pub(crate) fn delete_prekey(&mut self, id: PrekeyId) -> Result<(), StoreError> {
        self.begin()?;
        self.conn.prepare_cached("DELETE FROM prekey WHERE id = ?")?.execute([id.get()])?;
        Ok(())
    }

    /// Every private prekey with the time of its replacement. For the daily round, not for messages.
    pub(crate) fn prekeys(&self) -> Result<Vec<(PrekeySecret, Option<u64>)>, StoreError> {
        let mut statement = self.conn.prepare("SELECT id, replaced_ms, value FROM prekey ORDER BY id")?;
        let mut rows = statement.query([])?;
        let mut out = Vec::new();
        while let Some(row) = rows.next()? {
            let (id, replaced, sealed): (i64, Option<i64>, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let secret = PrekeySecret::from_bytes(&self.vault.open_at("prekey", id, "value", &sealed)?)?;
            out.push((secret, replaced.map(i64::cast_unsigned)));
        }
        Ok(out)
    }

    pub(crate) fn set_prekey_replaced(&mut self, id: PrekeyId, at_ms: u64) -> Result<(), StoreError> {
        self.begin()?;
        let update = "UPDATE prekey SET replaced_ms = ? WHERE id = ? AND replaced_ms IS NULL";
        self.conn.prepare_cached(update)?.execute(params![at_ms.cast_signed(), id.get()])?;
        Ok(())
    }

    /// Every message on its way out, oldest first.
    pub(crate) fn outbox(&self) -> Result<Vec<StoredOutbox>, StoreError> {
        let mut statement = self.conn.prepare("SELECT no, conversation, value FROM outbox ORDER BY no")?;
        let mut rows = statement.query([])?;
        let mut out = Vec::new();
        while let Some(row) = rows.next()? {
            let (no, conversation, sealed): (i64, i64, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let record = decode("outbox", &self.vault.open_at("outbox", no, "value", &sealed)?)?;
            out.push(StoredOutbox { no, conversation, record });
        }
        Ok(out)
    }

    pub(crate) fn outbox_record(&self, no: i64) -> Result<OutboxRecord, StoreError> {
        let sealed: Vec<u8> = self.conn.prepare_cached("SELECT value FROM outbox WHERE no = ?")?.query_row([no], |row| row.get(0))?;
        decode("outbox", &self.vault.open_at("outbox", no, "value", &sealed)?)
    }

    pub(crate) fn add_outbox(&mut self, conversation: i64, record: &OutboxRecord) -> Result<i64, StoreError> {
        self.begin()?;
        self.conn.prepare_cached("INSERT INTO outbox (conversation, value) VALUES (?, x'')")?.execute([conversation])?;
        let no = self.conn.last_insert_rowid();
        self.set_outbox(no, record)?;
        Ok(no)
    }

    pub(crate) fn set_outbox(&mut self, no: i64, record: &OutboxRecord) -> Result<(), StoreError> {
        self.begin()?;
        let sealed = self.seal_at("outbox", no, "value", &encode(record));
        self.conn.prepare_cached("UPDATE outbox SET value = ? WHERE no = ?")?.execute(params![sealed, no])?;
        Ok(())
    }

    pub(crate) fn delete_outbox(&mut self, no: i64) -> Result<(), StoreError> {
        self.begin()?;
        self.conn.prepare_cached("DELETE FROM outbox WHERE no = ?")?.execute([no])?;
        Ok(())
    }

    pub(crate) fn add_notice(&mut self, record: &NoticeRecord) -> Result<i64, StoreError> {
        self.begin()?;
        self.conn.prepare_cached("INSERT INTO notice (value) VALUES (x'')")?.execute([])?;
        let no = self.conn.last_insert_rowid();
        let sealed = self.seal_at("notice", no, "value", &encode(record));
        self.conn.prepare_cached("UPDATE notice SET value = ? WHERE no = ?")?.execute(params![sealed, no])?;
        Ok(no)
    }

    pub(crate) fn newest_notice(&self) -> Result<i64, StoreError> {
        Ok(self.conn.query_row("SELECT coalesce(max(no), 0) FROM notice", [], |row| row.get(0))?)
    }

    /// The hash over the log after `seq`, if it is still kept.
    pub(crate) fn log_hash(&self, conversation: i64, seq: u64) -> Result<Option<[u8; 32]>, StoreError> {
        let row = SessionRow { conversation, device: seq.cast_signed() };
        let sealed: Option<Vec<u8>> = self
            .conn
            .prepare_cached("SELECT hash FROM log WHERE conversation = ? AND seq = ?")?
            .query_row(params![conversation, seq.cast_signed()], |row| row.get(0))
            .optional()?;
        let Some(sealed) = sealed else { return Ok(None) };
        let hash = self.vault.open("log", &row.to_bytes(), "hash", &sealed)?;
        hash.as_slice().try_into().map(Some).map_err(|_| StoreError::Malformed("log hash"))
    }

    /// Files the hash over the log after `seq`, and lets go of old ones.
    pub(crate) fn add_log_hash(&mut self, conversation: i64, seq: u64, hash: &[u8; 32]) -> Result<(), StoreError> {
        const KEPT: u64 = 4_096;
        self.begin()?;
        let row = SessionRow { conversation, device: seq.cast_signed() };
        let sealed = self.vault.seal(&mut self.rng, "log", &row.to_bytes(), "hash", hash);
        let insert = "INSERT OR REPLACE INTO log VALUES (?, ?, ?)";
        self.conn.prepare_cached(insert)?.execute(params![conversation, seq.cast_signed(), sealed])?;
        if seq.is_multiple_of(512) && seq > KEPT {
            let delete = "DELETE FROM log WHERE conversation = ? AND seq < ?";
            self.conn.prepare_cached(delete)?.execute(params![conversation, (seq - KEPT).cast_signed()])?;
        }
        Ok(())
    }
}
