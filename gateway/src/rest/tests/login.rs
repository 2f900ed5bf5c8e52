use std::sync::atomic::Ordering;

use kith_proto::rest::LoginProof;
use serde_json::json;

use super::{
    owner::{Device, Owner},
    rig::{Answer, ORIGIN, Rig, proof},
};

async fn attempt(rig: &Rig, device: &Device, proof: &LoginProof) -> Answer {
    rig.post("/v1/login", None, &json!({"account": device.at.account, "device": device.at.device, "proof": proof})).await
}

#[tokio::test]
async fn logs_in_and_refreshes() {
    let rig = Rig::new();
    let alice = rig.person("alice").await;
    let tokens = rig.login(&alice.device).await.ok();
    rig.get("/v1/devices", tokens["access_token"].as_str()).await.ok();
    rig.pass(600_000);
    rig.get("/v1/devices", tokens["access_token"].as_str()).await.refused("TOKEN_EXPIRED");
    let next = rig.post("/v1/token/refresh", None, &json!({"refresh_token": tokens["refresh_token"]})).await.ok();
    rig.get("/v1/devices", next["access_token"].as_str()).await.ok();
    // The old one, after the grace: somebody has a copy, so the login ends.
    rig.pass(60_001);
    rig.post("/v1/token/refresh", None, &json!({"refresh_token": tokens["refresh_token"]})).await.refused("UNAUTHENTICATED");
    rig.post("/v1/token/refresh", None, &json!({"refresh_token": next["refresh_token"]})).await.refused("UNAUTHENTICATED");
}

#[tokio::test]
async fn a29_a_challenge_works_once() {
    let rig = Rig::new();
    let alice = rig.person("alice").await;
    let proof = rig.proof(&alice.device, ORIGIN).await;
    attempt(&rig, &alice.device, &proof).await.ok();
    attempt(&rig, &alice.device, &proof).await.refused("CHALLENGE_INVALID");
    let (challenge, expires_ms) = rig.challenge(&alice.device).await;
    let twice = proof_twice(&alice.device, challenge, expires_ms);
    let answers = futures_util::future::join_all(twice.iter().map(|proof| attempt(&rig, &alice.device, proof))).await;
    assert_eq!(answers.iter().filter(|a| a.status.is_success()).count(), 1, "of two at once one");
}

fn proof_twice(device: &Device, challenge: [u8; 32], expires_ms: u64) -> [LoginProof; 2] {
    [proof(device, ORIGIN, challenge, expires_ms), proof(device, "http://localhost:7400", challenge, expires_ms)]
}

#[tokio::test]
async fn a29_a_challenge_ends_and_is_for_one_device() {
    let rig = Rig::new();
    let alice = rig.person("alice").await;
    let bob = rig.person("bob").await;
    let late = rig.proof(&alice.device, ORIGIN).await;
    rig.pass(60_000);
    attempt(&rig, &alice.device, &late).await.refused("CHALLENGE_INVALID");
    let (challenge, expires_ms) = rig.challenge(&bob.device).await;
    attempt(&rig, &alice.device, &proof(&alice.device, ORIGIN, challenge, expires_ms)).await.refused("CHALLENGE_INVALID");
    attempt(&rig, &alice.device, &proof(&alice.device, ORIGIN, [0; 32], expires_ms)).await.refused("CHALLENGE_INVALID");
    let (challenge, expires_ms) = rig.challenge(&alice.device).await;
    let prolonged = proof(&alice.device, ORIGIN, challenge, expires_ms + 1);
    attempt(&rig, &alice.device, &prolonged).await.refused("SIGNATURE_INVALID");
}

#[tokio::test]
async fn a29_a_login_is_bound_to_the_origin() {
    let rig = Rig::new();
    let alice = rig.person("alice").await;
    for origin in ["http://evil.example:7400", "https://127.0.0.1:7400", "http://127.0.0.1", "HTTP://127.0.0.1:7400", ""] {
        let proof = rig.proof(&alice.device, origin).await;
        attempt(&rig, &alice.device, &proof).await.refused("ORIGIN_MISMATCH");
    }
    // Signed for a phishing site, relayed with the right name.
    let (challenge, expires_ms) = rig.challenge(&alice.device).await;
    let phished = proof(&alice.device, "http://evil.example:7400", challenge, expires_ms);
    let relayed = LoginProof { origin: ORIGIN.to_owned(), ..phished };
    attempt(&rig, &alice.device, &relayed).await.refused("SIGNATURE_INVALID");
}

#[tokio::test]
async fn an_unknown_device_looks_like_a_wrong_signature() {
    let rig = Rig::new();
    let alice = rig.person("alice").await;
    let nobody = Owner::new("nobody").device("nobody");
    let unknown = rig.login(&nobody).await;
    let wrong = Device { at: alice.device.at, key: nobody.key.clone() };
    let wrong = rig.login(&wrong).await;
    unknown.refused("SIGNATURE_INVALID");
    assert_eq!((unknown.status, &unknown.body), (wrong.status, &wrong.body));
}

#[tokio::test]
async fn forged_and_foreign_tokens_are_refused() {
    let rig = Rig::new();
    let alice = rig.person("alice").await;
    let other = crate::token::TokenKey::new([8; 32]).issue(alice.device.at, u64::MAX);
    for token in ["", "x", &other, &alice.token()[1..], alice.tokens.refresh_token.as_str()] {
        rig.get("/v1/devices", Some(token)).await.refused("UNAUTHENTICATED");
    }
    rig.get("/v1/devices", None).await.refused("UNAUTHENTICATED");
    for token in ["", "x", alice.token(), &"A".repeat(64), &"A".repeat(10_000)] {
        rig.post("/v1/token/refresh", None, &json!({"refresh_token": token})).await.refused("UNAUTHENTICATED");
    }
    assert_eq!(rig.now_ms(), rig.clock.load(Ordering::Acquire));
}
