//! A full disk: refuse with an error that may be retried, keep what was accepted, recover when space returns.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use kith_proto::v1::{ErrorCode, Retry, client_frame, server_frame};
use kith_tests::{
    Story,
    expect::{accepted, delivered, still_serves},
    load::Load,
    peer::Settings,
    person::Person,
    server::Options,
    wait,
};
use reqwest::Method;

const SOON: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_retryably_and_recovers_by_itself() -> Story {
    let mut server = Options::new().small_disk().start().await?;
    let (mut alice, mut bob) = (Person::register(&server.origin(), "alice").await?, Person::register(&server.origin(), "bob").await?);
    let ((mut from, _), (mut to, _)) = (alice.connect().await?, bob.connect().await?);
    accepted(&mut from, alice.message(bob.device_ref(), "before")).await?;
    delivered(&mut to).await?;

    server.faults()?.fill()?;
    let during = alice.message(bob.device_ref(), "during");
    let server_frame::Kind::Error(error) = from.ask(client_frame::Kind::Send(during.clone())).await? else { bail!("accepted on a full disk") };
    ensure!(error.code() == ErrorCode::StorageUnavailable && matches!(error.retry(), Retry::After | Retry::Same), "{error:?}");
    let (status, headers, _) = server.rest()?.raw(Method::POST, "/v1/accounts", None, Some(b"{}".to_vec())).await?;
    ensure!(status.is_client_error() || status == 503, "{status} {headers:?}");

    server.faults()?.make_space()?;
    let recovered = wait::until("sends are accepted again", SOON, async || {
        let mut again = during.clone();
        again.restart = true;
        match from.ask(client_frame::Kind::Send(again)).await {
            Ok(server_frame::Kind::Accepted(accepted)) => Some(Ok(accepted)),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        }
    })
    .await??;
    ensure!(recovered.seq == 2 && !recovered.duplicate, "{recovered:?}");
    ensure!(delivered(&mut to).await?.body == "during");

    server.kill().await?;
    server.start().await?;
    let (mut to, _) = bob.connect().await.context("after the restart")?;
    ensure!(delivered(&mut to).await?.body == "before" && delivered(&mut to).await?.body == "during");
    still_serves(&server.origin()).await
}

/// Ready means serving: the outage is named, and the server stays in the balancer. (DESIGN.md, rule 8)
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_named_by_readyz_which_stays_200() -> Story {
    let server = Options::new().small_disk().start().await?;
    let (mut alice, bob) = (Person::register(&server.origin(), "alice").await?, Person::register(&server.origin(), "bob").await?);
    let (mut from, _) = alice.connect().await?;
    server.faults()?.fill()?;
    let answer = from.ask(client_frame::Kind::Send(alice.message(bob.device_ref(), "refused"))).await?;
    ensure!(matches!(answer, server_frame::Kind::Error(_)), "{answer:?}");
    wait::until("/readyz names the database and stays 200", SOON, async || {
        let (status, _, body) = server.rest().ok()?.raw(Method::GET, "/readyz", None, None).await.ok()?;
        (status == 200 && String::from_utf8_lossy(&body).contains("database")).then_some(())
    })
    .await?;
    server.faults()?.make_space()?;
    wait::until("/readyz names nothing any more", SOON, async || {
        let (status, _, body) = server.rest().ok()?.raw(Method::GET, "/readyz", None, None).await.ok()?;
        (status == 200 && !String::from_utf8_lossy(&body).contains("database")).then_some(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_the_disk_fills_empties_and_the_server_is_killed_while_it_is_full() -> Story {
    let mut server = Options::new().small_disk().start().await?;
    let load = Load::start(&server.origin(), 4, Settings::new(6, 300)).await?;
    for round in 0..4 {
        load.accept_more(200, SOON).await?;
        let refused = || load.progress.refused.load(std::sync::atomic::Ordering::Relaxed);
        let before = refused();
        server.faults()?.fill()?;
        wait::until("sends are refused", SOON, async || (refused() > before + 5).then_some(())).await?;
        if round % 2 == 1 {
            server.kill().await?;
            server.faults()?.make_space()?;
            server.start().await?;
        } else {
            server.faults()?.make_space()?;
        }
    }
    load.accept_more(200, SOON).await?;
    load.settle().await?;
    Ok(())
}
