//! What may follow from what: the first list of an account, the next one, a rotation, a leave. The server refuses what a client would refuse, so that
//! no fault of one device shows as an attack to all others; clients check it all again and believe only that.

use kith_proto::id::{AccountId, DeviceId, DeviceRef};

use super::statement::{Bytes32, Certificate, DeviceList, Leave, Rotation, Signed, SignedCertificate, StatementError, ZERO, account_id};

/// The newest state of an account, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountState {
    /// The account.
    pub account: AccountId,
    /// The identity key.
    pub aik: Bytes32,
    /// The recovery key, zeros if declined.
    pub recovery: Bytes32,
    /// The version of the newest statement.
    pub version: u64,
    /// Its hash.
    pub hash: Bytes32,
    /// Devices that the newest list names and that have not left.
    pub devices: Vec<KnownDevice>,
}

/// A device of the newest list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownDevice {
    /// The device.
    pub device: DeviceId,
    /// Hash of its certificate.
    pub certificate_hash: Bytes32,
    /// Its signing key.
    pub ed25519: Bytes32,
}

/// A list that follows from the state it was checked against. Made only by verifying.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedList {
    list: DeviceList,
    hash: Bytes32,
    signed: Signed,
    certified: Vec<Certified>,
}

/// A certificate that appears first in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certified {
    /// What it says.
    pub certificate: Certificate,
    /// Its hash.
    pub hash: Bytes32,
    /// As it came.
    pub signed: SignedCertificate,
    /// The device was on the list before, under another certificate.
    pub renewed: bool,
}

impl VerifiedList {
    /// What it says.
    #[must_use]
    pub fn list(&self) -> &DeviceList {
        &self.list
    }

    /// Its hash.
    #[must_use]
    pub fn hash(&self) -> Bytes32 {
        self.hash
    }

    /// As it came.
    #[must_use]
    pub fn signed(&self) -> &Signed {
        &self.signed
    }

    /// Certificates that appear first in it.
    #[must_use]
    pub fn certified(&self) -> &[Certified] {
        &self.certified
    }

    /// Devices that appear first in it, with their signing keys.
    pub fn new_devices(&self) -> impl Iterator<Item = (DeviceRef, &Bytes32)> {
        let account = self.list.account;
        let new = self.certified.iter().filter(|c| !c.renewed);
        new.map(move |c| (DeviceRef { account, device: c.certificate.device }, &c.certificate.ed25519))
    }
}

/// Checks version 1 of a new account: named after its keys, signed by its identity key, one device, certified.
///
/// # Errors
/// Says which rule is broken.
pub fn first(signed: Signed, certificates: Vec<SignedCertificate>) -> Result<VerifiedList, StatementError> {
    let list = DeviceList::parse(&signed.bytes)?;
    if list.version != 1 {
        return Err(StatementError::Malformed("an account begins with version 1"));
    }
    if list.account != account_id(&list.aik, &list.recovery) {
        return Err(StatementError::Malformed("the account id is not that of these keys"));
    }
    finish(list, signed, certificates, &[])
}

/// Checks that a list follows from the newest state (§9.7).
///
/// # Errors
/// Says which rule is broken.
pub fn next(state: &AccountState, signed: Signed, certificates: Vec<SignedCertificate>) -> Result<VerifiedList, StatementError> {
    let list = DeviceList::parse(&signed.bytes)?;
    if list.account != state.account {
        return Err(StatementError::Conflict("another account"));
    }
    if list.aik != state.aik || list.recovery != state.recovery {
        return Err(StatementError::Conflict("another identity or recovery key"));
    }
    follows(state, list.version, &list.prev_hash)?;
    finish(list, signed, certificates, &state.devices)
}

