//! New versions of a device list, rotations, leaving.

use kith_proto::id::{AccountId, DeviceId, DeviceRef};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Failure, current, loaded, logins, prekeys, stored};
use crate::{
    accounts::{AccountsError, Publication},
    bus::{Event, What, outbox},
    domain::{
        device_list::{AccountState, Certified, VerifiedList},
        statement::{Bytes32, Signed},
    },
    sqlite::Write,
};

const LIST: i64 = 1;
const ROTATION: i64 = 2;

pub(super) fn publish(write: &mut Write<'_>, caller: Option<DeviceRef>, publication: &Publication, now_ms: u64) -> Result<Vec<DeviceRef>, Failure> {
    let db = write.tx();
    if let Some(caller) = caller {
        current(db, caller)?;
    }
    let account_no = compare(db, &publication.base)?;
    if let Some(rotation) = &publication.rotation {
        store_statement(db, account_no, publication.base.version + 1, ROTATION, rotation)?;
    }
    store_list(db, account_no, &publication.list)?;
    place_devices(db, account_no, publication, now_ms)?;
    let list = publication.list.list();
    let revoked = revoke_missing(db, account_no, list.account, &list.entries, now_ms)?;
    let sql = "UPDATE account SET list_version = ?, list_hash = ?, aik = ?, recovery = ? WHERE no = ?";
    db.prepare_cached(sql)?.execute(params![stored(list.version), publication.list.hash(), list.aik, list.recovery, account_no])?;
    if let Some((device, login)) = &publication.login {
        logins::open(db, *device, login, now_ms)?;
    }
    write.devices_changed(list.account);
    Ok(revoked)
}

pub(super) fn leave(write: &mut Write<'_>, caller: DeviceRef, version: u64, signed: &Signed, now_ms: u64) -> Result<(), Failure> {
    let db = write.tx();
    let no = current(db, caller)?;
    let newest: i64 = db.prepare_cached("SELECT list_version FROM account WHERE no = ?")?.query_row([no.account], |row| row.get(0))?;
    if loaded(newest) != version {
        return Err(AccountsError::ListConflict.into());
    }
    let sql = "INSERT INTO device_leave (account_no, version, signed, signature) VALUES (?, ?, ?, ?)";
    db.prepare_cached(sql)?.execute(params![no.account, newest, signed.bytes, signed.signature])?;
    revoke(db, no.device, caller, now_ms)?;
    write.devices_changed(caller.account);
    Ok(())
}

/// The compare of compare-and-set: the account's row number if `base` is still its newest state.
fn compare(db: &Connection, base: &AccountState) -> Result<i64, Failure> {
    let sql = "SELECT no FROM account WHERE id = ? AND list_version = ? AND list_hash = ?";
    let found = db.prepare_cached(sql)?.query_row(params![base.account.0, stored(base.version), base.hash], |row| row.get(0)).optional()?;
    found.ok_or(Failure::Refused(AccountsError::ListConflict))
}

pub(super) fn store_list(db: &Connection, account_no: i64, list: &VerifiedList) -> Result<(), Failure> {
    let version = list.list().version;
    store_statement(db, account_no, version, LIST, list.signed())?;
    let sql = "INSERT INTO device_certificate (account_no, version, signed, aik_signature, accept_signature) VALUES (?, ?, ?, ?, ?)";
    for certified in list.certified() {
        let signed = &certified.signed;
        db.prepare_cached(sql)?.execute(params![account_no, stored(version), signed.bytes, signed.aik_signature, signed.accept_signature])?;
    }
    Ok(())
}

fn store_statement(db: &Connection, account_no: i64, version: u64, kind: i64, signed: &Signed) -> Result<(), Failure> {
    let sql = "INSERT INTO device_list (account_no, version, kind, signed, signature) VALUES (?, ?, ?, ?, ?)";
    db.prepare_cached(sql)?.execute(params![account_no, stored(version), kind, signed.bytes, signed.signature])?;
    Ok(())
}

