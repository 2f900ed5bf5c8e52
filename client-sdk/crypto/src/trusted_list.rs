//! What a client believes about an account: its pinned keys, list version and devices.
//!
//! A [`TrustedList`] comes into being only by verification, and a device can be addressed only through one. So a device
//! that the server invents, or a key it swaps, has no value of the right type to be encrypted to.

use crate::bytes::{StateError, StateKind, StateWriter, read_state};
use crate::device::{Certificate, Party, SignedCertificate, read_key};
use crate::device_list::{ListEntry, MAX_DEVICES, SignedDeviceList, SignedLeave, SignedRotation};
use crate::id::{AccountId, DeviceId};
use crate::identity::{recovery_bytes, recovery_from_bytes};
use crate::secret::constant_time_eq;
use crate::sign::{SignatureError, VerifyingKey};
use crate::x25519::DhPublic;
use thiserror::Error;
use zeroize::Zeroizing;

/// Most rotations an account's history may hold.
pub const MAX_ROTATIONS: usize = 64;

/// Why a list, a rotation or a leave was refused. The pinned list stays as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ListError {
    /// A signature or a signing key is bad.
    #[error("device list signature: {0}")]
    Signature(#[from] SignatureError),
    /// The statement is about another account.
    #[error("the statement is about another account")]
    WrongAccount,
    /// The account id does not follow from the keys the account began with.
    #[error("the account id does not belong to these keys")]
    AccountIdMismatch,
    /// The identity or recovery key differs from the pinned one and no rotation says so: warn before anything is sent.
    #[error("the account's keys changed without a rotation")]
    IdentityChanged,
    /// The version is below the pinned one: the server shows an old list.
    #[error("list version {offered} is below the pinned {pinned}")]
    LowerVersion {
        /// The pinned version.
        pinned: u64,
        /// The version offered.
        offered: u64,
    },
    /// Same version, other content: the server shows different lists to different people.
    #[error("two different lists have the same version")]
    Equivocation,
    /// Versions between the pinned one and this are missing; fetch them and apply them in order.
    #[error("list versions between {pinned} and {offered} are missing")]
    MissingVersions {
        /// The pinned version.
        pinned: u64,
        /// The version offered.
        offered: u64,
    },
    /// `prev_hash` is not the hash of what came before.
    #[error("the list does not follow the pinned one")]
    BrokenChain,
    /// There are no or more than ten devices.
    #[error("the list names {0} devices")]
    DeviceCount(usize),
    /// The devices do not ascend strictly.
    #[error("the list is not in ascending order")]
    NotAscending,
    /// The certificate of a listed device was not supplied, or is not the one listed.
    #[error("a listed device has no matching certificate")]
    MissingCertificate,
    /// A certificate is for another account, key or a later list.
    #[error("a certificate does not fit its list")]
    CertificateMismatch,
    /// A device id is known under another account (§9.3).
    #[error("a listed device belongs to another account")]
    DeviceOfAnotherAccount,
    /// The account declined a recovery key, so nothing can rotate it.
    #[error("the account has no recovery key")]
    NoRecoveryKey,
    /// The device is not on the newest list.
    #[error("the device is not on the newest list")]
    UnknownDevice,
    /// The account's history holds more rotations than this client will follow.
    #[error("too many rotations")]
    TooManyRotations,
}

/// A device that the account's newest list names, with the keys its certificate gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrustedDevice {
    certificate: Certificate,
    hash: [u8; 32],
    left: bool,
}

impl TrustedDevice {
    /// The device.
    #[must_use]
    pub const fn device_id(&self) -> DeviceId {
        self.certificate.device_id
    }

    /// What its certificate says.
    #[must_use]
    pub const fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The device as a party, under the identity key of its certificate.
    #[must_use]
    pub const fn party(&self) -> Party {
        let cert = &self.certificate;
        Party { account_id: cert.account_id, identity: cert.identity, device_id: cert.device_id, signing: cert.signing, agreement: cert.agreement }
    }
}

/// The account history that a stranger needs to tie an account id to its present keys: the first pair of keys and every
/// rotation since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage {
    /// The identity key the account began with.
    pub first_identity: VerifyingKey,
    /// The recovery key the account began with.
    pub first_recovery: Option<VerifyingKey>,
    /// Every rotation since, in order.
    pub rotations: Vec<SignedRotation>,
}

impl Lineage {
    /// The history of an account that never rotated: the keys its list names are its first ones.
    #[must_use]
    pub const fn unrotated(list: &SignedDeviceList) -> Self {
        Self { first_identity: list.identity, first_recovery: list.recovery, rotations: Vec::new() }
    }
}

