//! All sessions between this device and one peer device in one conversation (§3, §9.16, §9.22).
//!
//! One session is active and sends; up to four older ones only receive. A slice names its session by id; nothing is found
//! by trial. Sending changes the set in place; receiving gives a *new* set, to be stored in the same transaction as the
//! message and to take the old one's place only then.
//!
//! A device that left its account's list and comes back is a new start: give it a new, empty set.
//!
//! Known limit of §3: if one side begins *again* while the beginnings cross, the two may settle on different sessions.
//! Everything still opens, but each session then carries one direction only and does not heal until one side begins anew.

use crate::bytes::{FormatError, StateError, StateKind, StateWriter, read_state};
use crate::device::DeviceKeys;
use crate::handshake::initiator::{Freshness, initiate};
use crate::handshake::{HandshakeError, responder};
use crate::id::{AccountId, ConversationId, DeviceId, Incarnation};
use crate::message::SlicePlaintext;
use crate::prekey::VerifiedBundle;
use crate::ratchet::header::{PrekeyIds, SessionId, Slice};
use crate::ratchet::session::{ListVersions, OpenError, Opened, Role, SealError, Sealed, Session};
use crate::ratchet::skipped::SkippedKeys;
use crate::secret::opaque_debug;
use crate::trusted_list::TrustedList;
use rand_core::CryptoRng;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Most receive-only sessions of a pair.
pub const MAX_RETIRED: usize = 4;
/// A receive-only session is erased this long after it stopped being active, in milliseconds: 45 days.
pub const RETIRED_LIFETIME_MS: u64 = 45 * 24 * 60 * 60 * 1000;

/// Which pair of devices, and where. The own device is the one whose store this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pair {
    /// The conversation.
    pub conversation: ConversationId,
    /// The peer's account.
    pub account: AccountId,
    /// The peer's device.
    pub device: DeviceId,
}

#[derive(Clone)]
struct Retired {
    session: Arc<Session>,
    since_ms: u64,
}

/// What to do with a slice that came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// It belongs to a session of the set.
    Known,
    /// It begins a session: look up these private prekeys, then open it.
    FirstContact(PrekeyIds),
    /// Its session is unknown and it does not begin one: ask the peer to repair.
    Unknown,
}

/// The sessions of a [`Pair`]. Deliberately not `Clone`: two copies would seal two messages with the same key.
pub struct SessionSet {
    pair: Pair,
    active: Option<Arc<Session>>,
    /// Newest last.
    retired: Vec<Retired>,
    skipped: SkippedKeys,
    /// In which incarnation, and from which k on, this device addresses the peer device.
    addressed: Option<(Incarnation, u64)>,
}

opaque_debug!(SessionSet);

/// A slice opened by a set: what follows if it is kept.
pub(crate) struct OpenedSlice {
    pub(crate) next: SessionSet,
    pub(crate) plaintext: SlicePlaintext,
    pub(crate) skipped_changed: bool,
}

/// A first message whose slice authenticated; its body decides whether and how the session joins the set.
pub(crate) struct NewSession {
    session: Session,
    skipped: Option<SkippedKeys>,
    pub(crate) th: [u8; 32],
    pub(crate) ids: PrekeyIds,
    pub(crate) plaintext: SlicePlaintext,
}

impl SessionSet {
    /// A pair without a session.
    #[must_use]
    pub fn new(pair: Pair) -> Self {
        Self { pair, active: None, retired: Vec::new(), skipped: SkippedKeys::default(), addressed: None }
    }

    /// The pair it belongs to.
    #[must_use]
    pub const fn pair(&self) -> &Pair {
        &self.pair
    }

    /// Whether a message can be sealed without a bundle.
    #[must_use]
    pub const fn has_active(&self) -> bool {
        self.active.is_some()
    }

