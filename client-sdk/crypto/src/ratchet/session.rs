//! The session between two devices in one conversation: sending, receiving and what lies between (§3, §9.17 to §9.26).

use super::header::{FirstContact, HEADER_LEN, Header, PLAINTEXT_LEN, SessionId, Slice, SliceType};
use super::keys::{ChainKey, MessageKey, RootKey};
use super::post_quantum::{PqField, PqState};
use super::skipped::{SkippedKey, SkippedKeys};
use super::{MAX_JUMP, MAX_RECEIVING_CHAINS, MAX_SKIPPED};
use crate::aead;
use crate::secret::{opaque_debug, random_array};
use crate::x25519::{DhPublic, DhSecret, LowOrder};
use rand_core::CryptoRng;
use thiserror::Error;
use zeroize::Zeroizing;

/// Why a slice could not be sealed. The session is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SealError {
    /// There is no active session with this device: begin one from a bundle.
    #[error("there is no active session")]
    NoSession,
    /// The sending chain is at its end; the peer has to answer, or a new session has to begin.
    #[error("the sending chain is used up")]
    ChainExhausted,
    /// A key of the peer has low order.
    #[error(transparent)]
    LowOrder(#[from] LowOrder),
}

/// Why a slice could not be opened. The session is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OpenError {
    /// No session has the slice's id, and it is no first message: the peer has to begin anew.
    #[error("no session has this id")]
    UnknownSession,
    /// The slice does not authenticate.
    #[error("the slice does not authenticate")]
    NotAuthentic,
    /// The key of this message was used already, evicted or is too old.
    #[error("the key of this message is gone")]
    KeyGone,
    /// The header jumps more than 25,000 messages ahead.
    #[error("the slice jumps too far ahead")]
    JumpTooFar,
    /// A second new ratchet key before this side answered the first (§9.19).
    #[error("a ratchet step comes too early")]
    EarlyStep,
    /// The header names a post-quantum epoch whose secret this side does not have.
    #[error("the post-quantum epoch is unknown")]
    UnknownMixEpoch,
    /// A ratchet key has low order.
    #[error(transparent)]
    LowOrder(#[from] LowOrder),
}

/// Who began the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Initiator,
    Responder,
}

/// The device list versions that a first message was made with, named in the clear beside the slice (§9.14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListVersions {
    /// Version of the sender's list.
    pub sender: u64,
    /// Version of the recipient's list.
    pub recipient: u64,
}

/// What the initiator repeats with every message until the first reply.
#[derive(Clone)]
pub(crate) struct FirstFlight {
    pub(crate) contact: FirstContact,
    pub(crate) versions: ListVersions,
}

/// Whose turn it is to make a ratchet key.
#[derive(Clone)]
pub(crate) enum Turn {
    /// The next send makes a key and does the sending half of the root step.
    Due,
    /// A sending chain is open.
    Sending { own: DhSecret, chain: ChainKey, n: u32, mix_epoch: u32 },
}

/// The open receiving chain; its ratchet key is [`Session::their`].
#[derive(Clone)]
pub(crate) struct Receiving {
    pub(crate) chain: ChainKey,
    pub(crate) n: u32,
}

/// A Double Ratchet session. It is changed by sending, and replaced by receiving.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) th: [u8; 32],
    pub(crate) role: Role,
    pub(crate) confirmed: bool,
    pub(crate) root: RootKey,
    pub(crate) their: DhPublic,
    pub(crate) turn: Turn,
    /// Length of the sending chain before the one that is open or due.
    pub(crate) pn: u32,
    pub(crate) receiving: Option<Receiving>,
    /// Earlier receiving ratchet keys whose skipped keys are kept, newest last.
    pub(crate) past: Vec<DhPublic>,
    pub(crate) first: Option<Box<FirstFlight>>,
    pub(crate) pq: PqState,
}

opaque_debug!(Session, Turn);

/// An opened slice: the session as it is afterwards and what the slice held.
pub(crate) struct Opened {
    pub(crate) session: Session,
    /// The skipped keys, if they changed.
    pub(crate) skipped: Option<SkippedKeys>,
    pub(crate) plaintext: Zeroizing<[u8; PLAINTEXT_LEN]>,
}

