//! One live connection per device, fenced by the epoch. (DESIGN.md, rule 6; A21 on the server's side)

use anyhow::{Context as _, ensure};
use kith_proto::v1::ErrorCode;
use kith_tests::{
    Story,
    expect::{accepted, caught_up, delivered},
    person::Person,
    server::Options,
    socket::{Refusal, SOON, Socket},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_connection_takes_over_and_the_older_one_is_told() -> Story {
    let server = Options::new().start().await?;
    let (mut alice, mut bob) = (Person::register(&server.origin(), "alice").await?, Person::register(&server.origin(), "bob").await?);
    let (mut old, first) = bob.connect().await?;
    let (mut new, second) = bob.connect().await?;
    ensure!(first.previous_epoch == 0 && second.previous_epoch == 1, "{} {}", first.previous_epoch, second.previous_epoch);
    let ending = old.ending(SOON).await?;
    ensure!(ending.reason() == Some(ErrorCode::Replaced), "{ending:?}");
    ensure!(ending.goodbye.is_some_and(|goodbye| goodbye.reconnect_within_ms == 0), "it must not come back by itself");

    let (mut from, _) = alice.connect().await?;
    accepted(&mut from, alice.message(bob.device_ref(), "to the new one")).await?;
    delivered(&mut new).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_that_is_not_newer_is_a_stale_store_and_leaves_the_live_connection_alone() -> Story {
    let mut server = Options::new().start().await?;
    let (mut alice, mut bob) = (Person::register(&server.origin(), "alice").await?, Person::register(&server.origin(), "bob").await?);
    bob.epoch = 6;
    let (mut live, _) = bob.connect().await?;
    caught_up(&mut live).await?;
    for epoch in [7, 6, 1] {
        let refusal = Socket::hello(&server.origin(), bob.token(), epoch).await.err().context("a stale store was let in")?;
        ensure!(matches!(refusal.downcast_ref(), Some(Refusal(ErrorCode::StaleStore))), "{refusal:#}");
    }
    let (mut from, _) = alice.connect().await?;
    accepted(&mut from, alice.message(bob.device_ref(), "still here")).await?;
    delivered(&mut live).await?;

    // The fence is on disk: a restart does not forget it.
    server.kill().await?;
    server.start().await?;
    let refusal = Socket::hello(&server.origin(), bob.token(), 7).await.err().context("the epoch was forgotten")?;
    ensure!(matches!(refusal.downcast_ref(), Some(Refusal(ErrorCode::StaleStore))), "{refusal:#}");
    let (_, welcome) = bob.connect().await?;
    ensure!(welcome.previous_epoch == 7);
    Ok(())
}
