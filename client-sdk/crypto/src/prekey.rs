//! Prekeys: what a device leaves with the server so that others can begin a session while it is away (§1, §9.4, §9.5).
//!
//! All prekeys of a device share one increasing id space from 1; an id is never reused and 0 means absent.

use crate::bytes::{FormatError, Reader, StateError, StateKind, StateWriter, read_state};
use crate::device::{DeviceKeys, Party};
use crate::id::AccountId;
use crate::kem::{EK_LEN, KEM_SEED_LEN, KemSecret};
use crate::secret::{Secret, opaque_debug};
use crate::sign::{Label, Signature, SignatureError};
use crate::x25519::{DhPublic, DhSecret};
use rand_core::CryptoRng;
use thiserror::Error;
use zeroize::Zeroizing;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// Signed and last-resort keys are replaced after this long, in milliseconds: a week.
pub const ROTATE_AFTER_MS: u64 = 7 * DAY_MS;
/// Private parts are erased this long after their replacement, in milliseconds: 45 days (retention is 30).
pub const ERASE_AFTER_MS: u64 = 45 * DAY_MS;

/// The id of a prekey. It is never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrekeyId(u32);

impl PrekeyId {
    /// The first id of a device.
    pub const FIRST: Self = Self(1);

    /// An id as it travels; 0 means that there is no key.
    #[must_use]
    pub const fn from_wire(id: u32) -> Option<Self> {
        if id == 0 { None } else { Some(Self(id)) }
    }

    /// The id as it travels.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The id after this one.
    ///
    /// # Errors
    /// [`IdsExhausted`] after four thousand million keys.
    pub fn next(self) -> Result<Self, IdsExhausted> {
        self.0.checked_add(1).map(Self).ok_or(IdsExhausted)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        Self::from_wire(reader.u32()?).ok_or(FormatError::OutOfRange("prekey id"))
    }
}

/// The id space of a device is used up; ids are never reused, so the device must be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the prekey ids of this device are used up")]
pub struct IdsExhausted;

/// The signed kinds, numbered as they are signed (§9.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PrekeyKind {
    /// A signed X25519 key, replaced weekly.
    Signed = 1,
    /// An ML-KEM-768 key handed out once.
    KemOneTime = 2,
    /// An ML-KEM-768 key handed out when the one-time ones are gone, replaced weekly.
    KemLastResort = 3,
}

impl PrekeyKind {
    /// The kind with this number.
    ///
    /// # Errors
    /// [`FormatError::OutOfRange`] for any other number.
    pub const fn from_u8(kind: u8) -> Result<Self, FormatError> {
        match kind {
            1 => Ok(Self::Signed),
            2 => Ok(Self::KemOneTime),
            3 => Ok(Self::KemLastResort),
            _ => Err(FormatError::OutOfRange("prekey kind")),
        }
    }

    /// Length of a public key of this kind in bytes.
    #[must_use]
    pub const fn key_len(self) -> usize {
        match self {
            Self::Signed => 32,
            Self::KemOneTime | Self::KemLastResort => EK_LEN,
        }
    }
}

/// A public prekey that its device signed.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedPrekey {
    kind: PrekeyKind,
    id: PrekeyId,
    created_ms: u64,
    key: Vec<u8>,
    signature: Signature,
}

impl core::fmt::Debug for SignedPrekey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("SignedPrekey").field("kind", &self.kind).field("id", &self.id).finish_non_exhaustive()
    }
}

impl SignedPrekey {
    /// Puts together a prekey as received; it is judged by [`PrekeyBundle::verify`].
    ///
    /// # Errors
    /// [`FormatError::OutOfRange`] if the key has not the length of its kind.
    pub fn from_parts(kind: PrekeyKind, id: PrekeyId, created_ms: u64, key: Vec<u8>, signature: Signature) -> Result<Self, FormatError> {
        if key.len() != kind.key_len() {
            return Err(FormatError::OutOfRange("prekey length"));
        }
        Ok(Self { kind, id, created_ms, key, signature })
    }

    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> PrekeyKind {
        self.kind
    }

    /// Its id.
    #[must_use]
    pub const fn id(&self) -> PrekeyId {
        self.id
    }

    /// When it was made, in Unix milliseconds by its device's clock.
    #[must_use]
    pub const fn created_ms(&self) -> u64 {
        self.created_ms
    }

