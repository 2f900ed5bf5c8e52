//! Sealing what a store keeps (§5): values under a store key, the store key under a passphrase.
//!
//! A value is bound to its place: moved to another table, row or column it does not open. What stays visible is how many
//! rows there are, their sizes and when they change.

use crate::aead::{self, TAG_LEN};
use crate::bytes::{FormatError, Reader};
use crate::secret::{Secret, opaque_debug, random_array};
use argon2::{Algorithm, Argon2, Params, Version};
use rand_core::CryptoRng;
use thiserror::Error;
use zeroize::Zeroizing;

const NONCE_LEN: usize = 24;
/// What sealing adds to a value, in bytes.
pub const SEAL_OVERHEAD: usize = NONCE_LEN + TAG_LEN;

/// Why a stored value did not open. It is an error, never a fresh start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SealedError {
    /// Wrong key, wrong place or damaged.
    #[error("the stored value does not open")]
    NotAuthentic,
    /// The bytes are too short or malformed.
    #[error("the stored value is malformed: {0}")]
    Malformed(#[from] FormatError),
    /// The parameters of the passphrase are outside what this client will compute.
    #[error("the passphrase parameters are out of range")]
    Parameters,
}

/// Where in the store a value lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// The table.
    pub table: &'a str,
    /// The row's key.
    pub row: &'a [u8],
    /// The column.
    pub column: &'a str,
}

impl Place<'_> {
    /// table ‖ row ‖ column, each behind its u32 length so that no two places give the same bytes.
    fn associated_data(&self) -> Vec<u8> {
        let parts = [self.table.as_bytes(), self.row, self.column.as_bytes()];
        let mut out = Vec::with_capacity(parts.iter().map(|part| 4 + part.len()).sum());
        for part in parts {
            out.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            out.extend_from_slice(part);
        }
        out
    }
}

/// The key of a store.
#[derive(Clone)]
pub struct StoreKey(Secret<32>);

opaque_debug!(StoreKey);

impl StoreKey {
    /// Draws a new key (32 random bytes).
    pub fn random<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        Self(Secret::random(rng))
    }

    /// The key that a system key store or a protected file gave back.
    #[must_use]
    pub const fn from_secret(secret: Secret<32>) -> Self {
        Self(secret)
    }

    /// The key bytes, for a system key store or a protected file.
    #[must_use]
    pub const fn secret(&self) -> &Secret<32> {
        &self.0
    }

    /// Seals a value for its place: nonce (24 random bytes) ‖ ciphertext ‖ tag.
    pub fn seal<R: CryptoRng + ?Sized>(&self, rng: &mut R, place: Place<'_>, value: &[u8]) -> Vec<u8> {
        let nonce = random_array(rng);
        let mut out = Vec::with_capacity(value.len() + SEAL_OVERHEAD);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(value);
        aead::xseal(&self.0, &nonce, &place.associated_data(), &mut out, NONCE_LEN);
        out
    }

    /// Opens a value at its place.
    ///
    /// # Errors
    /// [`SealedError::NotAuthentic`] if key, place or bytes are not the ones it was sealed with.
    pub fn open(&self, place: Place<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealedError> {
        let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(FormatError::Truncated)?;
        let mut buffer = Zeroizing::new(text.to_vec());
        let len = aead::xopen(&self.0, nonce, &place.associated_data(), &mut buffer).map_err(|_| SealedError::NotAuthentic)?;
        buffer.truncate(len);
        Ok(buffer)
    }
}

/// What turning a passphrase into a key costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassphraseCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl PassphraseCost {
    /// 64 MiB, three passes, one lane: about a tenth of a second on a laptop.
    pub const DEFAULT: Self = Self { memory_kib: 64 * 1024, passes: 3, lanes: 1 };
    const MAX_MEMORY_KIB: u32 = 1024 * 1024;
    const MAX_PASSES: u32 = 16;
    const MAX_LANES: u32 = 8;

    fn params(self) -> Result<Params, SealedError> {
        let in_range = self.memory_kib <= Self::MAX_MEMORY_KIB && self.passes <= Self::MAX_PASSES && self.lanes <= Self::MAX_LANES;
        if !in_range {
            return Err(SealedError::Parameters);
        }
        Params::new(self.memory_kib, self.passes, self.lanes, Some(32)).map_err(|_| SealedError::Parameters)
    }
}

/// A store key wrapped under a passphrase with Argon2id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedKey {
    cost: PassphraseCost,
    salt: [u8; 16],
    nonce: [u8; NONCE_LEN],
    sealed: [u8; 32 + TAG_LEN],
}

const WRAP_VERSION: u8 = 1;

impl WrappedKey {
    /// Wraps a store key (draws 16 bytes of salt, then 24 of nonce). Takes as long as `cost` says.
    ///
    /// # Errors
    /// [`SealedError::Parameters`] if `cost` is out of range.
    pub fn wrap<R: CryptoRng + ?Sized>(rng: &mut R, passphrase: &[u8], key: &StoreKey, cost: PassphraseCost) -> Result<Self, SealedError> {
        let (salt, nonce) = (random_array(rng), random_array(rng));
        let wrapping = derive(passphrase, &salt, cost)?;
        let mut buffer = Vec::with_capacity(32 + TAG_LEN);
        buffer.extend_from_slice(key.0.expose());
        aead::xseal(&wrapping, &nonce, &head(cost, &salt), &mut buffer, 0);
        let sealed = buffer.as_slice().try_into().map_err(|_| FormatError::Truncated)?;
        Ok(Self { cost, salt, nonce, sealed })
    }

