//! A real store whose rows are replaced, and everything that reads them.

use super::control::{RepairRequest, Resent};
use super::{Engine, Result};
use crate::error::OpenError;
use crate::measure::Sending;
use crate::store::fuzzing::{PLACES, Plant};
use crate::store::{SessionRow, StoreError};
use crate::timeline;
use kith_crypto::prekey::PrekeyId;
use kith_crypto::repair::RepairBudget;
use prost::Message as _;
use std::path::Path;

/// A value for one place of the store.
#[derive(Debug, Clone, Copy)]
pub struct Planted<'a> {
    /// Which table and column; any number.
    pub place: u8,
    /// The row.
    pub no: i64,
    /// What stands beside the value in the clear.
    pub columns: [i64; 3],
    /// The value.
    pub value: &'a [u8],
    /// Whether the store's own key seals it for its place.
    pub sealed: bool,
}

/// An engine over a store with an account, a contact, a session and a message.
pub struct Rows {
    engine: Engine,
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rows")
    }
}

impl Rows {
    /// Makes it in a folder.
    ///
    /// # Errors
    /// [`OpenError`] if the store cannot be made.
    pub fn new(folder: &Path) -> Result<Self, OpenError> {
        Ok(Self { engine: Sending::new(folder)?.into_engine() })
    }

    /// Puts a value in, reads with everything that reads such values, and takes it out again. Whatever was understood is written as the store writes it and
    /// must then be understood as the same. Tells whether it was understood.
    ///
    /// # Panics
    /// If it reads differently, or if something was understood that the store's key has not sealed.
    pub fn read(&mut self, planted: Planted<'_>) -> bool {
        let place = usize::from(planted.place) % PLACES.len();
        let Planted { no, columns, value, sealed, .. } = planted;
        self.engine.store.plant(place, Plant { no, columns, value, sealed }).expect("any value fits");
        let understood = self.reads_back(place, no, columns).unwrap_or(false);
        assert!(sealed || !understood, "understood without a seal");
        if self.engine.read_state().is_ok() {
            self.engine.publish_all();
            let _ = self.engine.wake_at();
        }
        self.engine.store.rollback();
        understood
    }

    fn reads_back(&mut self, place: usize, no: i64, [a, b, _]: [i64; 3]) -> Result<bool> {
        let store = &mut self.engine.store;
        let row = SessionRow { conversation: no, device: a };
        match PLACES[place] {
            ("meta", _) => {
                let Some(record) = store.self_record()? else { return Ok(false) };
                store.set_self_record(&record)?;
                assert_eq!(store.self_record()?, Some(record));
            }
            ("account", _) => {
                let Some((_, record)) = store.accounts()?.into_iter().find(|(found, _)| *found == no) else { return Ok(false) };
                store.set_account(no, &record)?;
                assert!(store.accounts()?.contains(&(no, record)));
            }
            ("device", "value") => {
                let Some((_, account, record)) = store.devices()?.into_iter().find(|(found, ..)| *found == no) else { return Ok(false) };
                for times in [&record.repairs, &record.answers] {
                    let spent = RepairBudget::from_times(times.clone()).spend(a.cast_unsigned());
                    assert!(spent.is_none_or(|spent| spent.times().len() <= 5), "a budget stays small");
                }
                store.set_device(no, account, &record)?;
                assert!(store.devices()?.contains(&(no, account, record)));
            }
            ("device", _) => {
                let memory = store.replay(no)?;
                store.set_replay(no, &memory)?;
                assert_eq!(store.replay(no)?.to_bytes(), memory.to_bytes());
            }
            ("conversation", _) => {
                let Some((_, record)) = store.conversations()?.into_iter().find(|(found, _)| *found == no) else { return Ok(false) };
                store.set_conversation(no, &record)?;
                assert!(store.conversations()?.contains(&(no, record)));
            }
            ("session", _) => {
                let Some(set) = store.sessions(row)? else { return Ok(false) };
                store.set_sessions(row, &set, true)?;
                let again = store.sessions(row)?.expect("it is there");
                assert_eq!((again.to_bytes(), again.skipped_to_bytes()), (set.to_bytes(), set.skipped_to_bytes()));
            }
            ("chain", _) => {
                let row = SessionRow { conversation: a, device: b };
                let Some((_, chain)) = store.chains(row)?.into_iter().find(|(found, _)| *found == no) else { return Ok(false) };
                store.set_chain(no, &chain)?;
                let again = store.chains(row)?.into_iter().find(|(found, _)| *found == no).expect("it is there").1;
                assert_eq!(again.to_bytes(), chain.to_bytes());
            }
            ("prekey", _) => {
                store.prekeys()?;
                let Some(id) = u32::try_from(no).ok().and_then(PrekeyId::from_wire) else { return Ok(false) };
                let Some(secret) = store.prekey(id)? else { return Ok(false) };
                store.delete_prekey(id)?;
                store.delete_prekey(secret.id())?;
                store.add_prekey(&secret)?;
                assert_eq!(store.prekey(secret.id())?.expect("it is there").to_bytes(), secret.to_bytes());
            }
            ("outbox", _) => {
                let record = store.outbox_record(no)?;
                store.set_outbox(no, &record)?;
                assert_eq!(store.outbox_record(no)?, record);
                assert!(store.outbox()?.iter().any(|stored| stored.no == no));
            }
            ("notice", _) => return Ok(false),
            ("entry", _) => {
                let Some(stored) = store.entry(no)? else { return Ok(false) };
                let shown = timeline::shown(&stored);
                store.set_entry(no, stored.change, &stored.record)?;
                let again = store.entry(no)?.expect("it is there");
                assert!(again.record == stored.record && timeline::shown(&again) == shown);
            }
            _ => {
                let Some(hash) = store.log_hash(no, a.cast_unsigned())? else { return Ok(false) };
                store.add_log_hash(no, a.cast_unsigned(), &hash)?;
                assert_eq!(store.log_hash(no, a.cast_unsigned())?, Some(hash));
            }
        }
        Ok::<_, StoreError>(true)
    }
}

/// The contents by which devices repair what could not be read, as a peer sends them.
///
/// # Panics
/// If one is read that does not mean the same when written again.
pub fn repair_messages(bytes: &[u8]) {
    if let Ok(request) = RepairRequest::decode(bytes) {
        assert_eq!(RepairRequest::decode(request.encode_to_vec().as_slice()).expect("own bytes"), request);
    }
    if let Ok(resent) = Resent::decode(bytes) {
        assert_eq!(Resent::decode(resent.encode_to_vec().as_slice()).expect("own bytes"), resent);
        if let Ok(content) = kith_crypto::content::Content::from_bytes(&resent.content) {
            assert_eq!(content.to_bytes().as_slice(), resent.content);
        }
    }
}
