//! Handing out prekeys, each one-time key once.
//!
//! The rows of the devices are locked in the order of their ids before anything else is looked at; counts, buckets and keys of a device change only under
//! that lock. However many devices are asked for, the number of statements is the same.

use std::collections::HashMap;

use kith_proto::id::DeviceId;
use sqlx::{PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{Work, account_key, device_at, device_key, stored, u32_at, u64_at};
use crate::{
    accounts::{AccountsError, Bundle, BundleRequest, Bundles},
    domain::{
        Bucket,
        prekeys::{Kind, Prekey},
    },
    postgres::Failure,
};

/// Stands for all requesters together in the table of buckets.
const EVERYBODY: Uuid = Uuid::nil();

struct Target {
    device: DeviceId,
    one_time: u32,
    one_time_kem: u32,
}

impl Target {
    fn has_any(&self) -> bool {
        self.one_time + self.one_time_kem > 0
    }
}

/// Keys by device and kind.
type Keys = HashMap<(DeviceId, Kind), Prekey>;

pub(super) async fn take(db: &mut PgConnection, request: &BundleRequest, now_ms: u64) -> Work<Bundles> {
    let known_version = find_account(db, request).await?;
    let (list_version, targets) = lock_targets(db, request).await?;
    let allowed = take_tokens(db, request, &targets, now_ms).await?;
    let mut one_time = pop(db, &allowed).await?;
    count_down(db, &allowed, &one_time).await?;
    let mut kept = kept_keys(db, &targets).await?;
    let mut bundles = Vec::with_capacity(targets.len());
    for target in targets {
        bundles.push(bundle(&target, allowed.contains(&target.device), &mut one_time, &mut kept)?);
    }
    Ok(Bundles { list_version: list_version.unwrap_or(known_version), bundles })
}

/// The version of the account's list; no row means that the caller is not current.
async fn find_account(db: &mut PgConnection, request: &BundleRequest) -> Work<u64> {
    let sql = "SELECT a.list_version FROM device d LEFT JOIN account a ON a.id = $3 WHERE d.id = $1 AND d.account = $2 AND d.revoked_ms IS NULL";
    let (caller, account) = (request.caller, account_key(request.account));
    let query = sqlx::query(sql).bind(device_key(caller.device)).bind(account_key(caller.account)).bind(account);
    let row = query.fetch_optional(db).await?.ok_or(Failure::Refused(AccountsError::Revoked))?;
    if row.try_get::<Option<i64>, _>(0)?.is_none() {
        return Err(AccountsError::UnknownAccount.into());
    }
    Ok(u64_at(&row, 0)?)
}

/// The current devices that are asked for, with the version of the list that they were read with. (One that is revoked while its lock is waited for
/// drops out of the older list, as if it had left.)
async fn lock_targets(db: &mut PgConnection, request: &BundleRequest) -> Work<(Option<u64>, Vec<Target>)> {
    let sql = "SELECT a.list_version, d.id, d.one_time, d.one_time_kem FROM device d JOIN account a ON a.id = d.account
               WHERE d.account = $1 AND d.revoked_ms IS NULL AND CASE WHEN $2::uuid[] IS NULL THEN d.id <> $3 ELSE d.id = ANY ($2) END
               ORDER BY d.id FOR NO KEY UPDATE OF d";
    let wanted = request.devices.as_ref().map(|devices| devices.iter().map(|d| device_key(*d)).collect::<Vec<_>>());
    let query = sqlx::query(sql).bind(account_key(request.account)).bind(wanted).bind(device_key(request.caller.device));
    let rows = query.fetch_all(db).await?;
    let version = rows.first().map(|row| u64_at(row, 0)).transpose()?;
    let target = |row: &PgRow| Ok(Target { device: device_at(row, 1)?, one_time: u32_at::<i32>(row, 2)?, one_time_kem: u32_at::<i32>(row, 3)? });
    Ok((version, rows.iter().map(target).collect::<Result<_, sqlx::Error>>()?))
}

/// Takes a token from the bucket of the pair and from that of the target, or from neither. Returns the devices of which one-time keys may be given.
async fn take_tokens(db: &mut PgConnection, request: &BundleRequest, targets: &[Target], now_ms: u64) -> Work<Vec<DeviceId>> {
    let asked: Vec<Uuid> = targets.iter().filter(|t| t.has_any()).map(|t| device_key(t.device)).collect();
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    let requester = account_key(request.caller.account);
    let sql = "SELECT device, requester, full_at_us FROM prekey_fetch WHERE device = ANY ($1) AND requester IN ($2, $3)";
    let mut buckets: HashMap<(Uuid, Uuid), Bucket> = HashMap::new();
    for row in sqlx::query(sql).bind(&asked).bind(requester).bind(EVERYBODY).fetch_all(&mut *db).await? {
        buckets.insert((row.try_get(0)?, row.try_get(1)?), Bucket { full_at_us: u64_at(&row, 2)? });
    }
    let (mut allowed, mut devices, mut requesters, mut full_at) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for device in asked {
        let bucket = |requester| buckets.get(&(device, requester)).copied().unwrap_or_default();
        let (mut pair, mut everybody) = (bucket(requester), bucket(EVERYBODY));
        if pair.take(request.per_pair, now_ms).is_ok() && everybody.take(request.per_target, now_ms).is_ok() {
            devices.extend([device; 2]);
            requesters.extend([requester, EVERYBODY]);
            full_at.extend([stored(pair.full_at_us), stored(everybody.full_at_us)]);
            allowed.push(DeviceId(device.into_bytes()));
        }
    }
    let sql = "INSERT INTO prekey_fetch (device, requester, full_at_us) SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bigint[])
               ON CONFLICT (device, requester) DO UPDATE SET full_at_us = excluded.full_at_us";
    if !allowed.is_empty() {
        sqlx::query(sql).bind(devices).bind(requesters).bind(full_at).execute(db).await?;
    }
    Ok(allowed)
}

/// Removes the oldest one-time key of either kind of each device and gives them.
async fn pop(db: &mut PgConnection, allowed: &[DeviceId]) -> Work<Keys> {
    if allowed.is_empty() {
        return Ok(Keys::new());
    }
    let sql = "DELETE FROM prekey p USING unnest($1::uuid[]) AS d (device), unnest($2::smallint[]) AS k (kind)
               WHERE p.device = d.device AND p.kind = k.kind
                 AND p.id = (SELECT q.id FROM prekey q WHERE q.device = d.device AND q.kind = k.kind ORDER BY q.id LIMIT 1)
               RETURNING p.device, p.kind, p.id, p.created_ms, p.key, p.signature";
    let kinds = [Kind::OneTime, Kind::OneTimeKem].map(|kind| kind as i16);
    let devices: Vec<Uuid> = allowed.iter().map(|d| device_key(*d)).collect();
    keys(&sqlx::query(sql).bind(devices).bind(kinds).fetch_all(db).await?)
}

async fn count_down(db: &mut PgConnection, allowed: &[DeviceId], popped: &Keys) -> Work<()> {
    if popped.is_empty() {
        return Ok(());
    }
    let counts = |kind| allowed.iter().map(|d| i32::from(popped.contains_key(&(*d, kind)))).collect::<Vec<_>>();
    let sql = "UPDATE device d SET one_time = d.one_time - n.one_time, one_time_kem = d.one_time_kem - n.one_time_kem
               FROM unnest($1::uuid[], $2::integer[], $3::integer[]) AS n (id, one_time, one_time_kem) WHERE d.id = n.id";
    let query = sqlx::query(sql).bind(allowed.iter().map(|d| device_key(*d)).collect::<Vec<_>>());
    query.bind(counts(Kind::OneTime)).bind(counts(Kind::OneTimeKem)).execute(db).await?;
    Ok(())
}

/// The signed and last-resort keys.
async fn kept_keys(db: &mut PgConnection, targets: &[Target]) -> Work<Keys> {
    let sql = "SELECT device, kind, id, created_ms, key, signature FROM prekey WHERE device = ANY ($1) AND kind = ANY ($2)";
    let kinds = [Kind::Signed, Kind::LastResortKem].map(|kind| kind as i16);
    let devices: Vec<Uuid> = targets.iter().map(|t| device_key(t.device)).collect();
    keys(&sqlx::query(sql).bind(devices).bind(kinds).fetch_all(db).await?)
}

fn keys(rows: &[PgRow]) -> Work<Keys> {
    let kinds = [Kind::OneTime, Kind::Signed, Kind::OneTimeKem, Kind::LastResortKem];
    let mut keys = Keys::with_capacity(rows.len());
    for row in rows {
        let number: i16 = row.try_get(1)?;
        let kind = kinds.into_iter().find(|kind| *kind as i16 == number).ok_or_else(|| inconsistent("an unknown kind of prekey"))?;
        let signature = if kind == Kind::OneTime { [0; 64] } else { row.try_get(5)? };
        let prekey = Prekey { kind, id: u32_at::<i64>(row, 2)?, created_ms: u64_at(row, 3)?, key: row.try_get(4)?, signature };
        keys.insert((device_at(row, 0)?, kind), prekey);
    }
    Ok(keys)
}

fn bundle(target: &Target, allowed: bool, popped: &mut Keys, kept: &mut Keys) -> Work<Bundle> {
    let device = target.device;
    let one_time = popped.remove(&(device, Kind::OneTime));
    let one_time_kem = popped.remove(&(device, Kind::OneTimeKem));
    let left = |had: u32, given: bool| had.saturating_sub(u32::from(given));
    let left = (left(target.one_time, one_time.is_some()), left(target.one_time_kem, one_time_kem.is_some()));
    let (signed, last_resort) = (kept.remove(&(device, Kind::Signed)), kept.remove(&(device, Kind::LastResortKem)));
    let signed = signed.ok_or_else(|| inconsistent("a device without a signed prekey"))?;
    let kem = one_time_kem.or(last_resort).ok_or_else(|| inconsistent("a device without a last-resort prekey"))?;
    Ok(Bundle { device, signed, kem, one_time, limited: target.has_any() && !allowed, left })
}

fn inconsistent(what: &'static str) -> Failure<AccountsError> {
    Failure::Sql(sqlx::Error::Decode(what.into()))
}
