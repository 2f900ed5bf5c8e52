//! Accounts and devices as this store knows them.

use super::Result;
use crate::store::records::{AccountRecord, DeviceRecord};
use crate::store::{Store, StoreError};
use kith_crypto::device::SignedCertificate;
use kith_crypto::trusted_list::TrustedList;
use kith_crypto::{AccountId, DeviceId};
use std::collections::HashMap;
use std::sync::Arc;

/// The row of this account.
pub(super) const ME: i64 = 1;

/// An account.
pub(super) struct Account {
    pub(super) no: i64,
    pub(super) id: AccountId,
    pub(super) record: AccountRecord,
    /// What is believed about it; nothing before the first verification.
    pub(super) list: Option<Arc<TrustedList>>,
    pub(super) dirty: bool,
    /// When its statements were last fetched, and whether that told anything that does not hold.
    pub(super) fetched_ms: u64,
}

/// A device.
pub(super) struct Device {
    pub(super) account: i64,
    pub(super) id: DeviceId,
    pub(super) record: DeviceRecord,
    pub(super) dirty: bool,
}

/// All of them, in memory.
#[derive(Default)]
pub(super) struct People {
    pub(super) accounts: HashMap<i64, Account>,
    pub(super) account_of: HashMap<AccountId, i64>,
    pub(super) devices: HashMap<i64, Device>,
    pub(super) device_of: HashMap<(i64, DeviceId), i64>,
    next_account: i64,
    next_device: i64,
}

fn id<const N: usize>(what: &'static str, bytes: &[u8]) -> Result<[u8; N]> {
    bytes.try_into().map_err(|_| StoreError::Malformed(what))
}

impl Account {
    fn read(no: i64, record: AccountRecord) -> Result<Self> {
        let list = if record.list.is_empty() { None } else { Some(Arc::new(TrustedList::from_bytes(&record.list)?)) };
        let id = AccountId::from_bytes(id("account", &record.id)?);
        Ok(Self { no, id, record, list, dirty: false, fetched_ms: 0 })
    }

    /// The certificates that were verified so far; later lists refer to them.
    pub(super) fn certificates(&self) -> Result<Vec<SignedCertificate>> {
        let read = |bytes: &Vec<u8>| SignedCertificate::from_bytes(bytes).map_err(|_| StoreError::Malformed("certificate"));
        self.record.certificates.iter().map(read).collect()
    }

    pub(super) fn pin(&mut self, list: TrustedList, certificates: &[SignedCertificate]) {
        self.record.list = list.to_bytes().to_vec();
        let listed = |cert: &&SignedCertificate| list.device(cert.certificate().device_id).is_ok();
        self.record.certificates = certificates.iter().filter(listed).map(|cert| cert.to_bytes().to_vec()).collect();
        self.list = Some(Arc::new(list));
        self.dirty = true;
    }

    pub(super) fn version(&self) -> u64 {
        self.list.as_ref().map_or(0, |list| list.version())
    }
}

impl People {
    pub(super) fn read(store: &Store) -> Result<Self> {
        let mut people = Self::default();
        for (no, record) in store.accounts()? {
            let account = Account::read(no, record)?;
            people.account_of.insert(account.id, no);
            people.accounts.insert(no, account);
            people.next_account = no;
        }
        for (no, account, record) in store.devices()? {
            let device = DeviceId::from_bytes(id("device", &record.id)?);
            people.device_of.insert((account, device), no);
            people.devices.insert(no, Device { account, id: device, record, dirty: false });
            people.next_device = no;
        }
        Ok(people)
    }

    /// The row of an account, made if there is none.
    pub(super) fn account(&mut self, id: AccountId) -> i64 {
        if let Some(no) = self.account_of.get(&id) {
            return *no;
        }
        self.next_account += 1;
        let no = self.next_account;
        let record = AccountRecord { id: id.as_bytes().to_vec(), ..AccountRecord::default() };
        self.account_of.insert(id, no);
        self.accounts.insert(no, Account { no, id, record, list: None, dirty: true, fetched_ms: 0 });
        no
    }

    /// The row of a device, made if there is none.
    pub(super) fn device(&mut self, account: i64, id: DeviceId) -> i64 {
        if let Some(no) = self.device_of.get(&(account, id)) {
            return *no;
        }
        self.next_device += 1;
        let no = self.next_device;
        let record = DeviceRecord { id: id.as_bytes().to_vec(), ..DeviceRecord::default() };
        self.device_of.insert((account, id), no);
        self.devices.insert(no, Device { account, id, record, dirty: true });
        no
    }

    pub(super) fn list(&self, account: i64) -> Option<Arc<TrustedList>> {
        self.accounts.get(&account)?.list.clone()
    }

    /// Under which accounts device ids are known (§9.3).
    pub(super) fn known_devices(&self) -> HashMap<DeviceId, AccountId> {
        let known = |device: &Device| Some((device.id, self.accounts.get(&device.account)?.id));
        self.devices.values().filter_map(known).collect()
    }

    pub(super) fn flush(&mut self, store: &mut Store) -> Result<()> {
        for account in self.accounts.values_mut().filter(|account| account.dirty) {
            store.set_account(account.no, &account.record)?;
            account.dirty = false;
        }
        for (no, device) in self.devices.iter_mut().filter(|(_, device)| device.dirty) {
            store.set_device(*no, device.account, &device.record)?;
            device.dirty = false;
        }
        Ok(())
    }
}
