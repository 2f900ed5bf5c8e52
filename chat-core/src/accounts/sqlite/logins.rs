//! Families of refresh tokens, the server's own secrets, and the purge.

use kith_proto::id::{AccountId, DeviceId, DeviceRef};
use rusqlite::{Connection, OptionalExtension as _, params};
use subtle::ConstantTimeEq as _;

use super::{Failure, SqliteAccounts, current, loaded, stored};
use crate::{
    accounts::{AccountsError, NewLogin, Refresh},
    domain::statement::Bytes32,
};

/// Logins that a device may have at a time: more than one only when answers were lost or a store was copied.
const LOGINS_PER_DEVICE: i64 = 8;
/// Rows deleted in one transaction of the purge.
const PURGE_BATCH: i64 = 500;

pub(super) fn open(db: &Connection, device: DeviceRef, login: &NewLogin, now_ms: u64) -> Result<(), Failure> {
    let device_no = current(db, device)?.device;
    db.prepare_cached("DELETE FROM spent_challenge WHERE device_no = ? AND until_ms <= ?")?.execute(params![device_no, stored(now_ms)])?;
    let sql = "INSERT INTO spent_challenge (device_no, challenge, until_ms) VALUES (?, ?, ?) ON CONFLICT DO NOTHING";
    if db.prepare_cached(sql)?.execute(params![device_no, login.challenge.id, stored(login.challenge.until_ms)])? != 1 {
        return Err(AccountsError::ChallengeSpent.into());
    }
    let sql = "DELETE FROM refresh_token WHERE family IN
               (SELECT family FROM refresh_token WHERE device_no = ? ORDER BY rotated_ms DESC LIMIT -1 OFFSET ?)";
    db.prepare_cached(sql)?.execute([device_no, LOGINS_PER_DEVICE - 1])?;
    let sql = "INSERT INTO refresh_token (family, device_no, current, rotated_ms, expires_ms) VALUES (?, ?, ?, ?, ?)";
    db.prepare_cached(sql)?.execute(params![login.family, device_no, login.token, stored(now_ms), stored(login.expires_ms)])?;
    seen(db, device_no, now_ms)?;
    Ok(())
}

/// Adds a row and takes it away again, which writes its page. (Writing an equal value again would not: the database compares first.)
pub(super) fn probe(db: &Connection) -> Result<(), rusqlite::Error> {
    db.execute("INSERT OR REPLACE INTO server_secret (name, value) VALUES ('probe', x'00')", [])?;
    db.execute("DELETE FROM server_secret WHERE name = 'probe'", [])?;
    Ok(())
}

fn seen(db: &Connection, device_no: i64, now_ms: u64) -> Result<(), rusqlite::Error> {
    db.prepare_cached("UPDATE device SET last_seen_ms = max(last_seen_ms, ?) WHERE no = ?")?.execute([stored(now_ms), device_no])?;
    Ok(())
}

struct Family {
    device_no: i64,
    device: DeviceRef,
    revoked: bool,
    current: Bytes32,
    previous: Option<Bytes32>,
    rotated_ms: u64,
    expires_ms: u64,
}

/// `None` refuses and yet commits: a family whose old token came back is deleted.
pub(super) fn refresh(db: &Connection, refresh: &Refresh, now_ms: u64) -> Result<Option<DeviceRef>, Failure> {
    let Some(family) = find(db, &refresh.family)? else { return Ok(None) };
    if family.revoked {
        return Err(AccountsError::Revoked.into());
    }
    let is = |hash: &Bytes32| bool::from(hash.ct_eq(&refresh.presented));
    let in_grace = now_ms.saturating_sub(family.rotated_ms) <= refresh.grace_ms;
    let expired = family.expires_ms <= now_ms;
    let sql = if is(&family.current) && !expired {
        "UPDATE refresh_token SET previous = current, current = ?2, rotated_ms = ?3, expires_ms = ?4 WHERE family = ?1"
    } else if family.previous.as_ref().is_some_and(is) && in_grace && !expired {
        // The answer with the newest token was lost. That token ends unused.
        "UPDATE refresh_token SET current = ?2, expires_ms = ?4 WHERE family = ?1"
    } else {
        db.prepare_cached("DELETE FROM refresh_token WHERE family = ?")?.execute([refresh.family])?;
        return Ok(None);
    };
    db.prepare_cached(sql)?.execute(params![refresh.family, refresh.next, stored(now_ms), stored(refresh.expires_ms)])?;
    seen(db, family.device_no, now_ms)?;
    Ok(Some(family.device))
}

