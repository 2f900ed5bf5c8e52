use super::{Tape, array, bytes, each_case, name, number};
use crate::device::{DeviceKeys, Party};
use crate::handshake::Agreements;
use crate::handshake::initiator::initiate;
use crate::handshake::responder::accept;
use crate::handshake::transcript::Transcript;
use crate::id::{AccountId, ConversationId, DeviceId};
use crate::kem::{KemSecret, encapsulate};
use crate::prekey::{OneTimePrekey, PrekeyBundle, PrekeyId, PrekeyKind, PrekeySecret, SignedPrekey};
use crate::ratchet::header::Slice;
use crate::ratchet::session::ListVersions;
use crate::replay::ReplayMemory;
use crate::sign::{Signature, VerifyingKey};
use crate::x25519::{DhPublic, DhSecret};
use crate::{ResponderPrekeys, Secret};
use serde_json::Value;

fn party(side: &Value) -> Party {
    let party = Party {
        account_id: AccountId::from_bytes(array(&side["account_id"])),
        identity: VerifyingKey::from_bytes(array(&side["aik"])).unwrap(),
        device_id: DeviceId::from_bytes(array(&side["device_id"])),
        signing: VerifyingKey::from_bytes(array(&side["ed25519"])).unwrap(),
        agreement: DhPublic::from_bytes(array(&side["x25519"])),
    };
    assert_eq!(party.to_bytes().to_vec(), bytes(&side["party"]));
    party
}

/// Device keys whose session key is given; their signing keys do not enter a handshake.
fn keys(side: &Value) -> DeviceKeys {
    let unused = Secret::from_bytes([1; 32]);
    let agreement = Secret::from_bytes(array(&side["x25519_private"]));
    DeviceKeys::from_secrets(DeviceId::from_bytes(array(&side["device_id"])), &unused, agreement, &unused)
}

fn id(value: &Value) -> PrekeyId {
    PrekeyId::from_wire(number(value).try_into().unwrap()).unwrap()
}

fn signed(value: &Value, kind: PrekeyKind) -> SignedPrekey {
    let signature = Signature::from_bytes(array(&value["signature"]));
    SignedPrekey::from_parts(kind, id(&value["id"]), number(&value["created"]), bytes(&value["key"]), signature).unwrap()
}

fn handshake(case: &Value) {
    let (initiator, responder) = (party(&case["initiator"]), party(&case["responder"]));
    let conversation = ConversationId::from_bytes(array(&case["conversation"]));
    let kem_kind = PrekeyKind::from_u8(number(&case["kem_prekey"]["kind"]) as u8).unwrap();
    let one_time = (!case["one_time_prekey"].is_null()).then_some(&case["one_time_prekey"]);
    let bundle = PrekeyBundle {
        signed: signed(&case["signed_prekey"], PrekeyKind::Signed),
        one_time: one_time.map(|key| OneTimePrekey { id: id(&key["id"]), key: DhPublic::from_bytes(array(&key["key"])) }),
        kem: signed(&case["kem_prekey"], kem_kind),
    };
    let bundle = bundle.verify(&responder, None).unwrap();

    // The initiator.
    let mut tape = Tape::of([bytes(&case["ephemeral_private"]), bytes(&case["kem_randomness"])]);
    let versions = ListVersions { sender: 1, recipient: 1 };
    let (session, freshness) = initiate(&mut tape, &keys(&case["initiator"]), &initiator, conversation, &bundle, versions, 0).unwrap();
    assert!(tape.is_used_up());
    assert_eq!(session.th, array(&case["th"]), "{}", name(case));
    assert_eq!(session.id().as_bytes().to_vec(), bytes(&case["session_id"]));
    assert_eq!(session.root.0.expose().to_vec(), bytes(&case["rk"]));
    let contact = &session.first.as_ref().unwrap().contact;
    let mut first_extra = Vec::new();
    contact.write(&mut first_extra);
    assert_eq!(first_extra, bytes(&case["first_extra"]));
    assert_eq!(contact.ct.to_vec(), bytes(&case["kem_ciphertext"]));
    assert_eq!(freshness.one_time_missing, one_time.is_none());
    assert_eq!(freshness.last_resort_kem, kem_kind == PrekeyKind::KemLastResort);
    secrets(case, one_time);
    transcript(case, &initiator, &responder, &bundle);
    respond(case, kem_kind, one_time);
}

