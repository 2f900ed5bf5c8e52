use super::*;
use crate::device::DeviceKeys;
use crate::identity::{AccountIdentity, RecoveryKey};
use crate::sign::SigningKey;
use crate::testing::{NOW, rng, strangers};
use proptest::prelude::*;

struct Fixture {
    account: AccountIdentity,
    recovery: RecoveryKey,
    devices: Vec<DeviceKeys>,
    certificates: Vec<SignedCertificate>,
}

/// An account with `n` certified devices.
fn fixture(n: u8) -> Fixture {
    let mut rng = rng(1);
    let recovery = RecoveryKey::random(&mut rng);
    let account = AccountIdentity::create(&mut rng, Some(recovery.public()));
    let devices: Vec<_> = (0..n).map(|i| DeviceKeys::random(&mut rng, DeviceId::from_bytes([i + 1; 16]))).collect();
    let certificates = certify(&account, &devices);
    Fixture { account, recovery, devices, certificates }
}

fn certify(account: &AccountIdentity, devices: &[DeviceKeys]) -> Vec<SignedCertificate> {
    let certify = |device: &DeviceKeys| account.certify(&device.request_certificate(account.account_id(), account.public(), 1)).unwrap();
    devices.iter().map(certify).collect()
}

fn believe(list: &SignedDeviceList, certificates: &[SignedCertificate]) -> Result<TrustedList, ListError> {
    TrustedList::first_contact(&Lineage::unrotated(list), list, certificates, &strangers)
}

impl Fixture {
    fn list(&self, n: usize) -> SignedDeviceList {
        self.account.sign_list(None, &self.certificates[..n], NOW)
    }

    fn trusted(&self, n: usize) -> TrustedList {
        believe(&self.list(n), &self.certificates).unwrap()
    }

    fn next(&self, after: &TrustedList, n: usize) -> SignedDeviceList {
        self.account.sign_list(Some(after), &self.certificates[..n], NOW)
    }

    fn entries(&self) -> Vec<ListEntry> {
        self.list(self.certificates.len()).entries().to_vec()
    }
}

#[test]
fn a23_a_ghost_device_is_refused_whoever_certified_it() {
    let f = fixture(1);
    let ghost = DeviceKeys::random(&mut rng(5), DeviceId::from_bytes([9; 16]));
    let server = AccountIdentity::create(&mut rng(6), None);
    // Added to the list without the account's signature.
    let mut list = f.list(1);
    let certificate = server.certify(&ghost.request_certificate(server.account_id(), server.public(), 1)).unwrap();
    list.entries.push(ListEntry { device_id: ghost.device_id(), certificate: certificate.hash() });
    let certificates = [f.certificates[0], certificate];
    assert_eq!(believe(&list, &certificates).unwrap_err(), ListError::Signature(SignatureError::BadSignature));
    // A list that the server signs has another account id, or another identity key.
    let forged = server.sign_list_as_given(2, *f.trusted(1).hash(), NOW, list.entries.clone());
    assert_eq!(f.trusted(1).advance(&forged, &certificates, &strangers).unwrap_err(), ListError::WrongAccount);
    let impostor = AccountIdentity::rotated(f.account.account_id(), SigningKey::random(&mut rng(7)), None);
    let forged = impostor.sign_list_as_given(2, *f.trusted(1).hash(), NOW, list.entries.clone());
    assert_eq!(f.trusted(1).advance(&forged, &certificates, &strangers).unwrap_err(), ListError::IdentityChanged);
    assert_eq!(believe(&forged, &certificates).unwrap_err(), ListError::AccountIdMismatch);
    // A linked device certifies nobody: the list is believed only from the identity key. And a device that is not on
    // the list cannot be addressed.
    assert_eq!(f.trusted(1).device(ghost.device_id()).unwrap_err(), ListError::UnknownDevice);
}

#[test]
fn a23_a_listed_device_needs_its_own_certificate() {
    let f = fixture(2);
    let list = f.list(2);
    assert_eq!(believe(&list, &f.certificates[..1]).unwrap_err(), ListError::MissingCertificate);
    let stranger = fixture(2).devices.remove(0);
    let other = AccountIdentity::create(&mut rng(8), None);
    let foreign = other.certify(&stranger.request_certificate(other.account_id(), other.public(), 1)).unwrap();
    let entries = vec![ListEntry { device_id: stranger.device_id(), certificate: foreign.hash() }];
    let list = f.account.sign_list_as_given(1, [0; 32], NOW, entries);
    assert_eq!(believe(&list, &[foreign]).unwrap_err(), ListError::CertificateMismatch);
    let request = f.devices[0].request_certificate(f.account.account_id(), f.account.public(), 2);
    let early = f.account.certify(&request).unwrap();
    let list = f.account.sign_list(None, &[early], NOW);
    assert_eq!(believe(&list, &[early]).unwrap_err(), ListError::CertificateMismatch);
}

