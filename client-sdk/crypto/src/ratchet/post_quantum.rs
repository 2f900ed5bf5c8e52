//! The periodic ML-KEM step that is mixed into the root (§3, §9.24 to §9.26).
//!
//! The PQXDH initiator offers a key, the responder answers with a ciphertext, the initiator mixes the secret into its
//! next sending root step and says so in the header. A lost message delays this and never breaks decryption.

use super::header::PQ_FIELD_LEN;
use crate::bytes::{FormatError, Reader, StateWriter};
use crate::hash::{hkdf, sha256};
use crate::kem::{CT_LEN, EK_LEN, KEM_SEED_LEN, KemSecret, encapsulate};
use crate::secret::{Secret, opaque_debug};
use rand_core::CryptoRng;

/// Messages in both directions after which the initiator offers a new key.
pub const MIX_AFTER_MESSAGES: u32 = 50;
/// Time after which the initiator offers a new key, in milliseconds: 7 days.
pub const MIX_AFTER_MS: u64 = 7 * 24 * 60 * 60 * 1000;

const OFFER: u8 = 1;
const ANSWER: u8 = 2;

/// The field inside a slice of type 3: `type u8 ‖ e u32 ‖ ek or ct`, an answer filled up with zeros to the same length.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum PqField {
    Offer { e: u32, ek: Box<[u8; EK_LEN]> },
    Answer { e: u32, ct: Box<[u8; CT_LEN]> },
}

impl PqField {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let end = out.len() + PQ_FIELD_LEN;
        let (tag, e, payload): (u8, u32, &[u8]) = match self {
            Self::Offer { e, ek } => (OFFER, *e, ek.as_slice()),
            Self::Answer { e, ct } => (ANSWER, *e, ct.as_slice()),
        };
        out.push(tag);
        out.extend_from_slice(&e.to_be_bytes());
        out.extend_from_slice(payload);
        out.resize(end, 0);
    }

    /// An authenticated field that makes no sense is no field: it must not break decryption.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let (tag, e) = (reader.u8().ok()?, reader.u32().ok()?);
        let field = match tag {
            OFFER => Self::Offer { e, ek: Box::new(reader.array().ok()?) },
            ANSWER => Self::Answer { e, ct: Box::new(reader.array().ok()?) },
            _ => return None,
        };
        reader.rest().iter().all(|byte| *byte == 0).then_some(field)
    }
}

/// Where one side of a session stands with the step. The epoch under way is always `last + 1`.
#[derive(Clone)]
pub(crate) struct PqState {
    /// The last epoch that was mixed; 0 before the first.
    last: u32,
    /// Messages both ways since then.
    messages: u32,
    /// When that was, in Unix milliseconds.
    since_ms: u64,
    phase: Phase,
}

#[derive(Clone)]
enum Phase {
    Idle,
    /// Initiator: an offer is out.
    Offered(KemSecret),
    /// Initiator: answered; to be mixed into the next sending root step.
    Answered(Secret<32>),
    /// Responder: answering until the mix authenticates.
    Answering {
        ct: Box<[u8; CT_LEN]>,
        key: Secret<32>,
    },
}

opaque_debug!(PqState, PqField);

impl PqState {
    pub(crate) const fn new(now_ms: u64) -> Self {
        Self { last: 0, messages: 0, since_ms: now_ms, phase: Phase::Idle }
    }

    /// The last epoch mixed into the root, 0 if none was.
    pub(crate) const fn last_mixed(&self) -> u32 {
        self.last
    }

    #[cfg(test)]
    pub(crate) const fn messages(&self) -> u32 {
        self.messages
    }

    pub(crate) const fn count_message(&mut self) {
        self.messages = self.messages.saturating_add(1);
    }

    /// Initiator: begins an offer if one is due and none is out (draws the 64 bytes of a KEM seed).
    pub(crate) fn offer_if_due<R: CryptoRng + ?Sized>(&mut self, rng: &mut R, now_ms: u64) {
        let due = self.messages >= MIX_AFTER_MESSAGES || now_ms.saturating_sub(self.since_ms) >= MIX_AFTER_MS;
        if due && matches!(self.phase, Phase::Idle) && self.last < u32::MAX {
            self.phase = Phase::Offered(KemSecret::random(rng));
        }
    }