/// A sealed slice.
pub(crate) struct Sealed {
    pub(crate) bytes: Vec<u8>,
    /// To be named beside the slice of a first message.
    pub(crate) versions: Option<ListVersions>,
}

/// What a receiving step leads to before the slice has authenticated.
struct Candidate {
    session: Session,
    skipped: Option<SkippedKeys>,
    key: MessageKey,
}

impl Session {
    /// The initiator's session. Its first ratchet key is made at the first send.
    pub(crate) fn initiator(th: [u8; 32], root: RootKey, signed_prekey: DhPublic, first: FirstFlight, now_ms: u64) -> Self {
        Self {
            th,
            role: Role::Initiator,
            confirmed: false,
            root,
            their: signed_prekey,
            turn: Turn::Due,
            pn: 0,
            receiving: None,
            past: Vec::new(),
            first: Some(Box::new(first)),
            pq: PqState::new(now_ms),
        }
    }

    /// The responder's session, and what the first message held. Its first ratchet key is the signed prekey, which the
    /// receiving half of step 1 uses up at once.
    pub(crate) fn responder(
        th: [u8; 32],
        root: &RootKey,
        signed_prekey: &DhSecret,
        slice: &Slice<'_>,
        skipped: &SkippedKeys,
        now_ms: u64,
    ) -> Result<Opened, OpenError> {
        let (root, chain) = root.step(&signed_prekey.agree(&slice.header.dh)?, None);
        let session = Self {
            th,
            role: Role::Responder,
            confirmed: false,
            root,
            their: slice.header.dh,
            turn: Turn::Due,
            pn: 0,
            receiving: Some(Receiving { chain, n: 0 }),
            past: Vec::new(),
            first: None,
            pq: PqState::new(now_ms),
        };
        // The first message of a session never brings a post-quantum field, so no randomness is drawn.
        let candidate = session.in_chain(slice.header.n, skipped, now_ms)?;
        let (plaintext, _) = session.authenticate(slice, &candidate.key)?;
        let mut next = candidate.session;
        next.pq.count_message();
        Ok(Opened { session: next, skipped: candidate.skipped, plaintext })
    }

    pub(crate) fn id(&self) -> SessionId {
        SessionId::of(&self.th)
    }

    /// Seals a slice, advancing before the ciphertext exists. Draws, in this order: 32 bytes if a ratchet key is due, 64
    /// if a post-quantum offer is due, 16 for r.
    pub(crate) fn seal<R: CryptoRng + ?Sized>(&mut self, rng: &mut R, plaintext: &[u8; PLAINTEXT_LEN], now_ms: u64) -> Result<Sealed, SealError> {
        if matches!(self.turn, Turn::Due) {
            self.sending_half(rng, now_ms)?;
        }
        let (header, key, opens_chain) = self.advance_sending()?;
        if opens_chain && self.role == Role::Initiator && self.confirmed {
            self.pq.offer_if_due(rng, now_ms);
        }
        let field = if opens_chain { self.pq.field() } else { None };
        self.pq.count_message();
        let header = Header { slice_type: self.slice_type(field.as_ref()), r: random_array(rng), ..header };
        Ok(self.write_slice(&header, &key, plaintext, field.as_ref()))
    }

    /// The sending half of a root step: a new ratchet key, mixed with the post-quantum secret if one is ready.
    fn sending_half<R: CryptoRng + ?Sized>(&mut self, rng: &mut R, now_ms: u64) -> Result<(), LowOrder> {
        let own = DhSecret::random(rng);
        let shared = own.agree(&self.their)?;
        let mix = self.pq.mix_to_send();
        let mix_epoch = mix.map_or(0, |(epoch, _)| epoch);
        let (root, chain) = self.root.step(&shared, mix.map(|(_, key)| key));
        self.root = root;
        self.turn = Turn::Sending { own, chain, n: 0, mix_epoch };
        if mix_epoch != 0 {
            self.pq.mixed(now_ms);
        }
        Ok(())
    }

