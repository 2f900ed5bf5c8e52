//! Handing out prekeys, each one-time key once.

use kith_proto::id::{AccountId, DeviceId};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{Failure, current, id_prekey, inconsistent, loaded, stored};
use crate::{
    accounts::{AccountsError, Bundle, BundleRequest, Bundles},
    domain::{
        Bucket, Rate,
        prekeys::{Kind, Prekey},
    },
};

/// Stands for all requesters together in the table of buckets.
const EVERYBODY: i64 = 0;

struct Target {
    no: i64,
    device: DeviceId,
    one_time: u32,
    one_time_kem: u32,
}

pub(super) fn take(db: &Connection, request: &BundleRequest, now_ms: u64) -> Result<Bundles, Failure> {
    let requester = current(db, request.caller)?;
    let (account_no, list_version) = find_account(db, request.account)?;
    let wanted = |t: &Target| match &request.devices {
        Some(devices) => devices.contains(&t.device),
        None => t.no != requester.device,
    };
    let mut bundles = Vec::new();
    for target in targets(db, account_no)?.into_iter().filter(wanted) {
        bundles.push(bundle(db, request, requester.account, &target, now_ms)?);
    }
    Ok(Bundles { list_version, bundles })
}

fn find_account(db: &Connection, account: AccountId) -> Result<(i64, u64), Failure> {
    let sql = "SELECT no, list_version FROM account WHERE id = ?";
    let found = db.prepare_cached(sql)?.query_row([account.0], |row| Ok((row.get(0)?, loaded(row.get(1)?)))).optional()?;
    found.ok_or(Failure::Refused(AccountsError::UnknownAccount))
}

fn targets(db: &Connection, account_no: i64) -> Result<Vec<Target>, Failure> {
    let sql = "SELECT no, id, one_time, one_time_kem FROM device WHERE account_no = ? AND revoked_ms IS NULL ORDER BY id";
    let mut query = db.prepare_cached(sql)?;
    let rows = query.query_map([account_no], |row| {
        Ok(Target { no: row.get(0)?, device: DeviceId(row.get(1)?), one_time: row.get(2)?, one_time_kem: row.get(3)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn bundle(db: &Connection, request: &BundleRequest, requester_no: i64, target: &Target, now_ms: u64) -> Result<Bundle, Failure> {
    let has_any = target.one_time + target.one_time_kem > 0;
    let allowed = has_any && take_tokens(db, request, requester_no, target.no, now_ms)?;
    let (mut one_time, mut kem) = (None, None);
    if allowed {
        one_time = pop(db, target.no, Kind::OneTime)?;
        kem = pop(db, target.no, Kind::OneTimeKem)?;
        let sql = "UPDATE device SET one_time = one_time - ?, one_time_kem = one_time_kem - ? WHERE no = ?";
        db.prepare_cached(sql)?.execute(params![one_time.is_some(), kem.is_some(), target.no])?;
    }
    let left = (target.one_time - u32::from(one_time.is_some()), target.one_time_kem - u32::from(kem.is_some()));
    let kem = match kem {
        Some(kem) => kem,
        None => newest(db, target.no, Kind::LastResortKem)?,
    };
    let signed = newest(db, target.no, Kind::Signed)?;
    Ok(Bundle { device: target.device, signed, kem, one_time, limited: has_any && !allowed, left })
}

/// Takes a token from the bucket of the pair and from that of the target, or from neither.
fn take_tokens(db: &Connection, request: &BundleRequest, requester_no: i64, device_no: i64, now_ms: u64) -> Result<bool, Failure> {
    let (Some(pair), Some(everybody)) =
        (taken(db, device_no, requester_no, request.per_pair, now_ms)?, taken(db, device_no, EVERYBODY, request.per_target, now_ms)?)
    else {
        return Ok(false);
    };
    for (requester, bucket) in [(requester_no, pair), (EVERYBODY, everybody)] {
        let sql = "INSERT INTO prekey_fetch (device_no, requester_no, full_at_us) VALUES (?1, ?2, ?3)
                   ON CONFLICT (device_no, requester_no) DO UPDATE SET full_at_us = ?3";
        db.prepare_cached(sql)?.execute(params![device_no, requester, stored(bucket.full_at_us)])?;
    }
    Ok(true)
}

/// The bucket as it is after taking a token; none if it is empty.
fn taken(db: &Connection, device_no: i64, requester_no: i64, rate: Rate, now_ms: u64) -> Result<Option<Bucket>, Failure> {
    let sql = "SELECT full_at_us FROM prekey_fetch WHERE device_no = ? AND requester_no = ?";
    let full_at: Option<i64> = db.prepare_cached(sql)?.query_row([device_no, requester_no], |row| row.get(0)).optional()?;
    let mut bucket = Bucket { full_at_us: full_at.map_or(0, loaded) };
    Ok(bucket.take(rate, now_ms).is_ok().then_some(bucket))
}

/// Removes the oldest one-time key of a kind and gives it.
fn pop(db: &Connection, device_no: i64, kind: Kind) -> Result<Option<Prekey>, Failure> {
    let sql = "DELETE FROM prekey WHERE rowid = (SELECT rowid FROM prekey WHERE device_no = ? AND kind = ? ORDER BY id LIMIT 1)
               RETURNING id, created_ms, key, signature";
    Ok(db.prepare_cached(sql)?.query_row(params![device_no, kind as u8], |row| prekey(kind, row)).optional()?)
}

fn newest(db: &Connection, device_no: i64, kind: Kind) -> Result<Prekey, Failure> {
    let sql = "SELECT id, created_ms, key, signature FROM prekey WHERE device_no = ? AND kind = ? ORDER BY id DESC LIMIT 1";
    Ok(db.prepare_cached(sql)?.query_row(params![device_no, kind as u8], |row| prekey(kind, row))?)
}

fn prekey(kind: Kind, row: &Row<'_>) -> Result<Prekey, rusqlite::Error> {
    let signature = row.get_ref(3)?.as_blob()?;
    let signature = if kind == Kind::OneTime { [0; 64] } else { signature.try_into().map_err(|_| inconsistent(3))? };
    Ok(Prekey { kind, id: id_prekey(row, 0)?, created_ms: loaded(row.get(1)?), key: row.get(2)?, signature })
}
