//! PostgreSQL, Redis and Kafka are killed, stopped, restarted and full, under load.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use kith_client::ConnectionState;
use kith_proto::v1::{ErrorCode, Retry, client_frame, server_frame::Kind};
use kith_tests::{
    Story,
    chaos::{Fault, Fleet, FleetOptions, Party, Timed, Trial, manners},
    expect::accepted,
    identity::random,
    person::Person,
    sdk::User,
    wait,
};
use reqwest::Method;

use crate::fleet::SOON;

const SHORTLY: Duration = Duration::from_millis(300);
const A_WHILE: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_is_restarted_killed_and_stopped_in_the_middle_of_batches() -> Story {
    let mut trial = Trial::start(&FleetOptions::default(), &manners(6)).await?;
    for _ in 0..2 {
        trial.survive_one(Fault::Stop(Party::Postgres), Duration::ZERO).await?;
        trial.survive_one(Fault::Kill(Party::Postgres), SHORTLY).await?;
    }
    trial.survive_one(Fault::Pause(Party::Postgres), A_WHILE).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_killed_stopped_and_flushed_under_load() -> Story {
    let mut trial = Trial::start(&FleetOptions::default(), &manners(6)).await?;
    for fault in [Fault::Kill(Party::Redis), Fault::Pause(Party::Redis), Fault::Flush] {
        trial.survive_one(fault, A_WHILE).await?;
        trial.survive_in_silence(fault, A_WHILE).await?;
    }
    Ok(())
}

/// What is not on the way of a message does not hold messages up. What is revoked meanwhile comes out of Kafka when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn kafka_is_away_and_messages_do_not_notice() -> Story {
    let mut trial = Trial::start(&FleetOptions { kafka: true, ..FleetOptions::default() }, &manners(6)).await?;
    for fault in [Fault::Pause(Party::Kafka), Fault::Kill(Party::Kafka)] {
        let survived = trial.survive_one(fault, A_WHILE).await?;
        ensure!(survived.level.stayed > 0, "somebody stays where they are");
    }
    Ok(())
}

/// The driver's threads wait by the wall clock, and when that is set back they would wait for as long: two hours here.
#[tokio::test(flavor = "multi_thread")]
async fn kafka_is_away_while_the_clock_is_set_back() -> Story {
    const TWO_HOURS_MS: i64 = 7_200_000;
    let options = FleetOptions { gateways: 1, kafka: true, ..FleetOptions::default() };
    let mut trial = Trial::start(&options, &manners(2)).await?;
    let wrong = Timed::now(Fault::Clock(0, TWO_HOURS_MS), Duration::from_secs(6));
    let away = Timed { begins: SHORTLY, ..Timed::now(Fault::Kill(Party::Kafka), Duration::from_secs(8)) };
    trial.survive(&[wrong, away], false).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_of_postgresql_is_full() -> Story {
    let mut trial = Trial::start(&FleetOptions { disk: true, ..FleetOptions::default() }, &manners(6)).await?;
    let rest = trial.fleet().rest(0)?;
    let (mut alice, bob) = (Person::register_at(rest.clone(), "alice").await?, Person::register_at(rest, "bob").await?);
    let (mut socket, _) = alice.connect().await?;
    trial.fleet().postgres.fill_disk().await?;
    // The log of the database has a little room left; when that is used nothing is accepted any more, and nobody is sent away.
    let refusal = wait::until("a refusal", SOON, async || {
        let mut message = alice.message(bob.device_ref(), vec![7; 16 << 10]);
        message.restart = true;
        match socket.ask(client_frame::Kind::Send(message)).await {
            Ok(Kind::Accepted(_)) => None,
            other => Some(other),
        }
    })
    .await??;
    let Kind::Error(error) = refusal else { bail!("an error was expected, not {refusal:?}") };
    ensure!(error.code() == ErrorCode::StorageUnavailable && error.retry() == Retry::After, "{error:?}");
    trial.fleet().postgres.free_disk().await?;
    trial.survive_one(Fault::FullDisk, A_WHILE).await?;
    Ok(())
}

/// Frames and requests say that it is the storage and when to come again; the SDK keeps what was written meanwhile and sends it in order.
#[tokio::test(flavor = "multi_thread")]
async fn without_postgresql_the_refusal_is_clear_and_the_outbox_holds() -> Story {
    let mut fleet = Fleet::start(&FleetOptions::default()).await?;
    let (one, two) = (fleet.gateway(0).server.origin(), fleet.gateway(1).server.origin());
    let folder = tempfile::tempdir()?;
    let names = ["alice", "bob"].map(|name| format!("{name}-{}", hex::encode(random::<4>())));
    let alice = User::register(&one, &folder.path().join("alice"), &names[0]).await?;
    let mut bob = User::register(&two, &folder.path().join("bob"), &names[1]).await?;
    let conversation = alice.say(&names[1], "before").await?;
    bob.hears("before").await?;
    let (mut raw, other) = (Person::register(&one, "raw").await?, Person::register(&two, "other").await?);
    let (mut socket, _) = raw.connect().await?;
    accepted(&mut socket, raw.message(other.device_ref(), "before")).await?;

    fleet.inject(&Fault::Kill(Party::Postgres)).await?;
    let Kind::Error(error) = socket.ask(client_frame::Kind::Send(raw.message(other.device_ref(), "during"))).await? else { bail!("accepted") };
    ensure!(error.code() == ErrorCode::StorageUnavailable && error.retry() == Retry::After && error.after_ms > 0, "{error:?}");
    let (status, headers, _) = raw.rest.raw(Method::GET, &format!("/v1/users/{}", other.username), Some(raw.token()), None).await?;
    ensure!(status == 503 && headers.contains_key("retry-after"), "{status} {headers:?}");
    let (status, _, ready) = raw.rest.raw(Method::GET, "/readyz", None, None).await?;
    ensure!(status == 200, "{status}: {}", String::from_utf8_lossy(&ready));
    let texts: Vec<String> = (1..=20).map(|n| format!("during {n}")).collect();
    for text in &texts {
        alice.client.send_text(conversation, text).await.context("the outbox takes it")?;
    }
    alice.is(ConnectionState::Online).await.context("nobody is sent away")?;

    fleet.heal(&Fault::Kill(Party::Postgres)).await?;
    let mut heard = Vec::new();
    for text in &texts {
        heard.push(bob.hears(text).await?.arrival);
    }
    ensure!(heard.is_sorted(), "in another order: {heard:?}");
    Ok(())
}
