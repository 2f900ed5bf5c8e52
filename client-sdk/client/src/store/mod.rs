//! The store: one SQLite file in the home folder, its values sealed, written by one thread of one process.
//!
//! WAL with synchronous FULL (and full fsync on Apple systems), so that what a commit reported is on the disk; secure_delete and a truncated WAL, so that
//! erased keys do not linger in free pages. A kernel lock on a file beside it keeps a second process out; the writer epoch, checked in every transaction,
//! catches the case that the lock did not (a network file system). What exists and cannot be read is an error, never a fresh start.
//!
//! What stays visible to someone who copies the folder without its key: how many rows there are, their sizes, their order and which belong together.

pub(crate) mod codes;
mod entries;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod key;
mod reader;
pub(crate) mod records;
mod rows;

pub(crate) use entries::{NewEntry, PENDING, Role, StoredEntry};
pub(crate) use key::is_bare;
pub(crate) use reader::Reader;
pub(crate) use rows::SessionRow;

use crate::builder::Passphrase;
use crate::error::OpenError;
use kith_crypto::StateError;
use kith_crypto::seal::{Place, SealedError, StoreKey};
use rand::SeedableRng as _;
use rand::rngs::{StdRng, SysRng};
use rusqlite::{Connection, OpenFlags};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;
use zeroize::Zeroizing;

const SCHEMA: &str = include_str!("schema.sql");
const SCHEMA_VERSION: i64 = 1;
const DATABASE: &str = "store.db";
/// Held by the process that has the store open.
const LOCK: &str = "store.lock";

/// Why the store could not do something. Nothing of the transaction remains.
#[derive(Debug, Error)]
pub(crate) enum StoreError {
    #[error("database: {0}")]
    Database(#[from] rusqlite::Error),
    #[error("a stored {0} does not open: {1}")]
    Sealed(&'static str, SealedError),
    #[error("a stored state is unreadable: {0}")]
    State(#[from] StateError),
    #[error("a stored {0} is malformed")]
    Malformed(&'static str),
    #[error("another process has written to this store")]
    OtherWriter,
}

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Database(error) => Self::Storage(error.to_string()),
            StoreError::OtherWriter => Self::InUse,
            other => Self::Damaged(other.to_string()),
        }
    }
}

/// The sealing half, shared by the writer and the reader.
#[derive(Clone, Debug)]
pub(crate) struct Vault(Arc<StoreKey>);

impl Vault {
    pub(crate) fn open(&self, table: &'static str, row: &[u8], column: &'static str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        self.0.open(Place { table, row, column }, sealed).map_err(|error| StoreError::Sealed(table, error))
    }

    pub(crate) fn open_at(&self, table: &'static str, row: i64, column: &'static str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        self.open(table, &row.to_be_bytes(), column, sealed)
    }

    fn seal(&self, rng: &mut StdRng, table: &'static str, row: &[u8], column: &'static str, value: &[u8]) -> Vec<u8> {
        self.0.seal(rng, Place { table, row, column }, value)
    }
}

/// The write side. It belongs to the engine alone.
pub(crate) struct Store {
    conn: Connection,
    vault: Vault,
    pub(crate) rng: StdRng,
    path: PathBuf,
    writer: i64,
    in_transaction: bool,
    _lock: File,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

fn storage(error: impl std::fmt::Display) -> OpenError {
    OpenError::Storage(error.to_string())
}

/// Whether a store lives in this folder.
pub(crate) fn exists(home: &Path) -> bool {
    home.join(DATABASE).exists()
}

/// Randomness from the system; that it fails ends the attempt (A48).
pub(crate) fn seeded_rng() -> Result<StdRng, OpenError> {
    StdRng::try_from_rng(&mut SysRng).map_err(storage)
}

impl Store {
    /// Makes the folder, its key and an empty store; or opens the one that is there.
    pub(crate) fn create(home: &Path, passphrase: Option<&Passphrase>) -> Result<Self, OpenError> {
        create_private_folder(home)?;
        let lock = lock(home)?;
        let mut rng = seeded_rng()?;
        if exists(home) {
            return Self::open_locked(home, passphrase, lock, rng);
        }
        let key = key::create(home, passphrase, &mut rng)?;
        // The schema is made in a file of another name, so that a crash leaves nothing that looks like a store.
        let fresh = home.join("store.new");
        let _ = fs::remove_file(&fresh);
        let conn = Connection::open(&fresh).map_err(storage)?;
        conn.pragma_update(None, "synchronous", "FULL").map_err(storage)?;
        conn.execute_batch(&format!("BEGIN; {SCHEMA} COMMIT;")).map_err(storage)?;
        conn.close().map_err(|(_, error)| storage(error))?;
        fs::rename(&fresh, home.join(DATABASE)).map_err(storage)?;
        File::open(home).and_then(|folder| folder.sync_all()).map_err(storage)?;
        Self::with(home, key, lock, rng)
    }