/// Inserts new devices with their prekeys and notes renewed certificates. Entries that were known must still be current: one may have left meanwhile.
fn place_devices(db: &Connection, account_no: i64, publication: &Publication, now_ms: u64) -> Result<(), Failure> {
    let list = publication.list.list();
    for certified in publication.list.certified() {
        let device = certified.certificate.device;
        if certified.renewed {
            let sql = "UPDATE device SET certificate_hash = ? WHERE account_no = ? AND id = ?";
            db.prepare_cached(sql)?.execute(params![certified.hash, account_no, device.0])?;
            continue;
        }
        let new = publication.new_devices.iter().find(|n| n.prekeys.device().device == device).ok_or(AccountsError::ListConflict)?;
        let device_no = insert_device(db, account_no, certified, new.name.as_deref(), list.version, now_ms)?;
        prekeys::insert(db, device_no, &new.prekeys)?;
    }
    for (device, _) in &list.entries {
        let sql = "SELECT 1 FROM device WHERE account_no = ? AND id = ? AND revoked_ms IS NULL";
        if !db.prepare_cached(sql)?.exists(params![account_no, device.0])? {
            return Err(AccountsError::ListConflict.into());
        }
    }
    Ok(())
}

/// Inserts a device; refuses an id that was ever used, under this account or another.
pub(super) fn insert_device(
    db: &Connection,
    account_no: i64,
    certified: &Certified,
    name: Option<&str>,
    version: u64,
    now_ms: u64,
) -> Result<i64, Failure> {
    let certificate = &certified.certificate;
    if db.prepare_cached("SELECT 1 FROM device WHERE id = ?")?.exists([certificate.device.0])? {
        return Err(AccountsError::ListConflict.into());
    }
    let sql = "INSERT INTO device (account_no, id, ed25519, certificate_hash, name, linked_ms, list_since) VALUES (?, ?, ?, ?, ?, ?, ?)";
    let values = params![account_no, certificate.device.0, certificate.ed25519, certified.hash, name, stored(now_ms), stored(version)];
    db.prepare_cached(sql)?.execute(values)?;
    Ok(db.last_insert_rowid())
}

fn revoke_missing(
    db: &Connection,
    account_no: i64,
    account: AccountId,
    entries: &[(DeviceId, Bytes32)],
    now_ms: u64,
) -> Result<Vec<DeviceRef>, Failure> {
    let mut query = db.prepare_cached("SELECT no, id FROM device WHERE account_no = ? AND revoked_ms IS NULL")?;
    let devices = query.query_map([account_no], |row| Ok((row.get::<_, i64>(0)?, DeviceId(row.get(1)?))))?.collect::<Result<Vec<_>, _>>()?;
    let mut revoked = Vec::new();
    for (device_no, device) in devices {
        if entries.iter().all(|(listed, _)| *listed != device) {
            let device = DeviceRef { account, device };
            revoke(db, device_no, device, now_ms)?;
            revoked.push(device);
        }
    }
    Ok(revoked)
}

/// From the commit on nothing of the device succeeds: not its tokens, its connection, its prekeys.
fn revoke(db: &Connection, device_no: i64, device: DeviceRef, now_ms: u64) -> Result<(), Failure> {
    outbox::write_to_sqlite(db, &[Event::new(What::DeviceRevoked(device), now_ms).to_record()], now_ms)?;
    db.prepare_cached("UPDATE device SET revoked_ms = ?, one_time = 0, one_time_kem = 0 WHERE no = ?")?
        .execute(params![stored(now_ms), device_no])?;
    for sql in
        ["DELETE FROM refresh_token WHERE device_no = ?", "DELETE FROM prekey WHERE device_no = ?", "DELETE FROM prekey_fetch WHERE device_no = ?"]
    {
        db.prepare_cached(sql)?.execute([device_no])?;
    }
    Ok(())
}