#[test]
fn a25_a_swapped_identity_key_is_refused_before_anything_is_sent() {
    let f = fixture(1);
    let pinned = f.trusted(1);
    let thief = AccountIdentity::rotated(f.account.account_id(), SigningKey::random(&mut rng(2)), Some(f.recovery.public()));
    let certificates = certify(&thief, &f.devices);
    let list = thief.sign_list(Some(&pinned), &certificates, NOW);
    assert_eq!(pinned.advance(&list, &certificates, &strangers).unwrap_err(), ListError::IdentityChanged);
    // A recovery key cannot be swapped by the identity key either.
    let same_key = AccountIdentity::rotated(f.account.account_id(), f.account.signing_key().clone(), None);
    let list = same_key.sign_list(Some(&pinned), &f.certificates, NOW);
    assert_eq!(pinned.advance(&list, &f.certificates, &strangers).unwrap_err(), ListError::IdentityChanged);
}

#[test]
fn a23_lower_equal_but_different_and_unconnected_versions_are_refused() {
    let f = fixture(2);
    let first = f.trusted(1);
    let advance = first.advance(&f.next(&first, 2), &f.certificates, &strangers).unwrap();
    assert_eq!((advance.added.as_slice(), advance.removed.len()), ([DeviceId::from_bytes([2; 16])].as_slice(), 0));
    let second = advance.list;
    let refused = |list: &SignedDeviceList| second.advance(list, &f.certificates, &strangers).unwrap_err();
    assert_eq!(refused(&f.list(1)), ListError::LowerVersion { pinned: 2, offered: 1 });
    let other = f.account.sign_list_as_given(2, *first.hash(), NOW + 1, f.entries());
    assert_eq!(refused(&other), ListError::Equivocation);
    let unconnected = f.account.sign_list_as_given(3, *first.hash(), NOW, f.entries());
    assert_eq!(refused(&unconnected), ListError::BrokenChain);
    let far = f.account.sign_list_as_given(9, *second.hash(), NOW, f.entries());
    assert_eq!(refused(&far), ListError::MissingVersions { pinned: 2, offered: 9 });
    let same = second.advance(&f.next(&first, 2), &[], &strangers).unwrap();
    assert!(same.added.is_empty() && same.list == second);
    let removed = second.advance(&f.next(&second, 1), &f.certificates, &strangers).unwrap();
    assert_eq!(removed.removed, [DeviceId::from_bytes([2; 16])]);
}

#[test]
fn a23_the_shape_of_a_list_is_checked() {
    let f = fixture(11);
    let entries = f.entries();
    let judge = |entries: Vec<ListEntry>| believe(&f.account.sign_list_as_given(1, [0; 32], NOW, entries), &f.certificates).unwrap_err();
    assert_eq!(judge(vec![]), ListError::DeviceCount(0));
    assert_eq!(judge(entries.clone()), ListError::DeviceCount(11));
    assert_eq!(judge(vec![entries[1], entries[0]]), ListError::NotAscending);
    assert_eq!(judge(vec![entries[0], entries[0]]), ListError::NotAscending);
    assert!(believe(&f.list(10), &f.certificates).is_ok());
    let wrong_start = f.account.sign_list_as_given(1, [1; 32], NOW, entries[..1].to_vec());
    assert_eq!(believe(&wrong_start, &f.certificates).unwrap_err(), ListError::BrokenChain);
}

#[test]
fn a23_a_device_known_under_another_account_is_refused() {
    let f = fixture(1);
    let list = f.list(1);
    let lineage = Lineage::unrotated(&list);
    let elsewhere = |_: &DeviceId| Some(AccountId::from_bytes([0; 16]));
    let error = TrustedList::first_contact(&lineage, &list, &f.certificates, &elsewhere).unwrap_err();
    assert_eq!(error, ListError::DeviceOfAnotherAccount);
    let here = |_: &DeviceId| Some(f.account.account_id());
    assert!(TrustedList::first_contact(&lineage, &list, &f.certificates, &here).is_ok());
}

