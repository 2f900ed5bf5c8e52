use super::{array, bytes, each_case, name, number};
use crate::Secret;
use crate::device::{DeviceKeys, SignedCertificate};
use crate::device_list::{ListEntry, SignedDeviceList, SignedRotation};
use crate::id::{AccountId, DeviceId};
use crate::identity::{AccountIdentity, RecoveryKey, recovery_from_bytes};
use crate::login::{LoginStatement, Origin};
use crate::sign::{Label, Signature, SigningKey, VerifyingKey, signed_string};
use crate::trusted_list::{Lineage, TrustedList};
use serde_json::Value;

fn signing(value: &Value) -> SigningKey {
    SigningKey::from_seed(&Secret::from_bytes(array(value)))
}

fn recovery(value: &Value) -> Option<VerifyingKey> {
    recovery_from_bytes(array(value)).unwrap()
}

fn device(case: &Value) -> DeviceKeys {
    let secret = |field: &str| case.get(field).map_or_else(|| Secret::from_bytes([1; 32]), |v| Secret::from_bytes(array(v)));
    let id = DeviceId::from_bytes(array(&case["device_id"]));
    DeviceKeys::from_secrets(id, &secret("ed25519_seed"), secret("x25519_private"), &secret("mls_seed"))
}

/// The fields behind the label of a signed string, if it is this label's.
fn try_fields(label: Label, signed: &[u8]) -> Option<&[u8]> {
    signed.strip_prefix(signed_string(label, &[]).as_slice())
}

fn fields(label: Label, signed: &[u8]) -> &[u8] {
    try_fields(label, signed).expect("the label")
}

/// As it travels: fields ‖ signatures. `None` if the statement has another label, which only its signature could show.
fn try_with_signatures(label: Label, case: &Value, signatures: &[&str]) -> Option<Vec<u8>> {
    let signed = bytes(&case["signed"]);
    let mut out = try_fields(label, &signed)?.to_vec();
    signatures.iter().for_each(|field| out.extend_from_slice(&bytes(&case[*field])));
    Some(out)
}

fn with_signatures(label: Label, case: &Value, signatures: &[&str]) -> Vec<u8> {
    try_with_signatures(label, case, signatures).expect("the label")
}

fn account(case: &Value) {
    let recovery = recovery(&case["recovery"]);
    let account = AccountIdentity::from_first_key(signing(&case["aik_seed"]), recovery);
    assert_eq!(account.public().as_bytes().to_vec(), bytes(&case["aik"]));
    assert_eq!(account.account_id().as_bytes().to_vec(), bytes(&case["account_id"]), "{}", name(case));
}

fn certificate(case: &Value) {
    let id = AccountId::from_bytes(array(&case["account_id"]));
    let account = AccountIdentity::rotated(id, signing(&case["aik_seed"]), None);
    let request = device(case).request_certificate(id, account.public(), number(&case["since_version"]));
    let signed = account.certify(&request).unwrap();
    let expected = with_signatures(Label::Device, case, &["aik_signature", "accept_signature"]);
    assert_eq!(signed.to_bytes().to_vec(), expected);
    assert_eq!(signed.hash(), array(&case["hash"]));
    let accept = bytes(&case["accept_signed"]);
    assert_eq!(fields(Label::DeviceAccept, &accept), &expected[..expected.len() - 128]);
}

fn prekey(case: &Value) {
    let signed = bytes(&case["signed"]);
    let made = device(case).signing_key().sign(Label::Prekey, &[fields(Label::Prekey, &signed)]);
    assert_eq!(made.as_bytes().to_vec(), bytes(&case["signature"]));
    let kind = crate::prekey::PrekeyKind::from_u8(number(&case["prekey_kind"]) as u8).unwrap();
    let id = crate::prekey::PrekeyId::from_wire(number(&case["id"]) as u32).unwrap();
    let prekey = crate::prekey::SignedPrekey::from_parts(kind, id, number(&case["created"]), bytes(&case["key"]), made).unwrap();
    let account = AccountIdentity::rotated(AccountId::from_bytes(array(&case["account_id"])), signing(&case["ed25519_seed"]), None);
    assert_eq!(prekey.verify(&device(case).party(account.account_id(), account.public())), Ok(()));
}

fn login(case: &Value) {
    let device = device(case);
    let origin = Origin::parse(case["origin"].as_str().unwrap()).unwrap();
    let expires_ms = number(&case["expires"]);
    let statement = LoginStatement {
        origin: origin.clone(),
        account_id: AccountId::from_bytes(array(&case["account_id"])),
        device_id: device.device_id(),
        challenge: array(&case["challenge"]),
        client_nonce: array(&case["client_nonce"]),
        expires_ms,
    };
    assert_eq!(signed_string(Label::Login, &[&statement.fields()]), bytes(&case["signed"]));
    let signature = statement.sign(&device, &origin, expires_ms - 1).unwrap();
    assert_eq!(signature.as_bytes().to_vec(), bytes(&case["signature"]));
}