    /// The public key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The device's signature.
    #[must_use]
    pub const fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Verifies that `device` signed it.
    ///
    /// # Errors
    /// [`SignatureError::BadSignature`] if it did not.
    pub fn verify(&self, device: &Party) -> Result<(), SignatureError> {
        let statement = statement(device.account_id, &device.device_id, self.kind, self.id, self.created_ms);
        device.signing.verify(Label::Prekey, &[&statement, &self.key], &self.signature)
    }

    /// kind u8 ‖ id u32 ‖ created u64 ‖ key ‖ signature.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(13 + self.key.len() + 64);
        out.push(self.kind as u8);
        out.extend_from_slice(&self.id.0.to_be_bytes());
        out.extend_from_slice(&self.created_ms.to_be_bytes());
        out.extend_from_slice(&self.key);
        out.extend_from_slice(self.signature.as_bytes());
        out
    }

    /// Reads what [`Self::to_bytes`] gave.
    ///
    /// # Errors
    /// [`FormatError`] if a length, the kind or the id is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes);
        let kind = PrekeyKind::from_u8(reader.u8()?)?;
        let (id, created_ms) = (PrekeyId::read(&mut reader)?, reader.u64()?);
        let key = reader.slice(kind.key_len())?.to_vec();
        let signature = Signature::from_bytes(reader.array()?);
        reader.finish()?;
        Ok(Self { kind, id, created_ms, key, signature })
    }
}

/// account_id ‖ device_id ‖ kind ‖ id ‖ created; the key follows.
fn statement(account: AccountId, device: &crate::id::DeviceId, kind: PrekeyKind, id: PrekeyId, created_ms: u64) -> [u8; 45] {
    let mut out = [0; 45];
    out[..16].copy_from_slice(account.as_bytes());
    out[16..32].copy_from_slice(device.as_bytes());
    out[32] = kind as u8;
    out[33..37].copy_from_slice(&id.0.to_be_bytes());
    out[37..].copy_from_slice(&created_ms.to_be_bytes());
    out
}

/// A public one-time X25519 prekey. It is unsigned, as PQXDH specifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OneTimePrekey {
    /// Its id.
    pub id: PrekeyId,
    /// The public key.
    pub key: DhPublic,
}

/// The private part of a prekey, in one row of the store until it is erased.
#[derive(Clone)]
pub struct PrekeySecret {
    id: PrekeyId,
    created_ms: u64,
    key: PrivateKey,
}

#[derive(Clone)]
enum PrivateKey {
    Signed(DhSecret),
    OneTime(DhSecret),
    Kem(PrekeyKind, KemSecret),
}

opaque_debug!(PrekeySecret);

impl PrekeySecret {
    /// Makes a signed X25519 prekey (draws 32 random bytes).
    pub fn signed<R: CryptoRng + ?Sized>(rng: &mut R, id: PrekeyId, now_ms: u64) -> Self {
        Self { id, created_ms: now_ms, key: PrivateKey::Signed(DhSecret::random(rng)) }
    }

    /// Makes a one-time X25519 prekey (draws 32 random bytes).
    pub fn one_time<R: CryptoRng + ?Sized>(rng: &mut R, id: PrekeyId, now_ms: u64) -> Self {
        Self { id, created_ms: now_ms, key: PrivateKey::OneTime(DhSecret::random(rng)) }
    }

    /// Makes a one-time KEM prekey (draws 64 random bytes).
    pub fn kem_one_time<R: CryptoRng + ?Sized>(rng: &mut R, id: PrekeyId, now_ms: u64) -> Self {
        Self { id, created_ms: now_ms, key: PrivateKey::Kem(PrekeyKind::KemOneTime, KemSecret::random(rng)) }
    }

    /// Makes a last-resort KEM prekey (draws 64 random bytes).
    pub fn kem_last_resort<R: CryptoRng + ?Sized>(rng: &mut R, id: PrekeyId, now_ms: u64) -> Self {
        Self { id, created_ms: now_ms, key: PrivateKey::Kem(PrekeyKind::KemLastResort, KemSecret::random(rng)) }
    }

    /// Its id: the row it is stored under.
    #[must_use]
    pub const fn id(&self) -> PrekeyId {
        self.id
    }

    /// When it was made, in Unix milliseconds.
    #[must_use]
    pub const fn created_ms(&self) -> u64 {
        self.created_ms
    }

