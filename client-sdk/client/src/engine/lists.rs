//! Device lists: what the server says about accounts, and what is believed of it (encryption specification §1, A23, A25).

use super::people::ME;
use super::{Engine, Fetch, Result};
use crate::model::{Blocked, NoticeKind, StopReason};
use crate::server::ServerError;
use crate::statements::{AccountHistory, Step};
use kith_crypto::device::SignedCertificate;
use kith_crypto::session_set::Pair;
use kith_crypto::trusted_list::{Lineage, ListError, TrustedList};
use kith_crypto::{AccountId, DeviceId};
use kith_proto::v1::{self, ErrorCode};
use std::collections::HashMap;

/// Nothing newer is to be had within this time after a fetch.
const FRESH_MS: u64 = 30_000;

/// What a history changes.
#[derive(Default)]
struct Changes {
    added: usize,
    removed: Vec<DeviceId>,
    rotated: bool,
}

impl Engine {
    /// Asks for an account's statements above the pinned version.
    pub(super) fn want_lists(&mut self, account: i64) {
        if let Some(known) = self.people.accounts.get(&account) {
            self.want(Fetch::Lists { account, id: known.id, since: known.version() });
        }
    }

    /// The same, unless they were fetched after a time.
    pub(super) fn want_lists_since(&mut self, account: i64, since_ms: u64) {
        let recent = |fetched: u64| fetched >= since_ms || (fetched > 0 && fetched + FRESH_MS > self.now && since_ms == self.now);
        if self.people.accounts.get(&account).is_some_and(|known| !recent(known.fetched_ms)) {
            self.want_lists(account);
        }
    }

    /// Whether an account's list is at a version, or as new as it can be had. If not, it is asked for.
    pub(super) fn reach(&mut self, account: i64, version: u64) -> bool {
        let Some(known) = self.people.accounts.get(&account) else { return false };
        let reached = known.list.is_some() && version <= known.version();
        let recent = known.fetched_ms > 0 && known.fetched_ms + FRESH_MS > self.now;
        if !reached && !recent {
            self.want_lists(account);
        }
        reached || recent
    }

    pub(super) fn list_hint(&mut self, changed: &v1::DeviceListChanged) {
        let Some(account) = super::calls::id16(&changed.account).map(AccountId::from_bytes) else { return };
        let Some(no) = self.people.account_of.get(&account).copied() else { return };
        if self.people.accounts.get(&no).is_some_and(|known| known.version() < changed.version) {
            self.want_lists(no);
        }
    }

    pub(super) fn lists_arrived(&mut self, account: i64, history: &AccountHistory, asked_ms: u64) -> Result<()> {
        // What does not hold is not believed and has been told; there is nothing else to do about it here.
        if self.believe(account, history, asked_ms)?.is_ok() {
            self.name(account, history.username.as_deref());
        }
        Ok(())
    }

    /// Shows someone who wrote first by the name the server gives them, unless that is the name under which this user knows somebody else.
    fn name(&mut self, no: i64, username: Option<&str>) {
        let Some(username) = username.filter(|name| is_username(name)) else { return };
        if self.people.accounts.values().any(|known| known.record.username.as_deref() == Some(username)) {
            return;
        }
        if let Some(account) = self.people.accounts.get_mut(&no).filter(|account| account.record.username.is_none()) {
            (account.record.username, account.dirty) = (Some(username.to_owned()), true);
            self.effects.conversations_changed = true;
        }
    }