fn list(case: &Value) {
    let id = AccountId::from_bytes(array(&case["account_id"]));
    let account = AccountIdentity::rotated(id, signing(&case["aik_seed"]), recovery(&case["recovery"]));
    let entry =
        |entry: &Value| ListEntry { device_id: DeviceId::from_bytes(array(&entry["device_id"])), certificate: array(&entry["certificate_hash"]) };
    let entries = case["entries"].as_array().unwrap().iter().map(entry).collect();
    let list = account.sign_list_as_given(number(&case["version"]), array(&case["prev_hash"]), number(&case["issued_at"]), entries);
    assert_eq!(list.to_bytes(), with_signatures(Label::Devices, case, &["signature"]));
    assert_eq!(list.hash(), array(&case["hash"]));
}

fn rotate(case: &Value) {
    let rotation = SignedRotation::from_bytes(&with_signatures(Label::Rotate, case, &["signature"])).unwrap();
    let old = RecoveryKey::from_entropy(&Secret::from_bytes(array(&case["old_recovery_seed"])));
    assert_eq!(rotation.verify(&old.public()), Ok(()));
    assert_eq!(rotation.hash(), array(&case["hash"]));
    assert_eq!(rotation.version(), number(&case["version"]));
}

/// Everybody a client knows.
#[derive(Default)]
struct Contacts(Vec<TrustedList>);

impl Contacts {
    fn of(&self, account: AccountId) -> Option<&TrustedList> {
        self.0.iter().find(|list| list.account_id() == account)
    }

    /// Takes a list or a rotation; gives what it makes of it, if it is believed.
    fn take(&self, step: &Value) -> Option<TrustedList> {
        if step["is"] != "list" {
            let rotation = try_with_signatures(Label::Rotate, step, &["signature"])?;
            let rotation = SignedRotation::from_bytes(&rotation).ok()?;
            return self.of(rotation.account_id)?.rotate(&rotation).ok();
        }
        let list = try_with_signatures(Label::Devices, step, &["signature"])?;
        let list = SignedDeviceList::from_bytes(&list).ok()?;
        let certificate = |case: &Value| {
            let signatures = ["aik_signature", "accept_signature"];
            SignedCertificate::from_bytes(&try_with_signatures(Label::Device, case, &signatures)?).ok()
        };
        let certificates: Vec<_> = step["certificates"].as_array()?.iter().filter_map(certificate).collect();
        let known = |device: &DeviceId| self.0.iter().find(|list| list.device(*device).is_ok()).map(TrustedList::account_id);
        match self.of(list.account_id()) {
            None => TrustedList::first_contact(&Lineage::unrotated(&list), &list, &certificates, &known).ok(),
            Some(pinned) => pinned.advance(&list, &certificates, &known).ok().map(|advance| advance.list),
        }
    }
}

/// Hands a client the steps one after the other.
fn list_sequence(case: &Value) {
    let mut contacts = Contacts::default();
    for (i, step) in case["steps"].as_array().unwrap().iter().enumerate() {
        let next = contacts.take(step);
        let accepted = step["expect"] == "accepted";
        assert_eq!(next.is_some(), accepted, "{} step {i}: {}", name(case), step["reason"]);
        if let Some(next) = next {
            contacts.0.retain(|list| list.account_id() != next.account_id());
            contacts.0.push(next);
        }
    }
}

fn signature(case: &Value) {
    let verified = || {
        let key = VerifyingKey::from_bytes(bytes(&case["key"]).try_into().ok()?).ok()?;
        let signature = Signature::from_bytes(bytes(&case["signature"]).try_into().ok()?);
        key.verify_string(&bytes(&case["message"]), &signature).ok()
    };
    let accepted = case["expect"] == "accepted";
    assert_eq!(verified().is_some(), accepted, "{}: {}", name(case), case["reason"]);
}

#[test]
fn identity_agrees_with_the_vectors() {
    let kinds = ["account", "certificate", "prekey", "leave", "login", "list", "rotate", "list_sequence", "signature"];
    each_case("identity.json", &kinds, |kind, case| match kind {
        "account" => account(case),
        "certificate" => certificate(case),
        "prekey" => prekey(case),
        "leave" => {
            let made = device(case).leave(AccountId::from_bytes(array(&case["account_id"])), number(&case["version"]));
            assert_eq!(made.to_bytes().to_vec(), with_signatures(Label::Leave, case, &["signature"]));
        }
        "login" => login(case),
        "list" => list(case),
        "rotate" => rotate(case),
        "list_sequence" => list_sequence(case),
        _ => signature(case),
    });
}