fn find(db: &Connection, family: &[u8; 16]) -> Result<Option<Family>, Failure> {
    let sql = "SELECT a.id, d.id, d.revoked_ms IS NOT NULL, r.current, r.previous, r.rotated_ms, r.expires_ms, d.no
               FROM refresh_token r JOIN device d ON d.no = r.device_no JOIN account a ON a.no = d.account_no WHERE r.family = ?";
    let found = db.prepare_cached(sql)?.query_row([family], |row| {
        Ok(Family {
            device: DeviceRef { account: AccountId(row.get(0)?), device: DeviceId(row.get(1)?) },
            revoked: row.get(2)?,
            current: row.get(3)?,
            previous: row.get(4)?,
            rotated_ms: loaded(row.get(5)?),
            expires_ms: loaded(row.get(6)?),
            device_no: row.get(7)?,
        })
    });
    Ok(found.optional()?)
}

pub(super) fn secret(db: &Connection, name: &str, candidate: &Bytes32) -> Result<Bytes32, rusqlite::Error> {
    db.prepare_cached("INSERT INTO server_secret (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING")?.execute(params![name, candidate])?;
    db.prepare_cached("SELECT value FROM server_secret WHERE name = ?")?.query_row([name], |row| row.get(0))
}

/// What to delete: found on a reader, since it means a scan; deleted in small transactions, looked at again.
const ENDED: [(&str, &str); 4] = [
    ("SELECT rowid FROM refresh_token WHERE expires_ms <= ?1 LIMIT ?2", "DELETE FROM refresh_token WHERE expires_ms <= ?1 AND rowid = ?2"),
    ("SELECT rowid FROM spent_challenge WHERE until_ms <= ?1 LIMIT ?2", "DELETE FROM spent_challenge WHERE until_ms <= ?1 AND rowid = ?2"),
    ("SELECT rowid FROM invite WHERE expires_ms <= ?1 LIMIT ?2", "DELETE FROM invite WHERE expires_ms <= ?1 AND rowid = ?2"),
    (
        "SELECT rowid FROM prekey_fetch WHERE full_at_us <= ?1 * 1000 LIMIT ?2",
        "DELETE FROM prekey_fetch WHERE full_at_us <= ?1 * 1000 AND rowid = ?2",
    ),
];

pub(super) async fn purge(accounts: &SqliteAccounts, now_ms: u64) -> Result<u64, AccountsError> {
    let mut deleted = 0;
    for (find, delete) in ENDED {
        loop {
            let found = accounts.read("account.purge.find", move |db| ended(db, find, now_ms)).await?;
            if found.is_empty() {
                break;
            }
            deleted += accounts.write("account.purge", move |write| delete_each(write.tx(), delete, &found, now_ms)).await?;
        }
    }
    Ok(deleted)
}

fn ended(db: &Connection, sql: &str, now_ms: u64) -> Result<Vec<i64>, Failure> {
    let mut query = db.prepare_cached(sql)?;
    Ok(query.query_map([stored(now_ms), PURGE_BATCH], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

fn delete_each(db: &Connection, sql: &str, keys: &[i64], now_ms: u64) -> Result<u64, Failure> {
    let mut delete = db.prepare_cached(sql)?;
    let mut deleted = 0;
    for key in keys {
        deleted += delete.execute([stored(now_ms), *key])? as u64;
    }
    Ok(deleted)
}