    /// Whether it is the signed X25519 prekey, and not a KEM or one-time one.
    #[must_use]
    pub const fn is_signed(&self) -> bool {
        matches!(self.key, PrivateKey::Signed(_))
    }

    /// Whether one session uses it up, so that it is deleted with that session's first commit.
    #[must_use]
    pub const fn is_one_time(&self) -> bool {
        matches!(self.key, PrivateKey::OneTime(_) | PrivateKey::Kem(PrekeyKind::KemOneTime, _))
    }

    /// Whether it is of a kind that is replaced weekly and its week is over.
    #[must_use]
    pub const fn due_for_rotation(&self, now_ms: u64) -> bool {
        !self.is_one_time() && now_ms.saturating_sub(self.created_ms) >= ROTATE_AFTER_MS
    }

    /// The public half of a one-time X25519 prekey; `None` for the other kinds.
    #[must_use]
    pub const fn one_time_public(&self) -> Option<OneTimePrekey> {
        match &self.key {
            PrivateKey::OneTime(key) => Some(OneTimePrekey { id: self.id, key: key.public() }),
            PrivateKey::Signed(_) | PrivateKey::Kem(..) => None,
        }
    }

    /// The public half, signed by the device; `None` for one-time X25519 prekeys, which are unsigned.
    #[must_use]
    pub fn signed_public(&self, account: AccountId, device: &DeviceKeys) -> Option<SignedPrekey> {
        let (kind, key) = match &self.key {
            PrivateKey::Signed(key) => (PrekeyKind::Signed, key.public().as_bytes().to_vec()),
            PrivateKey::Kem(kind, key) => (*kind, key.encapsulation_key().to_vec()),
            PrivateKey::OneTime(_) => return None,
        };
        let statement = statement(account, &device.device_id(), kind, self.id, self.created_ms);
        let signature = device.signing_key().sign(Label::Prekey, &[&statement, &key]);
        Some(SignedPrekey { kind, id: self.id, created_ms: self.created_ms, key, signature })
    }

    pub(crate) const fn as_signed(&self) -> Option<&DhSecret> {
        if let PrivateKey::Signed(key) = &self.key { Some(key) } else { None }
    }

    pub(crate) const fn as_one_time(&self) -> Option<&DhSecret> {
        if let PrivateKey::OneTime(key) = &self.key { Some(key) } else { None }
    }

    pub(crate) const fn as_kem(&self) -> Option<(PrekeyKind, &KemSecret)> {
        if let PrivateKey::Kem(kind, key) = &self.key { Some((*kind, key)) } else { None }
    }

    /// The state to store.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let (kind, secret): (u8, &[u8]) = match &self.key {
            PrivateKey::OneTime(key) => (0, key.secret().expose()),
            PrivateKey::Signed(key) => (PrekeyKind::Signed as u8, key.secret().expose()),
            PrivateKey::Kem(kind, key) => (*kind as u8, key.seed().expose()),
        };
        let mut writer = StateWriter::new(StateKind::PrekeySecret, 13 + secret.len());
        writer.put_u8(kind).put_u32(self.id.0).put_u64(self.created_ms).put(secret);
        writer.finish()
    }

    /// Reads a stored private part back.
    ///
    /// # Errors
    /// [`StateError`] if the bytes are not exactly what [`Self::to_bytes`] gave.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StateError> {
        let mut reader = read_state(StateKind::PrekeySecret, bytes)?;
        let kind = reader.u8()?;
        let (id, created_ms) = (PrekeyId::read(&mut reader)?, reader.u64()?);
        let mut agreement = || Ok::<_, FormatError>(DhSecret::from_secret(Secret::from_bytes(reader.array()?)));
        let key = match kind {
            0 => PrivateKey::OneTime(agreement()?),
            1 => PrivateKey::Signed(agreement()?),
            other => {
                let kind = PrekeyKind::from_u8(other)?;
                PrivateKey::Kem(kind, KemSecret::from_seed(Secret::from_bytes(reader.array::<KEM_SEED_LEN>()?)))
            }
        };
        reader.finish()?;
        Ok(Self { id, created_ms, key })
    }
}

/// Whether a private part that was replaced at `replaced_ms` is to be erased now.
#[must_use]
pub const fn due_for_erasure(replaced_ms: u64, now_ms: u64) -> bool {
    now_ms.saturating_sub(replaced_ms) >= ERASE_AFTER_MS
}

