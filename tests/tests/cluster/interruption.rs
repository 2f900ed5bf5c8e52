//! A server that is killed, or stopped for a while.

use std::time::Duration;

use anyhow::{bail, ensure};
use kith_proto::v1::{self, ServerFrame, client_frame, server_frame::Kind};
use kith_tests::{
    Story,
    socket::{Event, Socket},
};

use crate::fleet::{Fleet, NEVER, SOON, until_metric};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_loses_nothing_and_its_devices_go_on_elsewhere() -> Story {
    let mut fleet = Fleet::start(NEVER).await?;
    let (mut alice, mut bob) = fleet.friends().await?;
    let (to_alice, to_bob) = (alice.person.device_ref(), bob.person.device_ref());
    let own = bob.says(to_alice, "just before").await?;
    fleet.two.kill().await?;
    let mut sent = Vec::new();
    for text in ["one", "two", "three"] {
        sent.push(alice.says(to_bob, text).await?);
    }
    ensure!(sent[0] > own);
    bob.moves_to(&fleet.one).await?;
    for (text, seq) in ["one", "two", "three"].into_iter().zip(sent) {
        ensure!(bob.hears(text).await? == seq);
    }
    alice.hears("just before").await?;
    alice.says(to_bob, "at the same server").await?;
    bob.hears("at the same server").await?;

    fleet.two.start().await?;
    until_metric(&fleet.one, "kith_peer_links", |links| links >= 1).await?;
    bob.moves_to(&fleet.two).await?;
    alice.says(to_bob, "at two again").await?;
    bob.hears("at two again").await?;
    Ok(())
}

/// Nobody is left at the killed server who could tell it.
#[tokio::test(flavor = "multi_thread")]
async fn who_was_connected_to_a_killed_server_is_seen_to_be_offline() -> Story {
    let mut fleet = Fleet::start_with_lease(NEVER, Duration::from_secs(6)).await?;
    let (mut alice, bob) = fleet.friends().await?;
    let account = bob.person.identity.account;
    alice.socket.ask(client_frame::Kind::WatchPresence(v1::WatchPresence { accounts: vec![account.to_bytes()] })).await?;
    let presence = |frame: ServerFrame| match frame.kind {
        Some(Kind::Presence(presence)) if presence.account[..] == account.0 => Some((presence.online, presence.last_seen_ms > 0)),
        _ => None,
    };
    ensure!(alice.socket.find("online", SOON, presence).await? == (true, false));
    fleet.two.kill().await?;
    ensure!(alice.socket.find("offline", SOON, presence).await? == (false, true));
    Ok(())
}

/// Whatever the socket still says, until it is over.
async fn rest_of(socket: &mut Socket) -> anyhow::Result<Vec<Kind>> {
    let mut said = Vec::new();
    loop {
        match socket.next_within(SOON).await {
            Ok(Event::Frame(frame)) => said.extend(frame.kind),
            Err(error) if error.to_string().contains("nothing came") => return Err(error.context("the old connection is still open")),
            // Reset is an end as well.
            Ok(Event::Closed(_)) | Err(_) => return Ok(said),
        }
    }
}

/// Rule 6: a paused server comes back with open sockets, whose devices are elsewhere by now.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_stopped_beyond_its_lease_handles_nothing_from_before() -> Story {
    let fleet = Fleet::start_with_lease(NEVER, Duration::from_secs(6)).await?;
    let (mut alice, mut bob) = fleet.friends().await?;
    let (to_alice, to_bob) = (alice.person.device_ref(), bob.person.device_ref());
    fleet.one.pause().await?;
    // The other has noticed, for which it takes longer than half of the lease.
    until_metric(&fleet.two, "kith_peer_links", |links| links == 0).await?;
    // Sent into the socket of the stopped server, where it waits to be read.
    let ghost = alice.person.message(to_bob, "from before");
    alice.socket.request(client_frame::Kind::Send(ghost)).await?;
    let mut old = alice.moves_to(&fleet.two).await?;
    let seq = alice.says(to_bob, "from now").await?;
    ensure!(bob.hears("from now").await? == seq);

    fleet.one.resume()?;
    for kind in rest_of(&mut old).await? {
        if let Kind::Accepted(_) | Kind::Error(_) = kind {
            bail!("what was sent before the interruption was handled: {kind:?}");
        }
    }
    fleet.linked().await?;
    let next = bob.says(to_alice, "nothing between").await?;
    ensure!(next == seq + 1, "something was appended between {seq} and {next}");
    alice.hears("nothing between").await?;
    Ok(())
}
