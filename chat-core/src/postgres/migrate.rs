//! Brings the schema up to date, while other processes serve. Migrations are embedded, applied in the order of their names, each in one transaction, and
//! never edited once landed: a changed one is refused by its checksum.
//!
//! A file may begin with comment lines that say how to apply it:
//! `-- no-transaction` for what cannot run in one (an index built on a live table): its statements, each ended by a `;` at the end of a line, are run one by
//! one, and must do no harm when run again, since a crash between them is not undone;
//! `-- additive` for what an older program can live with, so that it may be restarted during a rolling upgrade. With any other unknown migration a program
//! refuses to start.

use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};
use tokio::time::timeout;

use super::{Address, OpenError, Options, address, error::FaultCause, pool::Pool};

/// A migration: name (`YYYYMMDDhhmmss_what`) and SQL.
type Migration = (&'static str, &'static str);

macro_rules! migration {
    ($name:literal) => {
        ($name, include_str!(concat!("../../migrations/postgres/", $name, ".sql")))
    };
}

/// All of them, in order. Add at the end; the folder and this list are compared by a test.
const MIGRATIONS: &[Migration] = &[
    migration!("20261121120000_accounts"),
    migration!("20261121130000_log"),
    migration!("20261121140000_outbox"),
    migration!("20261121200000_shown"),
    migration!("20261121201000_vacuum"),
    migration!("20261121210000_fence"),
    migration!("20261121220000_time"),
    migration!("20261121230000_sleeping"),
    migration!("20261122100000_range"),
    migration!("20261122110000_sent"),
    migration!("20261122111000_runs"),
    migration!("20261122120000_challenges"),
    migration!("20261122130000_order"),
    migration!("20261122140000_rising"),
    migration!("20261122150000_seldom"),
    migration!("20261122155000_previous"),
    migration!("20261122155500_landmarks"),
    migration!("20261122160000_chains"),
    migration!("20261122161000_unsent"),
];

/// Another form in which a migration was once applied, by the checksum of its text: databases made with it are as good, since what follows works on either.
///
/// `sleeping` made the index by time as one of ranges for a while; `range` puts such an index in the place of either.
const OTHER_FORMS: &[(&str, &str)] = &[("20261121230000_sleeping", "56b641d54dfd40f1a8474abde808bf32c2fedcc7a94a51eb9d7580e14488fd87")];

/// Names the advisory lock that whoever migrates holds: "kith" in ASCII.
const LOCK: i64 = 0x6b69_7468;
/// Another process that migrates is waited for.
const LOCK_WITHIN: Duration = Duration::from_secs(300);
const LOCK_EVERY: Duration = Duration::from_millis(100);
/// A migration may take this long in all.
const MIGRATION_WITHIN: Duration = Duration::from_secs(24 * 3_600);

const NO_TRANSACTION: &str = "-- no-transaction";
const ADDITIVE: &str = "-- additive";

