//! Families of refresh tokens, and the service's own secrets.

use kith_proto::id::DeviceRef;
use sqlx::{PgConnection, Row as _, postgres::PgRow};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use super::{Work, account_at, account_key, device_at, device_key, stored, u64_at};
use crate::{
    accounts::{AccountsError, NewLogin, Refresh},
    domain::statement::Bytes32,
};

/// Logins that a device may have at a time: more than one only when answers were lost or a store was copied.
const LOGINS_PER_DEVICE: i64 = 8;

pub(super) async fn open(db: &mut PgConnection, device: DeviceRef, login: &NewLogin, now_ms: u64) -> Work<()> {
    // Locks the row: a revocation comes wholly before or wholly after.
    let sql = "UPDATE device SET last_seen_ms = greatest(last_seen_ms, $3) WHERE id = $1 AND account = $2 AND revoked_ms IS NULL";
    let query = sqlx::query(sql).bind(device_key(device.device)).bind(account_key(device.account)).bind(stored(now_ms));
    if query.execute(&mut *db).await?.rows_affected() != 1 {
        return Err(AccountsError::Revoked.into());
    }
    // Whoever presents the same challenge at the same time has waited for that lock, and finds it spent. What the device used before leaves when it has ended, and not before by the database's
    // clock, since that of this process may be ahead.
    let sql = "WITH spent AS (
                   INSERT INTO spent_challenge (device, challenge, until_ms) VALUES ($2, $6, $7) ON CONFLICT DO NOTHING RETURNING device),
               forgotten AS (
                   DELETE FROM spent_challenge WHERE device = $2 AND until_ms <= least($4, (extract(epoch FROM clock_timestamp()) * 1000)::bigint)),
               ended AS (
                   DELETE FROM refresh_token WHERE family IN
                   (SELECT family FROM refresh_token WHERE device = $2 ORDER BY rotated_ms DESC, family OFFSET $8))
               INSERT INTO refresh_token (family, device, current, rotated_ms, expires_ms) SELECT $1, device, $3, $4, $5 FROM spent";
    let query = sqlx::query(sql).bind(Uuid::from_bytes(login.family)).bind(device_key(device.device)).bind(login.token);
    let query = query.bind(stored(now_ms)).bind(stored(login.expires_ms));
    let query = query.bind(Uuid::from_bytes(login.challenge.id)).bind(stored(login.challenge.until_ms)).bind(LOGINS_PER_DEVICE - 1);
    if query.execute(db).await?.rows_affected() != 1 {
        return Err(AccountsError::ChallengeSpent.into());
    }
    Ok(())
}

struct Family {
    current: Bytes32,
    previous: Option<Bytes32>,
    rotated_ms: u64,
    expires_ms: u64,
}

impl Family {
    fn read(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self { current: row.try_get(0)?, previous: row.try_get(1)?, rotated_ms: u64_at(row, 2)?, expires_ms: u64_at(row, 3)? })
    }
}

/// `None` refuses and yet commits: a family whose old token came back is deleted.
pub(super) async fn refresh(db: &mut PgConnection, refresh: &Refresh, now_ms: u64) -> Work<Option<DeviceRef>> {
    let family = Uuid::from_bytes(refresh.family);
    let Some(device) = lock_device(db, family).await? else { return Ok(None) };
    // Read only now: whoever changes a family holds this lock.
    let sql = "SELECT current, previous, rotated_ms, expires_ms FROM refresh_token WHERE family = $1";
    let found = sqlx::query(sql).bind(family).fetch_optional(&mut *db).await?;
    let Some(stored_family) = found.as_ref().map(Family::read).transpose()? else { return Ok(None) };
    let is = |hash: &Bytes32| bool::from(hash.ct_eq(&refresh.presented));
    let in_grace = now_ms.saturating_sub(stored_family.rotated_ms) <= refresh.grace_ms;
    let expired = stored_family.expires_ms <= now_ms;
    let sql = if is(&stored_family.current) && !expired {
        "WITH seen AS (UPDATE device SET last_seen_ms = greatest(last_seen_ms, $3) WHERE id = $5)
         UPDATE refresh_token SET previous = current, current = $2, rotated_ms = $3, expires_ms = $4 WHERE family = $1"
    } else if stored_family.previous.as_ref().is_some_and(is) && in_grace && !expired {
        // The answer with the newest token was lost. That token ends unused.
        "WITH seen AS (UPDATE device SET last_seen_ms = greatest(last_seen_ms, $3) WHERE id = $5)
         UPDATE refresh_token SET current = $2, expires_ms = $4 WHERE family = $1"
    } else {
        sqlx::query("DELETE FROM refresh_token WHERE family = $1").bind(family).execute(db).await?;
        return Ok(None);
    };
    let query = sqlx::query(sql).bind(family).bind(refresh.next).bind(stored(now_ms)).bind(stored(refresh.expires_ms));
    query.bind(device_key(device.device)).execute(db).await?;
    Ok(Some(device))
}

/// The device of a family, with its row locked.
async fn lock_device(db: &mut PgConnection, family: Uuid) -> Work<Option<DeviceRef>> {
    let sql = "SELECT account, id, revoked_ms IS NOT NULL FROM device WHERE id = (SELECT device FROM refresh_token WHERE family = $1)
               FOR NO KEY UPDATE";
    let Some(row) = sqlx::query(sql).bind(family).fetch_optional(db).await? else { return Ok(None) };
    if row.try_get(2)? {
        return Err(AccountsError::Revoked.into());
    }
    Ok(Some(DeviceRef { account: account_at(&row, 0)?, device: device_at(&row, 1)? }))
}

/// Two statements that may be run again: the first to insert decides for all.
pub(super) async fn secret(db: &mut PgConnection, name: &str, candidate: Bytes32) -> Work<Bytes32> {
    let sql = "INSERT INTO server_secret (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    sqlx::query(sql).bind(name).bind(candidate).execute(&mut *db).await?;
    Ok(sqlx::query_scalar("SELECT value FROM server_secret WHERE name = $1").bind(name).fetch_one(db).await?)
}
