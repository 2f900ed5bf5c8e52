//! The signed, versioned list of an account's devices: the only list a client believes (§1, §9.7, §9.8).
//!
//! Three kinds of statement move it on: the next list (signed by the identity key), a rotation (by the recovery key) and
//! a leave (by the leaving device). [`crate::trusted_list::TrustedList`] is what a client pins after checking them.

use crate::bytes::{FormatError, Reader};
use crate::device::{DeviceKeys, SignedCertificate, read_key};
use crate::hash::sha256;
use crate::id::{AccountId, DeviceId};
use crate::identity::{AccountIdentity, RecoveryKey, recovery_bytes, recovery_from_bytes};
use crate::sign::{Label, Signature, SignatureError, VerifyingKey, signed_string};
use crate::trusted_list::TrustedList;

/// Most devices an account may have (§6).
pub const MAX_DEVICES: usize = 10;
const ENTRY_LEN: usize = 16 + 32;

/// One line of a list: a device and the hash of its certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListEntry {
    /// The device.
    pub device_id: DeviceId,
    /// [`SignedCertificate::hash`] of its certificate.
    pub certificate: [u8; 32],
}

/// A device list as received: nothing in it is believed before a [`TrustedList`] took it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedDeviceList {
    pub(crate) account_id: AccountId,
    pub(crate) identity: VerifyingKey,
    pub(crate) recovery: Option<VerifyingKey>,
    pub(crate) version: u64,
    pub(crate) prev_hash: [u8; 32],
    pub(crate) issued_at: u64,
    pub(crate) entries: Vec<ListEntry>,
    pub(crate) signature: Signature,
}

impl AccountIdentity {
    /// Signs the list that follows `previous` (`None` for the account's first) and names the certified devices.
    /// The entries are sorted here.
    #[must_use]
    pub fn sign_list(&self, previous: Option<&TrustedList>, devices: &[SignedCertificate], issued_at: u64) -> SignedDeviceList {
        let (version, prev_hash) = previous.map_or((1, [0; 32]), |list| (list.version() + 1, *list.hash()));
        let entry = |cert: &SignedCertificate| ListEntry { device_id: cert.certificate().device_id, certificate: cert.hash() };
        let mut entries: Vec<ListEntry> = devices.iter().map(entry).collect();
        entries.sort_by_key(|entry| entry.device_id);
        self.sign_list_as_given(version, prev_hash, issued_at, entries)
    }

    /// Signs exactly these fields, for test vectors and for tests of what receivers refuse.
    #[doc(hidden)]
    #[must_use]
    pub fn sign_list_as_given(&self, version: u64, prev_hash: [u8; 32], issued_at: u64, entries: Vec<ListEntry>) -> SignedDeviceList {
        let mut list = SignedDeviceList {
            account_id: self.account_id(),
            identity: self.public(),
            recovery: self.recovery(),
            version,
            prev_hash,
            issued_at,
            entries,
            signature: Signature::from_bytes([0; 64]),
        };
        list.signature = self.signing_key().sign(Label::Devices, &[&list.fields()]);
        list
    }
}

impl SignedDeviceList {
    /// The account it claims to speak for.
    #[must_use]
    pub const fn account_id(&self) -> AccountId {
        self.account_id
    }

    /// Its version, from 1.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// When it was signed, in Unix milliseconds by the signer's clock.
    #[must_use]
    pub const fn issued_at(&self) -> u64 {
        self.issued_at
    }

    /// The devices it names, ascending.
    #[must_use]
    pub fn entries(&self) -> &[ListEntry] {
        &self.entries
    }

    /// SHA-256 of the signed string without the signature (§9.7).
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        sha256(&[&signed_string(Label::Devices, &[&self.fields()])])
    }

    /// Verifies the signature by the identity key that the list itself names.
    ///
    /// # Errors
    /// [`SignatureError::BadSignature`] if it does not verify.
    pub fn verify_signature(&self) -> Result<(), SignatureError> {
        self.identity.verify(Label::Devices, &[&self.fields()], &self.signature)
    }

    fn fields(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(130 + self.entries.len() * ENTRY_LEN);
        out.extend_from_slice(self.account_id.as_bytes());
        out.extend_from_slice(self.identity.as_bytes());
        out.extend_from_slice(&recovery_bytes(self.recovery.as_ref()));
        out.extend_from_slice(&self.version.to_be_bytes());
        out.extend_from_slice(&self.prev_hash);
        out.extend_from_slice(&self.issued_at.to_be_bytes());
        out.extend_from_slice(&u16::try_from(self.entries.len()).unwrap_or(u16::MAX).to_be_bytes());
        for entry in &self.entries {
            out.extend_from_slice(entry.device_id.as_bytes());
            out.extend_from_slice(&entry.certificate);
        }
        out
    }

    /// fields ‖ signature.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.fields();
        out.extend_from_slice(self.signature.as_bytes());
        out
    }

    /// Reads a list; it is judged by [`TrustedList`].
    ///
    /// # Errors
    /// [`FormatError`] if lengths, the count (1 to 10) or a key are wrong.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes);
        let account_id = AccountId::from_bytes(reader.array()?);
        let identity = read_key(&mut reader, "identity key")?;
        let recovery = recovery_from_bytes(reader.array()?)?;
        let (version, prev_hash, issued_at) = (reader.u64()?, reader.array()?, reader.u64()?);
        let count = reader.count(MAX_DEVICES, ENTRY_LEN, "device count")?;
        if count == 0 {
            return Err(FormatError::OutOfRange("device count"));
        }
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            entries.push(ListEntry { device_id: DeviceId::from_bytes(reader.array()?), certificate: reader.array()? });
        }
        let signature = Signature::from_bytes(reader.array()?);
        reader.finish()?;
        Ok(Self { account_id, identity, recovery, version, prev_hash, issued_at, entries, signature })
    }
}