    /// Opens the store in `home`.
    pub(crate) fn open(home: &Path, passphrase: Option<&Passphrase>) -> Result<Self, OpenError> {
        if !exists(home) {
            return Err(OpenError::NotRegistered);
        }
        Self::open_locked(home, passphrase, lock(home)?, seeded_rng()?)
    }

    fn open_locked(home: &Path, passphrase: Option<&Passphrase>, lock: File, rng: StdRng) -> Result<Self, OpenError> {
        Self::with(home, key::load(home, passphrase)?, lock, rng)
    }

    fn with(home: &Path, key: StoreKey, lock: File, rng: StdRng) -> Result<Self, OpenError> {
        let path = home.join(DATABASE);
        let conn = Connection::open(&path).map_err(storage)?;
        prepare(&conn).map_err(storage)?;
        let version: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(storage)?;
        if version != SCHEMA_VERSION {
            return Err(OpenError::TooNew);
        }
        conn.execute("UPDATE writer SET epoch = epoch + 1", []).map_err(storage)?;
        let writer = conn.query_row("SELECT epoch FROM writer", [], |row| row.get(0)).map_err(storage)?;
        Ok(Self { conn, vault: Vault(Arc::new(key)), rng, path, writer, in_transaction: false, _lock: lock })
    }

    /// A reader with a connection and thread of its own.
    pub(crate) fn reader(&self) -> Result<Reader, OpenError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(&self.path, flags).map_err(storage)?;
        conn.busy_timeout(std::time::Duration::from_secs(5)).map_err(storage)?;
        Reader::start(conn, self.vault.clone()).map_err(storage)
    }

    /// Begins a transaction if none is open, and checks that nobody else has opened the store for writing meanwhile.
    fn begin(&mut self) -> Result<(), StoreError> {
        if self.in_transaction {
            return Ok(());
        }
        self.conn.execute_batch("BEGIN IMMEDIATE")?;
        self.in_transaction = true;
        let epoch: i64 = self.conn.prepare_cached("SELECT epoch FROM writer")?.query_row([], |row| row.get(0))?;
        if epoch == self.writer { Ok(()) } else { Err(StoreError::OtherWriter) }
    }

    /// Makes everything since the last commit durable. Tells whether there was anything.
    pub(crate) fn commit(&mut self) -> Result<bool, StoreError> {
        if !self.in_transaction {
            return Ok(false);
        }
        self.conn.execute_batch("COMMIT")?;
        self.in_transaction = false;
        Ok(true)
    }

    /// Undoes everything since the last commit.
    pub(crate) fn rollback(&mut self) {
        if std::mem::take(&mut self.in_transaction) {
            // When COMMIT itself failed there may be no transaction left; then there is nothing to undo.
            let _ = self.conn.execute_batch("ROLLBACK");
        }
    }

    /// Writes the WAL back and cuts it to nothing, so that erased keys do not linger in it. A busy reader only postpones it.
    pub(crate) fn truncate_wal(&self) {
        let _ = self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }

    fn seal_at(&mut self, table: &'static str, row: i64, column: &'static str, value: &[u8]) -> Vec<u8> {
        self.vault.seal(&mut self.rng, table, &row.to_be_bytes(), column, value)
    }
}

fn prepare(conn: &Connection) -> rusqlite::Result<()> {
    conn.busy_timeout(std::time::Duration::from_secs(5))?;
    conn.pragma_update(None, "secure_delete", "ON")?;
    conn.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    if cfg!(any(target_os = "macos", target_os = "ios")) {
        conn.pragma_update(None, "fullfsync", "ON")?;
        conn.pragma_update(None, "checkpoint_fullfsync", "ON")?;
    }
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(())
}

fn create_private_folder(home: &Path) -> Result<(), OpenError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(home).map_err(storage)
}

/// Takes the kernel's lock on the folder. It ends with the process, however that ends; there is no time-out.
fn lock(home: &Path) -> Result<File, OpenError> {
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(home.join(LOCK)).map_err(storage)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse),
        Err(TryLockError::Error(error)) => Err(storage(error)),
    }
}

#[cfg(test)]
mod tests;
