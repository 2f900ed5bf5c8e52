//! Look-ups of accounts and devices, and the little that is written about them in passing.

use kith_proto::id::{AccountId, DeviceId, DeviceRef};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{Failure, current, inconsistent, loaded, stored};
use crate::{
    accounts::{History, OwnDevice, PresenceSetting, User, Version},
    domain::{
        Username,
        device_list::{AccountState, KnownDevice},
        statement::{Bytes32, Signed, SignedCertificate},
    },
};

pub(super) fn signing_key(db: &Connection, device: DeviceRef) -> Result<Option<Bytes32>, Failure> {
    let sql = "SELECT d.ed25519 FROM device d JOIN account a ON a.no = d.account_no WHERE d.id = ? AND a.id = ? AND d.revoked_ms IS NULL";
    Ok(db.prepare_cached(sql)?.query_row(params![device.device.0, device.account.0], |row| row.get(0)).optional()?)
}

pub(super) fn state(db: &Connection, account: AccountId) -> Result<Option<AccountState>, Failure> {
    let sql = "SELECT no, aik, recovery, list_version, list_hash FROM account WHERE id = ?";
    let found = db.prepare_cached(sql)?.query_row([account.0], |row| {
        let (no, version): (i64, i64) = (row.get(0)?, row.get(3)?);
        let devices = Vec::new();
        Ok((no, AccountState { account, aik: row.get(1)?, recovery: row.get(2)?, version: loaded(version), hash: row.get(4)?, devices }))
    });
    let Some((account_no, mut state)) = found.optional()? else { return Ok(None) };
    let mut query = db.prepare_cached("SELECT id, certificate_hash, ed25519 FROM device WHERE account_no = ? AND revoked_ms IS NULL")?;
    let known = |row: &Row<'_>| Ok(KnownDevice { device: DeviceId(row.get(0)?), certificate_hash: row.get(1)?, ed25519: row.get(2)? });
    state.devices = query.query_map([account_no], known)?.collect::<Result<_, _>>()?;
    Ok(Some(state))
}

pub(super) fn user(db: &Connection, caller: DeviceRef, username: &Username) -> Result<Option<User>, Failure> {
    current(db, caller)?;
    let sql = "SELECT id, aik, list_version FROM account WHERE username = ?";
    let found = db
        .prepare_cached(sql)?
        .query_row([username.as_str()], |row| Ok(User { account: AccountId(row.get(0)?), aik: row.get(1)?, list_version: loaded(row.get(2)?) }));
    Ok(found.optional()?)
}

pub(super) fn history(db: &Connection, caller: DeviceRef, account: AccountId, since: u64, limit: usize) -> Result<Option<History>, Failure> {
    current(db, caller)?;
    let sql = "SELECT no, username, list_version FROM account WHERE id = ?";
    let found = db.prepare_cached(sql)?.query_row([account.0], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?, loaded(row.get(2)?)))).optional()?;
    let Some((account_no, username, newest_version)) = found else { return Ok(None) };
    let versions = versions(db, account_no, since, limit)?;
    let more = versions.last().is_some_and(|last| last.version < newest_version);
    let leaves = if more { Vec::new() } else { leaves(db, account_no, newest_version)? };
    Ok(Some(History { username, newest_version, versions, leaves, more }))
}

fn versions(db: &Connection, account_no: i64, since: u64, limit: usize) -> Result<Vec<Version>, Failure> {
    let sql = "SELECT version, kind, signed, signature FROM device_list WHERE account_no = ? AND version > ? ORDER BY version LIMIT ?";
    let mut query = db.prepare_cached(sql)?;
    let rows = query.query_map(params![account_no, stored(since), stored(limit as u64)], |row| {
        let rotation = row.get::<_, i64>(1)? == 2;
        Ok(Version { version: loaded(row.get(0)?), rotation, signed: signed(row, 2)?, certificates: Vec::new() })
    })?;
    let mut versions = rows.collect::<Result<Vec<_>, _>>()?;
    let sql = "SELECT signed, aik_signature, accept_signature FROM device_certificate WHERE account_no = ? AND version = ?";
    let mut query = db.prepare_cached(sql)?;
    for version in &mut versions {
        let rows = query.query_map([account_no, stored(version.version)], |row| {
            Ok(SignedCertificate { bytes: row.get(0)?, aik_signature: row.get(1)?, accept_signature: row.get(2)? })
        })?;
        version.certificates = rows.collect::<Result<_, _>>()?;
    }
    Ok(versions)
}

fn leaves(db: &Connection, account_no: i64, version: u64) -> Result<Vec<Signed>, Failure> {
    let mut query = db.prepare_cached("SELECT signed, signature FROM device_leave WHERE account_no = ? AND version = ?")?;
    let rows = query.query_map([account_no, stored(version)], |row| signed(row, 0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn signed(row: &Row<'_>, column: usize) -> Result<Signed, rusqlite::Error> {
    let signature = row.get_ref(column + 1)?.as_blob()?.try_into().map_err(|_| inconsistent(column + 1))?;
    Ok(Signed { bytes: row.get(column)?, signature })
}

pub(super) fn own(db: &Connection, caller: DeviceRef) -> Result<(u64, Vec<OwnDevice>), Failure> {
    let account_no = current(db, caller)?.account;
    let version: i64 = db.prepare_cached("SELECT list_version FROM account WHERE no = ?")?.query_row([account_no], |row| row.get(0))?;
    let sql = "SELECT id, name, linked_ms, last_seen_ms FROM device WHERE account_no = ? AND revoked_ms IS NULL ORDER BY id";
    let mut query = db.prepare_cached(sql)?;
    let rows = query.query_map([account_no], |row| {
        let (linked, seen): (i64, i64) = (row.get(2)?, row.get(3)?);
        Ok(OwnDevice { device: DeviceId(row.get(0)?), name: row.get(1)?, linked_ms: loaded(linked), last_seen_ms: loaded(seen) })
    })?;
    Ok((loaded(version), rows.collect::<Result<_, _>>()?))
}

pub(super) fn seen(db: &Connection, seen: &[(AccountId, u64)]) -> Result<(), Failure> {
    let mut update = db.prepare_cached("UPDATE account SET last_seen_ms = max(last_seen_ms, ?) WHERE id = ?")?;
    for (account, at_ms) in seen {
        update.execute(params![stored(*at_ms), account.0])?;
    }
    Ok(())
}

pub(super) fn hide_presence(db: &Connection, account: AccountId, hidden: bool) -> Result<(), rusqlite::Error> {
    db.prepare_cached("UPDATE account SET presence_hidden = ? WHERE id = ?")?.execute(params![hidden, account.0])?;
    Ok(())
}

pub(super) fn presence(db: &Connection, accounts: &[AccountId]) -> Result<Vec<PresenceSetting>, Failure> {
    let mut query = db.prepare_cached("SELECT presence_hidden, last_seen_ms FROM account WHERE id = ?")?;
    let mut found = Vec::with_capacity(accounts.len());
    for account in accounts {
        let setting = |row: &Row<'_>| Ok(PresenceSetting { account: *account, hidden: row.get(0)?, last_seen_ms: loaded(row.get(1)?) });
        found.extend(query.query_row([account.0], setting).optional()?);
    }
    Ok(found)
}