    /// Takes the next message key off the sending chain. Type and r of the header are still to be filled in.
    fn advance_sending(&mut self) -> Result<(Header, MessageKey, bool), SealError> {
        let (session_id, pn) = (self.id(), self.pn);
        let Turn::Sending { own, chain, n, mix_epoch } = &mut self.turn else {
            return Err(SealError::NoSession);
        };
        let next = n.checked_add(1).ok_or(SealError::ChainExhausted)?;
        let header = Header { slice_type: SliceType::Ordinary, session_id, dh: own.public(), pn, n: *n, mix_epoch: *mix_epoch, r: [0; 16] };
        let (key, following) = chain.step();
        *chain = following;
        *n = next;
        Ok((header, key, header.n == 0))
    }

    const fn slice_type(&self, field: Option<&PqField>) -> SliceType {
        if field.is_some() {
            SliceType::PostQuantum
        } else if self.first.is_some() {
            SliceType::First
        } else {
            SliceType::Ordinary
        }
    }

    fn write_slice(&self, header: &Header, key: &MessageKey, plaintext: &[u8; PLAINTEXT_LEN], field: Option<&PqField>) -> Sealed {
        let mut bytes = Vec::with_capacity(header.slice_type.len());
        header.write(&mut bytes);
        let first = self.first.as_ref().filter(|_| header.slice_type == SliceType::First);
        if let Some(first) = first {
            first.contact.write(&mut bytes);
        }
        let clear = bytes.len();
        let associated = associated_data(&self.th, &bytes);
        bytes.extend_from_slice(plaintext);
        if let Some(field) = field {
            field.write(&mut bytes);
        }
        let (key, nonce) = key.aead(&header.r);
        aead::seal(&key, &nonce, &associated, &mut bytes, clear);
        Sealed { bytes, versions: first.map(|first| first.versions) }
    }

    /// Opens a slice of this session. Draws 32 bytes only if the slice brings a post-quantum offer that is taken.
    pub(crate) fn open<R: CryptoRng + ?Sized>(
        &self,
        rng: &mut R,
        slice: &Slice<'_>,
        skipped: &SkippedKeys,
        now_ms: u64,
    ) -> Result<Opened, OpenError> {
        let candidate = self.candidate(&slice.header, skipped, now_ms)?;
        let (plaintext, field) = self.authenticate(slice, &candidate.key)?;
        let mut session = candidate.session;
        session.received(rng, &slice.header, field);
        Ok(Opened { session, skipped: candidate.skipped, plaintext })
    }

    /// What an authentic message changes beyond the chains.
    fn received<R: CryptoRng + ?Sized>(&mut self, rng: &mut R, header: &Header, field: Option<PqField>) {
        if self.role == Role::Initiator {
            self.confirmed = true;
            self.first = None;
        } else if header.slice_type != SliceType::First {
            self.confirmed = true;
        }
        self.pq.count_message();
        match (self.role, field) {
            (Role::Responder, Some(PqField::Offer { e, ek })) => {
                self.pq.take_offer(rng, &self.th, e, &ek);
            }
            (Role::Initiator, Some(PqField::Answer { e, ct })) => {
                self.pq.take_answer(&self.th, e, &ct);
            }
            _ => {}
        }
    }

    fn candidate(&self, header: &Header, skipped: &SkippedKeys, now_ms: u64) -> Result<Candidate, OpenError> {
        match &self.receiving {
            Some(receiving) if header.dh == self.their && header.n >= receiving.n => self.in_chain(header.n, skipped, now_ms),
            Some(_) if header.dh == self.their || self.past.contains(&header.dh) => {
                let (key, rest) = skipped.take(self.id(), &header.dh, header.n, now_ms).ok_or(OpenError::KeyGone)?;
                Ok(Candidate { session: self.clone(), skipped: Some(rest), key })
            }
            _ => self.new_chain(header, skipped, now_ms),
        }
    }

    /// The message at place `n` of the open receiving chain, which is not behind it.
    fn in_chain(&self, n: u32, skipped: &SkippedKeys, now_ms: u64) -> Result<Candidate, OpenError> {
        let mut session = self.clone();
        let mut changed = None;
        let id = session.id();
        let Some(receiving) = &mut session.receiving else {
            return Err(OpenError::NotAuthentic);
        };
        let keys = skip(receiving, n, now_ms)?;
        let (key, following) = receiving.chain.step();
        receiving.chain = following;
        receiving.n = n.checked_add(1).ok_or(OpenError::JumpTooFar)?;
        if !keys.is_empty() {
            let mut next = skipped.clone();
            next.add(id, &session.their, keys, now_ms);
            changed = Some(next);
        }
        Ok(Candidate { session, skipped: changed, key })
    }

