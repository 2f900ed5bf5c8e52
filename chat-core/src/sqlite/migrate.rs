//! Brings the schema of a database file up to date. Migrations are embedded, applied in the order of their names, each in one transaction, and never
//! edited once landed: a changed one is refused by its checksum.

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};
use sha2::{Digest as _, Sha256};

/// A migration: name (`YYYYMMDDhhmmss_what`) and SQL.
type Migration = (&'static str, &'static str);

macro_rules! migration {
    ($name:literal) => {
        ($name, include_str!(concat!("../../migrations/sqlite/", $name, ".sql")))
    };
}

/// All of them, in order. Add at the end; the folder and this list are compared by a test.
const MIGRATIONS: &[Migration] = &[
    migration!("20261121090000_log"),
    migration!("20261121100000_accounts"),
    migration!("20261121140000_outbox"),
    migration!("20261121200000_shown"),
    migration!("20261121230000_sleeping"),
    migration!("20261122120000_challenges"),
];

/// Why a schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The file was written by a newer program, whose migrations this one does not know.
    #[error("the database was written by a newer version of this program (it has migration {0}, which this version does not know)")]
    FromTheFuture(String),
    /// A migration that the file has was changed afterwards.
    #[error("migration {0} differs from the one that this database was made with")]
    Changed(String),
    /// SQLite failed.
    #[error("a migration failed")]
    Sqlite(#[from] rusqlite::Error),
}

/// Applies what is missing. `now_ms` is recorded with each.
pub(crate) fn run(db: &mut Connection, now_ms: u64) -> Result<(), MigrateError> {
    apply(db, MIGRATIONS, now_ms)
}

fn apply(db: &mut Connection, migrations: &[Migration], now_ms: u64) -> Result<(), MigrateError> {
    db.execute_batch(
        "CREATE TABLE IF NOT EXISTS schema_migration(name TEXT PRIMARY KEY, checksum BLOB NOT NULL, applied_ms INTEGER NOT NULL) STRICT",
    )?;
    refuse_unknown(db, migrations)?;
    for (name, sql) in migrations {
        let checksum = Sha256::digest(sql.as_bytes());
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let known: Option<Vec<u8>> = tx.query_row("SELECT checksum FROM schema_migration WHERE name = ?", [name], |row| row.get(0)).optional()?;
        match known {
            Some(known) if known == checksum[..] => continue,
            Some(_) => return Err(MigrateError::Changed((*name).to_owned())),
            None => {}
        }
        tx.execute_batch(sql)?;
        let now = i64::try_from(now_ms).unwrap_or(i64::MAX);
        tx.execute("INSERT INTO schema_migration(name, checksum, applied_ms) VALUES (?, ?, ?)", params![name, &checksum[..], now])?;
        tx.commit()?;
    }
    Ok(())
}

fn refuse_unknown(db: &Connection, migrations: &[Migration]) -> Result<(), MigrateError> {
    let mut query = db.prepare("SELECT name FROM schema_migration ORDER BY name")?;
    for name in query.query_map([], |row| row.get::<_, String>(0))? {
        let name = name?;
        if !migrations.iter().any(|(known, _)| *known == name) {
            return Err(MigrateError::FromTheFuture(name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Migration = ("20260101000000_one", "CREATE TABLE one(a)");
    const TWO: Migration = ("20260102000000_two", "CREATE TABLE two(a); INSERT INTO two VALUES (1)");

    #[test]
    fn applies_each_once() {
        let mut db = Connection::open_in_memory().unwrap();
        apply(&mut db, &[ONE], 1).unwrap();
        apply(&mut db, &[ONE, TWO], 2).unwrap();
        apply(&mut db, &[ONE, TWO], 3).unwrap();
        assert_eq!(db.query_row("SELECT count(*) FROM two", [], |r| r.get::<_, i64>(0)).unwrap(), 1);
    }

    #[test]
    fn refuses_a_newer_database_and_a_changed_migration() {
        let mut db = Connection::open_in_memory().unwrap();
        apply(&mut db, &[ONE, TWO], 1).unwrap();
        assert!(matches!(apply(&mut db, &[ONE], 1), Err(MigrateError::FromTheFuture(name)) if name == TWO.0));
        assert!(matches!(apply(&mut db, &[ONE, (TWO.0, "CREATE TABLE three(a)")], 1), Err(MigrateError::Changed(_))));
    }

    #[test]
    fn a_failing_migration_leaves_nothing() {
        let mut db = Connection::open_in_memory().unwrap();
        assert!(apply(&mut db, &[("20260101000000_bad", "CREATE TABLE half(a); CREATE nonsense")], 1).is_err());
        assert_eq!(db.query_row("SELECT count(*) FROM sqlite_master WHERE name = 'half'", [], |r| r.get::<_, i64>(0)).unwrap(), 0);
    }

    #[test]
    fn the_list_is_the_folder() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/sqlite");
        let mut files: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap().trim_end_matches(".sql").to_owned()).collect();
        files.sort();
        assert_eq!(files, MIGRATIONS.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    }
}