/// Why a schema cannot be used or brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// It lacks migrations: run `kith migrate`.
    #[error("migration {0} is missing; run `kith migrate`")]
    Missing(&'static str),
    /// It was made by a newer program, whose migrations this one does not know.
    #[error("the schema was made by a newer version of this program (it has migration {0}, which this version does not know)")]
    FromTheFuture(String),
    /// A migration that was applied was changed afterwards.
    #[error("migration {0} differs from the one that this schema was made with")]
    Changed(&'static str),
    /// Another process has been migrating for too long.
    #[error("another process is migrating; try again")]
    Busy,
    /// A migration failed; nothing of it was kept, unless it is one of those that run without a transaction.
    #[error("migration {name} failed")]
    Failed {
        /// Which.
        name: &'static str,
        /// Why.
        source: sqlx::Error,
    },
    /// A statement of the runner itself failed.
    #[error("the schema cannot be read")]
    Sql(#[from] sqlx::Error),
}

/// Applies what is missing and returns the names of what was applied. Several processes may do this at a time. `now_ms` is recorded with each.
///
/// # Errors
/// If there is no connection, if the schema is newer or other than this program's, or if a migration fails.
pub async fn migrate(url: &str, now_ms: u64) -> Result<Vec<&'static str>, OpenError> {
    let (connect, address) = address::parse(url)?;
    // A statement takes what it takes.
    let options = Options { statement_within: Duration::ZERO, lock_within: Duration::ZERO, ..Options::new(url) };
    let pool = Pool::new(connect, address.clone(), options);
    let mut connection = pool.connect().await?;
    let migrated = timeout(MIGRATION_WITHIN, locked(&mut connection, MIGRATIONS, now_ms)).await;
    let migrated = migrated.map_err(|_| OpenError::Unavailable(pool.fault(FaultCause::TooLate)))?;
    let _ = timeout(Duration::from_secs(1), connection.close()).await;
    migrated.map_err(|source| outward(address, source))
}

/// As an older program does that knows no later one than this.
#[cfg(test)]
pub(crate) async fn migrate_until(connection: &mut PgConnection, last: &str) {
    let known = MIGRATIONS.iter().position(|(name, _)| *name == last).expect("a migration") + 1;
    locked(connection, &MIGRATIONS[..known], 0).await.unwrap();
}

fn outward(address: Address, source: MigrateError) -> OpenError {
    OpenError::Schema { address, source }
}

/// Whether the schema is the one that this program knows.
pub(super) async fn check(connection: &mut PgConnection) -> Result<(), MigrateError> {
    compare(connection, MIGRATIONS).await
}

async fn compare(connection: &mut PgConnection, migrations: &[Migration]) -> Result<(), MigrateError> {
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('schema_migration') IS NOT NULL").fetch_one(&mut *connection).await?;
    let applied = if exists { applied(connection).await? } else { Vec::new() };
    refuse_unknown(&applied, migrations)?;
    for &(name, sql) in migrations {
        if !is_applied(&applied, name, sql)? {
            return Err(MigrateError::Missing(name));
        }
    }
    Ok(())
}

struct Applied {
    name: String,
    checksum: Vec<u8>,
    additive: bool,
}

async fn applied(connection: &mut PgConnection) -> Result<Vec<Applied>, sqlx::Error> {
    let rows = sqlx::query("SELECT name, checksum, additive FROM schema_migration ORDER BY name").fetch_all(connection).await?;
    rows.iter().map(|row| Ok(Applied { name: row.try_get(0)?, checksum: row.try_get(1)?, additive: row.try_get(2)? })).collect()
}

fn refuse_unknown(applied: &[Applied], migrations: &[Migration]) -> Result<(), MigrateError> {
    let unknown = |a: &&Applied| !a.additive && migrations.iter().all(|(name, _)| *name != a.name);
    applied.iter().find(unknown).map_or(Ok(()), |a| Err(MigrateError::FromTheFuture(a.name.clone())))
}

fn is_applied(applied: &[Applied], name: &'static str, sql: &str) -> Result<bool, MigrateError> {
    match applied.iter().find(|a| a.name == name) {
        Some(known) if known.checksum == Sha256::digest(sql.as_bytes())[..] => Ok(true),
        Some(known) if OTHER_FORMS.contains(&(name, &hex::encode(&known.checksum))) => Ok(true),
        Some(_) => Err(MigrateError::Changed(name)),
        None => Ok(false),
    }
}

/// Holds the lock meanwhile. The server lets go of it when the connection ends, however that comes.
async fn locked(connection: &mut PgConnection, migrations: &[Migration], now_ms: u64) -> Result<Vec<&'static str>, MigrateError> {
    // Asked for again and again rather than waited for: who waits inside a statement holds up an index that is being built beside others.
    let begun = Instant::now();
    while !sqlx::query_scalar::<_, bool>("SELECT pg_try_advisory_lock($1)").bind(LOCK).fetch_one(&mut *connection).await? {
        if begun.elapsed() > LOCK_WITHIN {
            return Err(MigrateError::Busy);
        }
        tokio::time::sleep(LOCK_EVERY).await;
    }
    let migrated = apply(connection, migrations, now_ms).await;
    sqlx::query("SELECT pg_advisory_unlock($1)").bind(LOCK).execute(connection).await?;
    migrated
}

