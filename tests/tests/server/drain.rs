//! SIGTERM: what was accepted is finished, clients are told to move, the process ends in order.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use kith_proto::v1::{ErrorCode, client_frame};
use kith_tests::{
    Story,
    load::Load,
    peer::Settings,
    person::Person,
    server::Options,
    socket::{SOON, Socket},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_server_says_goodbye_answers_what_it_took_and_ends_with_success() -> Story {
    let mut server = Options::new().start().await?;
    let (mut alice, bob) = (Person::register(&server.origin(), "alice").await?, Person::register(&server.origin(), "bob").await?);
    let (mut idle, _) = alice.connect().await?;
    let mut silent = Socket::open(&server.origin()).await?;
    server.terminate()?;
    let ending = idle.ending(SOON).await?;
    let goodbye = ending.goodbye.context("no goodbye")?;
    ensure!(goodbye.reason() == ErrorCode::Draining && goodbye.reconnect_within_ms > 0, "{goodbye:?}");
    let ending = silent.ending(SOON).await?;
    ensure!(ending.reason() == Some(ErrorCode::Draining), "a socket that has said nothing: {ending:?}");
    ensure!(server.ended().await?, "the process did not end in order");

    server.start().await?;
    let (mut socket, _) = alice.connect().await?;
    let id = socket.request(client_frame::Kind::Send(alice.message(bob.device_ref(), "after"))).await?;
    let answer = socket.answer(id).await?;
    ensure!(matches!(answer, kith_proto::v1::server_frame::Kind::Accepted(_)), "{answer:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_a_drain_loses_and_repeats_nothing() -> Story {
    let mut server = Options::new().start().await?;
    let load = Load::start(&server.origin(), 6, Settings::new(8, 200)).await?;
    for _ in 0..3 {
        load.accept_more(300, Duration::from_secs(30)).await?;
        server.terminate()?;
        ensure!(server.ended().await?, "the process did not end in order");
        server.start().await?;
    }
    load.accept_more(100, Duration::from_secs(30)).await?;
    let outcome = load.settle().await?;
    ensure!(outcome.messages >= 1_000);
    Ok(())
}
