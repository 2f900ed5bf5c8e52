//! The embedded implementation: every change is a job of the database's one writer, every look-up a job of a reader.

mod bundles;
mod devices;
mod invites;
mod logins;
mod prekeys;
mod publish;
mod register;

use std::sync::Arc;

use async_trait::async_trait;
use kith_proto::id::{AccountId, DeviceRef};
use rusqlite::{Connection, OptionalExtension as _, params, types::Type};

pub use self::invites::add_invites_to_file;
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
    sqlite::{Database, StoreError, Write},
};

/// Accounts in the embedded database.
#[derive(Debug, Clone)]
pub struct SqliteAccounts {
    db: Arc<Database>,
}

impl SqliteAccounts {
    /// In this database.
    #[must_use]
    pub fn new(db: Arc<Database>) -> Self {
        Self { db }
    }

    async fn write<T, F>(&self, name: &'static str, job: F) -> Result<T, AccountsError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Write<'_>) -> Result<T, Failure> + Send + 'static,
    {
        self.db.write(name, job).await.map_err(outward)
    }

    async fn read<T, F>(&self, name: &'static str, job: F) -> Result<T, AccountsError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    {
        self.db.read(name, job).await.map_err(outward)
    }
}

/// Why a job ends without a result: a refusal, or the database.
#[derive(Debug)]
enum Failure {
    Refused(AccountsError),
    Sql(rusqlite::Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<AccountsError> for Failure {
    fn from(error: AccountsError) -> Self {
        Self::Refused(error)
    }
}

fn outward(error: StoreError<Failure>) -> AccountsError {
    match error {
        StoreError::Job(Failure::Refused(refusal)) => refusal,
        StoreError::Job(Failure::Sql(error)) => AccountsError::Unavailable(Box::new(error)),
        StoreError::Overloaded => AccountsError::Overloaded,
        StoreError::Fault(fault) => AccountsError::Unavailable(Box::new(fault)),
        StoreError::Stopped => AccountsError::Unavailable("the database has stopped".into()),
    }
}

/// Row numbers of a current device.
#[derive(Debug, Clone, Copy)]
struct CallerNo {
    account: i64,
    device: i64,
}

/// The row numbers of a device, if it is current.
fn current(db: &Connection, caller: DeviceRef) -> Result<CallerNo, Failure> {
    let sql = "SELECT a.no, d.no FROM device d JOIN account a ON a.no = d.account_no WHERE d.id = ? AND a.id = ? AND d.revoked_ms IS NULL";
    let found = db
        .prepare_cached(sql)?
        .query_row(params![caller.device.0, caller.account.0], |row| Ok(CallerNo { account: row.get(0)?, device: row.get(1)? }))
        .optional()?;
    found.ok_or(Failure::Refused(AccountsError::Revoked))
}

/// Numbers are stored as signed 64-bit ones. Those that come from outside are checked where they come in; a larger one here means "for ever".
fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The other way; no negative number is ever stored.
fn loaded(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn id_prekey(row: &rusqlite::Row<'_>, column: usize) -> Result<u32, rusqlite::Error> {
    row.get(column)
}

/// A column holds what this program never writes.
fn inconsistent(column: usize) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Integer, "an impossible value".into())
}

#[async_trait]
impl Registry for SqliteAccounts {
    async fn register(&self, registration: Registration, now_ms: u64) -> Result<Registered, AccountsError> {
        self.write("account.register", move |write| register::register(write, &registration, now_ms)).await
    }

    async fn signing_key(&self, device: DeviceRef) -> Result<Option<Bytes32>, AccountsError> {
        self.read("device.signing_key", move |db| devices::signing_key(db, device)).await
    }

    async fn login(&self, device: DeviceRef, login: NewLogin, now_ms: u64) -> Result<(), AccountsError> {
        self.write("login.open", move |write| logins::open(write.tx(), device, &login, now_ms)).await
    }

    async fn refresh(&self, refresh: Refresh, now_ms: u64) -> Result<DeviceRef, AccountsError> {
        let exchanged = self.write("login.refresh", move |write| logins::refresh(write.tx(), &refresh, now_ms)).await?;
        exchanged.ok_or(AccountsError::RefreshInvalid)
    }

    async fn state(&self, account: AccountId) -> Result<Option<AccountState>, AccountsError> {
        self.read("account.state", move |db| devices::state(db, account)).await
    }

    async fn publish(&self, caller: Option<DeviceRef>, publication: Publication, now_ms: u64) -> Result<Vec<DeviceRef>, AccountsError> {
        self.write("device_list.publish", move |write| publish::publish(write, caller, &publication, now_ms)).await
    }

