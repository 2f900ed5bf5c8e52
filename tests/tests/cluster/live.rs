//! Nobody sees at which server the other one is.

use anyhow::{Context as _, ensure};
use kith_proto::{
    rest::{DevicePrekeys, PublishListRequest},
    v1::{self, ErrorCode, ServerFrame, client_frame, server_frame::Kind},
};
use kith_tests::{Story, identity::Device, person::ack, socket::Socket};

use crate::fleet::{Fleet, NEVER, SOON, metric, until_metric};

#[tokio::test(flavor = "multi_thread")]
async fn messages_ticks_typing_and_presence_cross() -> Story {
    let fleet = Fleet::start(NEVER).await?;
    let (mut alice, mut bob) = fleet.friends().await?;
    let (one, two) = (fleet.one.rest()?, fleet.two.rest()?);
    let before = (metric(&one, "kith_messages_delivered_live_total").await?, metric(&two, "kith_messages_delivered_live_total").await?);
    let seq = alice.says(bob.person.device_ref(), "live").await?;
    ensure!(bob.hears("live").await? == seq);
    // Over the stream and not only from the log.
    until_metric(&fleet.two, "kith_messages_delivered_live_total", |now| now == before.1 + 1).await?;
    ensure!(metric(&one, "kith_messages_delivered_live_total").await? == before.0);

    let conversation = bob.person.conversation(alice.person.device_ref());
    bob.socket.ask(ack(conversation, seq)).await?;
    bob.socket.ask(client_frame::Kind::Read(v1::Read { conversation: conversation.to_bytes(), seq })).await?;
    let account = bob.person.identity.account;
    let ticks = |frame: ServerFrame| match frame.kind {
        Some(Kind::Watermarks(marks)) => marks.items.iter().any(|m| m.account[..] == account.0 && m.delivered == seq && m.read == seq).then_some(()),
        _ => None,
    };
    alice.socket.find("both ticks", SOON, ticks).await?;

    let peer = alice.person.identity.account.to_bytes();
    bob.socket.notice(client_frame::Kind::Typing(v1::Typing { conversation: conversation.to_bytes(), peer, active: true })).await?;
    let typing = |frame: ServerFrame| matches!(frame.kind, Some(Kind::PeerTyping(typing)) if typing.active).then_some(());
    alice.socket.find("typing", SOON, typing).await?;

    alice.socket.ask(client_frame::Kind::WatchPresence(v1::WatchPresence { accounts: vec![account.to_bytes()] })).await?;
    let presence = |frame: ServerFrame| match frame.kind {
        Some(Kind::Presence(presence)) => Some((presence.online, presence.last_seen_ms > 0)),
        _ => None,
    };
    ensure!(alice.socket.find("online", SOON, presence).await? == (true, false));
    drop(bob);
    ensure!(alice.socket.find("gone", SOON, presence).await? == (false, true));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_connects_elsewhere_is_cut_where_it_was_and_hears_what_is_said_to_it() -> Story {
    let fleet = Fleet::start(NEVER).await?;
    let (mut alice, mut bob) = fleet.friends().await?;
    let mut old = bob.moves_to(&fleet.one).await?;
    let ending = old.ending(SOON).await?;
    ensure!(ending.reason() == Some(ErrorCode::Replaced), "{ending:?}");
    alice.says(bob.person.device_ref(), "over here").await?;
    bob.hears("over here").await?;
    let mut old = bob.moves_to(&fleet.two).await?;
    let ending = old.ending(SOON).await?;
    ensure!(ending.reason() == Some(ErrorCode::Replaced), "{ending:?}");
    alice.says(bob.person.device_ref(), "and back").await?;
    bob.hears("and back").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_device_is_cut_at_the_other_server() -> Story {
    let fleet = Fleet::start(NEVER).await?;
    let (_, mut bob) = fleet.friends().await?;
    let person = &mut bob.person;
    let first = person.identity.certify(&person.device, 1);
    let mut second = Device::default();
    let certificate = person.identity.certify(&second, person.identity.list_version() + 1);
    let list = person.identity.sign_list(&[(&person.device, &first), (&second, &certificate)]);
    let prekeys = DevicePrekeys { device: second.id, name: None, prekeys: second.prekeys(person.identity.account, 1) };
    person.rest.publish(person.token(), &PublishListRequest { list, certificates: vec![certificate], prekeys: vec![prekeys] }).await?;
    let tokens = person.rest.login(person.identity.account, &second).await?;
    let (mut tablet, _) = Socket::hello(&fleet.one.origin(), tokens.access_token.as_str(), 1).await?;

    let list = person.identity.sign_list(&[(&person.device, &first)]);
    person.rest.publish(person.token(), &PublishListRequest { list, certificates: Vec::new(), prekeys: Vec::new() }).await?;
    let ending = tablet.ending(SOON).await?;
    ensure!(ending.reason() == Some(ErrorCode::DeviceRevoked), "{ending:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_drains_sends_its_devices_to_the_other() -> Story {
    let mut fleet = Fleet::start(NEVER).await?;
    let (mut alice, mut bob) = fleet.friends().await?;
    fleet.two.terminate()?;
    let ending = bob.socket.ending(SOON).await?;
    let goodbye = ending.goodbye.context("no goodbye")?;
    ensure!(goodbye.reason() == ErrorCode::Draining && (1..=1_000).contains(&goodbye.reconnect_within_ms), "{goodbye:?}");
    alice.says(bob.person.device_ref(), "meanwhile").await?;
    bob.moves_to(&fleet.one).await?;
    bob.hears("meanwhile").await?;
    ensure!(fleet.two.ended().await?, "the process did not end in order");
    until_metric(&fleet.one, "kith_peer_links", |links| links == 0).await?;
    fleet.two.start().await?;
    fleet.linked().await?;
    bob.moves_to(&fleet.two).await?;
    alice.says(bob.person.device_ref(), "at the new one").await?;
    bob.hears("at the new one").await?;
    Ok(())
}
