//! What others may see of an account's presence.

use kith_proto::id::AccountId;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::{Work, account_at, account_key, stored, u64_at};
use crate::accounts::PresenceSetting;

/// Locks in the order of ids, since other processes note theirs at the same time.
pub(super) async fn seen(db: &mut PgConnection, seen: &[(AccountId, u64)]) -> Work<()> {
    let sql = "WITH given AS (SELECT id, max(at_ms) AS at_ms FROM unnest($1::uuid[], $2::bigint[]) AS g (id, at_ms) GROUP BY id),
                    locked AS (SELECT a.id, g.at_ms FROM account a JOIN given g ON g.id = a.id WHERE a.last_seen_ms < g.at_ms
                               ORDER BY a.id FOR NO KEY UPDATE OF a)
               UPDATE account a SET last_seen_ms = greatest(a.last_seen_ms, l.at_ms) FROM locked l WHERE a.id = l.id";
    let accounts: Vec<Uuid> = seen.iter().map(|(account, _)| account_key(*account)).collect();
    let times: Vec<i64> = seen.iter().map(|(_, at_ms)| stored(*at_ms)).collect();
    sqlx::query(sql).bind(accounts).bind(times).execute(db).await?;
    Ok(())
}

pub(super) async fn hide(db: &mut PgConnection, account: AccountId, hidden: bool) -> Work<()> {
    sqlx::query("UPDATE account SET presence_hidden = $2 WHERE id = $1").bind(account_key(account)).bind(hidden).execute(db).await?;
    Ok(())
}

/// In the order asked for.
pub(super) async fn settings(db: &mut PgConnection, accounts: &[AccountId]) -> Work<Vec<PresenceSetting>> {
    let sql = "SELECT a.id, a.presence_hidden, a.last_seen_ms FROM unnest($1::uuid[]) WITH ORDINALITY AS g (id, place)
               JOIN account a ON a.id = g.id ORDER BY g.place";
    let accounts: Vec<Uuid> = accounts.iter().map(|account| account_key(*account)).collect();
    let mut settings = Vec::with_capacity(accounts.len());
    for row in sqlx::query(sql).bind(accounts).fetch_all(db).await? {
        settings.push(PresenceSetting { account: account_at(&row, 0)?, hidden: row.try_get(1)?, last_seen_ms: u64_at(&row, 2)? });
    }
    Ok(settings)
}
