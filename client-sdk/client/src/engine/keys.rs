//! Prekeys: topped up when few are left, replaced weekly, erased 45 days after that (encryption specification §2).

use super::{Engine, Fetch, Result};
use crate::statements::prekey_to_wire;
use kith_crypto::AccountId;
use kith_crypto::device::DeviceKeys;
use kith_crypto::prekey::{IdsExhausted, PrekeyId, PrekeySecret, due_for_erasure, one_time_batch};
use kith_proto::rest::{KeysState, OneTimePrekey, PrekeyUpload};

/// So many one-time keys of each sort lie on the server when all is well.
pub(crate) const FULL: u32 = 100;
/// Below this they are topped up.
const LOW: u32 = 40;
/// Uploaded at one time, of each sort, so that a request stays small.
pub(crate) const BATCH: u32 = 50;
/// How often the server is asked how many are left, if it does not say so itself.
const CHECK_MS: u64 = 6 * 60 * 60 * 1000;

/// What is to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) signed: bool,
    pub(crate) last_resort: bool,
    pub(crate) one_time: u32,
}

/// Makes prekeys with the ids from `first` on; gives their private parts, the upload, and the next free id.
pub(crate) fn make(
    rng: &mut rand::rngs::StdRng,
    keys: &DeviceKeys,
    account: AccountId,
    first: PrekeyId,
    wanted: Wanted,
    now_ms: u64,
) -> Result<(Vec<PrekeySecret>, PrekeyUpload, PrekeyId), IdsExhausted> {
    let mut next = first;
    let mut secrets = Vec::new();
    let mut upload = PrekeyUpload::default();
    if wanted.signed {
        let secret = PrekeySecret::signed(rng, next, now_ms);
        upload.signed = secret.signed_public(account, keys).as_ref().map(prekey_to_wire);
        secrets.push(secret);
        next = next.next()?;
    }
    if wanted.last_resort {
        let secret = PrekeySecret::kem_last_resort(rng, next, now_ms);
        upload.last_resort_kem = secret.signed_public(account, keys).as_ref().map(prekey_to_wire);
        secrets.push(secret);
        next = next.next()?;
    }
    let (batch, next) = one_time_batch(rng, next, wanted.one_time as usize, now_ms)?;
    for secret in &batch {
        match secret.one_time_public() {
            Some(public) => upload.one_time.push(OneTimePrekey { id: public.id.get(), key: (*public.key.as_bytes()).into() }),
            None => upload.one_time_kem.extend(secret.signed_public(account, keys).as_ref().map(prekey_to_wire)),
        }
    }
    secrets.extend(batch);
    Ok((secrets, upload, next))
}

impl Engine {
    /// Asks the server how its stock is, now and then; erases what is due.
    pub(super) fn daily_keys(&mut self) -> Result<()> {
        if self.erased_ms == 0 || self.erased_ms + CHECK_MS <= self.now {
            // Whether there is a connection or not: what is due goes.
            self.erased_ms = self.now;
            self.erase_old_keys()?;
        }
        if self.link.is_some() && (self.keys_checked_ms == 0 || self.keys_checked_ms + CHECK_MS <= self.now) {
            self.keys_checked_ms = self.now;
            self.want(Fetch::Keys);
        }
        Ok(())
    }

    fn erase_old_keys(&mut self) -> Result<()> {
        let prekeys = self.store.prekeys()?;
        let due = |replaced: &Option<u64>| replaced.is_some_and(|at| due_for_erasure(at, self.now));
        let erased: Vec<PrekeyId> = prekeys.iter().filter(|(_, replaced)| due(replaced)).map(|(secret, _)| secret.id()).collect();
        if erased.is_empty() {
            return Ok(());
        }
        for id in &erased {
            self.store.delete_prekey(*id)?;
        }
        // First messages made with erased keys cannot come again: their memory may go.
        let kept = prekeys.iter().filter(|(secret, _)| !secret.is_one_time() && !erased.contains(&secret.id())).map(|(secret, _)| secret.id()).min();
        let Some(lowest) = kept else { return Ok(()) };
        let devices: Vec<i64> = self.people.devices.keys().copied().collect();
        self.people.flush(&mut self.store)?;
        for device in devices {
            let mut memory = self.store.replay(device)?;
            let before = memory.len();
            memory.forget_below(lowest);
            if memory.len() != before {
                self.store.set_replay(device, &memory)?;
            }
        }
        Ok(())
    }

    /// The server holds newer keys than these: from now on their time runs. Told by its state and not by the answer to the upload, which may be lost.
    fn note_replaced(&mut self, state: &KeysState) -> Result<()> {
        for (secret, replaced) in self.store.prekeys()? {
            let newest = if secret.is_signed() { state.signed_id } else { state.last_resort_kem_id };
            if !secret.is_one_time() && replaced.is_none() && secret.id().get() < newest {
                self.store.set_prekey_replaced(secret.id(), self.now)?;
            }
        }
        Ok(())
    }

    /// The server's stock is known: makes what is missing. The private parts are stored before the public ones leave.
    pub(super) fn keys_known(&mut self, state: &KeysState) -> Result<()> {
        self.keys_checked_ms = self.now;
        if state.highest_id >= self.me.next_prekey {
            self.me.next_prekey = state.highest_id.saturating_add(1);
            self.me_dirty = true;
        }
        self.note_replaced(state)?;
        let rotate = |id: u32| -> Result<bool> {
            let secret = PrekeyId::from_wire(id).map(|id| self.store.prekey(id)).transpose()?.flatten();
            Ok(secret.is_none_or(|secret| secret.due_for_rotation(self.now)))
        };
        let lost = self.me.rolled_back;
        let missing = FULL.saturating_sub(state.one_time.min(state.one_time_kem));
        let low = state.one_time.min(state.one_time_kem) < LOW;
        let wanted = Wanted {
            signed: lost || rotate(state.signed_id)?,
            last_resort: lost || rotate(state.last_resort_kem_id)?,
            one_time: if low { missing.min(BATCH) } else { 0 },
        };
        if wanted.signed || wanted.last_resort || wanted.one_time > 0 {
            self.make_and_upload(wanted)?;
        }
        Ok(())
    }

    fn make_and_upload(&mut self, wanted: Wanted) -> Result<()> {
        let Some(first) = PrekeyId::from_wire(self.me.next_prekey) else { return Ok(()) };
        let made = make(&mut self.store.rng, &self.keys, self.account, first, wanted, self.now);
        let Ok((secrets, upload, next)) = made else {
            tracing::error!("the prekey ids of this device are used up");
            return Ok(());
        };
        for secret in &secrets {
            self.store.add_prekey(secret)?;
        }
        (self.me.next_prekey, self.me_dirty) = (next.get(), true);
        self.want(Fetch::Upload(Box::new(upload)));
        Ok(())
    }

    /// The server has them. What they replace is erased later; after a rollback sending begins again.
    pub(super) fn keys_uploaded(&mut self, upload: &PrekeyUpload, state: &KeysState) -> Result<()> {
        if upload.signed.is_some() && upload.last_resort_kem.is_some() && self.me.rolled_back {
            (self.me.rolled_back, self.me_dirty) = (false, true);
        }
        self.awake.extend(self.conversations.keys());
        // More than one batch may be missing.
        self.keys_known(state)
    }
}