/// An earlier identity key and the last version it stood for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FormerIdentity {
    until_version: u64,
    key: VerifyingKey,
}

/// The pinned, verified state of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedList {
    account_id: AccountId,
    identity: VerifyingKey,
    recovery: Option<VerifyingKey>,
    version: u64,
    hash: [u8; 32],
    devices: Vec<TrustedDevice>,
    former: Vec<FormerIdentity>,
}

/// What a newer list changed; show added devices to the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance {
    /// The list to pin from now on.
    pub list: TrustedList,
    /// Devices that were not there before.
    pub added: Vec<DeviceId>,
    /// Devices that are there no longer.
    pub removed: Vec<DeviceId>,
}

/// Tells under which account a device id is already known to this client, if any (§9.3).
pub trait KnownDevices {
    /// The account under which `device` is known.
    fn account_of(&self, device: &DeviceId) -> Option<AccountId>;
}

impl<F: Fn(&DeviceId) -> Option<AccountId>> KnownDevices for F {
    fn account_of(&self, device: &DeviceId) -> Option<AccountId> {
        self(device)
    }
}

impl TrustedList {
    /// Believes an account for the first time: its id must follow from `lineage`, the rest from signatures.
    ///
    /// # Errors
    /// [`ListError`] naming what is wrong; then nothing of the list may be used.
    pub fn first_contact(
        lineage: &Lineage,
        list: &SignedDeviceList,
        certificates: &[SignedCertificate],
        known: &impl KnownDevices,
    ) -> Result<Self, ListError> {
        let former = follow(lineage, list)?;
        if (list.version == 1) != (list.prev_hash == [0; 32]) {
            return Err(ListError::BrokenChain);
        }
        if list.version == 0 {
            return Err(ListError::LowerVersion { pinned: 1, offered: 0 });
        }
        let devices = verify_devices(list, certificates, known)?;
        Ok(Self {
            account_id: list.account_id,
            identity: list.identity,
            recovery: list.recovery,
            version: list.version,
            hash: list.hash(),
            devices,
            former,
        })
    }

    /// Moves on to a newer list. The same list again is no change; versions must come one by one.
    ///
    /// # Errors
    /// [`ListError`]; the pinned list stays in force.
    pub fn advance(&self, list: &SignedDeviceList, certificates: &[SignedCertificate], known: &impl KnownDevices) -> Result<Advance, ListError> {
        self.check_account(list.account_id)?;
        if list.version == self.version {
            return if constant_time_eq(&list.hash(), &self.hash) { Ok(self.unchanged()) } else { Err(ListError::Equivocation) };
        }
        self.check_next(list.version, &list.prev_hash)?;
        if list.identity != self.identity || list.recovery != self.recovery {
            return Err(ListError::IdentityChanged);
        }
        let devices = verify_devices(list, certificates, known)?;
        let next = Self { version: list.version, hash: list.hash(), devices, ..self.without_devices() };
        Ok(self.compare(next))
    }

    /// Takes a rotation: new keys, and no devices until the next list.
    ///
    /// # Errors
    /// [`ListError`], [`ListError::NoRecoveryKey`] in particular; the pinned list stays in force.
    pub fn rotate(&self, rotation: &SignedRotation) -> Result<Self, ListError> {
        self.check_account(rotation.account_id)?;
        self.check_next(rotation.version, &rotation.prev_hash)?;
        if rotation.old_identity != self.identity {
            return Err(ListError::IdentityChanged);
        }
        rotation.verify(self.recovery.as_ref().ok_or(ListError::NoRecoveryKey)?)?;
        let mut next = self.without_devices();
        if next.former.len() >= MAX_ROTATIONS {
            return Err(ListError::TooManyRotations);
        }
        next.former.push(FormerIdentity { until_version: self.version, key: self.identity });
        next.identity = rotation.new_identity;
        next.recovery = rotation.new_recovery;
        next.version = rotation.version;
        next.hash = rotation.hash();
        Ok(next)
    }

    /// Takes a device's word that it left: it is addressed no longer, though the list still names it.
    ///
    /// # Errors
    /// [`ListError`] if the device is unknown, the version is not the pinned one or the signature is bad.
    pub fn leave(&self, leave: &SignedLeave) -> Result<Self, ListError> {
        self.check_account(leave.account_id)?;
        if leave.version < self.version {
            return Err(ListError::LowerVersion { pinned: self.version, offered: leave.version });
        }
        if leave.version > self.version {
            return Err(ListError::MissingVersions { pinned: self.version, offered: leave.version });
        }
        let mut next = self.clone();
        let device = next.devices.iter_mut().find(|device| device.device_id() == leave.device_id).ok_or(ListError::UnknownDevice)?;
        leave.verify(&device.certificate.signing)?;
        device.left = true;
        Ok(next)
    }