/// Makes `count` one-time keys of each sort with the ids from `first` on; gives them and the next free id.
///
/// # Errors
/// [`IdsExhausted`] when the id space ends.
pub fn one_time_batch<R: CryptoRng + ?Sized>(
    rng: &mut R,
    first: PrekeyId,
    count: usize,
    now_ms: u64,
) -> Result<(Vec<PrekeySecret>, PrekeyId), IdsExhausted> {
    let mut id = first;
    let mut secrets = Vec::with_capacity(count.min(1000) * 2);
    for _ in 0..count {
        secrets.push(PrekeySecret::one_time(rng, id, now_ms));
        id = id.next()?;
        secrets.push(PrekeySecret::kem_one_time(rng, id, now_ms));
        id = id.next()?;
    }
    Ok((secrets, id))
}

/// What the server hands out to begin a session with one device; nothing in it is believed before [`Self::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrekeyBundle {
    /// The signed X25519 prekey.
    pub signed: SignedPrekey,
    /// A one-time X25519 prekey, if the server had one left.
    pub one_time: Option<OneTimePrekey>,
    /// A KEM prekey, one-time or last-resort. There is no session without one.
    pub kem: SignedPrekey,
}

/// Why a bundle was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BundleError {
    /// A prekey is not signed by the device it is said to belong to.
    #[error("a prekey is not signed by its device")]
    Signature(#[from] SignatureError),
    /// A key is of the wrong kind for its place, or two keys have the same id.
    #[error("a prekey is in the wrong place")]
    WrongKind,
    /// The signed prekey is older than one already seen from this device: the server shows an old one.
    #[error("the signed prekey is older than one already seen")]
    OldSignedPrekey,
}

/// A bundle whose signatures were verified against a device: the only thing a session can begin from.
#[derive(Debug, Clone)]
pub struct VerifiedBundle {
    pub(crate) device: Party,
    pub(crate) signed_id: PrekeyId,
    pub(crate) signed_key: DhPublic,
    pub(crate) one_time: Option<OneTimePrekey>,
    pub(crate) kem_kind: PrekeyKind,
    pub(crate) kem_id: PrekeyId,
    pub(crate) kem_key: Box<[u8; EK_LEN]>,
}

impl PrekeyBundle {
    /// Verifies the bundle against the device it is for. `newest_seen` is the highest signed prekey id ever seen from
    /// that device (`None` if none was); store [`VerifiedBundle::signed_prekey_id`] in its place.
    ///
    /// # Errors
    /// [`BundleError`] naming what is wrong.
    pub fn verify(&self, device: &Party, newest_seen: Option<PrekeyId>) -> Result<VerifiedBundle, BundleError> {
        let kem_key: &[u8; EK_LEN] = self.kem.key.as_slice().try_into().map_err(|_| BundleError::WrongKind)?;
        let signed_key: &[u8; 32] = self.signed.key.as_slice().try_into().map_err(|_| BundleError::WrongKind)?;
        if self.signed.kind != PrekeyKind::Signed || self.kem.kind == PrekeyKind::Signed {
            return Err(BundleError::WrongKind);
        }
        let one_time_id = self.one_time.map(|key| key.id);
        if self.signed.id == self.kem.id || one_time_id == Some(self.signed.id) || one_time_id == Some(self.kem.id) {
            return Err(BundleError::WrongKind);
        }
        if newest_seen.is_some_and(|seen| self.signed.id < seen) {
            return Err(BundleError::OldSignedPrekey);
        }
        self.signed.verify(device)?;
        self.kem.verify(device)?;
        Ok(VerifiedBundle {
            device: *device,
            signed_id: self.signed.id,
            signed_key: DhPublic::from_bytes(*signed_key),
            one_time: self.one_time,
            kem_kind: self.kem.kind,
            kem_id: self.kem.id,
            kem_key: Box::new(*kem_key),
        })
    }
}

impl VerifiedBundle {
    /// The device the bundle was verified against.
    #[must_use]
    pub const fn device(&self) -> &Party {
        &self.device
    }

    /// The signed prekey's id, to refuse older ones from now on.
    #[must_use]
    pub const fn signed_prekey_id(&self) -> PrekeyId {
        self.signed_id
    }
}

#[cfg(test)]
mod tests;