    /// A message under a new ratchet key: ends the open receiving chain and does the receiving half of a root step.
    fn new_chain(&self, header: &Header, skipped: &SkippedKeys, now_ms: u64) -> Result<Candidate, OpenError> {
        let Turn::Sending { own, n: sent, .. } = &self.turn else {
            return Err(OpenError::EarlyStep);
        };
        let mut session = self.clone();
        let mut changed = skipped.clone();
        if let Some(mut old) = session.receiving.take() {
            let end = header.pn.max(old.n);
            let keys = skip(&mut old, end, now_ms)?;
            changed.add(session.id(), &session.their, keys, now_ms);
            session.remember_past(&mut changed);
        }
        let mixed = match header.mix_epoch {
            0 => None,
            _ if self.role == Role::Initiator => return Err(OpenError::UnknownMixEpoch),
            epoch => Some(self.pq.mix_to_receive(epoch).ok_or(OpenError::UnknownMixEpoch)?),
        };
        let (root, chain) = self.root.step(&own.agree(&header.dh)?, mixed);
        if mixed.is_some() {
            session.pq.mixed(now_ms);
        }
        session.root = root;
        session.their = header.dh;
        session.receiving = Some(Receiving { chain, n: 0 });
        session.pn = *sent;
        session.turn = Turn::Due;
        let mut candidate = session.in_chain(header.n, &changed, now_ms)?;
        let touched = changed.generation() != skipped.generation();
        candidate.skipped = candidate.skipped.or_else(|| touched.then_some(changed));
        Ok(candidate)
    }

    /// Files the ratchet key of the chain that ended, and lets go of the oldest beyond the limit.
    fn remember_past(&mut self, skipped: &mut SkippedKeys) {
        self.past.push(self.their);
        // The chain that opens now is the fifth.
        if self.past.len() > MAX_RECEIVING_CHAINS - 1 {
            let gone = self.past.remove(0);
            let id = self.id();
            skipped.retain(|session, dh| session != id || *dh != gone);
        }
    }

    fn authenticate(&self, slice: &Slice<'_>, key: &MessageKey) -> Result<(Zeroizing<[u8; PLAINTEXT_LEN]>, Option<PqField>), OpenError> {
        let (key, nonce) = key.aead(&slice.header.r);
        // As long as the slice and not as the longest one: every byte is erased again, one by one.
        let mut buffer = Zeroizing::new(slice.sealed.to_vec());
        let associated = associated_data(&self.th, slice.clear);
        let len = aead::open(&key, &nonce, &associated, &mut buffer).map_err(|_| OpenError::NotAuthentic)?;
        let (plain, field) = buffer[..len].split_first_chunk::<PLAINTEXT_LEN>().ok_or(OpenError::NotAuthentic)?;
        Ok((Zeroizing::new(*plain), PqField::read(field)))
    }
}

/// TH ‖ every header byte.
fn associated_data(th: &[u8; 32], clear: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(32 + clear.len());
    out.extend_from_slice(th);
    out.extend_from_slice(clear);
    out
}

/// Moves a chain on to place `n`, keeping the newest of the keys it passes.
fn skip(receiving: &mut Receiving, n: u32, now_ms: u64) -> Result<Vec<SkippedKey>, OpenError> {
    let jump = n.saturating_sub(receiving.n);
    if jump > MAX_JUMP {
        return Err(OpenError::JumpTooFar);
    }
    let keep_from = n.saturating_sub(u32::try_from(MAX_SKIPPED).unwrap_or(u32::MAX));
    let mut keys = Vec::with_capacity((jump as usize).min(MAX_SKIPPED));
    while receiving.n < n {
        let (key, following) = receiving.chain.step();
        if receiving.n >= keep_from {
            keys.push(SkippedKey { n: receiving.n, stored_ms: now_ms, key });
        }
        receiving.chain = following;
        receiving.n += 1;
    }
    Ok(keys)
}

const _: () = assert!(HEADER_LEN == 70 && PLAINTEXT_LEN == 104);