    /// The account.
    #[must_use]
    pub const fn account_id(&self) -> AccountId {
        self.account_id
    }

    /// The identity key in force.
    #[must_use]
    pub const fn identity(&self) -> VerifyingKey {
        self.identity
    }

    /// The recovery key in force, if any.
    #[must_use]
    pub const fn recovery(&self) -> Option<VerifyingKey> {
        self.recovery
    }

    /// The pinned version.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The hash of the pinned list (or of the rotation, right after one).
    #[must_use]
    pub const fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// The devices to address: those on the list that have not left.
    pub fn devices(&self) -> impl Iterator<Item = &TrustedDevice> {
        self.devices.iter().filter(|device| !device.left)
    }

    /// One of [`Self::devices`].
    ///
    /// # Errors
    /// [`ListError::UnknownDevice`] if it is not among them.
    pub fn device(&self, device_id: DeviceId) -> Result<&TrustedDevice, ListError> {
        self.devices().find(|device| device.device_id() == device_id).ok_or(ListError::UnknownDevice)
    }

    /// A device of the newest list as a party under the identity key of an earlier version: what the receiver of a first
    /// message needs, which names the versions it was made with (§9.14).
    ///
    /// # Errors
    /// [`ListError::UnknownDevice`] if the newest list does not name it; [`ListError::MissingVersions`] if the version
    /// is above the pinned one, so that a newer list has to be fetched first.
    pub fn party_at(&self, device_id: DeviceId, version: u64) -> Result<Party, ListError> {
        if version > self.version {
            return Err(ListError::MissingVersions { pinned: self.version, offered: version });
        }
        let identity = self.former.iter().find(|former| version <= former.until_version).map_or(self.identity, |former| former.key);
        Ok(Party { identity, ..self.device(device_id)?.party() })
    }

    fn check_account(&self, account_id: AccountId) -> Result<(), ListError> {
        if account_id == self.account_id { Ok(()) } else { Err(ListError::WrongAccount) }
    }

    fn check_next(&self, offered: u64, prev_hash: &[u8; 32]) -> Result<(), ListError> {
        let pinned = self.version;
        if offered <= pinned {
            return Err(if offered < pinned { ListError::LowerVersion { pinned, offered } } else { ListError::Equivocation });
        }
        if offered - pinned > 1 {
            return Err(ListError::MissingVersions { pinned, offered });
        }
        if constant_time_eq(prev_hash, &self.hash) { Ok(()) } else { Err(ListError::BrokenChain) }
    }

    fn without_devices(&self) -> Self {
        Self { devices: Vec::new(), former: self.former.clone(), ..*self }
    }

    fn unchanged(&self) -> Advance {
        Advance { list: self.clone(), added: Vec::new(), removed: Vec::new() }
    }

    fn compare(&self, next: Self) -> Advance {
        let ids = |list: &Self| -> Vec<DeviceId> { list.devices.iter().map(TrustedDevice::device_id).collect() };
        let (before, after) = (ids(self), ids(&next));
        let added = after.iter().filter(|id| !before.contains(id)).copied().collect();
        let removed = before.iter().filter(|id| !after.contains(id)).copied().collect();
        Advance { list: next, added, removed }
    }

