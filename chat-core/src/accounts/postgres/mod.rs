//! Accounts in PostgreSQL, for any number of processes at a time.
//!
//! What one writer has for nothing, row locks give here. Publishing and leaving lock the account's row, then the rows of its devices in the order of their
//! ids; revoking changes the device's row. Whatever must not outlive a revocation (opening a login, a refresh, adding prekeys) and whatever hands out
//! one-time keys locks the device's row first and looks at it after that: it either commits before the revocation, which then deletes what it left, or
//! finds the device revoked. So a login needs no lock on its account, and the logins of an account's devices do not wait for each other. Every transaction
//! takes its locks in this order, account, devices by id, what belongs to a device, conversations of the log, so that none waits for one that waits for it.
//!
//! Names and device ids are won by whoever inserts them first: the other one waits for that commit and then sees the row.
//!
//! When a connection is lost during a commit, the caller is told that storage is unavailable although the change may have been made. That is as if the
//! answer had been lost on its way: registering again, asking for the newest list and refreshing within the grace all find out.

mod bundles;
mod invites;
mod logins;
mod lookups;
mod prekeys;
mod presence;
mod publish;
mod purge;
mod register;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use kith_proto::id::{AccountId, DeviceId, DeviceRef};
use sqlx::{PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{
    AccountsError, BundleRequest, Bundles, History, Keys, NewLogin, OwnDevice, PrekeyCaps, PrekeyState, Presence, PresenceSetting, Publication,
    Refresh, Registered, Registration, Registry, Upkeep, User,
};
use crate::{
    domain::{
        Username,
        device_list::AccountState,
        prekeys::VerifiedPrekeys,
        statement::{Bytes32, Signed},
    },
    postgres::{Failure, Postgres, StoreError},
};

/// Accounts in PostgreSQL.
#[derive(Debug, Clone)]
pub struct PostgresAccounts {
    db: Arc<Postgres>,
}

impl PostgresAccounts {
    /// In this database.
    #[must_use]
    pub fn new(db: Arc<Postgres>) -> Self {
        Self { db }
    }
}

/// What a piece of work gives.
type Work<T> = Result<T, Failure<AccountsError>>;

impl From<AccountsError> for Failure<AccountsError> {
    fn from(error: AccountsError) -> Self {
        Self::Refused(error)
    }
}

fn outward(error: StoreError<AccountsError>) -> AccountsError {
    match error {
        StoreError::Refused(refusal) => refusal,
        StoreError::Overloaded => AccountsError::Overloaded,
        StoreError::Unavailable(fault) => AccountsError::Unavailable(Box::new(fault)),
    }
}

/// Refuses a device that is not current.
async fn current(db: &mut PgConnection, caller: DeviceRef) -> Work<()> {
    let sql = "SELECT true FROM device WHERE id = $1 AND account = $2 AND revoked_ms IS NULL";
    let found: Option<bool> = sqlx::query_scalar(sql).bind(device_key(caller.device)).bind(account_key(caller.account)).fetch_optional(db).await?;
    found.map(|_| ()).ok_or(Failure::Refused(AccountsError::Revoked))
}

fn account_key(id: AccountId) -> Uuid {
    Uuid::from_bytes(id.0)
}

fn device_key(id: DeviceId) -> Uuid {
    Uuid::from_bytes(id.0)
}

/// Numbers are stored as signed 64-bit ones. Those that come from outside are checked where they come in; a larger one here means "for ever".
fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn device_at(row: &PgRow, column: usize) -> Result<DeviceId, sqlx::Error> {
    Ok(DeviceId(row.try_get::<Uuid, _>(column)?.into_bytes()))
}

fn account_at(row: &PgRow, column: usize) -> Result<AccountId, sqlx::Error> {
    Ok(AccountId(row.try_get::<Uuid, _>(column)?.into_bytes()))
}

/// A number of 64 bits, none of which is ever stored negative.
fn u64_at(row: &PgRow, column: usize) -> Result<u64, sqlx::Error> {
    Ok(u64::try_from(row.try_get::<i64, _>(column)?).unwrap_or(0))
}

/// A number that is stored in more bits than it has.
fn u32_at<'r, N: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + TryInto<u32>>(
    row: &'r PgRow,
    column: usize,
) -> Result<u32, sqlx::Error> {
    row.try_get::<N, _>(column)?.try_into().map_err(|_| sqlx::Error::Decode("a number that this program never writes".into()))
}

/// A statement and, in the next column, the signature over it.
fn signed_at(row: &PgRow, column: usize) -> Result<Signed, sqlx::Error> {
    Ok(Signed { bytes: row.try_get(column)?, signature: row.try_get(column + 1)? })
}

#[async_trait]
impl Registry for PostgresAccounts {
    async fn register(&self, registration: Registration, now_ms: u64) -> Result<Registered, AccountsError> {
        self.db
            .transaction("account.register", &(registration, now_ms), async |db, (registration, now_ms)| {
                register::register(db, registration, *now_ms).await
            })
            .await
            .map_err(outward)
    }

    async fn signing_key(&self, device: DeviceRef) -> Result<Option<Bytes32>, AccountsError> {
        self.db.statement("device.signing_key", &device, async |db, device| lookups::signing_key(db, *device).await).await.map_err(outward)
    }

