//! Several devices of one account: every message reaches each of them, in one order, once; a device that joins gets what comes after, one that is taken off
//! the list gets nothing more.

use std::path::Path;

use anyhow::ensure;
use kith_client::{Author, Client, ConnectionState, ConversationId, Entry, EntryBody, NoticeKind, StopReason, Tick, second_device};
use kith_proto::v1::Send;
use kith_tests::{
    Story,
    identity::random,
    recorder::{Recorder, no_key_was_used_twice},
    sdk::{SOON, User},
    server::Server,
    wait,
};

use crate::tapped;

/// Alice with one device, Bob with one, and the folder that all stores are in.
struct Stage {
    _server: Server,
    tap: Recorder,
    folder: tempfile::TempDir,
    alice: User,
    bob: User,
    alice_name: String,
}

impl Stage {
    async fn set() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let (server, tap) = tapped().await?;
        let tag = hex::encode(random::<4>());
        let (alice_name, bob_name) = (format!("alice-{tag}"), format!("bob-{tag}"));
        let alice = User::register(&tap.origin(), &folder.path().join("alice"), &alice_name).await?;
        let bob = User::register(&tap.origin(), &folder.path().join("bob"), &bob_name).await?;
        Ok(Self { _server: server, tap, folder, alice, bob, alice_name })
    }

    async fn add_tablet(&self) -> anyhow::Result<User> {
        add(&self.alice.client, &self.tap.origin(), &self.folder.path().join("tablet")).await
    }
}

async fn add(first: &Client, origin: &str, home: &Path) -> anyhow::Result<User> {
    Ok(User::of(second_device::add(first, Client::builder(origin).home(home)).await?))
}

async fn history(client: &Client, conversation: ConversationId) -> Vec<Entry> {
    client.history(conversation, None, 500).await.unwrap_or_default()
}

async fn texts(client: &Client, conversation: ConversationId) -> Vec<String> {
    history(client, conversation).await.iter().filter_map(|entry| entry.text().map(str::to_owned)).collect()
}

/// Waits until exactly these texts are shown, in this order.
async fn shows(client: &Client, conversation: ConversationId, expected: &[&str]) -> Story {
    let settled = wait::until("every text is shown", SOON, async || (texts(client, conversation).await.len() >= expected.len()).then_some(())).await;
    let shown = texts(client, conversation).await;
    ensure!(settled.is_ok() && shown == expected, "{shown:?} instead of {expected:?}: {:?}", bodies(&history(client, conversation).await));
    Ok(())
}

fn bodies(entries: &[Entry]) -> Vec<String> {
    entries
        .iter()
        .map(|entry| match &entry.body {
            EntryBody::Text(text) => text.clone(),
            EntryBody::Undecryptable { reason, repair } => format!("unreadable: {reason:?} {repair:?}"),
            EntryBody::Missing { to, reason } => format!("missing to {to}: {reason:?}"),
            EntryBody::Integrity(event) => format!("{event:?}"),
            EntryBody::Unknown { kind } => format!("kind {kind}"),
        })
        .collect()
}

/// Nothing but texts, apart from what was sent before the device was linked.
async fn is_whole(client: &Client, conversation: ConversationId) -> Story {
    let entries = history(client, conversation).await;
    let whole =
        |entry: &Entry| matches!(entry.body, EntryBody::Text(_) | EntryBody::Missing { reason: kith_client::Undecryptable::BeforeLinked, .. });
    ensure!(entries.iter().all(whole), "{:?}", bodies(&entries));
    Ok(())
}

async fn ticks(client: &Client, conversation: ConversationId, text: &str, tick: Tick) -> Story {
    let reached = async || {
        let entries = history(client, conversation).await;
        entries.iter().any(|entry| entry.author == Author::Me && entry.text() == Some(text) && entry.tick >= Some(tick)).then_some(())
    };
    wait::until(&format!("{text:?} is {tick:?}"), SOON, reached).await
}

