//! What may be uploaded as prekeys, encryption specification §1, §9.4 and §9.5.

use kith_proto::id::DeviceRef;

use super::{
    signature,
    statement::{Bytes32, StatementError, begin},
};

/// Bytes of an X25519 key.
pub const X25519_KEY: usize = 32;
/// Bytes of an ML-KEM-768 encapsulation key.
pub const KEM_KEY: usize = 1_184;

/// What a prekey is for; the numbers are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// X25519, used once, unsigned; the number is ours alone.
    OneTime = 0,
    /// X25519, used until replaced.
    Signed = 1,
    /// ML-KEM-768, used once.
    OneTimeKem = 2,
    /// ML-KEM-768, used when no one-time key is left.
    LastResortKem = 3,
}

impl Kind {
    fn key_length(self) -> usize {
        match self {
            Self::OneTime | Self::Signed => X25519_KEY,
            Self::OneTimeKem | Self::LastResortKem => KEM_KEY,
        }
    }
}

/// A prekey as it is stored and handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prekey {
    /// What it is for.
    pub kind: Kind,
    /// From the device's one increasing id space.
    pub id: u32,
    /// When it was made, by the device's clock; 0 for one-time X25519 keys. Unix milliseconds.
    pub created_ms: u64,
    /// The public key.
    pub key: Vec<u8>,
    /// By the device; zeros for one-time X25519 keys.
    pub signature: [u8; 64],
}

impl Prekey {
    fn signed(&self, device: DeviceRef) -> Vec<u8> {
        let mut out = begin("kith/v1/prekey", 45 + self.key.len());
        out.extend_from_slice(&device.account.0);
        out.extend_from_slice(&device.device.0);
        out.push(self.kind as u8);
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend_from_slice(&self.created_ms.to_be_bytes());
        out.extend_from_slice(&self.key);
        out
    }

    fn verify(&self, device: DeviceRef, key: &Bytes32) -> Result<(), PrekeyError> {
        if self.id == 0 || self.key.len() != self.kind.key_length() {
            return Err(PrekeyError::Invalid("an id of 0 or a key of another length"));
        }
        // Times are stored as signed 64-bit numbers.
        if i64::try_from(self.created_ms).is_err() {
            return Err(PrekeyError::Invalid("an impossible time"));
        }
        match self.kind {
            Kind::OneTime => Ok(()),
            _ => Ok(signature::verify(key, &self.signed(device), &self.signature)?),
        }
    }
}

/// Why an upload is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PrekeyError {
    /// An id, kind or length that is not allowed, or a required key that is missing.
    #[error("invalid prekeys: {0}")]
    Invalid(&'static str),
    /// A prekey that is not signed by the device for itself.
    #[error(transparent)]
    Signature(#[from] StatementError),
}

/// Prekeys whose signatures and shape have been verified for one device. That their ids are new is checked where they are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedPrekeys {
    device: DeviceRef,
    keys: Vec<Prekey>,
    lowest: u32,
    highest: u32,
}

impl VerifiedPrekeys {
    /// Verifies an upload: every key for this device by its key, no id twice, at most one signed and one last-resort key.
    ///
    /// # Errors
    /// Says what is wrong with the first bad key.
    pub fn verify(device: DeviceRef, key: &Bytes32, keys: Vec<Prekey>) -> Result<Self, PrekeyError> {
        let mut ids: Vec<u32> = keys.iter().map(|k| k.id).collect();
        ids.sort_unstable();
        let (Some(&lowest), Some(&highest)) = (ids.first(), ids.last()) else {
            return Err(PrekeyError::Invalid("nothing to store"));
        };
        if ids.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(PrekeyError::Invalid("an id twice"));
        }
        for kind in [Kind::Signed, Kind::LastResortKem] {
            if keys.iter().filter(|k| k.kind == kind).count() > 1 {
                return Err(PrekeyError::Invalid("two keys of a kind of which one is kept"));
            }
        }
        for prekey in &keys {
            prekey.verify(device, key)?;
        }
        Ok(Self { device, keys, lowest, highest })
    }

    /// As [`Self::verify`] for a new device, which must bring a signed and a last-resort key.
    ///
    /// # Errors
    /// Says what is wrong with the first bad key, or what is missing.
    pub fn verify_first(device: DeviceRef, key: &Bytes32, keys: Vec<Prekey>) -> Result<Self, PrekeyError> {
        let has = |kind| keys.iter().any(|k| k.kind == kind);
        if !has(Kind::Signed) || !has(Kind::LastResortKem) {
            return Err(PrekeyError::Invalid("a new device needs a signed and a last-resort prekey"));
        }
        Self::verify(device, key, keys)
    }

    /// Whose they are.
    #[must_use]
    pub fn device(&self) -> DeviceRef {
        self.device
    }

    /// The keys.
    #[must_use]
    pub fn keys(&self) -> &[Prekey] {
        &self.keys
    }

    /// The smallest id.
    #[must_use]
    pub fn lowest_id(&self) -> u32 {
        self.lowest
    }

    /// The largest id.
    #[must_use]
    pub fn highest_id(&self) -> u32 {
        self.highest
    }

    /// How many of a kind.
    #[must_use]
    pub fn count(&self, kind: Kind) -> u32 {
        u32::try_from(self.keys.iter().filter(|k| k.kind == kind).count()).unwrap_or(u32::MAX)
    }
}
