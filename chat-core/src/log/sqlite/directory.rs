//! The accounts' numbers and devices, as the writer remembers them. Loaded on first use, dropped when a write job says that devices have changed.

use std::sync::Arc;

use kith_proto::id::{AccountId, DeviceId};
use rusqlite::{Connection, OptionalExtension as _};

use crate::domain::Generations;

/// Accounts in one generation of the cache.
const GENERATION: usize = 50_000;

#[derive(Debug)]
pub(super) struct Account {
    pub(super) no: i64,
    pub(super) devices: Vec<Device>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Device {
    pub(super) no: i64,
    pub(super) id: DeviceId,
    pub(super) revoked: bool,
    /// Has its cursors in the conversations that existed when it was linked.
    pub(super) enrolled: bool,
}

impl Account {
    pub(super) fn device(&self, id: DeviceId) -> Option<&Device> {
        self.devices.iter().find(|d| d.id == id)
    }

    pub(super) fn current(&self) -> impl Iterator<Item = &Device> + Clone {
        self.devices.iter().filter(|d| !d.revoked)
    }
}

#[derive(Debug)]
pub(super) struct Directory(Generations<AccountId, Arc<Account>>);

impl Default for Directory {
    fn default() -> Self {
        Self(Generations::new(GENERATION))
    }
}

impl Directory {
    pub(super) fn get(&self, id: AccountId) -> Option<&Arc<Account>> {
        self.0.peek(&id)
    }

    pub(super) fn insert(&mut self, id: AccountId, account: Arc<Account>) {
        self.0.insert(id, account);
    }

    pub(super) fn forget(&mut self, id: AccountId) {
        self.0.remove(&id);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// Reads an account and all the devices it ever had.
pub(super) fn load(db: &Connection, id: AccountId) -> rusqlite::Result<Option<Account>> {
    let no: Option<i64> = db.prepare_cached("SELECT no FROM account WHERE id = ?")?.query_row([id.0], |row| row.get(0)).optional()?;
    let Some(no) = no else { return Ok(None) };
    let mut query = db.prepare_cached(
        "SELECT d.no, d.id, d.revoked_ms IS NOT NULL, e.device IS NOT NULL FROM device d LEFT JOIN enrolled e ON e.device = d.no
         WHERE d.account_no = ? ORDER BY d.no",
    )?;
    let devices =
        query.query_map([no], |row| Ok(Device { no: row.get(0)?, id: DeviceId(row.get(1)?), revoked: row.get(2)?, enrolled: row.get(3)? }))?;
    Ok(Some(Account { no, devices: devices.collect::<Result<_, _>>()? }))
}