    async fn leave(&self, caller: DeviceRef, version: u64, signed: Signed, now_ms: u64) -> Result<(), AccountsError> {
        self.write("device.leave", move |write| publish::leave(write, caller, version, &signed, now_ms)).await
    }

    async fn user(&self, caller: DeviceRef, username: Username) -> Result<Option<User>, AccountsError> {
        self.read("account.find", move |db| devices::user(db, caller, &username)).await
    }

    async fn history(&self, caller: DeviceRef, account: AccountId, since: u64, limit: usize) -> Result<Option<History>, AccountsError> {
        self.read("device_list.history", move |db| devices::history(db, caller, account, since, limit)).await
    }

    async fn devices(&self, caller: DeviceRef) -> Result<(u64, Vec<OwnDevice>), AccountsError> {
        self.read("device.list", move |db| devices::own(db, caller)).await
    }
}

#[async_trait]
impl Keys for SqliteAccounts {
    async fn prekeys(&self, caller: DeviceRef) -> Result<PrekeyState, AccountsError> {
        self.read("prekey.state", move |db| prekeys::state(db, current(db, caller)?.device)).await
    }

    async fn add_prekeys(&self, prekeys: VerifiedPrekeys, caps: PrekeyCaps) -> Result<PrekeyState, AccountsError> {
        self.write("prekey.add", move |write| prekeys::add(write.tx(), &prekeys, caps)).await
    }

    async fn take_bundles(&self, request: BundleRequest, now_ms: u64) -> Result<Bundles, AccountsError> {
        self.write("prekey.take", move |write| bundles::take(write.tx(), &request, now_ms)).await
    }
}

#[async_trait]
impl Presence for SqliteAccounts {
    async fn seen(&self, seen: Vec<(AccountId, u64)>) -> Result<(), AccountsError> {
        self.write("account.seen", move |write| devices::seen(write.tx(), &seen)).await
    }

    async fn hide_presence(&self, account: AccountId, hidden: bool) -> Result<(), AccountsError> {
        self.write("account.hide_presence", move |write| Ok(devices::hide_presence(write.tx(), account, hidden)?)).await
    }

    async fn presence(&self, accounts: Vec<AccountId>) -> Result<Vec<PresenceSetting>, AccountsError> {
        self.read("account.presence", move |db| devices::presence(db, &accounts)).await
    }
}

#[async_trait]
impl Upkeep for SqliteAccounts {
    async fn add_invites(&self, hashes: Vec<Bytes32>, expires_ms: u64, now_ms: u64) -> Result<(), AccountsError> {
        self.write("invite.add", move |write| Ok(invites::add(write.tx(), &hashes, expires_ms, now_ms)?)).await
    }

    async fn secret(&self, name: &'static str, candidate: Bytes32) -> Result<Bytes32, AccountsError> {
        self.write("secret.load", move |write| Ok(logins::secret(write.tx(), name, &candidate)?)).await
    }

    async fn probe(&self) -> Result<(), AccountsError> {
        self.write("storage.probe", |write| Ok(logins::probe(write.tx())?)).await
    }

    async fn purge(&self, now_ms: u64) -> Result<u64, AccountsError> {
        logins::purge(self, now_ms).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::SqliteAccounts;
    use crate::{
        accounts::{
            Accounts,
            conformance::{self, races, revocations},
        },
        bus::Event,
        domain::Clock,
        sqlite::{Database, Options},
    };

    fn fresh() -> (Arc<dyn Accounts>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let (db, _resolved) = Database::open(&folder.path().join("kith.db"), Options::new(Clock::System)).unwrap();
        (Arc::new(SqliteAccounts::new(db)), folder)
    }

    #[tokio::test]
    async fn a_revocation_and_its_event_are_one_change() {
        let (accounts, folder) = fresh();
        let outbox = async || {
            let db = rusqlite::Connection::open(folder.path().join("kith.db")).unwrap();
            let mut query = db.prepare("SELECT payload FROM outbox WHERE topic = 'accounts' ORDER BY no").unwrap();
            let payloads = query.query_map([], |row| row.get::<_, Vec<u8>>(0)).unwrap();
            payloads.map(|payload| Event::from_payload(&payload.unwrap()).unwrap()).collect()
        };
        revocations::a_revocation_and_its_event_are_one_change(accounts, outbox).await;
    }

    conformance::suite!(async { fresh() });
    races::race_suite!(
        async {
            let (accounts, folder) = fresh();
            (Arc::clone(&accounts), accounts, folder)
        },
        async |_: &tempfile::TempDir| {}
    );
}