/// The recovery key's word that the identity key is replaced (§9.8). It takes one version number of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedRotation {
    pub(crate) account_id: AccountId,
    pub(crate) old_identity: VerifyingKey,
    pub(crate) new_identity: VerifyingKey,
    pub(crate) new_recovery: Option<VerifyingKey>,
    pub(crate) version: u64,
    pub(crate) prev_hash: [u8; 32],
    signature: Signature,
}

impl RecoveryKey {
    /// Replaces the identity key of `current` and this recovery key itself.
    #[must_use]
    pub fn rotate(&self, current: &TrustedList, new_identity: VerifyingKey, new_recovery: Option<VerifyingKey>) -> SignedRotation {
        let mut rotation = SignedRotation {
            account_id: current.account_id(),
            old_identity: current.identity(),
            new_identity,
            new_recovery,
            version: current.version() + 1,
            prev_hash: *current.hash(),
            signature: Signature::from_bytes([0; 64]),
        };
        rotation.signature = self.signing_key().sign(Label::Rotate, &[&rotation.fields()]);
        rotation
    }
}

impl SignedRotation {
    /// The version number it takes.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// SHA-256 of the signed string: the `prev_hash` of the next list.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        sha256(&[&signed_string(Label::Rotate, &[&self.fields()])])
    }

    /// Verifies the signature by the recovery key that is being replaced.
    pub(crate) fn verify(&self, old_recovery: &VerifyingKey) -> Result<(), SignatureError> {
        old_recovery.verify(Label::Rotate, &[&self.fields()], &self.signature)
    }

    fn fields(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(152);
        out.extend_from_slice(self.account_id.as_bytes());
        out.extend_from_slice(self.old_identity.as_bytes());
        out.extend_from_slice(self.new_identity.as_bytes());
        out.extend_from_slice(&recovery_bytes(self.new_recovery.as_ref()));
        out.extend_from_slice(&self.version.to_be_bytes());
        out.extend_from_slice(&self.prev_hash);
        out
    }

    /// fields ‖ signature.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.fields();
        out.extend_from_slice(self.signature.as_bytes());
        out
    }

    /// Reads a rotation; it is judged by [`TrustedList::rotate`].
    ///
    /// # Errors
    /// [`FormatError`] if the length or a key is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes);
        let rotation = Self {
            account_id: AccountId::from_bytes(reader.array()?),
            old_identity: read_key(&mut reader, "old identity key")?,
            new_identity: read_key(&mut reader, "new identity key")?,
            new_recovery: recovery_from_bytes(reader.array()?)?,
            version: reader.u64()?,
            prev_hash: reader.array()?,
            signature: Signature::from_bytes(reader.array()?),
        };
        reader.finish()?;
        Ok(rotation)
    }
}

/// A device's word that it leaves its account; `version` is that of the list being left (§9.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedLeave {
    pub(crate) account_id: AccountId,
    pub(crate) device_id: DeviceId,
    pub(crate) version: u64,
    signature: Signature,
}

impl DeviceKeys {
    /// Leaves the account at the list version that still names this device.
    #[must_use]
    pub fn leave(&self, account_id: AccountId, version: u64) -> SignedLeave {
        let mut leave = SignedLeave { account_id, device_id: self.device_id(), version, signature: Signature::from_bytes([0; 64]) };
        leave.signature = self.signing_key().sign(Label::Leave, &[&leave.fields()]);
        leave
    }
}

impl SignedLeave {
    pub(crate) fn verify(&self, key: &VerifyingKey) -> Result<(), SignatureError> {
        key.verify(Label::Leave, &[&self.fields()], &self.signature)
    }

    fn fields(&self) -> [u8; 40] {
        let mut out = [0; 40];
        out[..16].copy_from_slice(self.account_id.as_bytes());
        out[16..32].copy_from_slice(self.device_id.as_bytes());
        out[32..].copy_from_slice(&self.version.to_be_bytes());
        out
    }

    /// fields ‖ signature.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 104] {
        let mut out = [0; 104];
        out[..40].copy_from_slice(&self.fields());
        out[40..].copy_from_slice(self.signature.as_bytes());
        out
    }

    /// Reads a leave; it is judged by [`TrustedList::leave`].
    ///
    /// # Errors
    /// [`FormatError`] if the length is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes);
        let leave = Self {
            account_id: AccountId::from_bytes(reader.array()?),
            device_id: DeviceId::from_bytes(reader.array()?),
            version: reader.u64()?,
            signature: Signature::from_bytes(reader.array()?),
        };
        reader.finish()?;
        Ok(leave)
    }
}
