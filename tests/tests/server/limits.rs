//! Limits say when to come back, and can be asked for.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use kith_proto::{
    rest::LimitsResponse,
    v1::{ErrorCode, Retry, client_frame, server_frame},
};
use kith_tests::{
    Story,
    expect::{accepted, error},
    person::Person,
    rest::CallError,
    server::Options,
    wait,
};

#[tokio::test(flavor = "multi_thread")]
async fn look_ups_are_limited_per_account_with_retry_after_and_others_are_not_concerned() -> Story {
    const BURST: u32 = 6;
    let server = Options::new().own_limits().set("KITH_LIMITS_LOOKUP_ACCOUNT_BURST", &BURST.to_string()).start().await?;
    let (alice, bob) = (Person::register(&server.origin(), "alice").await?, Person::register(&server.origin(), "bob").await?);
    let mut answered = 0;
    let refused = loop {
        match alice.rest.user(alice.token(), &bob.username).await {
            Ok(_) => answered += 1,
            Err(CallError::Refused(refused)) => break refused,
            Err(error) => return Err(error.into()),
        }
        ensure!(answered <= BURST, "no limit");
    };
    ensure!(refused.status == 429 && refused.body.code.0 == ErrorCode::RateLimited && refused.body.retry.0 == Retry::After, "{refused:?}");
    let after_ms = refused.body.after_ms.context("after_ms")?;
    let after: u64 = refused.headers.get("retry-after").context("Retry-After")?.to_str()?.parse()?;
    ensure!(after_ms > 0 && after >= after_ms.div_ceil(1_000), "{after} s and {after_ms} ms");

    let shown: LimitsResponse = alice.rest.get("/v1/limits", Some(alice.token())).await?;
    let spent = shown.buckets.iter().any(|bucket| bucket.name.contains("lookup") && bucket.remaining == Some(0));
    ensure!(spent, "{:?}", shown.buckets);
    bob.rest.user(bob.token(), &alice.username).await.context("another account has limits of its own")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sends_are_limited_per_device_and_a_duplicate_is_answered_all_the_same() -> Story {
    let options = Options::new().own_limits().set("KITH_LIMITS_SEND_DEVICE_BURST", "5").set("KITH_LIMITS_SEND_DEVICE_PER_MINUTE", "60");
    let server = options.start().await?;
    let (mut alice, bob) = (Person::register(&server.origin(), "alice").await?, Person::register(&server.origin(), "bob").await?);
    let (mut socket, _) = alice.connect().await?;
    let mut sent = Vec::new();
    let (refused, refusal) = loop {
        let send = alice.message(bob.device_ref(), "hello");
        match socket.ask(client_frame::Kind::Send(send.clone())).await? {
            server_frame::Kind::Accepted(_) => sent.push(send),
            other => break (send, error(other)?),
        }
        ensure!(sent.len() < 20, "no limit");
    };
    ensure!(refusal.code() == ErrorCode::RateLimited && refusal.retry() == Retry::After && refusal.after_ms > 0, "{refusal:?}");
    let duplicate = accepted(&mut socket, sent[0].clone()).await.context("a duplicate is answered before any limit is looked at")?;
    ensure!(duplicate.duplicate && duplicate.seq == 1);

    let place = sent.len() as u64 + 1;
    let mut again = refused;
    again.restart = true;
    let late = wait::until("the limit lets the message through", Duration::from_secs(30), async || {
        match socket.ask(client_frame::Kind::Send(again.clone())).await {
            Ok(server_frame::Kind::Accepted(accepted)) => Some(Ok(accepted)),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        }
    })
    .await??;
    if late.seq != place {
        bail!("seq {} instead of {place}", late.seq);
    }
    Ok(())
}