/// Checks a rotation (§9.8) and gives the state after it, from which the first list of the new identity key must follow.
///
/// # Errors
/// Says which rule is broken.
pub fn rotate(state: &AccountState, signed: &Signed) -> Result<AccountState, StatementError> {
    let rotation = Rotation::parse(&signed.bytes)?;
    if rotation.account != state.account {
        return Err(StatementError::Conflict("another account"));
    }
    if state.recovery == ZERO {
        // Nothing can ever have signed it.
        return Err(StatementError::Signature);
    }
    if rotation.old_aik != state.aik {
        return Err(StatementError::Conflict("another identity key"));
    }
    follows(state, rotation.version, &rotation.prev_hash)?;
    signed.verify(&state.recovery)?;
    Ok(AccountState {
        aik: rotation.new_aik,
        recovery: rotation.new_recovery,
        version: rotation.version,
        hash: signed.hash(),
        account: state.account,
        devices: state.devices.clone(),
    })
}

/// Checks that a device leaves the newest list by its own signature.
///
/// # Errors
/// Says which rule is broken.
pub fn leave(state: &AccountState, caller: DeviceRef, signed: &Signed) -> Result<Leave, StatementError> {
    let leave = Leave::parse(&signed.bytes)?;
    if (leave.account, leave.device) != (caller.account, caller.device) {
        return Err(StatementError::Malformed("a device leaves by its own statement only"));
    }
    if leave.version != state.version {
        return Err(StatementError::Conflict("another version"));
    }
    let known = state.devices.iter().find(|d| d.device == leave.device);
    signed.verify(&known.ok_or(StatementError::Conflict("not on the list"))?.ed25519)?;
    Ok(leave)
}

fn follows(state: &AccountState, version: u64, prev_hash: &Bytes32) -> Result<(), StatementError> {
    if Some(version) != state.version.checked_add(1) {
        return Err(StatementError::Conflict("not the next version"));
    }
    if *prev_hash != state.hash {
        return Err(StatementError::Conflict("another predecessor"));
    }
    Ok(())
}

fn finish(list: DeviceList, signed: Signed, certificates: Vec<SignedCertificate>, known: &[KnownDevice]) -> Result<VerifiedList, StatementError> {
    signed.verify(&list.aik)?;
    let certified = certify(&list, certificates, known)?;
    Ok(VerifiedList { hash: signed.hash(), list, signed, certified })
}

/// Every entry is either known with this very certificate or certified here, and nothing else is. A device keeps its keys.
fn certify(list: &DeviceList, certificates: Vec<SignedCertificate>, known: &[KnownDevice]) -> Result<Vec<Certified>, StatementError> {
    let is_known = |device, hash: &Bytes32| known.iter().any(|k| k.device == device && k.certificate_hash == *hash);
    let mut given: Vec<_> = certificates.into_iter().map(|c| (c.hash(), c)).collect();
    let mut certified = Vec::new();
    for (device, hash) in &list.entries {
        if is_known(*device, hash) {
            continue;
        }
        let at = given.iter().position(|(h, _)| h == hash).ok_or(StatementError::Malformed("an entry without its certificate"))?;
        let (hash, signed) = given.swap_remove(at);
        let before = known.iter().find(|k| k.device == *device);
        certified.push(check_certificate(list, *device, before, hash, signed)?);
    }
    // One that was sent again for an entry already known does no harm; one for no entry is a mistake.
    if given.iter().any(|(hash, _)| !list.entries.iter().any(|(_, h)| h == hash)) {
        return Err(StatementError::Malformed("a certificate without its entry"));
    }
    Ok(certified)
}

fn check_certificate(
    list: &DeviceList,
    device: DeviceId,
    before: Option<&KnownDevice>,
    hash: Bytes32,
    signed: SignedCertificate,
) -> Result<Certified, StatementError> {
    let certificate = signed.parse()?;
    if certificate.account != list.account || certificate.device != device {
        return Err(StatementError::Malformed("a certificate for another device"));
    }
    if certificate.aik != list.aik {
        return Err(StatementError::Signature);
    }
    if certificate.since_version > list.version {
        return Err(StatementError::Malformed("a certificate from a later version"));
    }
    if before.is_some_and(|b| b.ed25519 != certificate.ed25519) {
        return Err(StatementError::Conflict("a device keeps its keys"));
    }
    signed.verify(&certificate)?;
    Ok(Certified { certificate, hash, signed, renewed: before.is_some() })
}
