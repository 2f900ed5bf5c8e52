//! A21: a store copied back from an older backup is noticed before anything is sent with its old keys, and the conversation goes on.

use std::{collections::HashSet, fs};

use anyhow::ensure;
use kith_client::NoticeKind;
use kith_proto::v1::Send;
use kith_tests::{
    Story,
    identity::random,
    recorder::no_key_was_used_twice,
    sdk::{User, copy_folder},
};

use crate::tapped;

/// The sessions (bytes 2 to 10 of a slice) used in sends to somebody.
fn sessions(sends: &[Send], to: &[u8]) -> HashSet<Vec<u8>> {
    let theirs = sends.iter().filter(|send| send.recipient == to);
    theirs.flat_map(|send| &send.slices).filter_map(|slice| Some(slice.data.get(2..10)?.to_vec())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a21_a_store_copied_back_is_noticed_and_no_key_is_used_again() -> Story {
    let folder = tempfile::tempdir()?;
    let (home, backup) = (folder.path().join("alice"), folder.path().join("backup"));
    let (_server, tap) = tapped().await?;
    let tag = hex::encode(random::<4>());
    let (alice_name, bob_name) = (format!("alice-{tag}"), format!("bob-{tag}"));
    let mut alice = User::register(&tap.origin(), &home, &alice_name).await?;
    let mut bob = User::register(&tap.origin(), &folder.path().join("bob"), &bob_name).await?;
    let bobs_account = bob.client.me().account;
    alice.say(&bob_name, "before the backup").await?;
    bob.hears("before the backup").await?;
    bob.say(&alice_name, "answer before the backup").await?;
    alice.hears("answer before the backup").await?;
    alice.client.shutdown().await;
    drop(alice);
    copy_folder(&home, &backup)?;

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