async fn apply(connection: &mut PgConnection, migrations: &[Migration], now_ms: u64) -> Result<Vec<&'static str>, MigrateError> {
    let sql = "CREATE TABLE IF NOT EXISTS schema_migration (
        name text COLLATE \"C\" PRIMARY KEY, checksum bytea NOT NULL, additive boolean NOT NULL, applied_ms bigint NOT NULL)";
    sqlx::query(sql).execute(&mut *connection).await?;
    let before = applied(connection).await?;
    refuse_unknown(&before, migrations)?;
    let mut new = Vec::new();
    for &(name, sql) in migrations {
        if is_applied(&before, name, sql)? {
            continue;
        }
        apply_one(connection, name, sql, now_ms).await.map_err(|source| MigrateError::Failed { name, source })?;
        tracing::info!(name, "migrated");
        new.push(name);
    }
    Ok(new)
}

async fn apply_one(connection: &mut PgConnection, name: &str, sql: &'static str, now_ms: u64) -> Result<(), sqlx::Error> {
    if has_mark(sql, NO_TRANSACTION) {
        for statement in sql.split_inclusive(";\n").filter(|s| !s.trim().is_empty()) {
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *connection).await?;
        }
        return record(connection, name, sql, now_ms).await;
    }
    let mut transaction = connection.begin().await?;
    // A lock that is not to be had is given up soon, because everybody else queues up behind who waits for it.
    sqlx::raw_sql("SET LOCAL lock_timeout = '5s'").execute(&mut *transaction).await?;
    sqlx::raw_sql(sql).execute(&mut *transaction).await?;
    record(&mut transaction, name, sql, now_ms).await?;
    transaction.commit().await
}

async fn record(connection: &mut PgConnection, name: &str, sql: &str, now_ms: u64) -> Result<(), sqlx::Error> {
    let query = sqlx::query("INSERT INTO schema_migration (name, checksum, additive, applied_ms) VALUES ($1, $2, $3, $4)");
    let query = query.bind(name).bind(&Sha256::digest(sql.as_bytes())[..]).bind(has_mark(sql, ADDITIVE));
    query.bind(i64::try_from(now_ms).unwrap_or(i64::MAX)).execute(connection).await.map(|_| ())
}

/// Whether one of the comment lines at the top is this one.
fn has_mark(sql: &str, mark: &str) -> bool {
    sql.lines().take_while(|line| line.starts_with("--")).any(|line| line.trim_end() == mark)
}

#[cfg(test)]
mod tests {
    use kith_harness::{Database, Postgres as Server};

    use super::*;

    const ONE: Migration = ("20260101000000_one", "CREATE TABLE one (a int); INSERT INTO one VALUES (1)");
    const TWO: Migration = ("20260102000000_two", "-- additive\nCREATE TABLE two (a int);\n");
    const INDEX: Migration =
        ("20260103000000_index", "-- no-transaction\nDROP INDEX CONCURRENTLY IF EXISTS one_a;\nCREATE INDEX CONCURRENTLY one_a ON one (a);\n");

    async fn database() -> (Database, PgConnection) {
        let database = Server::shared().database().await;
        let connection = PgConnection::connect(&database.url()).await.unwrap();
        (database, connection)
    }