/// The parts of SK one by one.
fn secrets(case: &Value, one_time: Option<&Value>) {
    let secret = |value: &Value| DhSecret::from_secret(Secret::from_bytes(array(value)));
    let public = |value: &Value| DhPublic::from_bytes(array(value));
    let (own, ephemeral) = (secret(&case["initiator"]["x25519_private"]), secret(&case["ephemeral_private"]));
    assert_eq!(ephemeral.public(), public(&case["ephemeral"]));
    let signed = public(&case["signed_prekey"]["key"]);
    let agreements = Agreements {
        dh1: own.agree(&signed).unwrap(),
        dh2: ephemeral.agree(&public(&case["responder"]["x25519"])).unwrap(),
        dh3: ephemeral.agree(&signed).unwrap(),
        dh4: one_time.map(|key| ephemeral.agree(&public(&key["key"])).unwrap()),
        ss: Secret::from_bytes(array(&case["kem_secret"])),
    };
    let dh = [Some(&agreements.dh1), Some(&agreements.dh2), Some(&agreements.dh3), agreements.dh4.as_ref()];
    let dh: Vec<Vec<u8>> = dh.into_iter().flatten().map(|dh| dh.expose().to_vec()).collect();
    assert_eq!(dh, case["dh"].as_array().unwrap().iter().map(bytes).collect::<Vec<_>>());
    assert_eq!(agreements.secret_key().expose().to_vec(), bytes(&case["sk"]));
}

fn transcript(case: &Value, initiator: &Party, responder: &Party, bundle: &crate::prekey::VerifiedBundle) {
    let th = Transcript {
        conversation: ConversationId::from_bytes(array(&case["conversation"])),
        initiator,
        responder,
        ek: DhPublic::from_bytes(array(&case["ephemeral"])),
        signed: (bundle.signed_id, bundle.signed_key),
        one_time: bundle.one_time,
        kem: (bundle.kem_kind, bundle.kem_id, &bundle.kem_key),
        ct: &array(&case["kem_ciphertext"]),
    };
    assert_eq!(th.hash(), array(&case["th"]));
    assert_eq!(crate::hash::sha256(&[&bytes(&case["transcript"])]), array(&case["th"]));
}

/// The responder, from its stored prekeys and a slice with these first bytes.
fn respond(case: &Value, kem_kind: PrekeyKind, one_time: Option<&Value>) {
    let stored = |kind: u8, value: &Value, secret: &str| {
        let mut draws = Tape::of([bytes(&value[secret])]);
        let (id, created) = (id(&value["id"]), value["created"].as_u64().unwrap_or_default());
        match kind {
            0 => PrekeySecret::one_time(&mut draws, id, created),
            1 => PrekeySecret::signed(&mut draws, id, created),
            2 => PrekeySecret::kem_one_time(&mut draws, id, created),
            _ => PrekeySecret::kem_last_resort(&mut draws, id, created),
        }
    };
    let signed = stored(1, &case["signed_prekey"], "private");
    let one_time = one_time.map(|key| stored(0, key, "private"));
    let kem = stored(kem_kind as u8, &case["kem_prekey"], "seed");
    let prekeys = ResponderPrekeys { signed: &signed, one_time: one_time.as_ref(), kem: &kem };
    let mut slice = vec![1, 1];
    slice.extend_from_slice(&bytes(&case["session_id"]));
    slice.resize(70, 0);
    slice.extend_from_slice(&bytes(&case["first_extra"]));
    slice.resize(crate::FIRST_SLICE_LEN, 0);
    let slice = Slice::parse(&slice).unwrap();
    let (initiator, responder) = (party(&case["initiator"]), party(&case["responder"]));
    let conversation = ConversationId::from_bytes(array(&case["conversation"]));
    let accepted = accept(&keys(&case["responder"]), &responder, &initiator, conversation, &slice, prekeys, &ReplayMemory::new()).unwrap();
    assert_eq!(accepted.th, array(&case["th"]));
    assert_eq!(accepted.root.0.expose().to_vec(), bytes(&case["rk"]), "{}", name(case));
}

fn kem(case: &Value) {
    let secret = KemSecret::from_seed(Secret::from_bytes(array(&case["seed"])));
    assert_eq!(secret.encapsulation_key().to_vec(), bytes(&case["key"]));
    let mut tape = Tape::of([bytes(&case["randomness"])]);
    let (_, shared) = encapsulate(&mut tape, &array(&case["key"])).unwrap();
    assert_eq!(shared.expose().to_vec(), bytes(&case["encapsulated_secret"]));
    let shared = secret.decapsulate(&array(&case["ciphertext"]));
    assert_eq!(shared.expose().to_vec(), bytes(&case["decapsulated_secret"]), "{}", name(case));
}

#[test]
fn pqxdh_agrees_with_the_vectors() {
    each_case("pqxdh.json", &["handshake", "kem", "refused_kem_key", "refused_dh"], |kind, case| match kind {
        "handshake" => handshake(case),
        "kem" => kem(case),
        "refused_kem_key" => {
            assert!(encapsulate(&mut Tape::default(), &array(&case["key"])).is_err(), "{}", name(case));
        }
        _ => {
            let own = DhSecret::from_secret(Secret::from_bytes(array(&case["private"])));
            assert!(own.agree(&DhPublic::from_bytes(array(&case["public"]))).is_err(), "{}", name(case));
        }
    });
}
