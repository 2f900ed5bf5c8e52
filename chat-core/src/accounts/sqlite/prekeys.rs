//! Storing prekeys and saying what is stored.

use rusqlite::{Connection, params};

use super::{Failure, current, id_prekey, loaded, stored};
use crate::{
    accounts::{AccountsError, PrekeyCaps, PrekeyState},
    domain::prekeys::{Kind, VerifiedPrekeys},
};

pub(super) fn add(db: &Connection, prekeys: &VerifiedPrekeys, caps: PrekeyCaps) -> Result<PrekeyState, Failure> {
    let device_no = current(db, prekeys.device())?.device;
    let before = state(db, device_no)?;
    if prekeys.lowest_id() <= before.highest_id {
        return Err(AccountsError::PrekeyIdUsed.into());
    }
    let over = |had: u32, kind, cap| had.saturating_add(prekeys.count(kind)) > cap && prekeys.count(kind) > 0;
    if over(before.one_time, Kind::OneTime, caps.one_time) || over(before.one_time_kem, Kind::OneTimeKem, caps.one_time_kem) {
        return Err(AccountsError::PrekeyLimit.into());
    }
    insert(db, device_no, prekeys)?;
    state(db, device_no)
}

/// Inserts keys that are known to be new; a signed or last-resort key takes the place of the one before.
pub(super) fn insert(db: &Connection, device_no: i64, prekeys: &VerifiedPrekeys) -> Result<(), Failure> {
    for prekey in prekeys.keys() {
        if matches!(prekey.kind, Kind::Signed | Kind::LastResortKem) {
            db.prepare_cached("DELETE FROM prekey WHERE device_no = ? AND kind = ?")?.execute(params![device_no, prekey.kind as u8])?;
        }
        let signature: &[u8] = if prekey.kind == Kind::OneTime { &[] } else { &prekey.signature };
        let sql = "INSERT INTO prekey (device_no, kind, id, created_ms, key, signature) VALUES (?, ?, ?, ?, ?, ?)";
        let values = params![device_no, prekey.kind as u8, prekey.id, stored(prekey.created_ms), prekey.key, signature];
        db.prepare_cached(sql)?.execute(values)?;
    }
    let sql = "UPDATE device SET one_time = one_time + ?, one_time_kem = one_time_kem + ?, prekey_highest = ? WHERE no = ?";
    let values = params![prekeys.count(Kind::OneTime), prekeys.count(Kind::OneTimeKem), prekeys.highest_id(), device_no];
    db.prepare_cached(sql)?.execute(values)?;
    Ok(())
}

pub(super) fn state(db: &Connection, device_no: i64) -> Result<PrekeyState, Failure> {
    let newest = |kind: Kind| {
        let sql = "SELECT id, created_ms FROM prekey WHERE device_no = ? AND kind = ?";
        db.prepare_cached(sql)?.query_row(params![device_no, kind as u8], |row| Ok((id_prekey(row, 0)?, loaded(row.get(1)?))))
    };
    let (signed, last_resort) = (newest(Kind::Signed)?, newest(Kind::LastResortKem)?);
    let sql = "SELECT one_time, one_time_kem, prekey_highest FROM device WHERE no = ?";
    let state = db.prepare_cached(sql)?.query_row([device_no], |row| {
        Ok(PrekeyState { one_time: row.get(0)?, one_time_kem: row.get(1)?, signed, last_resort, highest_id: row.get(2)? })
    })?;
    Ok(state)
}
