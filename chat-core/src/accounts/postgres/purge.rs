//! Deleting what has ended, in small transactions; several processes may do it at a time.

use sqlx::PgConnection;

use super::{Work, stored};
use crate::{
    accounts::AccountsError,
    postgres::{Postgres, StoreError},
};

/// Rows deleted in one transaction.
const BATCH: i64 = 500;

/// What another process is deleting, or somebody is just renewing, is left to them. `$1` is the time in milliseconds; a challenge is remembered also if the clock here is ahead.
const ENDED: [&str; 4] = [
    "DELETE FROM refresh_token WHERE ctid = ANY (ARRAY (
         SELECT ctid FROM refresh_token WHERE expires_ms <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED))",
    "DELETE FROM spent_challenge WHERE ctid = ANY (ARRAY (
         SELECT ctid FROM spent_challenge WHERE until_ms <= least($1, (extract(epoch FROM clock_timestamp()) * 1000)::bigint) LIMIT $2 FOR UPDATE SKIP LOCKED))",
    "DELETE FROM invite WHERE ctid = ANY (ARRAY (SELECT ctid FROM invite WHERE expires_ms <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED))",
    "DELETE FROM prekey_fetch WHERE ctid = ANY (ARRAY (
         SELECT ctid FROM prekey_fetch WHERE full_at_us <= $1 * 1000 LIMIT $2 FOR UPDATE SKIP LOCKED))",
];

pub(super) async fn purge(db: &Postgres, now_ms: u64) -> Result<u64, StoreError<AccountsError>> {
    // Microseconds of a later time would not fit.
    let now = stored(now_ms).min(i64::MAX / 1000);
    let mut deleted = 0;
    for what in 0..ENDED.len() {
        loop {
            let rows = db.statement("account.purge", &(what, now), async |db, (what, now)| batch(db, ENDED[*what], *now).await).await?;
            deleted += rows;
            if rows == 0 {
                break;
            }
        }
    }
    Ok(deleted)
}

async fn batch(db: &mut PgConnection, sql: &'static str, now: i64) -> Work<u64> {
    Ok(sqlx::query(sql).bind(now).bind(BATCH).execute(db).await?.rows_affected())
}

/// Writes a row of its own, which changes nothing, and so shows that the storage takes writes.
pub(super) async fn probe(db: &mut PgConnection) -> Work<()> {
    let sql = "INSERT INTO probe (one, times) VALUES (true, 1) ON CONFLICT (one) DO UPDATE SET times = probe.times + 1";
    sqlx::query(sql).execute(db).await?;
    Ok(())
}
