//! Looking up accounts and devices. Each is one statement, and so one state; the history is a few in one snapshot.

use kith_proto::id::{AccountId, DeviceRef};
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::{Work, account_at, account_key, device_at, device_key, signed_at, stored, u64_at};
use crate::{
    accounts::{AccountsError, History, OwnDevice, User, Version},
    domain::{
        Username,
        device_list::{AccountState, KnownDevice},
        statement::{Bytes32, Signed, SignedCertificate},
    },
    postgres::Failure,
};

pub(super) async fn signing_key(db: &mut PgConnection, device: DeviceRef) -> Work<Option<Bytes32>> {
    let sql = "SELECT ed25519 FROM device WHERE id = $1 AND account = $2 AND revoked_ms IS NULL";
    Ok(sqlx::query_scalar(sql).bind(device_key(device.device)).bind(account_key(device.account)).fetch_optional(db).await?)
}

pub(super) async fn state(db: &mut PgConnection, account: AccountId) -> Work<Option<AccountState>> {
    let sql = "SELECT a.aik, a.recovery, a.list_version, a.list_hash, d.id, d.certificate_hash, d.ed25519
               FROM account a LEFT JOIN device d ON d.account = a.id AND d.revoked_ms IS NULL WHERE a.id = $1";
    let rows = sqlx::query(sql).bind(account_key(account)).fetch_all(db).await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let mut state = AccountState {
        account,
        aik: first.try_get(0)?,
        recovery: first.try_get(1)?,
        version: u64_at(first, 2)?,
        hash: first.try_get(3)?,
        devices: Vec::with_capacity(rows.len()),
    };
    for row in &rows {
        if row.try_get::<Option<Uuid>, _>(4)?.is_some() {
            state.devices.push(KnownDevice { device: device_at(row, 4)?, certificate_hash: row.try_get(5)?, ed25519: row.try_get(6)? });
        }
    }
    Ok(Some(state))
}

/// No row means that the caller is not current; a row without an account, that nobody has the name.
pub(super) async fn user(db: &mut PgConnection, caller: DeviceRef, username: &Username) -> Work<Option<User>> {
    let sql = "SELECT a.id, a.aik, a.list_version FROM device d LEFT JOIN account a ON a.username = $3
               WHERE d.id = $1 AND d.account = $2 AND d.revoked_ms IS NULL";
    let query = sqlx::query(sql).bind(device_key(caller.device)).bind(account_key(caller.account)).bind(username.as_str());
    let row = query.fetch_optional(db).await?.ok_or(Failure::Refused(AccountsError::Revoked))?;
    if row.try_get::<Option<Uuid>, _>(0)?.is_none() {
        return Ok(None);
    }
    Ok(Some(User { account: account_at(&row, 0)?, aik: row.try_get(1)?, list_version: u64_at(&row, 2)? }))
}

pub(super) async fn history(db: &mut PgConnection, caller: DeviceRef, account: AccountId, since: u64, limit: usize) -> Work<Option<History>> {
    let sql = "SELECT a.username, a.list_version FROM device d LEFT JOIN account a ON a.id = $3
               WHERE d.id = $1 AND d.account = $2 AND d.revoked_ms IS NULL";
    let query = sqlx::query(sql).bind(device_key(caller.device)).bind(account_key(caller.account)).bind(account_key(account));
    let row = query.fetch_optional(&mut *db).await?.ok_or(Failure::Refused(AccountsError::Revoked))?;
    let Some(username) = row.try_get(0)? else { return Ok(None) };
    let newest_version = u64_at(&row, 1)?;
    let versions = versions(db, account, since, limit).await?;
    let more = versions.last().is_some_and(|last| last.version < newest_version);
    let leaves = if more { Vec::new() } else { leaves(db, account, newest_version).await? };
    Ok(Some(History { username, newest_version, versions, leaves, more }))
}

async fn versions(db: &mut PgConnection, account: AccountId, since: u64, limit: usize) -> Work<Vec<Version>> {
    let sql = "SELECT version, kind, signed, signature FROM device_list WHERE account = $1 AND version > $2 ORDER BY version LIMIT $3";
    let query = sqlx::query(sql).bind(account_key(account)).bind(stored(since)).bind(stored(limit as u64));
    let mut versions = Vec::new();
    for row in query.fetch_all(&mut *db).await? {
        let rotation = row.try_get::<i16, _>(1)? == super::publish::ROTATION;
        versions.push(Version { version: u64_at(&row, 0)?, rotation, signed: signed_at(&row, 2)?, certificates: Vec::new() });
    }
    let (Some(first), Some(last)) = (versions.first(), versions.last()) else { return Ok(versions) };
    let sql = "SELECT version, signed, aik_signature, accept_signature FROM device_certificate
               WHERE account = $1 AND version BETWEEN $2 AND $3 ORDER BY version, device";
    let query = sqlx::query(sql).bind(account_key(account)).bind(stored(first.version)).bind(stored(last.version));
    for row in query.fetch_all(db).await? {
        let version = u64_at(&row, 0)?;
        let certificate = SignedCertificate { bytes: row.try_get(1)?, aik_signature: row.try_get(2)?, accept_signature: row.try_get(3)? };
        versions.iter_mut().filter(|v| v.version == version).for_each(|v| v.certificates.push(certificate.clone()));
    }
    Ok(versions)
}

async fn leaves(db: &mut PgConnection, account: AccountId, version: u64) -> Work<Vec<Signed>> {
    let sql = "SELECT signed, signature FROM device_leave WHERE account = $1 AND version = $2 ORDER BY device";
    let rows = sqlx::query(sql).bind(account_key(account)).bind(stored(version)).fetch_all(db).await?;
    Ok(rows.iter().map(|row| signed_at(row, 0)).collect::<Result<_, _>>()?)
}

/// The caller is current if it is among them.
pub(super) async fn own(db: &mut PgConnection, caller: DeviceRef) -> Work<(u64, Vec<OwnDevice>)> {
    let sql = "SELECT a.list_version, d.id, d.name, d.linked_ms, d.last_seen_ms FROM device d JOIN account a ON a.id = d.account
               WHERE d.account = $1 AND d.revoked_ms IS NULL ORDER BY d.id";
    let rows = sqlx::query(sql).bind(account_key(caller.account)).fetch_all(db).await?;
    let (mut version, mut devices) = (0, Vec::with_capacity(rows.len()));
    for row in &rows {
        version = u64_at(row, 0)?;
        let (linked_ms, last_seen_ms) = (u64_at(row, 3)?, u64_at(row, 4)?);
        devices.push(OwnDevice { device: device_at(row, 1)?, name: row.try_get(2)?, linked_ms, last_seen_ms });
    }
    if devices.iter().all(|d| d.device != caller.device) {
        return Err(AccountsError::Revoked.into());
    }
    Ok((version, devices))
}