    /// The state to store.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let payload = 16 + 32 * 2 + 8 + 32 + 2 + self.former.len() * 40 + 2 + self.devices.len() * DEVICE_LEN;
        let mut writer = StateWriter::new(StateKind::TrustedList, payload);
        writer.put(self.account_id.as_bytes()).put(self.identity.as_bytes()).put(&recovery_bytes(self.recovery.as_ref()));
        writer.put_u64(self.version).put(&self.hash).put_count(self.former.len());
        for former in &self.former {
            writer.put_u64(former.until_version).put(former.key.as_bytes());
        }
        writer.put_count(self.devices.len());
        for TrustedDevice { certificate: cert, hash, left } in &self.devices {
            writer.put(cert.identity.as_bytes()).put(cert.device_id.as_bytes()).put(cert.signing.as_bytes());
            writer.put(cert.agreement.as_bytes()).put(cert.mls.as_bytes()).put_u64(cert.since_version);
            writer.put(hash).put_bool(*left);
        }
        writer.finish()
    }

    /// Reads a stored pin back.
    ///
    /// # Errors
    /// [`StateError`] if the bytes are not exactly what [`Self::to_bytes`] gave.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StateError> {
        let mut reader = read_state(StateKind::TrustedList, bytes)?;
        let account_id = AccountId::from_bytes(reader.array()?);
        let identity = read_key(&mut reader, "identity key")?;
        let recovery = recovery_from_bytes(reader.array()?)?;
        let (version, hash) = (reader.u64()?, reader.array()?);
        let mut former = Vec::new();
        for _ in 0..reader.count(MAX_ROTATIONS, 40, "rotations")? {
            former.push(FormerIdentity { until_version: reader.u64()?, key: read_key(&mut reader, "former identity key")? });
        }
        let mut devices = Vec::new();
        for _ in 0..reader.count(MAX_DEVICES, DEVICE_LEN, "devices")? {
            let certificate = Certificate {
                account_id,
                identity: read_key(&mut reader, "identity key")?,
                device_id: DeviceId::from_bytes(reader.array()?),
                signing: read_key(&mut reader, "device signing key")?,
                agreement: DhPublic::from_bytes(reader.array()?),
                mls: read_key(&mut reader, "device MLS key")?,
                since_version: reader.u64()?,
            };
            devices.push(TrustedDevice { certificate, hash: reader.array()?, left: reader.bool("left")? });
        }
        reader.finish()?;
        Ok(Self { account_id, identity, recovery, version, hash, devices, former })
    }
}

const DEVICE_LEN: usize = 32 + 16 + 32 * 3 + 8 + 32 + 1;

/// Follows the rotations from the first keys to those the list names.
fn follow(lineage: &Lineage, list: &SignedDeviceList) -> Result<Vec<FormerIdentity>, ListError> {
    if AccountId::derive(&lineage.first_identity, lineage.first_recovery.as_ref()) != list.account_id {
        return Err(ListError::AccountIdMismatch);
    }
    if lineage.rotations.len() > MAX_ROTATIONS {
        return Err(ListError::TooManyRotations);
    }
    let (mut identity, mut recovery, mut version) = (lineage.first_identity, lineage.first_recovery, 0);
    let mut former = Vec::with_capacity(lineage.rotations.len());
    for rotation in &lineage.rotations {
        if rotation.account_id != list.account_id {
            return Err(ListError::WrongAccount);
        }
        if rotation.version <= version || rotation.version >= list.version {
            return Err(ListError::BrokenChain);
        }
        if rotation.old_identity != identity {
            return Err(ListError::IdentityChanged);
        }
        rotation.verify(recovery.as_ref().ok_or(ListError::NoRecoveryKey)?)?;
        former.push(FormerIdentity { until_version: rotation.version - 1, key: identity });
        (identity, recovery, version) = (rotation.new_identity, rotation.new_recovery, rotation.version);
    }
    if identity != list.identity || recovery != list.recovery {
        return Err(ListError::IdentityChanged);
    }
    Ok(former)
}

fn verify_devices(list: &SignedDeviceList, certificates: &[SignedCertificate], known: &impl KnownDevices) -> Result<Vec<TrustedDevice>, ListError> {
    list.verify_signature()?;
    if list.entries.is_empty() || list.entries.len() > MAX_DEVICES {
        return Err(ListError::DeviceCount(list.entries.len()));
    }
    if !list.entries.is_sorted_by(|a, b| a.device_id < b.device_id) {
        return Err(ListError::NotAscending);
    }
    list.entries.iter().map(|entry| verify_device(list, entry, certificates, known)).collect()
}

fn verify_device(
    list: &SignedDeviceList,
    entry: &ListEntry,
    certificates: &[SignedCertificate],
    known: &impl KnownDevices,
) -> Result<TrustedDevice, ListError> {
    if known.account_of(&entry.device_id).is_some_and(|account| account != list.account_id) {
        return Err(ListError::DeviceOfAnotherAccount);
    }
    let listed = |cert: &&SignedCertificate| cert.certificate().device_id == entry.device_id && constant_time_eq(&cert.hash(), &entry.certificate);
    let signed = certificates.iter().find(listed).ok_or(ListError::MissingCertificate)?;
    let certificate = *signed.certificate();
    let fits = certificate.account_id == list.account_id && certificate.identity == list.identity && certificate.since_version <= list.version;
    if !fits {
        return Err(ListError::CertificateMismatch);
    }
    signed.verify()?;
    Ok(TrustedDevice { certificate, hash: entry.certificate, left: false })
}

#[cfg(test)]
mod tests;
