//! The byte layouts of what is signed, encryption specification §1 and §9.
//!
//! A statement is `u8 length ‖ label ‖ fields`, integers big-endian. It is taken apart here and never put together again, except for those of which only
//! the fields travel (a prekey, a login): their bytes follow from the fields.

use kith_proto::id::{AccountId, DeviceId};
use sha2::{Digest as _, Sha256};

use super::signature;

/// 32 bytes: a key or a hash.
pub type Bytes32 = [u8; 32];

/// The recovery key of an account that has declined one, and the hash before version 1.
pub const ZERO: Bytes32 = [0; 32];

/// Devices that a list may name (§9.7).
pub const MAX_DEVICES: usize = 10;

/// Why a signed statement is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// Another label, length, order or value than the layout has.
    #[error("malformed statement: {0}")]
    Malformed(&'static str),
    /// The signature does not hold, or is not by the key it should be by.
    #[error("a signature does not hold")]
    Signature,
    /// It does not follow from what is stored: another account, version, predecessor or key.
    #[error("the statement does not follow from the newest one: {0}")]
    Conflict(&'static str),
}

/// The id of the account that begins with these keys.
#[must_use]
pub fn account_id(aik: &Bytes32, recovery: &Bytes32) -> AccountId {
    let hash = Sha256::new().chain_update("kith/v1/account").chain_update(aik).chain_update(recovery).finalize();
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    AccountId(id)
}

/// Begins a statement.
pub(super) fn begin(label: &str, capacity: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(capacity + 1 + label.len());
    // Unwrap safety: labels are constants of this crate, far shorter than 256 bytes.
    out.push(u8::try_from(label.len()).expect("labels are short"));
    out.extend_from_slice(label.as_bytes());
    out
}

/// Takes a statement apart.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn new(signed: &'a [u8], label: &str) -> Result<Self, StatementError> {
        let mut reader = Self(signed);
        let [length] = reader.array()?;
        let found = reader.take(usize::from(length))?;
        if found == label.as_bytes() { Ok(reader) } else { Err(StatementError::Malformed("another label")) }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], StatementError> {
        let (head, rest) = self.0.split_at_checked(length).ok_or(StatementError::Malformed("too short"))?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StatementError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn account(&mut self) -> Result<AccountId, StatementError> {
        self.array().map(AccountId)
    }

    fn device(&mut self) -> Result<DeviceId, StatementError> {
        self.array().map(DeviceId)
    }

    fn u64(&mut self) -> Result<u64, StatementError> {
        self.array().map(u64::from_be_bytes)
    }

    fn end(self) -> Result<(), StatementError> {
        if self.0.is_empty() { Ok(()) } else { Err(StatementError::Malformed("too long")) }
    }
}

/// A signed statement as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The bytes that were signed.
    pub bytes: Vec<u8>,
    /// The signature over them.
    pub signature: [u8; 64],
}

impl Signed {
    /// Verifies the signature.
    ///
    /// # Errors
    /// If it is not by `key`.
    pub fn verify(&self, key: &Bytes32) -> Result<(), StatementError> {
        signature::verify(key, &self.bytes, &self.signature)
    }

    /// SHA-256 of the bytes signed: what the next statement names as its predecessor (§9.7, §9.8).
    #[must_use]
    pub fn hash(&self) -> Bytes32 {
        Sha256::digest(&self.bytes).into()
    }
}

/// A certificate as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedCertificate {
    /// The statement `device`.
    pub bytes: Vec<u8>,
    /// By the identity key.
    pub aik_signature: [u8; 64],
    /// By the device, over the same fields under `device-accept`.
    pub accept_signature: [u8; 64],
}

const DEVICE: &str = "kith/v1/device";
const DEVICE_ACCEPT: &str = "kith/v1/device-accept";

impl SignedCertificate {
    /// §9.6.
    #[must_use]
    pub fn hash(&self) -> Bytes32 {
        Sha256::new().chain_update(&self.bytes).chain_update(self.aik_signature).chain_update(self.accept_signature).finalize().into()
    }

    /// What it says, unverified.
    ///
    /// # Errors
    /// If it is no statement `device`.
    pub fn parse(&self) -> Result<Certificate, StatementError> {
        let mut reader = Reader::new(&self.bytes, DEVICE)?;
        let certificate = Certificate {
            account: reader.account()?,
            aik: reader.array()?,
            device: reader.device()?,
            ed25519: reader.array()?,
            x25519: reader.array()?,
            mls: reader.array()?,
            since_version: reader.u64()?,
        };
        reader.end()?;
        Ok(certificate)
    }

