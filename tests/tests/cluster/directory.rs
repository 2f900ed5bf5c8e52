//! Redis may be gone or empty at any time: nothing accepted is lost, nobody is sent away, and live delivery comes back by itself.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use kith_tests::{Story, rest::Rest, wait};
use reqwest::Method;
use serde_json::Value;

use crate::fleet::{Fleet, NEVER, SOON, metric, until_metric};

async fn readiness(rest: &Rest) -> anyhow::Result<(u16, Vec<String>)> {
    let (status, _, body) = rest.raw(Method::GET, "/readyz", None, None).await?;
    let said: Value = serde_json::from_slice(&body)?;
    let missing = said["missing"].as_array().context("no list of what is missing")?;
    Ok((status.as_u16(), missing.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect()))
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_messages_are_accepted_and_come_by_the_check_of_the_heads() -> Story {
    let fleet = Fleet::start(Duration::from_secs(1)).await?;
    let (mut alice, mut bob) = fleet.friends().await?;
    fleet.redis.kill().await?;
    let name = format!("redis {}", fleet.redis.address());
    for server in [&fleet.one, &fleet.two] {
        let rest = server.rest()?;
        wait::until("/readyz names Redis", SOON, async || readiness(&rest).await.ok().filter(|(_, missing)| missing.contains(&name))).await?;
        ensure!(readiness(&rest).await?.0 == 200, "a server without Redis still serves");
    }
    for text in ["one", "two", "three"] {
        let seq = alice.says(bob.person.device_ref(), text).await?;
        ensure!(bob.hears(text).await? == seq);
    }
    // Connecting is possible as well, and fenced.
    let mut old = bob.moves_to(&fleet.one).await?;
    old.ending(SOON).await?;
    alice.says(bob.person.device_ref(), "at home").await?;
    bob.hears("at home").await?;
    bob.moves_to(&fleet.two).await?;

    fleet.redis.restart().await?;
    for server in [&fleet.one, &fleet.two] {
        let rest = server.rest()?;
        wait::until("/readyz names nothing", SOON, async || readiness(&rest).await.ok().filter(|(_, missing)| missing.is_empty())).await?;
    }
    let two = fleet.two.rest()?;
    let before = metric(&two, "kith_messages_delivered_live_total").await?;
    wait::until("live delivery is back", SOON, async || {
        alice.says(bob.person.device_ref(), "again").await.ok()?;
        bob.hears("again").await.ok()?;
        (metric(&two, "kith_messages_delivered_live_total").await.ok()? > before).then_some(())
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_redis_was_flushed_live_delivery_comes_back() -> Story {
    let fleet = Fleet::start(NEVER).await?;
    let (mut alice, mut bob) = fleet.friends().await?;
    let (one, two) = (fleet.one.rest()?, fleet.two.rest()?);
    let before = (metric(&one, "kith_peer_rechecks_total").await?, metric(&two, "kith_peer_rechecks_total").await?);
    fleet.redis.flush().await?;
    // What is sent just now may have to wait until the servers have noticed, but not for the keep-alive.
    alice.says(bob.person.device_ref(), "during").await?;
    bob.hears("during").await?;
    until_metric(&fleet.one, "kith_peer_rechecks_total", |now| now > before.0).await?;
    until_metric(&fleet.two, "kith_peer_rechecks_total", |now| now > before.1).await?;
    let live = metric(&two, "kith_messages_delivered_live_total").await?;
    alice.says(bob.person.device_ref(), "after").await?;
    bob.hears("after").await?;
    until_metric(&fleet.two, "kith_messages_delivered_live_total", |now| now > live).await?;
    Ok(())
}
