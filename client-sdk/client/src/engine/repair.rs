//! Repair of what could not be decrypted: a new session, a request inside it, and the same content again (encryption specification §3).
//!
//! The one who could not read begins a session from fresh prekeys and asks, by client_msg_id, for what it missed; the sender's device, and nobody else, sends
//! the very content again. Bounded on both sides: once an hour and five times a day per device, and only in conversations the user has accepted, so that
//! garbage from the server or a stranger costs nothing and gets no answer (A41). Until then the entry stays where it is and says so.

use super::control::{KIND_REPAIR, KIND_RESENT, MAX_ASKED, RepairRequest, Resent, is_silent};
use super::open::From;
use super::people::ME;
use super::send::Draft;
use super::{Engine, Result, calls};
use crate::store::codes::{REPAIR_GIVEN_UP, REPAIR_REQUESTED};
use crate::store::{Role, StoredEntry};
use kith_crypto::chain::ChainOwner;
use kith_crypto::content::{Content, content_hash};
use kith_crypto::repair::RepairBudget;
use kith_crypto::{AccountId, DeviceId};
use prost::Message as _;
use std::collections::BTreeMap;

const MAX_ATTEMPTS: u32 = 5;
const HOUR_MS: u64 = 60 * 60 * 1000;
const LOOKED_AT: i64 = 1_000;

impl Engine {
    /// Asks for what is broken, as far as the budget allows.
    pub(super) fn repairs(&mut self, no: i64) -> Result<()> {
        let now = self.now;
        let linked = self.link.is_some();
        let conv = self.conv(no)?;
        if !linked || conv.repair_at.is_none_or(|at| at > now) || !conv.record.accepted {
            return Ok(());
        }
        conv.repair_at = None;
        let mut by_device: BTreeMap<Vec<u8>, Vec<StoredEntry>> = BTreeMap::new();
        for entry in self.store.broken(no, LOOKED_AT)?.into_iter().filter(|entry| entry.record.repair != REPAIR_GIVEN_UP) {
            by_device.entry(entry.record.device.clone()).or_default().push(entry);
        }
        for entries in by_device.into_values() {
            self.ask_again(no, entries)?;
        }
        Ok(())
    }

    fn ask_again(&mut self, no: i64, mut entries: Vec<StoredEntry>) -> Result<()> {
        let peer = self.conv(no)?.record.peer;
        let account = if entries[0].record.mine { ME } else { peer };
        let Some(id) = calls::id16(&entries[0].record.device).map(DeviceId::from_bytes) else { return Ok(()) };
        if self.people.list(account).is_none_or(|list| list.device(id).is_err()) {
            return Ok(());
        }
        let row = self.people.device(account, id);
        let now = self.now;
        self.conv(no)?.repair_at = Some(now + HOUR_MS);
        let Some(device) = self.people.devices.get_mut(&row) else { return Ok(()) };
        let Some(spent) = RepairBudget::from_times(device.record.repairs.clone()).spend(now) else { return Ok(()) };
        (device.record.repairs, device.dirty) = (spent.times().to_vec(), true);
        entries.truncate(MAX_ASKED);
        let messages = entries.iter().map(|entry| entry.record.client_msg_id.clone()).collect();
        let body = RepairRequest { device: id.as_bytes().to_vec(), messages }.encode_to_vec();
        for mut entry in entries {
            entry.record.attempts += 1;
            entry.record.repair = if entry.record.attempts >= MAX_ATTEMPTS { REPAIR_GIVEN_UP } else { REPAIR_REQUESTED };
            let change = self.change();
            self.store.set_entry(entry.no, change, &entry.record)?;
        }
        let client_msg_id = calls::fresh_message_id(&mut self.store.rng).to_bytes();
        self.queue(no, Draft { kind: KIND_REPAIR, client_msg_id, body, renew: vec![row], ..Draft::default() })
    }

    /// Another device could not read messages of this one: sends their contents again, if they were meant for it.
    pub(super) fn repair_asked(&mut self, from: From, body: &[u8]) -> Result<()> {
        let Ok(request) = RepairRequest::decode(body) else { return Ok(()) };
        if request.device != self.keys.device_id().as_bytes() || request.messages.len() > MAX_ASKED || !self.conv(from.no)?.record.accepted {
            return Ok(());
        }
        let now = self.now;
        let since = self.people.list(from.account_no).and_then(|list| list.device(from.device).ok().map(|device| device.certificate().since_version));
        let Some(device) = self.people.devices.get_mut(&from.row.device) else { return Ok(()) };
        let budget = RepairBudget::from_times(device.record.answers.clone()).spend(now);
        let (Some(since), Some(spent)) = (since, budget) else { return Ok(()) };
        (device.record.answers, device.dirty) = (spent.times().to_vec(), true);
        let meant = |entry: &StoredEntry| {
            let list = if from.account_no == ME { entry.record.sender_list } else { entry.record.recipient_list };
            since <= list && !entry.record.head.is_empty() && request.messages.contains(&entry.record.client_msg_id)
        };
        let found = self.store.newest_of(from.no, Role::Mine, LOOKED_AT)?;
        for entry in found.into_iter().filter(meant).collect::<Vec<_>>().into_iter().rev() {
            let content = [entry.record.head.as_slice(), &entry.record.body].concat();
            let client_msg_id = calls::fresh_message_id(&mut self.store.rng).to_bytes();
            let body = Resent { content }.encode_to_vec();
            self.queue(from.no, Draft { kind: KIND_RESENT, client_msg_id, body, ..Draft::default() })?;
        }
        Ok(())
    }

    /// A content again: it mends the entry that this same device's message left, and nothing else (A27: nobody can put words into another's mouth).
    pub(super) fn resent(&mut self, from: From, body: &[u8]) -> Result<()> {
        let Ok(Resent { content }) = Resent::decode(body) else { return Ok(()) };
        let Ok(opened) = Content::from_bytes(&content) else { return Ok(()) };
        let conversation = self.conv(from.no)?.id;
        if opened.head.conversation != conversation || is_silent(opened.head.kind) {
            return Ok(());
        }
        let wanted = |entry: &StoredEntry| {
            let asked = entry.record.repair != 0 && entry.record.mine == (from.account_no == ME);
            asked && entry.record.device == from.device.as_bytes() && entry.record.client_msg_id == opened.head.client_msg_id.as_bytes()
        };
        let Some(mut entry) = self.store.broken(from.no, LOOKED_AT)?.into_iter().find(wanted) else { return Ok(()) };
        let account: AccountId = self.people.accounts.get(&from.account_no).map_or(self.account, |account| account.id);
        let owner = ChainOwner { conversation, account, device: from.device, incarnation: opened.head.incarnation };
        let chain = self.store.chains(from.row)?.into_iter().find(|(_, chain)| *chain.owner() == owner).map_or(0, |(no, _)| no);
        entry.record.kind = u32::from(opened.head.kind);
        entry.record.body = opened.body.to_vec();
        entry.record.c_k = content_hash(&content).to_vec();
        (entry.record.undecryptable, entry.record.repair) = (0, 0);
        // What this user wrote elsewhere arrives from nobody.
        let (change, arrival) = (self.change(), (!entry.record.mine).then(|| self.arrival()));
        self.store.mend_entry(entry.no, change, arrival, (chain, opened.head.k), &entry.record)
    }
}
