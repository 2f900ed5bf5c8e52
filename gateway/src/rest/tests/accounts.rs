use axum::{
    body::{Body, Bytes},
    http::{Request, StatusCode, header},
};
use ed25519_dalek::SigningKey;
use kith_proto::rest::RegisterRequest;
use serde_json::{Value, json};

use super::{
    owner::{Owner, seed},
    rig::{Answer, NOW, ORIGIN, Rig, certificate, first_keys, proof, statement},
};
use crate::config::{Config, RegistrationPolicy};

async fn register(rig: &Rig, request: &RegisterRequest) -> Answer {
    rig.post("/v1/accounts", None, request).await
}

#[tokio::test]
async fn registers_and_looks_up() {
    let rig = Rig::new();
    let alice = rig.person("alice").await;
    let bob = rig.person("bob").await;
    let found = rig.get("/v1/users/BOB", Some(alice.token())).await.ok();
    assert_eq!(found["account"], bob.owner.account.to_string());
    assert_eq!((found["username"].as_str(), found["list_version"].as_u64()), (Some("bob"), Some(1)));
    rig.get("/v1/users/bobby", Some(alice.token())).await.refused("NOT_FOUND");
    rig.get("/v1/users/b", Some(alice.token())).await.refused("USERNAME_INVALID");
    rig.get("/v1/users/bob", None).await.refused("UNAUTHENTICATED");
    assert_eq!(alice.tokens.access_expires_ms, NOW + 600_000);
}

#[tokio::test]
async fn the_same_registration_again_gives_fresh_tokens() {
    let rig = Rig::new();
    let alice = rig.person("alice").await;
    let again = rig.registration(&alice.owner, &alice.device, "alice").await;
    let answer = register(&rig, &again).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_ne!(answer.body["tokens"]["refresh_token"], alice.tokens.refresh_token.as_str());
    register(&rig, &again).await.refused("CHALLENGE_INVALID");
    let renamed = rig.registration(&alice.owner, &alice.device, "alicia").await;
    register(&rig, &renamed).await.refused("ACCOUNT_EXISTS");
}

#[tokio::test]
async fn a29_public_statements_register_nobody() {
    let rig = Rig::new();
    let alice = Owner::new("alice");
    let device = alice.device("alice");
    let thief = SigningKey::from_bytes(&seed("thief"));
    let mut request = rig.registration(&alice, &device, "alice").await;
    let (challenge, expires_ms) = rig.challenge(&device).await;
    let by_thief = super::owner::Device { key: thief, ..device.clone() };
    request.proof = proof(&by_thief, ORIGIN, challenge, expires_ms);
    register(&rig, &request).await.refused("SIGNATURE_INVALID");
    request.proof = rig.proof(&device, "http://evil.example:80").await;
    register(&rig, &request).await.refused("ORIGIN_MISMATCH");
    request.proof = rig.proof(&alice.device("another"), ORIGIN).await;
    register(&rig, &request).await.refused("CHALLENGE_INVALID");
}

#[tokio::test]
async fn a_name_is_given_once() {
    let rig = Rig::new();
    rig.person("alice").await;
    let mallory = Owner::new("mallory");
    let device = mallory.device("mallory");
    for name in ["alice", "Alice", "ALICE"] {
        let taken = rig.registration(&mallory, &device, name).await;
        register(&rig, &taken).await.refused("USERNAME_TAKEN");
    }
    for name in ["al", "-alice", "a l", "älice"] {
        let wrong = rig.registration(&mallory, &device, name).await;
        register(&rig, &wrong).await.refused("USERNAME_INVALID");
    }
}

#[tokio::test]
async fn a_race_for_a_name_has_one_winner() {
    let rig = Rig::new();
    let mut requests = Vec::new();
    for n in 0..8 {
        let owner = Owner::new(&format!("owner {n}"));
        requests.push(rig.registration(&owner, &owner.device(&format!("device {n}")), "alice").await);
    }
    let answers = futures_util::future::join_all(requests.iter().map(|request| register(&rig, request))).await;
    assert_eq!(answers.iter().filter(|a| a.status == StatusCode::CREATED).count(), 1);
    assert_eq!(answers.iter().filter(|a| a.code() == "USERNAME_TAKEN").count(), 7);
}

type Spoil = fn(&mut RegisterRequest, &Owner);