    /// Whether the peer has proved that it holds the active session.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.active.as_ref().is_some_and(|session| session.confirmed)
    }

    /// How many sessions only receive.
    #[must_use]
    pub const fn retired_count(&self) -> usize {
        self.retired.len()
    }

    /// How many skipped message keys are kept.
    #[must_use]
    pub fn skipped_count(&self) -> usize {
        self.skipped.len()
    }

    /// The last post-quantum epoch mixed into the active session, 0 if none was.
    #[must_use]
    pub fn post_quantum_epoch(&self) -> u32 {
        self.active.as_ref().map_or(0, |session| session.pq.last_mixed())
    }

    /// The id of the active session, for diagnosis.
    #[must_use]
    pub fn active_id(&self) -> Option<SessionId> {
        self.active.as_ref().map(|session| session.id())
    }

    /// What to do with a slice: sessions are chosen by id, never by trial.
    #[must_use]
    pub fn route(&self, slice: &Slice<'_>) -> Route {
        if self.find(slice.header.session_id).is_some() {
            return Route::Known;
        }
        slice.prekey_ids().map_or(Route::Unknown, Route::FirstContact)
    }

    /// A second handle on the same state, for work that may yet fail. Never leaves the crate.
    pub(crate) fn working_copy(&self) -> Self {
        Self { pair: self.pair, active: self.active.clone(), retired: self.retired.clone(), skipped: self.skipped.clone(), addressed: self.addressed }
    }

    /// Begins a session that becomes the active one; the one before only receives from now on.
    pub(crate) fn begin<R: CryptoRng + ?Sized>(
        &mut self,
        rng: &mut R,
        keys: &DeviceKeys,
        own: &TrustedList,
        bundle: &VerifiedBundle,
        versions: ListVersions,
        now_ms: u64,
    ) -> Result<Freshness, HandshakeError> {
        if bundle.device.account_id != self.pair.account || bundle.device.device_id != self.pair.device {
            return Err(HandshakeError::OtherDevice);
        }
        let own = keys.party(own.account_id(), own.identity());
        let (session, freshness) = initiate(rng, keys, &own, self.pair.conversation, bundle, versions, now_ms)?;
        self.activate(Arc::new(session), now_ms);
        Ok(freshness)
    }

    /// The first k of `incarnation` that this pair is addressed with, noting `k` if it is the first.
    pub(crate) fn address(&mut self, incarnation: Incarnation, k: u64) -> u64 {
        match self.addressed {
            Some((known, since)) if known == incarnation => since,
            _ => {
                self.addressed = Some((incarnation, k));
                k
            }
        }
    }

    /// Seals a slice in the active session, advancing it first.
    pub(crate) fn seal<R: CryptoRng + ?Sized>(&mut self, rng: &mut R, plaintext: &SlicePlaintext, now_ms: u64) -> Result<Sealed, SealError> {
        let session = self.active.as_mut().ok_or(SealError::NoSession)?;
        Arc::make_mut(session).seal(rng, &plaintext.to_bytes(), now_ms)
    }

    /// Opens a slice of a session of this set.
    pub(crate) fn open<R: CryptoRng + ?Sized>(&self, rng: &mut R, slice: &Slice<'_>, now_ms: u64) -> Result<OpenedSlice, OpenError> {
        let session = self.find(slice.header.session_id).ok_or(OpenError::UnknownSession)?;
        let Opened { session: after, skipped, plaintext } = session.open(rng, slice, &self.skipped, now_ms)?;
        let mut next = self.working_copy();
        let after = Arc::new(after);
        if let Some(active) = next.active.as_mut().filter(|active| active.th == after.th) {
            *active = after;
        } else if let Some(retired) = next.retired.iter_mut().find(|retired| retired.session.th == after.th) {
            retired.session = after;
        }
        let skipped_changed = skipped.is_some();
        if let Some(skipped) = skipped {
            next.skipped = skipped;
        }
        let plaintext = SlicePlaintext::from_bytes(&plaintext).map_err(|_| OpenError::NotAuthentic)?;
        Ok(OpenedSlice { next, plaintext, skipped_changed })
    }

    /// Authenticates the first slice of an accepted handshake. Nothing joins the set yet.
    pub(crate) fn open_first(&self, accepted: &responder::Accepted<'_>, slice: &Slice<'_>, now_ms: u64) -> Result<NewSession, OpenError> {
        let Opened { session, skipped, plaintext } =
            Session::responder(accepted.th, &accepted.root, accepted.signed_prekey, slice, &self.skipped, now_ms)?;
        let plaintext = SlicePlaintext::from_bytes(&plaintext).map_err(|_| OpenError::NotAuthentic)?;
        Ok(NewSession { session, skipped, th: accepted.th, ids: accepted.ids, plaintext })
    }

    /// The set with a new session of the peer's. It becomes active unless it is older than what was accepted already
    /// (`current` is false, §9.22) or both sides began at once and this side's transcript is the lower one.
    pub(crate) fn joined(&self, new: NewSession, current: bool, now_ms: u64) -> OpenedSlice {
        let mut next = self.working_copy();
        let skipped_changed = new.skipped.is_some();
        if let Some(skipped) = new.skipped {
            next.skipped = skipped;
        }
        let ours_first = next.active.as_ref().is_some_and(|active| {
            let both_new = active.role == Role::Initiator && !active.confirmed && !new.session.confirmed;
            both_new && active.th < new.session.th
        });
        let session = Arc::new(new.session);
        let generation = next.skipped.generation();
        if current && !ours_first {
            next.activate(session, now_ms);
        } else {
            next.retire(session, now_ms);
        }
        let skipped_changed = skipped_changed || generation != next.skipped.generation();
        OpenedSlice { next, plaintext: new.plaintext, skipped_changed }
    }

    fn activate(&mut self, session: Arc<Session>, now_ms: u64) {
        if let Some(before) = self.active.replace(session) {
            self.retire(before, now_ms);
        }
    }

    /// Sends nothing more in the active session, which only receives from now on: the next message needs a bundle. For when the peer's account, or this one,
    /// was given a new identity key.
    pub fn retire_active(&mut self, now_ms: u64) {
        if let Some(active) = self.active.take() {
            self.retire(active, now_ms);
        }
    }

    fn retire(&mut self, session: Arc<Session>, now_ms: u64) {
        self.retired.push(Retired { session, since_ms: now_ms });
        self.prune(now_ms);
    }

    /// Erases receive-only sessions past their time or number, and skipped keys past theirs. Tells whether anything went;
    /// then store both halves of the set again.
    pub fn prune(&mut self, now_ms: u64) -> bool {
        let before = self.retired.len();
        self.retired.retain(|retired| now_ms.saturating_sub(retired.since_ms) < RETIRED_LIFETIME_MS);
        let excess = self.retired.len().saturating_sub(MAX_RETIRED);
        self.retired.drain(..excess);
        let generation = self.skipped.generation();
        if self.retired.len() != before {
            let kept: Vec<SessionId> = self.sessions().map(|session| session.id()).collect();
            self.skipped.retain(|session, _| kept.contains(&session));
        }
        self.skipped.prune(now_ms);
        self.retired.len() != before || self.skipped.generation() != generation
    }

    fn sessions(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.active.iter().chain(self.retired.iter().map(|retired| &retired.session))
    }

    fn find(&self, id: SessionId) -> Option<&Session> {
        self.sessions().find(|session| session.id() == id).map(AsRef::as_ref)
    }

    pub(crate) const fn skipped_generation(&self) -> u64 {
        self.skipped.generation()
    }

    /// The half of the state that every message changes: the sessions, without skipped keys.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let retired = self.retired.iter().map(|retired| 8 + retired.session.stored_len()).sum::<usize>();
        let active = self.active.as_ref().map_or(0, |session| session.stored_len());
        let addressed = self.addressed.map_or(0, |_| 24);
        let mut writer = StateWriter::new(StateKind::Sessions, 48 + 8 + 1 + addressed + 1 + active + 2 + retired);
        writer.put(self.pair.conversation.as_bytes()).put(self.pair.account.as_bytes()).put(self.pair.device.as_bytes());
        writer.put_u64(self.skipped.generation()).put_bool(self.addressed.is_some());
        if let Some((incarnation, since)) = &self.addressed {
            writer.put(incarnation.as_bytes()).put_u64(*since);
        }
        writer.put_bool(self.active.is_some());
        if let Some(active) = &self.active {
            active.write(&mut writer);
        }
        writer.put_count(self.retired.len());
        for retired in &self.retired {
            writer.put_u64(retired.since_ms);
            retired.session.write(&mut writer);
        }
        writer.finish()
    }

    /// The other half: the skipped keys. It needs writing only when a change says so.
    #[must_use]
    pub fn skipped_to_bytes(&self) -> Zeroizing<Vec<u8>> {
        self.skipped.to_bytes()
    }

    /// Reads a stored set back. `skipped` is `None` only if the skipped half was never written.
    ///
    /// # Errors
    /// [`StateError`] if either half is damaged or they do not belong together.
    pub fn from_bytes(sessions: &[u8], skipped: Option<&[u8]>) -> Result<Self, StateError> {
        let skipped = skipped.map(SkippedKeys::from_bytes).transpose()?.unwrap_or_default();
        let mut reader = read_state(StateKind::Sessions, sessions)?;
        let pair = Pair {
            conversation: ConversationId::from_bytes(reader.array()?),
            account: AccountId::from_bytes(reader.array()?),
            device: DeviceId::from_bytes(reader.array()?),
        };
        if reader.u64()? != skipped.generation() {
            return Err(StateError::Mismatched);
        }
        let addressed = if reader.bool("addressed")? { Some((Incarnation::from_bytes(reader.array()?), reader.u64()?)) } else { None };
        let active = if reader.bool("active session")? { Some(Arc::new(Session::read(&mut reader)?)) } else { None };
        let count = usize::from(reader.u16()?);
        if count > MAX_RETIRED {
            return Err(FormatError::OutOfRange("retired sessions").into());
        }
        let mut retired = Vec::with_capacity(count);
        for _ in 0..count {
            retired.push(Retired { since_ms: reader.u64()?, session: Arc::new(Session::read(&mut reader)?) });
        }
        reader.finish()?;
        Ok(Self { pair, active, retired, skipped, addressed })
    }
}

#[cfg(test)]
mod tests;
