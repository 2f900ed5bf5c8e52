//! The lines of conversations.

use super::records::EntryRecord;
use super::{Store, StoreError, Vault};
use prost::Message;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use zeroize::Zeroizing;

/// The place of an entry that has none yet.
pub(crate) const PENDING: i64 = i64::MAX;

/// What an entry is to the queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i64)]
pub(crate) enum Role {
    /// This user's own.
    Mine = 0,
    /// The other's.
    Peer = 1,
    /// An integrity event or a missing range: shown, counted by nobody.
    Event = 2,
}

/// An entry as stored.
#[derive(Debug, Clone)]
pub(crate) struct StoredEntry {
    pub(crate) no: i64,
    pub(crate) conversation: i64,
    pub(crate) pos: i64,
    pub(crate) role: i64,
    pub(crate) change: i64,
    pub(crate) arrival: i64,
    pub(crate) record: EntryRecord,
}

/// What a new entry needs beside its record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewEntry {
    pub(crate) conversation: i64,
    pub(crate) pos: i64,
    pub(crate) role: Role,
    pub(crate) change: i64,
    pub(crate) arrival: Option<i64>,
    /// Row of the sender's chain and k, for what was decrypted.
    pub(crate) place: Option<(i64, u64)>,
    pub(crate) broken: bool,
}

const COLUMNS: &str = "no, conversation, pos, role, change, coalesce(arrival, 0), value";

fn read(vault: &Vault, row: &Row<'_>) -> Result<StoredEntry, StoreError> {
    let no: i64 = row.get(0)?;
    let sealed: Vec<u8> = row.get(6)?;
    let bytes = vault.open_at("entry", no, "value", &sealed)?;
    let record = EntryRecord::decode(bytes.as_slice()).map_err(|_| StoreError::Malformed("entry"))?;
    Ok(StoredEntry { no, conversation: row.get(1)?, pos: row.get(2)?, role: row.get(3)?, change: row.get(4)?, arrival: row.get(5)?, record })
}

fn select(conn: &Connection, vault: &Vault, rest: &str, values: &[i64]) -> Result<Vec<StoredEntry>, StoreError> {
    let mut statement = conn.prepare_cached(&format!("SELECT {COLUMNS} FROM entry {rest}"))?;
    let mut rows = statement.query(rusqlite::params_from_iter(values))?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push(read(vault, row)?);
    }
    Ok(out)
}

/// The newest `limit` entries of a conversation before (pos, no), oldest first.
pub(crate) fn before(conn: &Connection, vault: &Vault, conversation: i64, at: (i64, i64), limit: i64) -> Result<Vec<StoredEntry>, StoreError> {
    let rest = "WHERE conversation = ?1 AND (pos, no) < (?2, ?3) ORDER BY pos DESC, no DESC LIMIT ?4";
    let mut entries = select(conn, vault, rest, &[conversation, at.0, at.1, limit])?;
    entries.reverse();
    Ok(entries)
}

/// Up to `limit` entries of a conversation changed after `change`, in the order of the changes.
pub(crate) fn changed(conn: &Connection, vault: &Vault, conversation: i64, change: i64, limit: i64) -> Result<Vec<StoredEntry>, StoreError> {
    select(conn, vault, "WHERE conversation = ?1 AND change > ?2 ORDER BY change LIMIT ?3", &[conversation, change, limit])
}

/// Own entries of a conversation with a place in `(from, to]`.
pub(crate) fn own_between(conn: &Connection, vault: &Vault, conversation: i64, from: i64, to: i64) -> Result<Vec<StoredEntry>, StoreError> {
    let rest = "WHERE conversation = ?1 AND pos > ?2 AND pos <= ?3 AND role = 0 ORDER BY pos";
    select(conn, vault, rest, &[conversation, from, to])
}

/// Up to `limit` arrivals after `arrival`.
pub(crate) fn arrived(conn: &Connection, vault: &Vault, arrival: i64, limit: i64) -> Result<Vec<StoredEntry>, StoreError> {
    select(conn, vault, "WHERE arrival > ?1 ORDER BY arrival LIMIT ?2", &[arrival, limit])
}

/// The number of the newest change in a conversation.
pub(crate) fn newest_change(conn: &Connection, conversation: i64) -> Result<i64, StoreError> {
    let query = "SELECT coalesce(max(change), 0) FROM entry WHERE conversation = ?";
    Ok(conn.prepare_cached(query)?.query_row([conversation], |row| row.get(0))?)
}

impl Store {
    fn seal_entry(&mut self, no: i64, record: &EntryRecord) -> Vec<u8> {
        self.seal_at("entry", no, "value", &Zeroizing::new(record.encode_to_vec()))
    }

