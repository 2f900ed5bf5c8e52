//! The server's reading of what is signed agrees with the vectors, which were made from the specification by somebody else.

use kith_chat_core::domain::{
    StatementError,
    device_list::{self, AccountState, KnownDevice, VerifiedList},
    login::Login,
    prekeys::{Kind, Prekey, VerifiedPrekeys},
    signature,
    statement::{self, Bytes32, Signed, SignedCertificate},
};
use kith_proto::id::{AccountId, DeviceId, DeviceRef};
use serde_json::Value;

fn cases(kind: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("../../client-sdk/crypto/vectors/identity.json")).unwrap();
    let found: Vec<_> = all["cases"].as_array().unwrap().iter().filter(|c| c["kind"] == kind).cloned().collect();
    assert!(!found.is_empty(), "no case of kind {kind}");
    found
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().unwrap()
}

fn signed(case: &Value) -> Signed {
    Signed { bytes: bytes(&case["signed"]), signature: array(&case["signature"]) }
}

fn certificate(case: &Value) -> SignedCertificate {
    let signature = |name: &str| array(&case[name]);
    SignedCertificate { bytes: bytes(&case["signed"]), aik_signature: signature("aik_signature"), accept_signature: signature("accept_signature") }
}

fn device(case: &Value) -> DeviceRef {
    DeviceRef { account: AccountId(array(&case["account_id"])), device: DeviceId(array(&case["device_id"])) }
}

#[test]
fn account_ids() {
    for case in cases("account") {
        assert_eq!(statement::account_id(&array(&case["aik"]), &array(&case["recovery"])).0, array::<16>(&case["account_id"]));
    }
}

#[test]
fn certificates() {
    for case in cases("certificate") {
        let signed = certificate(&case);
        let says = signed.parse().unwrap();
        assert_eq!((says.account, says.device), (device(&case).account, device(&case).device));
        assert_eq!((says.ed25519, says.x25519, says.mls), (array(&case["ed25519"]), array(&case["x25519"]), array(&case["mls_ed25519"])));
        assert_eq!((says.aik, says.since_version), (array(&case["aik"]), case["since_version"].as_u64().unwrap()));
        signed.verify(&says).unwrap();
        assert_eq!(signed.hash(), array::<32>(&case["hash"]));
        let swapped = SignedCertificate { aik_signature: signed.accept_signature, accept_signature: signed.aik_signature, ..signed };
        assert_eq!(swapped.verify(&says), Err(StatementError::Signature), "a29: one label is not the other");
    }
}

#[test]
fn a4_prekeys() {
    for case in cases("prekey") {
        let kind = [Kind::Signed, Kind::OneTimeKem, Kind::LastResortKem].into_iter().find(|k| case["prekey_kind"] == *k as u8).unwrap();
        let id = u32::try_from(case["id"].as_u64().unwrap()).unwrap();
        let created_ms = case["created"].as_u64().unwrap();
        let prekey = Prekey { kind, id, created_ms, key: bytes(&case["key"]), signature: array(&case["signature"]) };
        let (at, key) = (device(&case), array(&case["ed25519"]));
        VerifiedPrekeys::verify(at, &key, vec![prekey.clone()]).unwrap();
        let other = DeviceRef { account: AccountId([9; 16]), ..at };
        assert!(VerifiedPrekeys::verify(other, &key, vec![prekey.clone()]).is_err(), "of another account");
        assert!(VerifiedPrekeys::verify(at, &key, vec![Prekey { id: id + 1, ..prekey.clone() }]).is_err());
        assert!(VerifiedPrekeys::verify(at, &key, vec![Prekey { created_ms: created_ms + 1, ..prekey.clone() }]).is_err());
        assert!(VerifiedPrekeys::verify(at, &key, vec![Prekey { kind: Kind::OneTimeKem, ..prekey.clone() }]).is_err() || kind == Kind::OneTimeKem);
        let mut short = prekey.clone();
        short.key.pop();
        assert!(VerifiedPrekeys::verify(at, &key, vec![short]).is_err());
        assert!(VerifiedPrekeys::verify(at, &key, vec![prekey.clone(), prekey]).is_err(), "an id twice");
    }
}

