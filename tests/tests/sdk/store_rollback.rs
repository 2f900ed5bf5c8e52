//! A21: a store copied back from an older backup is noticed before anything is sent with its old keys, and the conversation goes on.

use std::{collections::HashSet, fs, path::PathBuf};

use anyhow::ensure;
use kith_client::{Arrival, ConversationId, EntryBody, NoticeKind};
use kith_proto::v1::Send;
use kith_tests::{
    Story,
    identity::random,
    recorder::{Recorder, no_key_was_used_twice},
    sdk::{SOON, User, copy_folder},
    server::Server,
    wait,
};
use tempfile::TempDir;

use crate::tapped;

/// Two people who have written to one another, and a backup of alice's store from then. Alice is closed.
struct World {
    _server: Server,
    tap: Recorder,
    _folder: TempDir,
    home: PathBuf,
    backup: PathBuf,
    chat: ConversationId,
    alice_name: String,
    bob_name: String,
    bob: User,
}

async fn backed_up() -> anyhow::Result<World> {
    let folder = tempfile::tempdir()?;
    let (home, backup) = (folder.path().join("alice"), folder.path().join("backup"));
    let (server, tap) = tapped().await?;
    let tag = hex::encode(random::<4>());
    let (alice_name, bob_name) = (format!("alice-{tag}"), format!("bob-{tag}"));
    let mut alice = User::register(&tap.origin(), &home, &alice_name).await?;
    let mut bob = User::register(&tap.origin(), &folder.path().join("bob"), &bob_name).await?;
    let chat = alice.say(&bob_name, "before the backup").await?;
    bob.hears("before the backup").await?;
    bob.say(&alice_name, "answer before the backup").await?;
    alice.hears("answer before the backup").await?;
    alice.client.shutdown().await;
    drop(alice);
    copy_folder(&home, &backup)?;
    Ok(World { _server: server, tap, _folder: folder, home, backup, chat, alice_name, bob_name, bob })
}