fn slices_for(sends: &[Send], device: &[u8]) -> usize {
    sends.iter().flat_map(|send| send.slices.iter().chain(&send.own_slices)).filter(|slice| slice.device == device).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_devices_of_one_account_both_get_everything_and_each_sees_what_the_other_sends() -> Story {
    let mut stage = Stage::set().await?;
    let mut tablet = stage.add_tablet().await?;
    tablet.is(ConnectionState::Online).await?;
    let chat = stage.bob.say(&stage.alice_name, "to both").await?;
    stage.alice.hears("to both").await?;
    tablet.hears("to both").await?;
    stage.alice.client.send_text(chat, "from the phone").await?;
    stage.bob.hears("from the phone").await?;
    shows(&tablet.client, chat, &["to both", "from the phone"]).await?;
    tablet.client.send_text(chat, "from the tablet").await?;
    stage.bob.hears("from the tablet").await?;
    stage.bob.client.send_text(chat, "to both again").await?;
    let last = stage.alice.hears("to both again").await?;
    tablet.hears("to both again").await?;

    // Ticks: on either device for what either sent; for Bob as soon as one device has it, and coloured when the user saw it on one.
    let everything = ["to both", "from the phone", "from the tablet", "to both again"];
    for device in [&stage.alice, &tablet] {
        shows(&device.client, chat, &everything).await?;
        is_whole(&device.client, chat).await?;
        for text in ["from the phone", "from the tablet"] {
            ticks(&device.client, chat, text, Tick::Delivered).await?;
        }
        let theirs = history(&device.client, chat).await;
        ensure!(theirs.iter().filter(|entry| entry.author == Author::Me).count() == 2, "both devices are the same author");
    }
    tablet.client.mark_read(chat, last.seq.unwrap_or(1)).await?;
    ticks(&stage.bob.client, chat, "to both again", Tick::Read).await?;
    shows(&stage.bob.client, chat, &everything).await?;
    is_whole(&stage.bob.client, chat).await?;
    no_key_was_used_twice_by_any(&stage.tap.sends()?)
}

/// The recorder's check takes two people with a device each, whose counters it tells apart by the recipient: the devices of Alice count for themselves.
fn no_key_was_used_twice_by_any(sends: &[Send]) -> Story {
    let mut left: Vec<Send> = sends.to_vec();
    while let Some(first) = left.first().cloned() {
        // A device never addresses itself, so whom a Send addresses tells which device made it.
        let addressed = |send: &Send| {
            let mut devices: Vec<_> = send.own_slices.iter().map(|slice| slice.device.clone()).collect();
            devices.sort();
            (send.recipient.clone(), devices)
        };
        let (same, others): (Vec<Send>, Vec<Send>) = left.into_iter().partition(|send| addressed(send) == addressed(&first));
        no_key_was_used_twice(&same)?;
        left = others;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_added_in_mid_conversation_is_addressed_from_then_on_and_nothing_is_lost_or_shown_twice() -> Story {
    let mut stage = Stage::set().await?;
    let chat = stage.bob.say(&stage.alice_name, "before 1").await?;
    stage.alice.hears("before 1").await?;
    stage.alice.client.send_text(chat, "before 2").await?;
    stage.bob.hears("before 2").await?;

    // Bob writes without a pause while the list changes under him: what is under way is refused and composed anew for the new list.
    let numbers: Vec<String> = (1..=60).map(|n| format!("meanwhile {n}")).collect();
    let (before, after) = numbers.split_at(20);
    for text in before {
        stage.bob.client.send_text(chat, text).await?;
    }
    let adding = stage.add_tablet();
    let writing = async {
        for text in after {
            stage.bob.client.send_text(chat, text).await?;
        }
        anyhow::Ok(())
    };
    let (tablet, written) = tokio::join!(adding, writing);
    let (mut tablet, ()) = (tablet?, written?);
    stage.bob.client.send_text(chat, "for the tablet too").await?;
    tablet.hears("for the tablet too").await?;
    stage.bob.is_told(NoticeKind::NewDevice).await?;

    let mut everything: Vec<&str> = vec!["before 1", "before 2"];
    everything.extend(numbers.iter().map(String::as_str));
    everything.push("for the tablet too");
    for user in [&stage.alice, &stage.bob] {
        shows(&user.client, chat, &everything).await?;
        is_whole(&user.client, chat).await?;
    }
    // The tablet has an unbroken end of it, and says where that begins.
    let on_tablet = texts(&tablet.client, chat).await;
    ensure!(everything.ends_with(&on_tablet.iter().map(String::as_str).collect::<Vec<_>>()), "{on_tablet:?}");
    is_whole(&tablet.client, chat).await?;
    // The first device of the sender's own account is composed for anew too.
    stage.alice.client.send_text(chat, "from the phone").await?;
    stage.bob.hears("from the phone").await?;
    everything.push("from the phone");
    shows(&stage.alice.client, chat, &everything).await?;
    let seen =
        wait::until("the tablet sees it", SOON, async || texts(&tablet.client, chat).await.contains(&"from the phone".to_owned()).then_some(()));
    seen.await
}

/// Bob knows the old list when he comes back: the server refuses what he made for it, and the same message is made again for the new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_made_for_an_old_device_list_is_refused_and_composed_anew_in_order() -> Story {
    let mut stage = Stage::set().await?;
    let chat = stage.bob.say(&stage.alice_name, "before").await?;
    stage.alice.hears("before").await?;
    stage.bob.client.shutdown().await;
    let mut tablet = stage.add_tablet().await?;
    stage.bob = User::open(&stage.tap.origin(), &stage.folder.path().join("bob")).await?;
    let numbers: Vec<String> = (1..=5).map(|n| format!("after {n}")).collect();
    for text in &numbers {
        stage.bob.client.send_text(chat, text).await?;
    }
    tablet.hears("after 5").await?;
    let numbers: Vec<&str> = numbers.iter().map(String::as_str).collect();
    let everything = [&["before"], numbers.as_slice()].concat();
    for user in [&stage.alice, &stage.bob] {
        shows(&user.client, chat, &everything).await?;
        is_whole(&user.client, chat).await?;
    }
    shows(&tablet.client, chat, &numbers).await?;
    is_whole(&tablet.client, chat).await?;
    stage.bob.is_told(NoticeKind::NewDevice).await?;
    let sends = stage.tap.sends()?;
    let device = tablet.client.me().device;
    let made = |send: &Send| (send.client_msg_id.clone(), send.slices.iter().any(|slice| slice.device == device.as_bytes().as_slice()));
    let old = sends.iter().map(made).find(|(id, named)| !named && sends.iter().map(made).any(|(other, named)| other == *id && named));
    ensure!(old.is_some(), "nothing was refused, so nothing was tested");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a23_a_revoked_device_gets_no_more_slices_and_the_conversation_goes_on() -> Story {
    let mut stage = Stage::set().await?;
    let mut tablet = stage.add_tablet().await?;
    let chat = stage.bob.say(&stage.alice_name, "to both").await?;
    stage.alice.hears("to both").await?;
    tablet.hears("to both").await?;
    tablet.client.send_text(chat, "from the tablet").await?;
    stage.bob.hears("from the tablet").await?;
    shows(&stage.alice.client, chat, &["to both", "from the tablet"]).await?;

    let gone = tablet.client.me().device;
    stage.alice.client.revoke_device(gone).await?;
    tablet.is(ConnectionState::Stopped(StopReason::Revoked)).await?;
    let revoked_at = stage.tap.sends()?.len();
    stage.bob.client.send_text(chat, "to the phone only").await?;
    stage.alice.hears("to the phone only").await?;
    stage.alice.client.send_text(chat, "from the phone only").await?;
    stage.bob.hears("from the phone only").await?;
    stage.bob.is_told(NoticeKind::DeviceRemoved).await?;
    stage.alice.is_told(NoticeKind::OwnDeviceRemoved).await?;
    let everything = ["to both", "from the tablet", "to the phone only", "from the phone only"];
    for user in [&stage.alice, &stage.bob] {
        shows(&user.client, chat, &everything).await?;
        is_whole(&user.client, chat).await?;
    }
    shows(&tablet.client, chat, &everything[..2]).await?;
    // What was refused because of the old list may still have named it; of what was accepted, nothing does. The last of each name is what was accepted.
    let sends = stage.tap.sends()?;
    let accepted: Vec<Send> = sends[revoked_at..]
        .iter()
        .enumerate()
        .filter(|(at, send)| !sends[revoked_at..][at + 1..].iter().any(|later| later.client_msg_id == send.client_msg_id))
        .map(|(_, send)| send.clone())
        .collect();
    ensure!(accepted.len() >= 2 && slices_for(&accepted, gone.as_bytes()) == 0, "a revoked device was addressed");
    Ok(())
}