    /// Unwraps the store key. Takes as long as the cost it was wrapped with.
    ///
    /// # Errors
    /// [`SealedError::NotAuthentic`] if the passphrase is wrong or the bytes are damaged.
    pub fn unwrap(&self, passphrase: &[u8]) -> Result<StoreKey, SealedError> {
        let wrapping = derive(passphrase, &self.salt, self.cost)?;
        let mut buffer = Zeroizing::new(self.sealed);
        aead::xopen(&wrapping, &self.nonce, &head(self.cost, &self.salt), buffer.as_mut_slice()).map_err(|_| SealedError::NotAuthentic)?;
        let (key, _) = buffer.split_first_chunk::<32>().ok_or(FormatError::Truncated)?;
        Ok(StoreKey(Secret::from_bytes(*key)))
    }

    /// version ‖ memory ‖ passes ‖ lanes ‖ salt ‖ nonce ‖ sealed key.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = head(self.cost, &self.salt).to_vec();
        out.extend_from_slice(&self.nonce);
        out.extend_from_slice(&self.sealed);
        out
    }

    /// Reads a wrapped key; the costs are limited before any memory is taken.
    ///
    /// # Errors
    /// [`SealedError`] if the bytes are malformed or the costs out of range.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SealedError> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != WRAP_VERSION {
            return Err(FormatError::OutOfRange("wrap version").into());
        }
        let cost = PassphraseCost { memory_kib: reader.u32()?, passes: reader.u32()?, lanes: reader.u32()? };
        cost.params()?;
        let wrapped = Self { cost, salt: reader.array()?, nonce: reader.array()?, sealed: reader.array()? };
        reader.finish()?;
        Ok(wrapped)
    }
}

fn head(cost: PassphraseCost, salt: &[u8; 16]) -> [u8; 29] {
    let mut out = [0; 29];
    out[0] = WRAP_VERSION;
    out[1..5].copy_from_slice(&cost.memory_kib.to_be_bytes());
    out[5..9].copy_from_slice(&cost.passes.to_be_bytes());
    out[9..13].copy_from_slice(&cost.lanes.to_be_bytes());
    out[13..].copy_from_slice(salt);
    out
}

fn derive(passphrase: &[u8], salt: &[u8; 16], cost: PassphraseCost) -> Result<Secret<32>, SealedError> {
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, cost.params()?);
    let mut key = Secret::zeroed();
    argon.hash_password_into(passphrase, salt, key.expose_mut()).map_err(|_| SealedError::Parameters)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::rng;
    use proptest::prelude::*;

    const CHEAP: PassphraseCost = PassphraseCost { memory_kib: 64, passes: 1, lanes: 1 };
    const PLACE: Place<'_> = Place { table: "sessions", row: b"row", column: "state" };

    #[test]
    fn a20_a_value_opens_only_at_its_place_and_unchanged() {
        let mut rng = rng(1);
        let key = StoreKey::random(&mut rng);
        let sealed = key.seal(&mut rng, PLACE, b"value");
        assert_eq!(key.open(PLACE, &sealed).unwrap().as_slice(), b"value");
        for place in [
            Place { table: "session", row: b"srow", column: "state" },
            Place { row: b"roww", ..PLACE },
            Place { column: "tate", row: b"rows", ..PLACE },
        ] {
            assert_eq!(key.open(place, &sealed).unwrap_err(), SealedError::NotAuthentic);
        }
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(key.open(PLACE, &changed).is_err());
            assert!(key.open(PLACE, &sealed[..at]).is_err());
        }
    }

    #[test]
    fn a50_a_wrapped_key_needs_its_passphrase() {
        let mut rng = rng(1);
        let key = StoreKey::random(&mut rng);
        let wrapped = WrappedKey::wrap(&mut rng, b"correct horse", &key, CHEAP).unwrap();
        let read = WrappedKey::from_bytes(&wrapped.to_bytes()).unwrap();
        assert_eq!(read.unwrap(b"correct horse").unwrap().secret(), key.secret());
        assert_eq!(read.unwrap(b"wrong horse").unwrap_err(), SealedError::NotAuthentic);
        let mut weakened = wrapped.to_bytes();
        weakened[8] = 2;
        assert_eq!(WrappedKey::from_bytes(&weakened).unwrap().unwrap(b"correct horse").unwrap_err(), SealedError::NotAuthentic);
    }

    #[test]
    fn a49_costs_are_limited_before_memory_is_taken() {
        let mut bytes = WrappedKey::wrap(&mut rng(1), b"x", &StoreKey::random(&mut rng(2)), CHEAP).unwrap().to_bytes();
        bytes[1] = 0xff;
        assert_eq!(WrappedKey::from_bytes(&bytes).unwrap_err(), SealedError::Parameters);
    }

    proptest! {
        #[test]
        fn a49_wrapped_key_parser_takes_anything(bytes in proptest::collection::vec(any::<u8>(), 0..150)) {
            let _ = WrappedKey::from_bytes(&bytes);
        }
    }
}
