//! Tokens and proofs that were replayed, have expired, or were forged. (A29)

use anyhow::{Context as _, ensure};
use kith_proto::{
    rest::{Base64Array, KeysState, LoginRequest, RegisterRequest, RegisterResponse, Tokens},
    v1::{self, ErrorCode, client_frame, server_frame},
};
use kith_tests::{
    Story,
    expect::{refused_by_rest, still_serves},
    identity::{Device, Identity, random},
    person::Person,
    server::{ACCESS_TOKEN_SECONDS, Options},
    socket::{Refusal, SOON, Socket},
    wait,
};

async fn hello_is_refused(origin: &str, token: &str, code: ErrorCode) -> Story {
    let refusal = Socket::hello(origin, token, 1 << 30).await.err().context("the token was accepted")?;
    ensure!(matches!(refusal.downcast_ref(), Some(Refusal(said)) if *said == code), "{refusal:#} instead of {code:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_token_opens_nothing() -> Story {
    let server = Options::new().start().await?;
    let other_server = Options::new().start().await?;
    let (alice, stranger) = (Person::register(&server.origin(), "alice").await?, Person::register(&other_server.origin(), "alice").await?);
    let good = alice.token();
    let mut forgeries: Vec<String> = (0..good.len()).step_by(3).map(|at| altered(good, at)).collect();
    forgeries.extend(["", "x", "null", &good[..good.len() - 1], &format!("{good}A"), &good.repeat(2), stranger.token()].map(str::to_owned));
    // A refresh token is not an access token.
    forgeries.push(alice.tokens.refresh_token.as_str().to_owned());
    for forged in forgeries {
        hello_is_refused(&server.origin(), &forged, ErrorCode::Unauthenticated).await.with_context(|| forged.clone())?;
        refused_by_rest(alice.rest.get::<KeysState>("/v1/keys", Some(&forged)).await, ErrorCode::Unauthenticated).with_context(|| forged.clone())?;
    }
    refused_by_rest(alice.rest.get::<KeysState>("/v1/keys", None).await, ErrorCode::Unauthenticated)?;
    let _: KeysState = alice.rest.get("/v1/keys", Some(good)).await?;
    still_serves(&server.origin()).await
}

/// Another character at one place. Only the last one may carry bits that mean nothing, so it is never the one changed.
fn altered(token: &str, at: usize) -> String {
    let at = at.min(token.len() - 2);
    let with = if &token[at..=at] == "A" { "B" } else { "A" };
    format!("{}{with}{}", &token[..at], &token[at + 1..])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_is_refused_and_cuts_the_connection_unless_renewed() -> Story {
    let server = Options::new().set(ACCESS_TOKEN_SECONDS, "3").start().await?;
    let (mut alice, mut bob) = (Person::register(&server.origin(), "alice").await?, Person::register(&server.origin(), "bob").await?);
    let old = alice.token().to_owned();
    let ((mut cut, _), (mut renewed, _)) = (alice.connect().await?, bob.connect().await?);
    let expires = bob.tokens.access_expires_ms;

    // Bob renews, with a token that lasts longer than the first.
    wait::until("a token that ends later", SOON, async || {
        bob.tokens = bob.rest.login(bob.identity.account, &bob.device).await.ok()?;
        (bob.tokens.access_expires_ms > expires + 1_000).then_some(())
    })
    .await?;
    let answer = renewed.ask(client_frame::Kind::Renew(v1::Renew { token: bob.token().to_owned() })).await?;
    ensure!(matches!(answer, server_frame::Kind::Done(_)), "{answer:?}");

    let ending = cut.ending(SOON).await?;
    ensure!(ending.reason() == Some(ErrorCode::TokenExpired), "{ending:?}");
    hello_is_refused(&server.origin(), &old, ErrorCode::TokenExpired).await?;
    refused_by_rest(alice.rest.get::<KeysState>("/v1/keys", Some(&old)).await, ErrorCode::TokenExpired)?;

    let answer = renewed.ask(client_frame::Kind::Ping(v1::Ping {})).await.context("the renewed connection was cut with the old token")?;
    ensure!(matches!(answer, server_frame::Kind::Pong(_)));
    let ending = renewed.ending(SOON).await?;
    ensure!(ending.reason() == Some(ErrorCode::TokenExpired), "{ending:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn renewing_with_the_token_of_another_device_is_refused() -> Story {
    let server = Options::new().start().await?;
    let (mut alice, bob) = (Person::register(&server.origin(), "alice").await?, Person::register(&server.origin(), "bob").await?);
    let (mut socket, _) = alice.connect().await?;
    let answer = socket.ask(client_frame::Kind::Renew(v1::Renew { token: bob.token().to_owned() })).await?;
    ensure!(matches!(answer, server_frame::Kind::Error(_)), "{answer:?}");
    Ok(())
}

/// The answer to a refresh may be lost, so the old token works until the new one was used; a thief's copy then ends the whole family.
#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_replayed_after_its_successor_was_used_ends_all_of_them() -> Story {
    let server = Options::new().start().await?;
    let alice = Person::register(&server.origin(), "alice").await?;
    let first = alice.tokens.refresh_token.as_str();
    let lost = alice.rest.refresh(first).await?;
    let second: Tokens = alice.rest.refresh(first).await.context("a lost answer can be asked for again")?;
    ensure!(lost.refresh_token.as_str() != first && second.refresh_token.as_str() != first);
    let third = alice.rest.refresh(second.refresh_token.as_str()).await?;

    refused_by_rest(alice.rest.refresh(first).await, ErrorCode::Unauthenticated).context("the stolen first token")?;
    for token in [second, third] {
        refused_by_rest(alice.rest.refresh(token.refresh_token.as_str()).await, ErrorCode::Unauthenticated).context("a token of the family")?;
    }
    let tokens = alice.rest.login(alice.identity.account, &alice.device).await.context("the device's key still logs in")?;
    alice.rest.refresh(tokens.refresh_token.as_str()).await?;
    refused_by_rest(alice.rest.refresh("forged").await, ErrorCode::Unauthenticated)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_proof_works_once_and_for_nobody_else() -> Story {
    let server = Options::new().start().await?;
    let (alice, mallory) = (Person::register(&server.origin(), "alice").await?, Person::register(&server.origin(), "mallory").await?);
    let (account, device) = (alice.identity.account, alice.device.id);
    let login = async |request: &LoginRequest| alice.rest.post::<Tokens>("/v1/login", None, request).await;

    let proof = alice.rest.prove(account, &alice.device).await?;
    let request = LoginRequest { account, device, proof };
    login(&request).await?;
    refused_by_rest(login(&request).await, ErrorCode::ChallengeInvalid).context("replayed")?;

    let mut request = LoginRequest { account, device, proof: alice.rest.prove(account, &alice.device).await? };
    request.proof.challenge = Base64Array(random());
    refused_by_rest(login(&request).await, ErrorCode::ChallengeInvalid).context("a challenge nobody gave")?;

    let proof = mallory.rest.prove(mallory.identity.account, &mallory.device).await?;
    refused_by_rest(login(&LoginRequest { account, device, proof }).await, ErrorCode::ChallengeInvalid).context("another device's challenge")?;

    // Mallory's key over Alice's names.
    let proof = mallory.rest.prove(account, &alice.device).await?;
    let mut forged = LoginRequest { account, device, proof };
    forged.proof.signature = mallory.device.sign_login(account, &alice.rest.origin, &forged.proof.challenge.0, &forged.proof.client_nonce.0, 0);
    refused_by_rest(login(&forged).await, ErrorCode::SignatureInvalid)?;

    // A proof made for another server.
    let mut elsewhere = alice.rest.clone();
    elsewhere.origin = "https://evil.example:443".to_owned();
    let mut request = LoginRequest { account, device, proof: alice.rest.prove(account, &alice.device).await? };
    request.proof.origin = elsewhere.origin;
    refused_by_rest(login(&request).await, ErrorCode::OriginMismatch)?;
    login(&LoginRequest { account, device, proof: alice.rest.prove(account, &alice.device).await? }).await?;
    Ok(())
}

/// A29: a signature made for one purpose is no signature for another.
#[tokio::test(flavor = "multi_thread")]
async fn a29_a_prekey_signature_is_no_login() -> Story {
    let server = Options::new().start().await?;
    let mut alice = Person::register(&server.origin(), "alice").await?;
    let (account, device) = (alice.identity.account, alice.device.id);
    let mut proof = alice.rest.prove(account, &alice.device).await?;
    let prekeys = alice.device.prekeys(account, 0);
    proof.signature = prekeys.signed.context("a signed prekey")?.signature;
    refused_by_rest(alice.rest.post::<Tokens>("/v1/login", None, &LoginRequest { account, device, proof }).await, ErrorCode::SignatureInvalid)
}

/// A registration that was overheard gives nobody tokens, and nobody can register the keys of somebody else.
#[tokio::test(flavor = "multi_thread")]
async fn a_registration_cannot_be_replayed_or_stolen() -> Story {
    let server = Options::new().start().await?;
    let rest = server.rest()?;
    let (mut identity, mut device) = (Identity::default(), Device::default());
    let certificate = identity.certify(&device, 1);
    let list = identity.sign_list(&[(&device, &certificate)]);
    let mut request = RegisterRequest {
        username: "alice".into(),
        aik: identity.aik().into(),
        recovery: [0; 32].into(),
        certificate,
        list,
        prekeys: device.prekeys(identity.account, 1),
        proof: rest.prove(identity.account, &device).await?,
        device_name: None,
        invite_code: None,
    };
    let register = async |request: &RegisterRequest| rest.post::<RegisterResponse>("/v1/accounts", None, request).await;

    // Mallory has everything public of Alice, and signs with a key of her own.
    let mallory = Device::default();
    let mut stolen = request.clone();
    stolen.proof.signature = mallory.sign_login(identity.account, &rest.origin, &request.proof.challenge.0, &request.proof.client_nonce.0, 0);
    refused_by_rest(register(&stolen).await, ErrorCode::SignatureInvalid)?;

    request.proof = rest.prove(identity.account, &device).await?;
    register(&request).await?;
    refused_by_rest(register(&request).await, ErrorCode::ChallengeInvalid).context("replayed")?;
    // With a fresh proof it is the retry of a lost answer.
    request.proof = rest.prove(identity.account, &device).await?;
    let again = register(&request).await?;
    ensure!(again.account == identity.account && again.device == device.id);

    // The name is taken, in any case of letters.
    let (mut other, mut other_device) = (Identity::default(), Device::default());
    refused_by_rest(rest.register("ALICE", &mut other, &mut other_device, 0).await, ErrorCode::UsernameTaken)
}
