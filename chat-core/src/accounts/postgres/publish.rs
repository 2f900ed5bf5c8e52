//! New versions of a device list, rotations, leaving.

use kith_proto::id::{AccountId, DeviceId, DeviceRef};
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::{Work, account_key, current, device_key, logins, prekeys, stored, u64_at};
use crate::{
    accounts::{AccountsError, NewDevice, Publication},
    bus::{Event, What, outbox},
    domain::{
        device_list::{Certified, VerifiedList},
        statement::{Bytes32, Signed},
    },
    log::postgres::{enroll, retire},
};

const LIST: i16 = 1;
pub(super) const ROTATION: i16 = 2;

pub(super) async fn publish(db: &mut PgConnection, caller: Option<DeviceRef>, publication: &Publication, now_ms: u64) -> Work<Vec<DeviceRef>> {
    let (list, base) = (publication.list.list(), &publication.base);
    let newest = lock_account(db, base.account).await?;
    if let Some(caller) = caller {
        current(db, caller).await?;
    }
    if newest != Some((base.version, base.hash)) {
        return Err(AccountsError::ListConflict.into());
    }
    if let Some(rotation) = &publication.rotation {
        store_statement(db, base.account, base.version + 1, ROTATION, rotation).await?;
    }
    store_list(db, &publication.list).await?;
    let before = lock_devices(db, list.account).await?;
    let new = place_devices(db, publication, now_ms).await?;
    // Entries that were known must still be current: one may have left meanwhile.
    if list.entries.iter().any(|(device, _)| !before.contains(device) && !new.contains(device)) {
        return Err(AccountsError::ListConflict.into());
    }
    let missing: Vec<DeviceId> = before.into_iter().filter(|device| list.entries.iter().all(|(listed, _)| listed != device)).collect();
    revoke(db, list.account, &missing, now_ms).await?;
    let sql = "UPDATE account SET list_version = $2, list_hash = $3, aik = $4, recovery = $5 WHERE id = $1";
    let query = sqlx::query(sql).bind(account_key(list.account)).bind(stored(list.version)).bind(publication.list.hash());
    query.bind(list.aik).bind(list.recovery).execute(&mut *db).await?;
    if let Some((device, login)) = &publication.login {
        logins::open(db, *device, login, now_ms).await?;
    }
    // Last, since they lock the account's conversations.
    enroll(db, list.account, &new).await?;
    retire(db, list.account, &missing).await?;
    Ok(missing.into_iter().map(|device| DeviceRef { account: list.account, device }).collect())
}

pub(super) async fn leave(db: &mut PgConnection, caller: DeviceRef, version: u64, signed: &Signed, now_ms: u64) -> Work<()> {
    let newest = lock_account(db, caller.account).await?;
    current(db, caller).await?;
    if newest.is_none_or(|(newest, _)| newest != version) {
        return Err(AccountsError::ListConflict.into());
    }
    let sql = "INSERT INTO device_leave (account, version, device, signed, signature) VALUES ($1, $2, $3, $4, $5)";
    let query = sqlx::query(sql).bind(account_key(caller.account)).bind(stored(version)).bind(device_key(caller.device));
    query.bind(&signed.bytes).bind(signed.signature).execute(&mut *db).await?;
    revoke(db, caller.account, &[caller.device], now_ms).await?;
    retire(db, caller.account, &[caller.device]).await?;
    Ok(())
}

/// Whoever changes a list does it alone. Gives version and hash of the newest statement, as they are once the lock is held.
async fn lock_account(db: &mut PgConnection, account: AccountId) -> Work<Option<(u64, Bytes32)>> {
    let sql = "SELECT list_version, list_hash FROM account WHERE id = $1 FOR NO KEY UPDATE";
    let row = sqlx::query(sql).bind(account_key(account)).fetch_optional(db).await?;
    Ok(row.map(|row| Ok::<_, sqlx::Error>((u64_at(&row, 0)?, row.try_get(1)?))).transpose()?)
}

/// All current devices, in the order in which everybody locks them. That nobody adds one meanwhile is due to the lock on the account.
async fn lock_devices(db: &mut PgConnection, account: AccountId) -> Work<Vec<DeviceId>> {
    let sql = "SELECT id FROM device WHERE account = $1 AND revoked_ms IS NULL ORDER BY id FOR NO KEY UPDATE";
    let devices: Vec<Uuid> = sqlx::query_scalar(sql).bind(account_key(account)).fetch_all(db).await?;
    Ok(devices.into_iter().map(|id| DeviceId(id.into_bytes())).collect())
}

