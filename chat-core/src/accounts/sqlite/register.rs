//! Making an account.

use kith_proto::id::DeviceRef;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Failure, logins, prekeys, publish, stored};
use crate::{
    accounts::{AccountsError, Registered, Registration},
    sqlite::Write,
};

pub(super) fn register(write: &mut Write<'_>, registration: &Registration, now_ms: u64) -> Result<Registered, Failure> {
    let db = write.tx();
    let list = registration.list.list();
    let device = registration.first.prekeys.device();
    let existing = db.prepare_cached("SELECT no FROM account WHERE id = ?")?.query_row([list.account.0], |row| row.get(0)).optional()?;
    if let Some(account_no) = existing {
        repeated(db, account_no, registration, device)?;
        logins::open(db, device, &registration.login, now_ms)?;
        return Ok(Registered::Again);
    }
    if let Some(hash) = &registration.invite {
        let sql = "UPDATE invite SET used_ms = ?2 WHERE hash = ?1 AND used_ms IS NULL AND expires_ms > ?2";
        if db.prepare_cached(sql)?.execute(params![hash, stored(now_ms)])? != 1 {
            return Err(AccountsError::InviteInvalid.into());
        }
    }
    // There is one writer, so what is not there now is not there when it is inserted.
    if db.prepare_cached("SELECT 1 FROM account WHERE username = ?")?.exists([registration.username.as_str()])? {
        return Err(AccountsError::UsernameTaken.into());
    }
    let sql = "INSERT INTO account (id, username, aik, recovery, list_version, list_hash, created_ms) VALUES (?, ?, ?, ?, 1, ?, ?)";
    let name = registration.username.as_str();
    db.prepare_cached(sql)?.execute(params![list.account.0, name, list.aik, list.recovery, registration.list.hash(), stored(now_ms)])?;
    let account_no = db.last_insert_rowid();
    publish::store_list(db, account_no, &registration.list)?;
    for certified in registration.list.certified() {
        let device_no = publish::insert_device(db, account_no, certified, registration.first.name.as_deref(), 1, now_ms)?;
        prekeys::insert(db, device_no, &registration.first.prekeys)?;
    }
    logins::open(db, device, &registration.login, now_ms)?;
    write.devices_changed(list.account);
    Ok(Registered::New)
}

/// The same name, first list and device as stored: the answer to the first request was lost.
fn repeated(db: &Connection, account_no: i64, registration: &Registration, device: DeviceRef) -> Result<(), Failure> {
    let sql = "SELECT 1 FROM account a JOIN device_list l ON l.account_no = a.no AND l.version = 1 JOIN device d ON d.account_no = a.no
               WHERE a.no = ? AND a.username = ? AND l.signed = ? AND d.id = ? AND d.revoked_ms IS NULL";
    let signed = &registration.list.signed().bytes;
    let same = db.prepare_cached(sql)?.exists(params![account_no, registration.username.as_str(), signed, device.device.0])?;
    if same { Ok(()) } else { Err(AccountsError::AccountExists.into()) }
}