    pub(crate) fn add_entry(&mut self, new: NewEntry, record: &EntryRecord) -> Result<i64, StoreError> {
        self.begin()?;
        let insert = "INSERT INTO entry (no, conversation, pos, role, change, arrival, chain, k, broken, value) \
                      VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
        let no = self.next_entry()?;
        let sealed = self.seal_entry(no, record);
        let (chain, k) = new.place.map_or((None, None), |(chain, k)| (Some(chain), Some(k.cast_signed())));
        let broken = new.broken.then_some(1);
        let values = params![no, new.conversation, new.pos, new.role as i64, new.change, new.arrival, chain, k, broken, sealed];
        self.conn.prepare_cached(insert)?.execute(values)?;
        Ok(no)
    }

    /// The row that the next entry will get: the value is sealed for it before it exists.
    fn next_entry(&self) -> Result<i64, StoreError> {
        let query = "SELECT seq + 1 FROM sqlite_sequence WHERE name = 'entry'";
        Ok(self.conn.prepare_cached(query)?.query_row([], |row| row.get(0)).optional()?.unwrap_or(1))
    }

    pub(crate) fn entry(&self, no: i64) -> Result<Option<StoredEntry>, StoreError> {
        Ok(select(&self.conn, &self.vault, "WHERE no = ?1", &[no])?.pop())
    }

    /// Rewrites an entry where it is.
    pub(crate) fn set_entry(&mut self, no: i64, change: i64, record: &EntryRecord) -> Result<(), StoreError> {
        self.begin()?;
        let sealed = self.seal_entry(no, record);
        self.conn.prepare_cached("UPDATE entry SET value = ?, change = ? WHERE no = ?")?.execute(params![sealed, change, no])?;
        Ok(())
    }

    /// Gives an own entry its place in the log.
    pub(crate) fn place_entry(&mut self, no: i64, pos: i64, change: i64, record: &EntryRecord) -> Result<(), StoreError> {
        self.set_entry(no, change, record)?;
        self.conn.prepare_cached("UPDATE entry SET pos = ? WHERE no = ?")?.execute(params![pos, no])?;
        Ok(())
    }

    /// An undecryptable entry was repaired: it arrives again, if it is another's.
    pub(crate) fn mend_entry(
        &mut self,
        no: i64,
        change: i64,
        arrival: Option<i64>,
        place: (i64, u64),
        record: &EntryRecord,
    ) -> Result<(), StoreError> {
        self.set_entry(no, change, record)?;
        let update = "UPDATE entry SET arrival = ?, chain = ?, k = ?, broken = NULL WHERE no = ?";
        self.conn.prepare_cached(update)?.execute(params![arrival, place.0, place.1.cast_signed(), no])?;
        Ok(())
    }

    /// c_k of what was received at (chain, k).
    pub(crate) fn received_at(&self, chain: i64, k: u64) -> Result<Option<StoredEntry>, StoreError> {
        Ok(select(&self.conn, &self.vault, "WHERE chain = ?1 AND k = ?2 LIMIT 1", &[chain, k.cast_signed()])?.pop())
    }

    /// Undecryptable entries of a conversation, oldest first, at most `limit`.
    pub(crate) fn broken(&self, conversation: i64, limit: i64) -> Result<Vec<StoredEntry>, StoreError> {
        select(&self.conn, &self.vault, "WHERE conversation = ?1 AND broken IS NOT NULL ORDER BY no LIMIT ?2", &[conversation, limit])
    }

    /// The newest entries of one role in a conversation, newest first, at most `limit`.
    pub(crate) fn newest_of(&self, conversation: i64, role: Role, limit: i64) -> Result<Vec<StoredEntry>, StoreError> {
        let rest = "WHERE conversation = ?1 AND role = ?2 ORDER BY pos DESC, no DESC LIMIT ?3";
        select(&self.conn, &self.vault, rest, &[conversation, role as i64, limit])
    }

    /// The own entry at a place of the log.
    pub(crate) fn own_at(&self, conversation: i64, seq: u64) -> Result<Option<StoredEntry>, StoreError> {
        let rest = "WHERE conversation = ?1 AND pos = ?2 AND role = 0 LIMIT 1";
        Ok(select(&self.conn, &self.vault, rest, &[conversation, seq.cast_signed()])?.pop())
    }

    /// How many of the other's messages have a place above `seq`.
    pub(crate) fn count_unread(&self, conversation: i64, seq: u64) -> Result<u64, StoreError> {
        let query = "SELECT count(*) FROM entry WHERE conversation = ? AND pos > ? AND role = 1";
        let count: i64 = self.conn.prepare_cached(query)?.query_row(params![conversation, seq.cast_signed()], |row| row.get(0))?;
        Ok(count.cast_unsigned())
    }

    /// The newest change and the newest arrival.
    pub(crate) fn entry_counters(&self) -> Result<(i64, i64), StoreError> {
        let query = "SELECT (SELECT coalesce(max(change), 0) FROM entry), (SELECT coalesce(max(arrival), 0) FROM entry)";
        Ok(self.conn.query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?)))?)
    }
}
