//! Storing prekeys and saying what is stored.

use kith_proto::id::{DeviceId, DeviceRef};
use sqlx::PgConnection;

use super::{Work, account_key, device_key, stored, u32_at, u64_at};
use crate::{
    accounts::{AccountsError, PrekeyCaps, PrekeyState},
    domain::prekeys::{Kind, VerifiedPrekeys},
    postgres::Failure,
};

pub(super) async fn add(db: &mut PgConnection, prekeys: &VerifiedPrekeys, caps: PrekeyCaps) -> Work<PrekeyState> {
    let device = prekeys.device();
    let sql = "SELECT prekey_highest, one_time, one_time_kem FROM device WHERE id = $1 AND account = $2 AND revoked_ms IS NULL FOR NO KEY UPDATE";
    let row = sqlx::query(sql).bind(device_key(device.device)).bind(account_key(device.account)).fetch_optional(&mut *db).await?;
    let row = row.ok_or(Failure::Refused(AccountsError::Revoked))?;
    if prekeys.lowest_id() <= u32_at::<i64>(&row, 0)? {
        return Err(AccountsError::PrekeyIdUsed.into());
    }
    let over = |had: u32, kind, cap| had.saturating_add(prekeys.count(kind)) > cap && prekeys.count(kind) > 0;
    if over(u32_at::<i32>(&row, 1)?, Kind::OneTime, caps.one_time) || over(u32_at::<i32>(&row, 2)?, Kind::OneTimeKem, caps.one_time_kem) {
        return Err(AccountsError::PrekeyLimit.into());
    }
    insert(db, device.device, prekeys).await?;
    state(db, device).await
}

/// Inserts keys that are known to be new, under the lock of the device; a signed or last-resort key takes the place of the one before.
pub(super) async fn insert(db: &mut PgConnection, device: DeviceId, prekeys: &VerifiedPrekeys) -> Work<()> {
    let keys = prekeys.keys();
    let replaced: Vec<i16> = keys.iter().filter(|k| matches!(k.kind, Kind::Signed | Kind::LastResortKem)).map(|k| k.kind as i16).collect();
    if !replaced.is_empty() {
        let sql = "DELETE FROM prekey WHERE device = $1 AND kind = ANY ($2)";
        sqlx::query(sql).bind(device_key(device)).bind(&replaced).execute(&mut *db).await?;
    }
    let signature = |k: &'_ crate::domain::prekeys::Prekey| if k.kind == Kind::OneTime { Vec::new() } else { k.signature.to_vec() };
    let sql = "INSERT INTO prekey (device, kind, id, created_ms, key, signature)
               SELECT $1, n.* FROM unnest($2::smallint[], $3::bigint[], $4::bigint[], $5::bytea[], $6::bytea[]) AS n";
    sqlx::query(sql)
        .bind(device_key(device))
        .bind(keys.iter().map(|k| k.kind as i16).collect::<Vec<_>>())
        .bind(keys.iter().map(|k| i64::from(k.id)).collect::<Vec<_>>())
        .bind(keys.iter().map(|k| stored(k.created_ms)).collect::<Vec<_>>())
        .bind(keys.iter().map(|k| k.key.as_slice()).collect::<Vec<_>>())
        .bind(keys.iter().map(signature).collect::<Vec<_>>())
        .execute(&mut *db)
        .await?;
    let sql = "UPDATE device SET one_time = one_time + $2, one_time_kem = one_time_kem + $3, prekey_highest = $4 WHERE id = $1";
    let count = |kind| i32::try_from(prekeys.count(kind)).unwrap_or(i32::MAX);
    let query = sqlx::query(sql).bind(device_key(device)).bind(count(Kind::OneTime)).bind(count(Kind::OneTimeKem));
    query.bind(i64::from(prekeys.highest_id())).execute(db).await?;
    Ok(())
}

pub(super) async fn state(db: &mut PgConnection, caller: DeviceRef) -> Work<PrekeyState> {
    // Every device has a signed and a last-resort key; one that had not would show as an error, not as revoked.
    let sql = "SELECT d.one_time, d.one_time_kem, d.prekey_highest, s.id, s.created_ms, l.id, l.created_ms
               FROM device d LEFT JOIN prekey s ON s.device = d.id AND s.kind = 1 LEFT JOIN prekey l ON l.device = d.id AND l.kind = 3
               WHERE d.id = $1 AND d.account = $2 AND d.revoked_ms IS NULL";
    let row = sqlx::query(sql).bind(device_key(caller.device)).bind(account_key(caller.account)).fetch_optional(db).await?;
    let row = row.ok_or(Failure::Refused(AccountsError::Revoked))?;
    Ok(PrekeyState {
        one_time: u32_at::<i32>(&row, 0)?,
        one_time_kem: u32_at::<i32>(&row, 1)?,
        highest_id: u32_at::<i64>(&row, 2)?,
        signed: (u32_at::<i64>(&row, 3)?, u64_at(&row, 4)?),
        last_resort: (u32_at::<i64>(&row, 5)?, u64_at(&row, 6)?),
    })
}