    pub(super) fn fetch_failed(&mut self, fetch: &Fetch, error: &ServerError) -> Result<()> {
        let gone = matches!(error, ServerError::Refused { code: ErrorCode::NotFound | ErrorCode::UnknownAccount, .. });
        match fetch {
            Fetch::Lists { account, .. } if gone => {
                let now = self.now;
                if let Some(known) = self.people.accounts.get_mut(account) {
                    known.fetched_ms = now;
                }
                Ok(())
            }
            Fetch::Upload(_) => {
                // Whatever became of it: the server's state says what to do next.
                self.keys_checked_ms = 0;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Verifies statements one by one and pins where they lead. On the first one that does not hold nothing more is believed, the user is told and sending
    /// to the account is held back. `asked_ms` is when the server was asked for them.
    pub(super) fn believe(&mut self, no: i64, history: &AccountHistory, asked_ms: u64) -> Result<Result<(), ListError>> {
        let known_devices = self.people.known_devices();
        let Some(account) = self.people.accounts.get_mut(&no) else { return Ok(Err(ListError::WrongAccount)) };
        account.fetched_ms = account.fetched_ms.max(asked_ms);
        let mut certificates = account.certificates()?;
        let before = account.list.as_deref().cloned();
        match follow(account.id, before.clone(), history, &mut certificates, &known_devices) {
            Ok((list, changes)) => {
                let moved = before.as_ref().is_none_or(|before| before != &list);
                if moved {
                    account.pin(list, &certificates);
                }
                let first = before.is_none();
                self.list_moved(no, first, moved, &changes)?;
                Ok(Ok(()))
            }
            Err(error) => {
                self.list_refused(no, error)?;
                Ok(Err(error))
            }
        }
    }

    fn list_moved(&mut self, no: i64, first: bool, moved: bool, changes: &Changes) -> Result<()> {
        let conversation = self.conversations.values().find(|conv| conv.record.peer == no).map(|conv| conv.no);
        for device in &changes.removed {
            let row = self.people.device(no, *device);
            self.store.drop_sessions_with(row)?;
            self.sessions.retain(|key, _| key.device != row);
            self.bundles.retain(|key, _| key.device != row);
            self.notice(conversation.unwrap_or(0), if no == ME { NoticeKind::OwnDeviceRemoved } else { NoticeKind::DeviceRemoved })?;
        }
        if !first {
            for _ in 0..changes.added {
                self.notice(conversation.unwrap_or(0), if no == ME { NoticeKind::OwnDeviceAdded } else { NoticeKind::NewDevice })?;
            }
        }
        if changes.rotated && !first {
            self.rotated(no)?;
            self.notice(conversation.unwrap_or(0), NoticeKind::KeysRotated)?;
        }
        let this = self.keys.device_id();
        if no == ME && self.people.list(ME).is_some_and(|list| list.device(this).is_err()) {
            self.effects.stop = Some(StopReason::Revoked);
            self.effects.drop_link = true;
        }
        if let (true, Some(conversation)) = (moved, conversation) {
            let conv = self.conv(conversation)?;
            if conv.blocked() == Some(Blocked::ListRefused) {
                conv.set_blocked(None);
            }
            conv.hold_until = 0;
            self.effects.conversations_changed = true;
        }
        Ok(())
    }

    /// The account's keys were replaced by its recovery key: nothing more is sent in sessions under the old identity, and nobody has compared the new number
    /// yet. Devices that the new identity certified have kept their keys, so what is on its way in the old sessions is still read; those of devices that it
    /// left out were erased. When it is this account, that concerns the sessions with everybody.
    fn rotated(&mut self, no: i64) -> Result<()> {
        let concerned = |device: &super::people::Device| no == ME || device.account == no;
        let rows: Vec<i64> = self.people.devices.iter().filter(|(_, device)| concerned(device)).map(|(row, _)| *row).collect();
        for row in self.store.session_rows()?.into_iter().filter(|row| rows.contains(&row.device)) {
            let (Some(device), Some(conv)) = (self.people.devices.get(&row.device), self.conversations.get(&row.conversation)) else { continue };
            let Some(account) = self.people.accounts.get(&device.account) else { continue };
            let pair = Pair { conversation: conv.id, account: account.id, device: device.id };
            self.load_sessions(row, pair)?;
            if let Some(sessions) = self.sessions.get_mut(&row) {
                sessions.set.retire_active(self.now);
                (sessions.dirty, sessions.skipped_dirty) = (true, true);
            }
        }
        self.bundles.retain(|key, _| !rows.contains(&key.device));
        if let Some(account) = self.people.accounts.get_mut(&no) {
            (account.record.verified, account.dirty) = (false, true);
        }
        Ok(())
    }

    fn list_refused(&mut self, no: i64, error: ListError) -> Result<()> {
        tracing::warn!(%error, "a device list was refused");
        let changed = matches!(error, ListError::IdentityChanged | ListError::AccountIdMismatch);
        let (blocked, notice) =
            if changed { (Blocked::KeysChanged, NoticeKind::KeysChanged) } else { (Blocked::ListRefused, NoticeKind::ListRefused) };
        let conversations: Vec<i64> = self.conversations.values().filter(|conv| conv.record.peer == no).map(|conv| conv.no).collect();
        for conversation in conversations {
            let conv = self.conv(conversation)?;
            if conv.blocked().is_none_or(|before| before == Blocked::GhostDevice) {
                conv.set_blocked(Some(blocked));
                self.notice(conversation, notice)?;
            }
        }
        if changed && let Some(account) = self.people.accounts.get_mut(&no) {
            (account.record.verified, account.dirty) = (false, true);
        }
        if no == ME {
            self.notice(0, NoticeKind::ListRefused)?;
        }
        Ok(())
    }
}

/// Follows a history from what is pinned. `certificates` grows by those that come with it.
fn follow(
    id: AccountId,
    pinned: Option<TrustedList>,
    history: &AccountHistory,
    certificates: &mut Vec<SignedCertificate>,
    known: &HashMap<DeviceId, AccountId>,
) -> Result<(TrustedList, Changes), ListError> {
    let known = |device: &DeviceId| known.get(device).copied();
    let mut changes = Changes::default();
    let mut current = pinned;
    for step in &history.steps {
        current = Some(match (step, current) {
            (Step::List(list, with), None) => {
                if list.account_id() != id {
                    return Err(ListError::WrongAccount);
                }
                certificates.extend(with);
                TrustedList::first_contact(&Lineage::unrotated(list), list, certificates, &known)?
            }
            (Step::Rotation(_), None) => return Err(ListError::BrokenChain),
            // An answer to an earlier question may begin before what is pinned meanwhile.
            (Step::List(list, _), Some(current)) if list.version() < current.version() => current,
            (Step::Rotation(rotation), Some(current)) if rotation.version() <= current.version() => current,
            (Step::List(list, with), Some(current)) => {
                certificates.extend(with);
                let advance = current.advance(list, certificates, &known)?;
                changes.added += advance.added.len();
                changes.removed.extend(advance.removed);
                advance.list
            }
            (Step::Rotation(rotation), Some(current)) => {
                changes.rotated = true;
                current.rotate(rotation)?
            }
        });
    }
    let mut list = current.ok_or(ListError::BrokenChain)?;
    if history.newest_version < list.version() {
        return Err(ListError::LowerVersion { pinned: list.version(), offered: history.newest_version });
    }
    if history.newest_version > list.version() {
        return Err(ListError::MissingVersions { pinned: list.version(), offered: history.newest_version });
    }
    for leave in &history.leaves {
        // A leave that does not verify removes nobody.
        if let Ok(left) = list.leave(leave) {
            list = left;
        }
    }
    Ok((list, changes))
}

/// The form of names that the protocol allows; anything else is not shown.
fn is_username(name: &str) -> bool {
    (3..=32).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
}
