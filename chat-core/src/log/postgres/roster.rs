//! The accounts' current devices, as a writer remembers them. A memory of it may be old: what is accepted by it is checked against the version that the
//! conversation carries, and nothing is refused by it before it was read again.

use kith_proto::id::{AccountId, DeviceId};
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::session::Call;
use crate::domain::Generations;

/// Accounts in one generation of the memory.
const GENERATION: usize = 50_000;

const LOAD: &str =
    "SELECT a.account, a.version, array(SELECT d.device FROM log_device d WHERE d.account = a.account AND NOT d.retired ORDER BY d.device)
    FROM unnest($1::uuid[]) i(account) JOIN log_account a ON a.account = i.account";

/// An account's current devices.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Roster {
    /// Changes whenever they do.
    pub(super) version: i64,
    /// In ascending order.
    pub(super) devices: Vec<DeviceId>,
}

#[derive(Debug)]
pub(super) struct Rosters(Generations<AccountId, Roster>);

impl Default for Rosters {
    fn default() -> Self {
        Self(Generations::new(GENERATION))
    }
}

impl Rosters {
    pub(super) fn get(&self, id: AccountId) -> Option<&Roster> {
        self.0.peek(&id)
    }

    pub(super) fn insert(&mut self, id: AccountId, roster: Roster) {
        self.0.insert(id, roster);
    }

    /// Remembers what was just read of these accounts. Those that were not found are unknown.
    pub(super) fn replace(&mut self, accounts: &[AccountId], loaded: Vec<(AccountId, Roster)>) {
        accounts.iter().for_each(|account| self.0.remove(account));
        loaded.into_iter().for_each(|(account, roster)| self.insert(account, roster));
    }
}

/// Reads accounts. Those that do not exist are left out.
pub(super) struct Load<'a>(pub(super) &'a [AccountId]);

impl Call for Load<'_> {
    type Answer = Vec<(AccountId, Roster)>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Self::Answer, sqlx::Error> {
        let ids: Vec<Uuid> = self.0.iter().map(|a| Uuid::from_bytes(a.0)).collect();
        let rows = sqlx::query(LOAD).bind(ids).fetch_all(connection).await?;
        let loaded = rows.iter().map(|row| {
            let account: Uuid = row.try_get(0)?;
            let devices: Vec<Uuid> = row.try_get(2)?;
            let devices = devices.into_iter().map(|d| DeviceId(d.into_bytes())).collect();
            Ok((AccountId(account.into_bytes()), Roster { version: row.try_get(1)?, devices }))
        });
        loaded.collect()
    }
}
