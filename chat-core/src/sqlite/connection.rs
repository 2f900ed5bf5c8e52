//! How connections are set up.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags};

use super::Durability;

/// The one connection that writes. It never checkpoints: see `checkpoint`.
pub(crate) fn writer(path: &Path, durability: Durability) -> Result<Connection, rusqlite::Error> {
    let db = open(path)?;
    let synchronous = match durability {
        Durability::Full => "FULL",
        Durability::None => "OFF",
    };
    db.execute_batch(&format!("PRAGMA synchronous = {synchronous}; PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = -8192;"))?;
    db.set_prepared_statement_cache_capacity(128);
    Ok(db)
}

/// A connection that only reads.
pub(crate) fn reader(path: &Path) -> Result<Connection, rusqlite::Error> {
    let db = open(path)?;
    db.execute_batch("PRAGMA query_only = ON; PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = -1024;")?;
    db.set_prepared_statement_cache_capacity(128);
    Ok(db)
}

/// The connection that checkpoints. Syncs the database file unless told that nothing needs to last.
pub(crate) fn checkpointer(path: &Path, durability: Durability) -> Result<Connection, rusqlite::Error> {
    let db = writer(path, durability)?;
    // Starting the log over waits for readers, and the writer waits with it: rather try again later.
    db.busy_timeout(Duration::from_millis(20))?;
    Ok(db)
}

fn open(path: &Path) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(Duration::from_secs(10))?;
    // `journal_size_limit` gives disk space back after a burst; `secure_delete` off and `temp_store` in memory are worth time on the append path.
    db.execute_batch("PRAGMA journal_mode = WAL; PRAGMA temp_store = MEMORY; PRAGMA journal_size_limit = 67108864; PRAGMA foreign_keys = ON;")?;
    Ok(db)
}
