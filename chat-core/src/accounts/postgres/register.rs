//! Making an account.

use kith_proto::id::DeviceRef;
use sqlx::PgConnection;

use super::{Work, account_key, device_key, logins, publish, stored};
use crate::{
    accounts::{AccountsError, Registered, Registration},
    log::postgres::enroll,
};

pub(super) async fn register(db: &mut PgConnection, registration: &Registration, now_ms: u64) -> Work<Registered> {
    let list = registration.list.list();
    let device = registration.first.prekeys.device();
    if exists(db, registration).await? {
        return repeated(db, registration, device, now_ms).await;
    }
    if let Some(hash) = &registration.invite {
        // Two who have the same code wait for each other here; the second sees it used.
        let sql = "UPDATE invite SET used_ms = $2 WHERE hash = $1 AND used_ms IS NULL AND expires_ms > $2";
        if sqlx::query(sql).bind(hash).bind(stored(now_ms)).execute(&mut *db).await?.rows_affected() != 1 {
            return Err(AccountsError::InviteInvalid.into());
        }
    }
    if !insert_account(db, registration, now_ms).await? {
        // Somebody has the name; or this very registration was under way twice and the other one has just been committed.
        return match exists(db, registration).await? {
            true => repeated(db, registration, device, now_ms).await,
            false => Err(AccountsError::UsernameTaken.into()),
        };
    }
    publish::store_list(db, &registration.list).await?;
    for certified in registration.list.certified() {
        publish::insert_device(db, list.account, certified, &registration.first, 1, now_ms).await?;
    }
    logins::open(db, device, &registration.login, now_ms).await?;
    enroll(db, list.account, &[device.device]).await?;
    Ok(Registered::New)
}

async fn exists(db: &mut PgConnection, registration: &Registration) -> Work<bool> {
    let sql = "SELECT EXISTS (SELECT FROM account WHERE id = $1)";
    Ok(sqlx::query_scalar(sql).bind(account_key(registration.list.list().account)).fetch_one(db).await?)
}

/// False if the name or the id is taken. Waits for whoever is inserting the same just now.
async fn insert_account(db: &mut PgConnection, registration: &Registration, now_ms: u64) -> Work<bool> {
    let list = registration.list.list();
    let sql = "INSERT INTO account (id, username, aik, recovery, list_version, list_hash, created_ms) VALUES ($1, $2, $3, $4, 1, $5, $6)
               ON CONFLICT DO NOTHING";
    let query = sqlx::query(sql).bind(account_key(list.account)).bind(registration.username.as_str()).bind(list.aik).bind(list.recovery);
    Ok(query.bind(registration.list.hash()).bind(stored(now_ms)).execute(db).await?.rows_affected() == 1)
}

/// The same name, first list and device as stored: the answer to the first request was lost. Only the login is new.
async fn repeated(db: &mut PgConnection, registration: &Registration, device: DeviceRef, now_ms: u64) -> Work<Registered> {
    let sql = "SELECT EXISTS (SELECT FROM account a JOIN device_list l ON l.account = a.id AND l.version = 1 JOIN device d ON d.account = a.id
               WHERE a.id = $1 AND a.username = $2 AND l.signed = $3 AND d.id = $4 AND d.revoked_ms IS NULL)";
    let query = sqlx::query_scalar(sql).bind(account_key(device.account)).bind(registration.username.as_str());
    let query = query.bind(&registration.list.signed().bytes).bind(device_key(device.device));
    if !query.fetch_one(&mut *db).await? {
        return Err(AccountsError::AccountExists.into());
    }
    logins::open(db, device, &registration.login, now_ms).await?;
    Ok(Registered::Again)
}
