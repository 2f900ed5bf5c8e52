//! Whoever wakes devices is told of messages for those that are connected nowhere.

use anyhow::{Context as _, ensure};
use kith_harness::Kafka;
use kith_proto::v1::Send;
use kith_tests::{
    Story,
    expect::{accepted, caught_up, delivered},
    person::Person,
    server::{DROP_DELIVERIES, Options, Server},
    sleepers::{Sleepers, Told, first_heard},
    socket::{SOON, Socket},
    wait,
};
use reqwest::Method;

/// So long that nothing is found in the log within a story.
const NEVER_MS: u64 = 600_000;

fn options(settings: &[(&'static str, String); 3]) -> Options {
    settings.iter().fold(Options::new(), |options, (name, value)| options.set(name, value))
}

/// The server has noticed that only so many are left.
async fn connected(server: &Server, count: u64) -> Story {
    let rest = server.rest()?;
    let line = format!("kith_ws_connections {count}");
    wait::until(&line, SOON, async || {
        let (_, _, page) = rest.raw(Method::GET, "/metrics", None, None).await.ok()?;
        String::from_utf8_lossy(&page).lines().any(|shown| shown == line).then_some(())
    })
    .await
}

async fn two_people(server: &Server) -> anyhow::Result<(Person, Socket, Person, Socket)> {
    let (mut alice, mut bob) = (Person::register(&server.origin(), "alice").await?, Person::register(&server.origin(), "bob").await?);
    let ((from, _), (mut to, _)) = (alice.connect().await?, bob.connect().await?);
    caught_up(&mut to).await?;
    Ok((alice, from, bob, to))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_away_is_told_of_at_once_and_one_that_is_here_is_not() -> Story {
    let settings = Sleepers::settings(Kafka::shared(), NEVER_MS);
    let server = options(&settings).start().await?;
    let sleepers = Sleepers::listen(&settings).await?;
    let (mut alice, mut from, mut bob, mut to) = two_people(&server).await?;
    let (conversation, device) = (alice.conversation(bob.device_ref()), bob.device_ref());
    accepted(&mut from, alice.message(device, "1: you are here")).await?;
    ensure!(delivered(&mut to).await?.seq == 1);
    drop(to);
    connected(&server, 1).await?;
    accepted(&mut from, alice.message(device, "2: you are away")).await?;
    accepted(&mut from, Send { checkpoint: true, ..alice.message(device, "3: nobody sees this") }).await?;
    let retried = alice.message(device, "4: still away");
    accepted(&mut from, retried.clone()).await?;
    ensure!(accepted(&mut from, retried).await?.duplicate);

    (to, _) = bob.connect().await?;
    caught_up(&mut to).await?;
    accepted(&mut from, alice.message(device, "5: you are back")).await?;
    drop(to);
    connected(&server, 1).await?;
    accepted(&mut from, alice.message(device, "6: and gone")).await?;
    let told = sleepers.until("the last one is told of", |told| told.iter().any(|told| told.seq == 6)).await?;
    let expected = [2, 4, 6].map(|seq| Told { conversation, seq, device });
    ensure!(told == expected, "{told:?}");
    Ok(())
}

/// Nothing is said at once here, as if the server had died before it could.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_told_at_once_is_found_in_the_log() -> Story {
    let settings = Sleepers::settings(Kafka::shared(), 1_000);
    let mut server = options(&settings).set(DROP_DELIVERIES, "true").start().await?;
    let sleepers = Sleepers::listen(&settings).await?;
    let (mut alice, mut from, mut bob, to) = two_people(&server).await?;
    let (conversation, device) = (alice.conversation(bob.device_ref()), bob.device_ref());
    drop(to);
    connected(&server, 1).await?;
    for text in ["1: hello?", "2: are you there?", "3: hello!"] {
        accepted(&mut from, alice.message(device, text)).await?;
    }
    accepted(&mut from, Send { checkpoint: true, ..alice.message(device, "4: nobody sees this") }).await?;
    // Whoever looks begins where the last one was.
    server.kill().await?;
    server.start().await?;
    (from, _) = alice.connect().await?;
    accepted(&mut from, alice.message(device, "5: after all")).await?;
    let told = sleepers.until("all are told of", |told| told.iter().any(|told| told.seq == 5)).await?;
    ensure!(first_heard(&told) == [1, 2, 3, 5].map(|seq| Told { conversation, seq, device }), "{told:?}");

    // What was fetched is not told of, though whoever fetched it has gone.
    let (mut to, _) = bob.connect().await?;
    caught_up(&mut to).await?;
    let sixth = accepted(&mut from, alice.message(device, "6: while you fetch")).await?.seq;
    to.ask(kith_tests::person::ack(conversation, sixth)).await?;
    drop(to);
    connected(&server, 1).await?;
    accepted(&mut from, alice.message(device, "7: when you are gone")).await?;
    let told = sleepers.until("the last one is told of", |told| told.iter().any(|told| told.seq == 7)).await?;
    ensure!(told.last().context("nothing")?.device == device && told.iter().all(|told| told.seq != sixth), "{told:?}");
    Ok(())
}

/// It was connected when the message came, and has not lived to acknowledge it.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_dies_with_a_message_is_found() -> Story {
    let settings = Sleepers::settings(Kafka::shared(), 5_000);
    let server = options(&settings).start().await?;
    let sleepers = Sleepers::listen(&settings).await?;
    let (mut alice, mut from, bob, mut to) = two_people(&server).await?;
    let (conversation, device) = (alice.conversation(bob.device_ref()), bob.device_ref());
    accepted(&mut from, alice.message(device, "1: did you get this?")).await?;
    ensure!(delivered(&mut to).await?.seq == 1);
    drop(to);
    let told = sleepers.until("it is told of", |told| !told.is_empty()).await?;
    ensure!(told == [Told { conversation, seq: 1, device }], "{told:?}");
    Ok(())
}