#[test]
fn a25_only_the_recovery_key_rotates_the_identity() {
    let f = fixture(1);
    let pinned = f.trusted(1);
    let mut rng = rng(4);
    let (new_key, new_recovery) = (SigningKey::random(&mut rng), RecoveryKey::random(&mut rng));
    let forged = new_recovery.rotate(&pinned, new_key.public(), Some(new_recovery.public()));
    assert_eq!(pinned.rotate(&forged).unwrap_err(), ListError::Signature(SignatureError::BadSignature));
    let rotation = f.recovery.rotate(&pinned, new_key.public(), Some(new_recovery.public()));
    let rotation = SignedRotation::from_bytes(&rotation.to_bytes()).unwrap();
    let rotated = pinned.rotate(&rotation).unwrap();
    assert_eq!((rotated.version(), rotated.devices().count()), (2, 0));
    assert!(rotated.rotate(&rotation).is_err());
    let account = AccountIdentity::rotated(f.account.account_id(), new_key, Some(new_recovery.public()));
    let certificates = certify(&account, &f.devices);
    let list = account.sign_list(Some(&rotated), &certificates, NOW);
    let third = rotated.advance(&list, &certificates, &strangers).unwrap().list;
    assert_eq!((third.account_id(), third.identity(), third.version()), (f.account.account_id(), account.public(), 3));
    // First messages made with the old list still find the old identity key.
    let device = f.devices[0].device_id();
    assert_eq!(third.party_at(device, 1).unwrap().identity, f.account.public());
    assert_eq!(third.party_at(device, 3).unwrap().identity, account.public());
    assert!(matches!(third.party_at(device, 4), Err(ListError::MissingVersions { .. })));
    // A stranger follows the history.
    let mut lineage = Lineage { first_identity: f.account.public(), first_recovery: f.account.recovery(), rotations: vec![rotation] };
    assert_eq!(TrustedList::first_contact(&lineage, &list, &certificates, &strangers).unwrap(), third);
    assert_eq!(believe(&list, &certificates).unwrap_err(), ListError::AccountIdMismatch);
    lineage.rotations.clear();
    let error = TrustedList::first_contact(&lineage, &list, &certificates, &strangers).unwrap_err();
    assert_eq!(error, ListError::IdentityChanged);
    assert_eq!(TrustedList::from_bytes(&third.to_bytes()).unwrap(), third);
}

#[test]
fn a25_without_a_recovery_key_nothing_rotates() {
    let account = AccountIdentity::create(&mut rng(1), None);
    let device = DeviceKeys::random(&mut rng(2), DeviceId::from_bytes([1; 16]));
    let certificates = certify(&account, &[device]);
    let pinned = believe(&account.sign_list(None, &certificates, NOW), &certificates).unwrap();
    let anyone = RecoveryKey::random(&mut rng(3));
    let rotation = anyone.rotate(&pinned, anyone.public(), None);
    assert_eq!(pinned.rotate(&rotation).unwrap_err(), ListError::NoRecoveryKey);
}

#[test]
fn a_device_that_left_is_addressed_no_longer() {
    let f = fixture(2);
    let pinned = f.trusted(2);
    let (stays, leaves) = (&f.devices[0], &f.devices[1]);
    let leave = SignedLeave::from_bytes(&leaves.leave(pinned.account_id(), 1).to_bytes()).unwrap();
    let after = pinned.leave(&leave).unwrap();
    assert_eq!(after.devices().map(TrustedDevice::device_id).collect::<Vec<_>>(), [stays.device_id()]);
    assert_eq!(after.device(leaves.device_id()).unwrap_err(), ListError::UnknownDevice);
    let mut forged = leave.to_bytes();
    forged[16..32].copy_from_slice(stays.device_id().as_bytes());
    let forged = SignedLeave::from_bytes(&forged).unwrap();
    assert_eq!(pinned.leave(&forged).unwrap_err(), ListError::Signature(SignatureError::BadSignature));
    assert!(matches!(pinned.leave(&leaves.leave(pinned.account_id(), 0)), Err(ListError::LowerVersion { .. })));
    assert_eq!(TrustedList::from_bytes(&after.to_bytes()).unwrap(), after);
}

#[test]
fn every_byte_of_a_list_is_signed() {
    let f = fixture(2);
    let bytes = f.list(2).to_bytes();
    assert_eq!(SignedDeviceList::from_bytes(&bytes).unwrap(), f.list(2));
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        if let Ok(list) = SignedDeviceList::from_bytes(&changed) {
            assert!(believe(&list, &f.certificates).is_err(), "byte {at}");
        }
        assert!(SignedDeviceList::from_bytes(&bytes[..at]).is_err());
    }
}

proptest! {
    #[test]
    fn a49_list_parsers_take_anything(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
        let _ = SignedDeviceList::from_bytes(&bytes);
        let _ = SignedRotation::from_bytes(&bytes);
        let _ = SignedLeave::from_bytes(&bytes);
        let mut framed = StateWriter::new(StateKind::TrustedList, bytes.len());
        framed.put(&bytes);
        let _ = TrustedList::from_bytes(&framed.finish());
    }
}
