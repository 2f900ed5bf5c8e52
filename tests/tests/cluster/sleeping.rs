//! A device that is at no server at all is told of, whatever becomes of the server that accepted the message for it.

use anyhow::ensure;
use kith_harness::Kafka;
use kith_tests::{
    Story,
    sleepers::{Sleepers, Told, first_heard},
    wait,
};

use crate::fleet::{Fleet, Friend, LEASE, NEVER, SOON, until_metric};

/// So long that nothing is found in the log within a story.
const NEVER_MS: u64 = 600_000;

async fn fleet(settings: &[(&'static str, String); 3]) -> anyhow::Result<Fleet> {
    let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    Fleet::start_with(NEVER, LEASE, &settings).await
}

/// Ends the connection; returns when its server knows.
async fn goes(fleet: &Fleet, friend: Friend) -> Story {
    drop(friend.socket);
    until_metric(&fleet.two, "kith_ws_connections", |count| count == 0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_at_the_other_server_is_awake_until_they_leave_it() -> Story {
    let settings = Sleepers::settings(Kafka::shared(), NEVER_MS);
    let fleet = fleet(&settings).await?;
    let sleepers = Sleepers::listen(&settings).await?;
    let (mut alice, mut bob) = fleet.friends().await?;
    let (conversation, device) = (alice.person.conversation(bob.person.device_ref()), bob.person.device_ref());
    let live = alice.says(device, "you are there").await?;
    bob.hears("you are there").await?;
    goes(&fleet, bob).await?;
    // The news of it comes soon.
    let told = wait::until("it is told of", SOON, async || {
        alice.says(device, "are you?").await.ok()?;
        sleepers.until("it is told of", |_| true).await.ok().filter(|told| !told.is_empty())
    })
    .await?;
    ensure!(told.iter().all(|told| told.conversation == conversation && told.device == device && told.seq > live), "{told:?}");
    Ok(())
}

/// Nothing can be said at once, and whoever could have tried later is dead.
#[tokio::test(flavor = "multi_thread")]
async fn kafka_is_away_and_the_server_dies_that_has_accepted_the_messages() -> Story {
    let kafka = Kafka::start().await?;
    let settings = Sleepers::settings(&kafka, 1_000);
    let mut fleet = fleet(&settings).await?;
    let sleepers = Sleepers::listen(&settings).await?;
    let (mut alice, bob) = fleet.friends().await?;
    let (conversation, device) = (alice.person.conversation(bob.person.device_ref()), bob.person.device_ref());
    goes(&fleet, bob).await?;
    kafka.pause().await?;
    let mut sent = Vec::new();
    for text in ["one", "two", "three", "four", "five"] {
        sent.push(alice.says(device, text).await?);
    }
    fleet.one.kill().await?;
    kafka.resume().await?;

    let last = sent[sent.len() - 1];
    let told = sleepers.until("the last one is told of", |told| told.iter().any(|told| told.seq == last)).await?;
    // Alice, whose server is gone, may be told of what she had not acknowledged.
    let of_these: Vec<_> = first_heard(&told).into_iter().filter(|told| sent.contains(&told.seq)).collect();
    let expected: Vec<_> = sent.iter().map(|seq| Told { conversation, seq: *seq, device }).collect();
    ensure!(of_these == expected, "{told:?}");
    Ok(())
}