#[test]
fn logins() {
    for case in cases("login") {
        let (challenge, client_nonce) = (array(&case["challenge"]), array(&case["client_nonce"]));
        let expires_ms = case["expires"].as_u64().unwrap();
        let origin = case["origin"].as_str().unwrap();
        let login = Login { origin, device: device(&case), challenge: &challenge, client_nonce: &client_nonce, expires_ms };
        assert_eq!(login.signed().unwrap(), bytes(&case["signed"]));
        login.verify(&array(&case["ed25519"]), &array(&case["signature"])).unwrap();
        assert!(Login { expires_ms: 1, ..login }.verify(&array(&case["ed25519"]), &array(&case["signature"])).is_err());
    }
}

#[test]
fn leaves() {
    for case in cases("leave") {
        let at = device(&case);
        let known = KnownDevice { device: at.device, certificate_hash: [0; 32], ed25519: array(&case["ed25519"]) };
        let version = case["version"].as_u64().unwrap();
        let state = AccountState { account: at.account, aik: [0; 32], recovery: [0; 32], version, hash: [0; 32], devices: vec![known] };
        assert_eq!(device_list::leave(&state, at, &signed(&case)).unwrap().version, version);
        assert!(device_list::leave(&AccountState { version: version + 1, ..state.clone() }, at, &signed(&case)).is_err());
        let other = DeviceRef { device: DeviceId([9; 16]), ..at };
        assert!(device_list::leave(&state, other, &signed(&case)).is_err());
    }
}

#[test]
fn a45_strict_signatures() {
    for case in cases("signature") {
        let accepted = <[u8; 64]>::try_from(bytes(&case["signature"]))
            .is_ok_and(|signature| signature::verify(&array(&case["key"]), &bytes(&case["message"]), &signature).is_ok());
        assert_eq!(accepted, case["expect"] == "accepted", "{}", case["name"]);
    }
}

fn known(list: &VerifiedList, before: &[KnownDevice]) -> AccountState {
    let says = list.list();
    let new = |hash: &Bytes32| list.certified().iter().find(|c| c.hash == *hash).map(|c| c.certificate.ed25519);
    let old = |device| before.iter().find(|k| k.device == device).map(|k| k.ed25519);
    let devices = says.entries.iter().map(|(device, hash)| KnownDevice {
        device: *device,
        certificate_hash: *hash,
        ed25519: new(hash).or_else(|| old(*device)).unwrap(),
    });
    AccountState {
        account: says.account,
        aik: says.aik,
        recovery: says.recovery,
        version: says.version,
        hash: list.hash(),
        devices: devices.collect(),
    }
}

/// What a client refuses the server refuses to publish. The server knows more: it takes neither what it has already nor an account from the middle, and it
/// finds a device id of another account in the store, not here.
#[test]
fn a23_sequences_of_lists() {
    const FROM_THE_MIDDLE: &str = "first-is-later";
    const NEEDS_THE_STORE: &str = "borrowed-device-id";
    for case in cases("list_sequence") {
        let name = case["name"].as_str().unwrap();
        if [FROM_THE_MIDDLE, NEEDS_THE_STORE].contains(&name) {
            continue;
        }
        let mut states: Vec<AccountState> = Vec::new();
        let mut seen: Vec<Vec<u8>> = Vec::new();
        for (at, step) in case["steps"].as_array().unwrap().iter().enumerate() {
            let expected = step["expect"] == "accepted";
            let (accepted, changed) = take(&states, step);
            let repeated = seen.contains(&bytes(&step["signed"]));
            assert_eq!(accepted, expected && !repeated, "{name}, step {at}");
            if let Some(state) = changed {
                states.retain(|s| s.account != state.account);
                states.push(state);
                seen.push(bytes(&step["signed"]));
            }
        }
    }
}

fn take(states: &[AccountState], step: &Value) -> (bool, Option<AccountState>) {
    let of = |account: AccountId| states.iter().find(|s| s.account == account);
    let after = if step["is"] == "rotation" {
        statement::Rotation::parse(&bytes(&step["signed"]))
            .and_then(|r| of(r.account).ok_or(StatementError::Conflict("unknown")).and_then(|s| device_list::rotate(s, &signed(step))))
    } else {
        let certificates: Vec<_> = step["certificates"].as_array().unwrap().iter().map(certificate).collect();
        statement::DeviceList::parse(&bytes(&step["signed"])).and_then(|list| match of(list.account) {
            Some(state) => device_list::next(state, signed(step), certificates).map(|l| known(&l, &state.devices)),
            None => device_list::first(signed(step), certificates).map(|l| known(&l, &[])),
        })
    };
    (after.is_ok(), after.ok())
}