    /// Verifies both signatures against what it says itself; the caller compares account and identity key.
    ///
    /// # Errors
    /// If one does not hold.
    pub fn verify(&self, certificate: &Certificate) -> Result<(), StatementError> {
        signature::verify(&certificate.aik, &self.bytes, &self.aik_signature)?;
        let mut accept = begin(DEVICE_ACCEPT, self.bytes.len());
        accept.extend_from_slice(&self.bytes[1 + DEVICE.len()..]);
        signature::verify(&certificate.ed25519, &accept, &self.accept_signature)
    }
}

/// What a certificate says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Certificate {
    /// The account.
    pub account: AccountId,
    /// Its identity key.
    pub aik: Bytes32,
    /// The device.
    pub device: DeviceId,
    /// The device's signing key.
    pub ed25519: Bytes32,
    /// The device's key for sessions.
    pub x25519: Bytes32,
    /// The device's key for groups.
    pub mls: Bytes32,
    /// The list version with which it begins.
    pub since_version: u64,
}

/// What a device list says. The shape is checked: 1 to 10 entries, strictly ascending, a zero predecessor in version 1 alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceList {
    /// The account.
    pub account: AccountId,
    /// Its identity key.
    pub aik: Bytes32,
    /// Its recovery key, zeros if declined.
    pub recovery: Bytes32,
    /// From 1, one up each time.
    pub version: u64,
    /// Hash of the statement before.
    pub prev_hash: Bytes32,
    /// When it was signed, by the signer's clock; Unix milliseconds.
    pub issued_at_ms: u64,
    /// Devices and the hashes of their certificates.
    pub entries: Vec<(DeviceId, Bytes32)>,
}

impl DeviceList {
    /// Takes a statement `devices` apart.
    ///
    /// # Errors
    /// If it is none, or of a shape that no list may have.
    pub fn parse(signed: &[u8]) -> Result<Self, StatementError> {
        let mut reader = Reader::new(signed, "kith/v1/devices")?;
        let (account, aik, recovery) = (reader.account()?, reader.array()?, reader.array()?);
        let (version, prev_hash, issued_at_ms) = (reader.u64()?, reader.array()?, reader.u64()?);
        let count = usize::from(u16::from_be_bytes(reader.array()?));
        if !(1..=MAX_DEVICES).contains(&count) {
            return Err(StatementError::Malformed("a list names 1 to 10 devices"));
        }
        let entries = (0..count).map(|_| Ok((reader.device()?, reader.array()?))).collect::<Result<Vec<_>, _>>()?;
        reader.end()?;
        if !entries.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(StatementError::Malformed("entries do not ascend"));
        }
        if version == 0 || (version == 1) != (prev_hash == ZERO) {
            return Err(StatementError::Malformed("version 1 alone has a zero predecessor"));
        }
        Ok(Self { account, aik, recovery, version, prev_hash, issued_at_ms, entries })
    }
}

/// What a rotation says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// The account.
    pub account: AccountId,
    /// The identity key that ends.
    pub old_aik: Bytes32,
    /// The identity key that begins.
    pub new_aik: Bytes32,
    /// The recovery key that begins; zeros if declined from now on.
    pub new_recovery: Bytes32,
    /// It takes a version of its own.
    pub version: u64,
    /// Hash of the statement before.
    pub prev_hash: Bytes32,
}

impl Rotation {
    /// Takes a statement `rotate` apart.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(signed: &[u8]) -> Result<Self, StatementError> {
        let mut reader = Reader::new(signed, "kith/v1/rotate")?;
        let rotation = Self {
            account: reader.account()?,
            old_aik: reader.array()?,
            new_aik: reader.array()?,
            new_recovery: reader.array()?,
            version: reader.u64()?,
            prev_hash: reader.array()?,
        };
        reader.end()?;
        Ok(rotation)
    }
}

/// What a leave says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leave {
    /// The account.
    pub account: AccountId,
    /// The device that leaves.
    pub device: DeviceId,
    /// The version of the list being left.
    pub version: u64,
}

impl Leave {
    /// Takes a statement `leave` apart.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(signed: &[u8]) -> Result<Self, StatementError> {
        let mut reader = Reader::new(signed, "kith/v1/leave")?;
        let leave = Self { account: reader.account()?, device: reader.device()?, version: reader.u64()? };
        reader.end()?;
        Ok(leave)
    }
}
