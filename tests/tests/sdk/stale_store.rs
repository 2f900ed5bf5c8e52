//! A copied store that comes up beside the one it was copied from: it is told so and stays down, and the other lives on.

use anyhow::{Context as _, ensure};
use kith_client::{ConnectionState, EntryBody, NoticeKind, StopReason};
use kith_tests::{
    Story,
    identity::random,
    recorder::no_key_was_used_twice,
    sdk::{SOON, User, copy_folder},
    wait,
};

use crate::tapped;

#[tokio::test(flavor = "multi_thread")]
async fn a19_a_copied_store_with_an_old_epoch_stops_for_good_and_the_honest_one_lives_on() -> Story {
    let folder = tempfile::tempdir()?;
    let (home, copy) = (folder.path().join("alice"), folder.path().join("copy"));
    let (_server, tap) = tapped().await?;
    let tag = hex::encode(random::<4>());
    let (alice_name, bob_name) = (format!("alice-{tag}"), format!("bob-{tag}"));
    let mut alice = User::register(&tap.origin(), &home, &alice_name).await?;
    let mut bob = User::register(&tap.origin(), &folder.path().join("bob"), &bob_name).await?;
    let chat = alice.say(&bob_name, "one").await?;
    bob.hears("one").await?;
    bob.say(&alice_name, "two").await?;
    alice.hears("two").await?;
    alice.client.shutdown().await;
    drop(alice);
    copy_folder(&home, &copy)?;
    let mut alice = User::open(&tap.origin(), &home).await?;
    alice.say(&bob_name, "three").await?;
    bob.hears("three").await?;

    let thief = User::open(&tap.origin(), &copy).await?;
    thief.is_told(NoticeKind::StoreRolledBack).await?;
    thief.is(ConnectionState::Stopped(StopReason::OtherProcess)).await?;
    // It is over for the copy: no further attempt, and nothing can be sent from it.
    ensure!(thief.client.send_text(chat, "from the copy").await.is_err());
    alice.is(ConnectionState::Online).await?;
    alice.is_told(NoticeKind::StoreRolledBack).await?;
    let attempts = tap.connections();
    alice.say(&bob_name, "four").await?;
    bob.hears("four").await?;
    bob.say(&alice_name, "five").await?;
    alice.hears("five").await?;
    ensure!(thief.client.connection().next().await.context("a last state")? == ConnectionState::Stopped(StopReason::OtherProcess));
    ensure!(tap.connections() - attempts <= 8, "somebody dials again and again");

    let all = ["one", "two", "three", "four", "five"];
    for user in [&alice, &bob] {
        let shown = async || {
            let entries = user.client.history(chat, None, 500).await.unwrap_or_default();
            let texts: Vec<String> = entries.iter().filter_map(|entry| entry.text().map(str::to_owned)).collect();
            let whole = !entries.iter().any(|entry| matches!(entry.body, EntryBody::Undecryptable { .. } | EntryBody::Missing { .. }));
            (texts == all && whole).then_some(())
        };
        wait::until("everything is shown once, in order", SOON, shown).await?;
    }
    no_key_was_used_twice(&tap.sends()?)
}