#[tokio::test]
async fn a4_a23_refuses_what_is_not_rightly_signed() {
    let rig = Rig::new();
    let alice = Owner::new("alice");
    let device = alice.device("alice");
    let mallory = Owner::new("mallory");
    let cases: [(&str, &str, Spoil); 13] = [
        ("a list signed by somebody else", "SIGNATURE_INVALID", |r, mallory| {
            r.list.signature = mallory.clone().next_list(&[&mallory.device("m")]).1.into();
        }),
        ("a damaged certificate", "SIGNATURE_INVALID", |r, _| {
            // The list names its hash, so the list must go with it.
            r.certificate.accept_signature.0[0] ^= 1;
            let alice = Owner::new("alice");
            let spoilt = (r.certificate.signed.0.clone(), r.certificate.aik_signature.0, r.certificate.accept_signature.0);
            let entries = vec![(alice.device("alice").at.device, Owner::certificate_hash(&spoilt))];
            r.list = statement(alice.list_by(&alice.aik, 1, [0; 32], entries));
        }),
        ("a certificate that the list does not name", "INVALID_FRAME", |r, _| r.certificate.aik_signature.0[0] ^= 1),
        ("an account of other keys", "INVALID_FRAME", |r, mallory| r.aik = mallory.aik_public().into()),
        ("another recovery key", "INVALID_FRAME", |r, _| r.recovery = [0; 32].into()),
        ("a second version first", "INVALID_FRAME", |r, _| {
            let alice = Owner::new("alice");
            r.list = statement(alice.list(2, [1; 32], &[&alice.device("alice")]));
        }),
        ("two devices at once", "INVALID_FRAME", |r, _| {
            let alice = Owner::new("alice");
            r.list = statement(alice.list(1, [0; 32], &[&alice.device("alice"), &alice.device("two")]));
        }),
        ("no signed prekey", "PREKEY_INVALID", |r, _| r.prekeys.signed = None),
        ("no last resort", "PREKEY_INVALID", |r, _| r.prekeys.last_resort_kem = None),
        ("a prekey signed by somebody else", "SIGNATURE_INVALID", |r, mallory| r.prekeys = first_keys(&mallory.device("m"), 0)),
        ("a prekey for another account", "SIGNATURE_INVALID", |r, mallory| {
            let alice = Owner::new("alice").device("alice");
            let key = vec![9; 32];
            let signature = alice.prekey_for(mallory.device("m").at, 1, 1, NOW, &key);
            r.prekeys.signed.as_mut().unwrap().signature = signature.into();
        }),
        ("a short key", "PREKEY_INVALID", |r, _| r.prekeys.signed.as_mut().unwrap().key.0.truncate(31)),
        ("a name that is too long", "INVALID_FRAME", |r, _| r.device_name = Some("x".repeat(65).into())),
    ];
    for (what, code, spoil) in cases {
        let mut request = rig.registration(&alice, &device, "alice").await;
        spoil(&mut request, &mallory);
        let answer = register(&rig, &request).await;
        assert_eq!(answer.code(), code, "{what}: {answer:?}");
    }
    rig.person("alice").await;
}

#[tokio::test]
async fn a49_refuses_bodies_that_are_none() {
    let rig = Rig::with(|c| c.http.max_body_bytes = 64 * 1024);
    let alice = Owner::new("alice");
    let good = serde_json::to_value(rig.registration(&alice, &alice.device("alice"), "alice").await).unwrap();
    let raw = |content_type: &str, body: &str| {
        let request = Request::post("/v1/accounts").header(header::CONTENT_TYPE, content_type);
        request.body(Body::from(body.to_owned())).unwrap()
    };
    let mut unknown = good.clone();
    unknown["admin"] = json!(true);
    let mut nested = good.clone();
    nested["proof"]["x"] = json!(1);
    let mut wrong_length = good.clone();
    wrong_length["aik"] = json!("AAAA");
    for body in [unknown, nested, wrong_length, Value::Null, json!([]), json!({})] {
        let answer = rig.send_from("127.0.0.1", raw("application/json", &body.to_string())).await;
        answer.refused("INVALID_FRAME");
    }
    for body in ["", "{", "\u{0}", "[[[[[[[[", &"[".repeat(10_000)] {
        rig.send_from("127.0.0.1", raw("application/json", body)).await.refused("INVALID_FRAME");
    }
    rig.send_from("127.0.0.1", raw("text/plain", &good.to_string())).await.refused("INVALID_FRAME");
    let large = " ".repeat(64 * 1024 + 1);
    rig.send_from("127.0.0.1", raw("application/json", &large)).await.refused("TOO_LARGE");
    let announced = Request::post("/v1/accounts").header(header::CONTENT_TYPE, "application/json").header(header::CONTENT_LENGTH, "99999999");
    rig.send_from("127.0.0.1", announced.body(Body::empty()).unwrap()).await.refused("TOO_LARGE");
    // A body whose length nobody announced, and which would never end.
    let endless = Body::from_stream(futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 1024]))));
    let request = Request::post("/v1/accounts").header(header::CONTENT_TYPE, "application/json").body(endless).unwrap();
    rig.send_from("127.0.0.1", request).await.refused("TOO_LARGE");
}

