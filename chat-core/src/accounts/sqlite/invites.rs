//! Invite codes, of which only hashes are kept.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags, params};

use super::stored;
use crate::{accounts::AccountsError, domain::statement::Bytes32};

pub(super) fn add(db: &Connection, hashes: &[Bytes32], expires_ms: u64, now_ms: u64) -> Result<(), rusqlite::Error> {
    let mut insert = db.prepare_cached("INSERT INTO invite (hash, created_ms, expires_ms) VALUES (?, ?, ?)")?;
    for hash in hashes {
        insert.execute(params![hash, stored(now_ms), stored(expires_ms)])?;
    }
    Ok(())
}

/// Adds invites to the database file of a server, whether it runs or not: a connection of its own and one short transaction, which the server's writer
/// waits for. Nothing that the server keeps in memory depends on this table.
///
/// # Errors
/// If the file is no database that a server has opened before, or cannot be written.
pub fn add_invites_to_file(path: &Path, hashes: &[Bytes32], expires_ms: u64, now_ms: u64) -> Result<(), AccountsError> {
    let run = || {
        let mut db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        db.busy_timeout(Duration::from_secs(10))?;
        db.execute_batch("PRAGMA wal_autocheckpoint = 0; PRAGMA synchronous = FULL")?;
        let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        add(&tx, hashes, expires_ms, now_ms)?;
        tx.commit()
    };
    run().map_err(|error: rusqlite::Error| AccountsError::Unavailable(Box::new(error)))
}