    /// The field for the first message of a sending chain, if something is to be said.
    pub(crate) fn field(&self) -> Option<PqField> {
        let e = self.last.saturating_add(1);
        match &self.phase {
            Phase::Offered(seed) => Some(PqField::Offer { e, ek: seed.encapsulation_key() }),
            Phase::Answering { ct, .. } => Some(PqField::Answer { e, ct: ct.clone() }),
            Phase::Idle | Phase::Answered(_) => None,
        }
    }

    /// Initiator: the epoch and secret to mix into the sending root step now, if an answer is here.
    pub(crate) const fn mix_to_send(&self) -> Option<(u32, &Secret<32>)> {
        match &self.phase {
            Phase::Answered(key) => Some((self.last.saturating_add(1), key)),
            _ => None,
        }
    }

    /// Responder: the secret of the epoch that a new chain's header names.
    pub(crate) fn mix_to_receive(&self, epoch: u32) -> Option<&Secret<32>> {
        match &self.phase {
            Phase::Answering { key, .. } if epoch == self.last.saturating_add(1) => Some(key),
            _ => None,
        }
    }

    /// The epoch under way was mixed: erases its secrets and begins the next period.
    pub(crate) fn mixed(&mut self, now_ms: u64) {
        *self = Self { last: self.last.saturating_add(1), messages: 0, since_ms: now_ms, phase: Phase::Idle };
    }

    /// Responder: takes an offer of the next epoch if none is outstanding; ignores every other.
    pub(crate) fn take_offer<R: CryptoRng + ?Sized>(&mut self, rng: &mut R, th: &[u8; 32], e: u32, ek: &[u8; EK_LEN]) {
        if e == 0 || self.last.checked_add(1) != Some(e) || !matches!(self.phase, Phase::Idle) {
            return;
        }
        if let Ok((ct, shared)) = encapsulate(rng, ek) {
            let key = epoch_key(&shared, th, e, ek, &ct);
            self.phase = Phase::Answering { ct, key };
        }
    }

    /// Initiator: takes the answer to the offer that is out; ignores every other.
    pub(crate) fn take_answer(&mut self, th: &[u8; 32], e: u32, ct: &[u8; CT_LEN]) {
        if self.last.checked_add(1) != Some(e) {
            return;
        }
        if let Phase::Offered(seed) = &self.phase {
            let opened = seed.expand();
            let shared = opened.decapsulate(ct);
            let key = epoch_key(&shared, th, e, &opened.encapsulation_key(), ct);
            self.phase = Phase::Answered(key);
        }
    }

    pub(crate) fn stored_len(&self) -> usize {
        17 + match &self.phase {
            Phase::Idle => 0,
            Phase::Offered(_) => KEM_SEED_LEN,
            Phase::Answered(_) => 32,
            Phase::Answering { .. } => 32 + CT_LEN,
        }
    }

    pub(crate) fn write(&self, writer: &mut StateWriter) {
        writer.put_u32(self.last).put_u32(self.messages).put_u64(self.since_ms);
        match &self.phase {
            Phase::Idle => writer.put_u8(0),
            Phase::Offered(seed) => writer.put_u8(1).put(seed.seed().expose()),
            Phase::Answered(key) => writer.put_u8(2).put(key.expose()),
            Phase::Answering { ct, key } => writer.put_u8(3).put(key.expose()).put(ct.as_slice()),
        };
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        let (last, messages, since_ms) = (reader.u32()?, reader.u32()?, reader.u64()?);
        let phase = match reader.u8()? {
            0 => Phase::Idle,
            1 => Phase::Offered(KemSecret::from_seed(Secret::from_bytes(reader.array()?))),
            2 => Phase::Answered(Secret::from_bytes(reader.array()?)),
            3 => Phase::Answering { key: Secret::from_bytes(reader.array()?), ct: Box::new(reader.array()?) },
            _ => return Err(FormatError::OutOfRange("post-quantum phase")),
        };
        Ok(Self { last, messages, since_ms, phase })
    }
}

/// `K_e = HKDF(0³², ss, "kith/v1/pq" ‖ TH ‖ e ‖ SHA-256(ek) ‖ SHA-256(ct))`.
pub(crate) fn epoch_key(shared: &Secret<32>, th: &[u8; 32], e: u32, ek: &[u8; EK_LEN], ct: &[u8; CT_LEN]) -> Secret<32> {
    let info: [&[u8]; 5] = [b"kith/v1/pq", th, &e.to_be_bytes(), &sha256(&[ek]), &sha256(&[ct])];
    hkdf(&[0; 32], &[shared.expose()], &info)
}