/// The sessions (bytes 2 to 10 of a slice) used in sends to somebody.
fn sessions(sends: &[Send], to: &[u8]) -> HashSet<Vec<u8>> {
    let theirs = sends.iter().filter(|send| send.recipient == to);
    theirs.flat_map(|send| &send.slices).filter_map(|slice| Some(slice.data.get(2..10)?.to_vec())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a21_a_store_copied_back_is_noticed_and_no_key_is_used_again() -> Story {
    let World { _server, tap, _folder, home, backup, alice_name, bob_name, mut bob, .. } = backed_up().await?;
    let bobs_account = bob.client.me().account;

    let mut alice = User::open(&tap.origin(), &home).await?;
    for text in ["after the backup 1", "after the backup 2", "after the backup 3"] {
        alice.say(&bob_name, text).await?;
        bob.hears(text).await?;
    }
    bob.say(&alice_name, "seen").await?;
    alice.hears("seen").await?;
    alice.client.shutdown().await;
    drop(alice);
    let old = sessions(&tap.sends()?, bobs_account.as_bytes());

    fs::remove_dir_all(&home)?;
    copy_folder(&backup, &home)?;
    let before = tap.sends()?.iter().map(|send| send.client_msg_id.clone()).collect::<HashSet<_>>();
    let mut alice = User::open(&tap.origin(), &home).await?;
    alice.is_told(NoticeKind::StoreRolledBack).await?;
    alice.say(&bob_name, "after the rollback").await?;
    bob.hears("after the rollback").await?;
    bob.say(&alice_name, "welcome back").await?;
    alice.hears_among_the_unreadable("welcome back").await?;

    let sends = tap.sends()?;
    no_key_was_used_twice(&sends)?;
    let fresh: Vec<Send> = sends.into_iter().filter(|send| !before.contains(&send.client_msg_id)).collect();
    let used = sessions(&fresh, bobs_account.as_bytes());
    ensure!(!used.is_empty() && used.is_disjoint(&old), "a session of the old store was used after the rollback");
    Ok(())
}

/// What Bob said while the store was away was sealed for sessions that the old store does not have. It is asked for again, and comes once.
#[tokio::test(flavor = "multi_thread")]
async fn a21_what_a_rolled_back_store_cannot_open_is_repaired_once_and_in_order() -> Story {
    let World { _server, tap, _folder, home, backup, chat, alice_name, bob_name, mut bob } = backed_up().await?;

    let mut alice = User::open(&tap.origin(), &home).await?;
    alice.say(&bob_name, "after the backup").await?;
    bob.hears("after the backup").await?;
    bob.say(&alice_name, "this one was read and acknowledged").await?;
    alice.hears("this one was read and acknowledged").await?;
    alice.client.shutdown().await;
    drop(alice);
    let away: Vec<String> = (1..=5).map(|n| format!("while you were away {n}")).collect();
    for text in &away {
        bob.say(&alice_name, text).await?;
    }
    wait::until("the server has them", SOON, async || {
        let entries = bob.client.history(chat, None, 500).await.unwrap_or_default();
        entries.iter().all(|entry| entry.tick.is_none() || entry.seq.is_some()).then_some(())
    })
    .await?;

    fs::remove_dir_all(&home)?;
    copy_folder(&backup, &home)?;
    let alice = User::open(&tap.origin(), &home).await?;
    alice.is_told(NoticeKind::StoreRolledBack).await?;
    let texts = async || {
        let entries = alice.client.history(chat, None, 500).await.unwrap_or_default();
        entries.iter().filter_map(|entry| entry.text().map(str::to_owned)).collect::<Vec<_>>()
    };
    let repaired = wait::until("all of them are repaired", SOON, async || {
        let texts = texts().await;
        away.iter().all(|text| texts.contains(text)).then_some(())
    });
    let outcome = repaired.await;
    let entries = alice.client.history(chat, None, 500).await?;
    let bodies: Vec<String> = entries.iter().map(|entry| entry.text().map_or_else(|| describe(&entry.body), str::to_owned)).collect();
    ensure!(outcome.is_ok(), "{bodies:#?}");
    ensure!(
        !entries.iter().any(|entry| matches!(
            entry.body,
            EntryBody::Undecryptable { repair: kith_client::Repair::Waiting | kith_client::Repair::Requested { .. }, .. }
        )),
        "{bodies:#?}"
    );
    let shown: Vec<String> = texts().await.into_iter().filter(|text| text.starts_with("while")).collect();
    ensure!(shown == away, "{shown:?}");
    // The app got each text once, however often it was told that something cannot be read.
    let mut received = alice.client.received(Arrival::default());
    let mut heard = Vec::new();
    while heard.last() != away.last() {
        let next = wait::within("every arrival", SOON, received.next()).await?;
        heard.extend(next.and_then(|entry| entry.text().map(str::to_owned)).filter(|text| text.starts_with("while")));
    }
    ensure!(heard == away, "{heard:?}");
    ensure!(bodies.iter().filter(|body| *body == "OwnRollback").count() == 1, "it was rolled back once: {bodies:#?}");
    // And what had been acknowledged before is there, or is shown as gone: never silently absent.
    let once = bodies.iter().filter(|body| *body == "this one was read and acknowledged").count();
    let gone = entries.iter().any(|entry| matches!(entry.body, EntryBody::Missing { .. }));
    ensure!(once == 1 || (once == 0 && gone), "{bodies:#?}");
    no_key_was_used_twice(&tap.sends()?)
}

fn describe(body: &EntryBody) -> String {
    match body {
        EntryBody::Undecryptable { reason, repair } => format!("unreadable: {reason:?}, {repair:?}"),
        EntryBody::Missing { to, reason } => format!("missing to {to}: {reason:?}"),
        EntryBody::Integrity(event) => format!("{event:?}"),
        EntryBody::Unknown { kind } => format!("kind {kind}"),
        EntryBody::Text(text) => text.clone(),
    }
}
