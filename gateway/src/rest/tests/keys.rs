use std::collections::HashSet;

use kith_proto::rest::{OneTimePrekey, PrekeyUpload};
use serde_json::{Value, json};

use super::rig::{Person, Rig, prekey};

fn one_time(ids: std::ops::Range<u32>) -> PrekeyUpload {
    PrekeyUpload { one_time: ids.map(|id| OneTimePrekey { id, key: [3; 32].into() }).collect(), ..PrekeyUpload::default() }
}

async fn bundle(rig: &Rig, by: &Person, of: &Person) -> Value {
    let path = format!("/v1/accounts/{}/bundles", of.owner.account);
    rig.post(&path, Some(by.token()), &json!({})).await.ok()["bundles"][0].clone()
}

#[tokio::test]
async fn tops_up_with_new_ids_only() {
    let rig = Rig::with(|c| c.prekeys.max_one_time = 5);
    let alice = rig.person("alice").await;
    let before = rig.get("/v1/keys", Some(alice.token())).await.ok();
    assert_eq!((&before["one_time"], &before["one_time_kem"], &before["highest_id"]), (&json!(2), &json!(2), &json!(6)));
    let add = |upload: PrekeyUpload| {
        let (rig, token) = (&rig, alice.token());
        async move { rig.post("/v1/keys", Some(token), &upload).await }
    };
    assert_eq!(add(one_time(7..9)).await.ok()["one_time"], 4);
    for upload in [one_time(7..8), one_time(8..10), one_time(0..1), one_time(1..2), PrekeyUpload::default()] {
        add(upload).await.refused("PREKEY_INVALID");
    }
    let twice = PrekeyUpload { one_time_kem: vec![prekey(&alice.device, 2, 20), prekey(&alice.device, 2, 20)], ..PrekeyUpload::default() };
    add(twice).await.refused("PREKEY_INVALID");
    add(one_time(9..11)).await.refused("PREKEY_LIMIT");
    let rotated = PrekeyUpload { signed: Some(prekey(&alice.device, 1, 30)), ..PrekeyUpload::default() };
    assert_eq!(add(rotated).await.ok()["signed_id"], 30);
}

#[tokio::test]
async fn a4_a_prekey_of_another_device_or_kind_is_refused() {
    let rig = Rig::new();
    let alice = rig.person("alice").await;
    let bob = rig.person("bob").await;
    let uploads = [
        PrekeyUpload { signed: Some(prekey(&bob.device, 1, 50)), ..PrekeyUpload::default() },
        PrekeyUpload { one_time_kem: vec![prekey(&bob.device, 2, 51)], ..PrekeyUpload::default() },
        PrekeyUpload { one_time_kem: vec![prekey(&alice.device, 3, 52)], ..PrekeyUpload::default() },
        PrekeyUpload { last_resort_kem: Some(prekey(&alice.device, 2, 53)), ..PrekeyUpload::default() },
    ];
    for upload in uploads {
        rig.post("/v1/keys", Some(alice.token()), &upload).await.refused("SIGNATURE_INVALID");
    }
    let short = PrekeyUpload { last_resort_kem: Some(prekey(&alice.device, 1, 54)), ..PrekeyUpload::default() };
    rig.post("/v1/keys", Some(alice.token()), &short).await.refused("PREKEY_INVALID");
}

#[tokio::test]
async fn a_long_upload_is_verified_too() {
    let rig = Rig::new();
    let alice = rig.person("alice").await;
    let mut upload = PrekeyUpload { one_time_kem: (10..60).map(|id| prekey(&alice.device, 2, id)).collect(), ..PrekeyUpload::default() };
    upload.one_time_kem[49].signature.0[3] ^= 1;
    rig.post("/v1/keys", Some(alice.token()), &upload).await.refused("SIGNATURE_INVALID");
    upload.one_time_kem[49].signature.0[3] ^= 1;
    assert_eq!(rig.post("/v1/keys", Some(alice.token()), &upload).await.ok()["one_time_kem"], 52);
}

#[tokio::test]
async fn a7_each_key_once_then_the_last_resort() {
    let rig = Rig::new();
    let alice = rig.person("alice").await;
    let bob = rig.person("bob").await;
    let bundles = futures_util::future::join_all((0..4).map(|_| bundle(&rig, &bob, &alice))).await;
    let mut ids = HashSet::new();
    for bundle in bundles.iter().filter(|b| !b["one_time"].is_null()) {
        assert!(ids.insert(bundle["one_time"]["id"].as_u64()));
        assert!(ids.insert(bundle["kem"]["id"].as_u64()));
        assert_eq!(bundle["kem_kind"], 2);
    }
    assert_eq!(ids.len(), 4);
    for bundle in bundles.iter().filter(|b| b["one_time"].is_null()) {
        assert_eq!((&bundle["kem_kind"], &bundle["kem"]["id"], &bundle["limited"]), (&json!(3), &json!(2), &json!(false)));
    }
}

#[tokio::test]
async fn a7_pogo_one_requester_cannot_use_up_the_keys() {
    let rig = Rig::with(|c| c.limits.one_time_pair_burst = 3);
    let alice = rig.person("alice").await;
    let mallory = rig.person("mallory").await;
    let bob = rig.person("bob").await;
    rig.post("/v1/keys", Some(alice.token()), &one_time(7..57)).await.ok();
    let mut given = 0;
    for _ in 0..50 {
        let bundle = bundle(&rig, &mallory, &alice).await;
        given += u32::from(!bundle["one_time"].is_null());
        assert_eq!(bundle["limited"], given == 3 && bundle["one_time"].is_null(), "the requester is told");
    }
    assert_eq!(given, 3);
    assert!(!bundle(&rig, &bob, &alice).await["one_time"].is_null(), "others still get theirs");
}

#[tokio::test]
async fn a7_requests_for_bundles_are_limited() {
    let rig = Rig::with(|c| (c.limits.bundles_account_burst, c.limits.bundles_account_per_minute) = (2, 1));
    let alice = rig.person("alice").await;
    let bob = rig.person("bob").await;
    bundle(&rig, &bob, &alice).await;
    bundle(&rig, &bob, &alice).await;
    let path = format!("/v1/accounts/{}/bundles", alice.owner.account);
    let refused = rig.post(&path, Some(bob.token()), &json!({})).await;
    refused.refused("RATE_LIMITED");
    assert_eq!((refused.headers["retry-after"].to_str().unwrap(), &refused.body["after_ms"]), ("60", &json!(60_000)));
    rig.pass(60_000);
    bundle(&rig, &bob, &alice).await;
}

#[tokio::test]
async fn bundles_are_for_those_who_are_logged_in() {
    let rig = Rig::new();
    let alice = rig.person("alice").await;
    let path = format!("/v1/accounts/{}/bundles", alice.owner.account);
    rig.post(&path, None, &json!({})).await.refused("UNAUTHENTICATED");
    let none = rig.post(&path, Some(alice.token()), &json!({})).await.ok();
    assert_eq!(none["bundles"], json!([]), "nobody starts a session with the device in hand");
    let many: Vec<String> = (0..11).map(|n| format!("{n:032x}")).collect();
    rig.post(&path, Some(alice.token()), &json!({"devices": many})).await.refused("INVALID_FRAME");
    let nobody = format!("/v1/accounts/{:032x}/bundles", 1);
    rig.post(&nobody, Some(alice.token()), &json!({})).await.refused("UNKNOWN_ACCOUNT");
}