    async fn count(connection: &mut PgConnection, what: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) FROM {what}"))).fetch_one(connection).await.unwrap()
    }

    #[tokio::test]
    async fn applies_each_once() {
        let (_database, mut db) = database().await;
        assert_eq!(locked(&mut db, &[ONE], 1).await.unwrap(), [ONE.0]);
        assert!(matches!(compare(&mut db, &[ONE, TWO]).await, Err(MigrateError::Missing(name)) if name == TWO.0));
        assert_eq!(locked(&mut db, &[ONE, TWO, INDEX], 2).await.unwrap(), [TWO.0, INDEX.0]);
        assert!(locked(&mut db, &[ONE, TWO, INDEX], 3).await.unwrap().is_empty());
        compare(&mut db, &[ONE, TWO, INDEX]).await.unwrap();
        assert_eq!(count(&mut db, "one").await, 1);
        assert_eq!(count(&mut db, "pg_index WHERE indexrelid = 'one_a'::regclass AND indisvalid").await, 1);
    }

    #[tokio::test]
    async fn several_at_a_time_apply_each_once() {
        let database = Server::shared().database().await;
        let url = database.url();
        let (a, b, c) = tokio::join!(migrate(&url, 1), migrate(&url, 1), migrate(&url, 1));
        let mut applied = [a.unwrap(), b.unwrap(), c.unwrap()].map(|names| names.len());
        applied.sort_unstable();
        assert_eq!(applied, [0, 0, MIGRATIONS.len()]);
    }

    #[tokio::test]
    async fn refuses_a_newer_schema_and_a_changed_migration() {
        let (_database, mut db) = database().await;
        locked(&mut db, &[ONE, INDEX], 1).await.unwrap();
        assert!(matches!(locked(&mut db, &[ONE], 1).await, Err(MigrateError::FromTheFuture(name)) if name == INDEX.0));
        assert!(matches!(compare(&mut db, &[ONE]).await, Err(MigrateError::FromTheFuture(_))));
        let changed = (ONE.0, "CREATE TABLE three (a int)");
        assert!(matches!(locked(&mut db, &[changed, INDEX], 1).await, Err(MigrateError::Changed(name)) if name == ONE.0));
        assert!(matches!(compare(&mut db, &[changed, INDEX]).await, Err(MigrateError::Changed(_))));
    }

    #[tokio::test]
    async fn an_older_program_lives_with_an_additive_migration() {
        let (_database, mut db) = database().await;
        locked(&mut db, &[ONE, TWO], 1).await.unwrap();
        compare(&mut db, &[ONE]).await.unwrap();
        assert!(locked(&mut db, &[ONE], 1).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_failing_migration_leaves_nothing_and_lets_go_of_the_lock() {
        let (database, mut db) = database().await;
        let bad = ("20260101000000_bad", "CREATE TABLE half (a int); CREATE nonsense");
        assert!(matches!(locked(&mut db, &[bad], 1).await, Err(MigrateError::Failed { name, .. }) if name == bad.0));
        assert_eq!(count(&mut db, "pg_class WHERE relname = 'half'").await, 0);
        let mut other = PgConnection::connect(&database.url()).await.unwrap();
        assert_eq!(locked(&mut other, &[ONE], 1).await.unwrap(), [ONE.0]);
    }

    #[tokio::test]
    async fn another_form_of_a_migration_is_known_for_what_it_is() {
        let (_database, mut db) = database().await;
        let (name, checksum) = OTHER_FORMS[0];
        assert!(MIGRATIONS.iter().any(|(known, _)| *known == name));
        locked(&mut db, &[ONE, (name, "SELECT 1")], 1).await.unwrap();
        let as_is = (name, "SELECT 2");
        assert!(matches!(compare(&mut db, &[ONE, as_is]).await, Err(MigrateError::Changed(changed)) if changed == name));
        let query = sqlx::query("UPDATE schema_migration SET checksum = $1 WHERE name = $2").bind(hex::decode(checksum).unwrap()).bind(name);
        query.execute(&mut db).await.unwrap();
        compare(&mut db, &[ONE, as_is]).await.unwrap();
        assert!(locked(&mut db, &[ONE, as_is], 2).await.unwrap().is_empty());
    }

    #[test]
    fn the_list_is_the_folder() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/postgres");
        let mut files: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap().trim_end_matches(".sql").to_owned()).collect();
        files.sort();
        assert_eq!(files, MIGRATIONS.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    }
}