pub(super) async fn store_list(db: &mut PgConnection, list: &VerifiedList) -> Work<()> {
    let (account, version) = (list.list().account, list.list().version);
    store_statement(db, account, version, LIST, list.signed()).await?;
    let sql = "INSERT INTO device_certificate (account, version, device, signed, aik_signature, accept_signature) VALUES ($1, $2, $3, $4, $5, $6)";
    for certified in list.certified() {
        let signed = &certified.signed;
        let query = sqlx::query(sql).bind(account_key(account)).bind(stored(version)).bind(device_key(certified.certificate.device));
        query.bind(&signed.bytes).bind(signed.aik_signature).bind(signed.accept_signature).execute(&mut *db).await?;
    }
    Ok(())
}

async fn store_statement(db: &mut PgConnection, account: AccountId, version: u64, kind: i16, signed: &Signed) -> Work<()> {
    let sql = "INSERT INTO device_list (account, version, kind, signed, signature) VALUES ($1, $2, $3, $4, $5)";
    let query = sqlx::query(sql).bind(account_key(account)).bind(stored(version)).bind(kind);
    query.bind(&signed.bytes).bind(signed.signature).execute(db).await?;
    Ok(())
}

/// Inserts new devices with their prekeys and notes renewed certificates. Returns the new devices.
async fn place_devices(db: &mut PgConnection, publication: &Publication, now_ms: u64) -> Work<Vec<DeviceId>> {
    let list = publication.list.list();
    let mut placed = Vec::new();
    for certified in publication.list.certified() {
        let device = certified.certificate.device;
        if certified.renewed {
            let sql = "UPDATE device SET certificate_hash = $3 WHERE account = $1 AND id = $2";
            sqlx::query(sql).bind(account_key(list.account)).bind(device_key(device)).bind(certified.hash).execute(&mut *db).await?;
            continue;
        }
        let new = publication.new_devices.iter().find(|n| n.prekeys.device().device == device).ok_or(AccountsError::ListConflict)?;
        insert_device(db, list.account, certified, new, list.version, now_ms).await?;
        placed.push(device);
    }
    Ok(placed)
}

/// Inserts a device with its prekeys; refuses an id that was ever used, under this account or another.
pub(super) async fn insert_device(
    db: &mut PgConnection,
    account: AccountId,
    certified: &Certified,
    new: &NewDevice,
    version: u64,
    now_ms: u64,
) -> Work<()> {
    let certificate = &certified.certificate;
    let sql = "INSERT INTO device (account, id, ed25519, certificate_hash, name, linked_ms, list_since) VALUES ($1, $2, $3, $4, $5, $6, $7)
               ON CONFLICT DO NOTHING";
    let query = sqlx::query(sql).bind(account_key(account)).bind(device_key(certificate.device)).bind(certificate.ed25519).bind(certified.hash);
    let query = query.bind(new.name.as_deref()).bind(stored(now_ms)).bind(stored(version));
    if query.execute(&mut *db).await?.rows_affected() != 1 {
        return Err(AccountsError::ListConflict.into());
    }
    prekeys::insert(db, certificate.device, &new.prekeys).await
}

/// From the commit on nothing of the devices succeeds: not their tokens, their connections, their prekeys. The caller has the account's lock, which is what keeps
/// the events in order.
async fn revoke(db: &mut PgConnection, account: AccountId, devices: &[DeviceId], now_ms: u64) -> Work<()> {
    if devices.is_empty() {
        return Ok(());
    }
    let revoked = devices.iter().map(|device| Event::new(What::DeviceRevoked(DeviceRef { account, device: *device }), now_ms).to_record());
    outbox::write_to_postgres(db, &revoked.collect::<Vec<_>>()).await?;
    let devices: Vec<Uuid> = devices.iter().map(|device| device_key(*device)).collect();
    let sql = "UPDATE device SET revoked_ms = $2, one_time = 0, one_time_kem = 0 WHERE id = ANY ($1)";
    sqlx::query(sql).bind(&devices).bind(stored(now_ms)).execute(&mut *db).await?;
    for sql in [
        "DELETE FROM refresh_token WHERE device = ANY ($1)",
        "DELETE FROM prekey WHERE device = ANY ($1)",
        "DELETE FROM prekey_fetch WHERE device = ANY ($1)",
    ] {
        sqlx::query(sql).bind(&devices).execute(&mut *db).await?;
    }
    Ok(())
}