    async fn login(&self, device: DeviceRef, login: NewLogin, now_ms: u64) -> Result<(), AccountsError> {
        self.db
            .transaction("login.open", &(device, login, now_ms), async |db, (device, login, now_ms)| logins::open(db, *device, login, *now_ms).await)
            .await
            .map_err(outward)
    }

    async fn refresh(&self, refresh: Refresh, now_ms: u64) -> Result<DeviceRef, AccountsError> {
        let exchanged =
            self.db.transaction("login.refresh", &(refresh, now_ms), async |db, (refresh, now_ms)| logins::refresh(db, refresh, *now_ms).await).await;
        exchanged.map_err(outward)?.ok_or(AccountsError::RefreshInvalid)
    }

    async fn state(&self, account: AccountId) -> Result<Option<AccountState>, AccountsError> {
        self.db.statement("account.state", &account, async |db, account| lookups::state(db, *account).await).await.map_err(outward)
    }

    async fn publish(&self, caller: Option<DeviceRef>, publication: Publication, now_ms: u64) -> Result<Vec<DeviceRef>, AccountsError> {
        self.db
            .transaction("device_list.publish", &(caller, publication, now_ms), async |db, (caller, publication, now_ms)| {
                publish::publish(db, *caller, publication, *now_ms).await
            })
            .await
            .map_err(outward)
    }

    async fn leave(&self, caller: DeviceRef, version: u64, signed: Signed, now_ms: u64) -> Result<(), AccountsError> {
        self.db
            .transaction("device.leave", &(caller, version, signed, now_ms), async |db, (caller, version, signed, now_ms)| {
                publish::leave(db, *caller, *version, signed, *now_ms).await
            })
            .await
            .map_err(outward)
    }

    async fn user(&self, caller: DeviceRef, username: Username) -> Result<Option<User>, AccountsError> {
        self.db
            .statement("account.find", &(caller, username), async |db, (caller, username)| lookups::user(db, *caller, username).await)
            .await
            .map_err(outward)
    }

    async fn history(&self, caller: DeviceRef, account: AccountId, since: u64, limit: usize) -> Result<Option<History>, AccountsError> {
        self.db
            .snapshot("device_list.history", &(caller, account, since, limit), async |db, (caller, account, since, limit)| {
                lookups::history(db, *caller, *account, *since, *limit).await
            })
            .await
            .map_err(outward)
    }

    async fn devices(&self, caller: DeviceRef) -> Result<(u64, Vec<OwnDevice>), AccountsError> {
        self.db.statement("device.list", &caller, async |db, caller| lookups::own(db, *caller).await).await.map_err(outward)
    }
}

#[async_trait]
impl Keys for PostgresAccounts {
    async fn prekeys(&self, caller: DeviceRef) -> Result<PrekeyState, AccountsError> {
        self.db.statement("prekey.state", &caller, async |db, caller| prekeys::state(db, *caller).await).await.map_err(outward)
    }

    async fn add_prekeys(&self, prekeys: VerifiedPrekeys, caps: PrekeyCaps) -> Result<PrekeyState, AccountsError> {
        self.db.transaction("prekey.add", &(prekeys, caps), async |db, (prekeys, caps)| prekeys::add(db, prekeys, *caps).await).await.map_err(outward)
    }

    async fn take_bundles(&self, request: BundleRequest, now_ms: u64) -> Result<Bundles, AccountsError> {
        self.db
            .transaction("prekey.take", &(request, now_ms), async |db, (request, now_ms)| bundles::take(db, request, *now_ms).await)
            .await
            .map_err(outward)
    }
}

#[async_trait]
impl Presence for PostgresAccounts {
    async fn seen(&self, seen: Vec<(AccountId, u64)>) -> Result<(), AccountsError> {
        self.db.statement("account.seen", &seen, async |db, seen| presence::seen(db, seen).await).await.map_err(outward)
    }

    async fn hide_presence(&self, account: AccountId, hidden: bool) -> Result<(), AccountsError> {
        self.db
            .statement("account.hide_presence", &(account, hidden), async |db, (account, hidden)| presence::hide(db, *account, *hidden).await)
            .await
            .map_err(outward)
    }

    async fn presence(&self, accounts: Vec<AccountId>) -> Result<Vec<PresenceSetting>, AccountsError> {
        self.db.statement("account.presence", &accounts, async |db, accounts| presence::settings(db, accounts).await).await.map_err(outward)
    }
}

#[async_trait]
impl Upkeep for PostgresAccounts {
    async fn add_invites(&self, hashes: Vec<Bytes32>, expires_ms: u64, now_ms: u64) -> Result<(), AccountsError> {
        self.db
            .transaction("invite.add", &(hashes, expires_ms, now_ms), async |db, (hashes, expires_ms, now_ms)| {
                invites::add(db, hashes, *expires_ms, *now_ms).await
            })
            .await
            .map_err(outward)
    }

    async fn secret(&self, name: &'static str, candidate: Bytes32) -> Result<Bytes32, AccountsError> {
        let given = (name.to_owned(), candidate);
        self.db.statement("secret.load", &given, async |db, (name, candidate)| logins::secret(db, name, *candidate).await).await.map_err(outward)
    }

    async fn probe(&self) -> Result<(), AccountsError> {
        self.db.statement("storage.probe", &(), async |db, ()| purge::probe(db).await).await.map_err(outward)
    }

    async fn purge(&self, now_ms: u64) -> Result<u64, AccountsError> {
        purge::purge(&self.db, now_ms).await.map_err(outward)
    }
}