#[tokio::test]
async fn an_invite_code_registers_one_account() {
    let rig = Rig::with(|c: &mut Config| c.registration.policy = RegistrationPolicy::Invite);
    let code = "ABCD-EFGH-JKMN-PQRS";
    rig.state.accounts.add_invites(vec![crate::invites::invite_hash(code)], NOW + 1_000, NOW).await.unwrap();
    let attempt = |name: &'static str, code: Option<&'static str>| {
        let rig = &rig;
        async move {
            let owner = Owner::new(name);
            let mut request = rig.registration(&owner, &owner.device(name), name).await;
            request.invite_code = code.map(Into::into);
            register(rig, &request).await
        }
    };
    attempt("alice", None).await.refused("INVITE_INVALID");
    attempt("alice", Some("ABCD-EFGH-JKMN-PQRT")).await.refused("INVITE_INVALID");
    assert_eq!(attempt("alice", Some("abcdefghjkmnpqrs")).await.status, StatusCode::CREATED);
    attempt("bob", Some(code)).await.refused("INVITE_INVALID");
    assert_eq!(attempt("alice", Some(code)).await.status, StatusCode::OK, "asked again after a lost answer");
}

#[tokio::test]
async fn closed_is_closed() {
    let rig = Rig::with(|c: &mut Config| c.registration.policy = RegistrationPolicy::Closed);
    let alice = Owner::new("alice");
    let request = rig.registration(&alice, &alice.device("alice"), "alice").await;
    register(&rig, &request).await.refused("REGISTRATION_CLOSED");
    assert_eq!(rig.get("/v1/limits", None).await.ok()["registration"], "closed");
}

#[tokio::test]
async fn the_recovery_key_replaces_a_lost_first_device() {
    let rig = Rig::new();
    let mut alice = rig.person("alice").await;
    let mallory = Owner::new("mallory");
    let path = format!("/v1/accounts/{}/rotate", alice.owner.account);
    let fresh = alice.owner.device("fresh");
    // Signed by the identity key, or by somebody else.
    for by in [alice.owner.aik.clone(), mallory.aik.clone()] {
        let mut thief = alice.owner.clone();
        let rotate = thief.rotate_by(&by, "thief");
        thief.rotate("thief");
        let request = rotation(&rig, &mut thief, rotate, &fresh).await;
        rig.post(&path, None, &request).await.refused("SIGNATURE_INVALID");
    }
    let rotate = alice.owner.rotate("alice again");
    let request = rotation(&rig, &mut alice.owner, rotate, &fresh).await;
    let tokens = rig.post(&path, None, &request).await.ok();
    let token = tokens["access_token"].as_str().unwrap();
    rig.get("/v1/devices", Some(alice.token())).await.refused("DEVICE_REVOKED");
    assert_eq!(rig.get("/v1/devices", Some(token)).await.ok()["version"], 3);
    let history = rig.get(&format!("/v1/accounts/{}/devices", alice.owner.account), Some(token)).await.ok();
    let kinds: Vec<_> = history["statements"].as_array().unwrap().iter().map(|s| s["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["devices", "rotate", "devices"]);
    // The same again follows from nothing any more; the device logs in instead.
    rig.post(&path, None, &request).await.refused("DEVICE_LIST_CONFLICT");
    rig.login(&fresh).await.ok();
}

async fn rotation(rig: &Rig, after: &mut Owner, rotate: super::owner::Statement, fresh: &super::owner::Device) -> Value {
    let list = after.next_list(&[fresh]);
    json!({
        "rotate": statement(rotate),
        "list": statement(list),
        "certificates": [certificate(after.certificate(fresh))],
        "prekeys": [{"device": fresh.at.device, "prekeys": first_keys(fresh, 0)}],
        "device": fresh.at.device,
        "proof": rig.proof(fresh, ORIGIN).await,
    })
}

#[tokio::test]
async fn an_account_without_recovery_key_cannot_rotate() {
    let rig = Rig::new();
    let mut owner = Owner::with_recovery("alice", None);
    let device = owner.device("alice");
    let request = rig.registration(&owner, &device, "alice").await;
    assert_eq!(register(&rig, &request).await.status, StatusCode::CREATED);
    owner.next_list(&[&device]);
    let fresh = owner.device("fresh");
    let rotate = owner.rotate("thief");
    let request = rotation(&rig, &mut owner, rotate, &fresh).await;
    rig.post(&format!("/v1/accounts/{}/rotate", owner.account), None, &request).await.refused("SIGNATURE_INVALID");
}
