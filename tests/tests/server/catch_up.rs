//! What a device missed comes by itself, under flow control, from where it had got to.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};
use kith_proto::v1::{self, ClientFrame, client_frame, server_frame};
use kith_tests::{
    Story,
    expect::{accepted, caught_up, delivered},
    person::{Person, ack},
    server::Options,
    socket::{Event, SOON, Socket},
};

/// Sends without waiting for each answer.
async fn send_many(person: &mut Person, to: &Person, socket: &mut Socket, count: u64) -> Story {
    const WINDOW: u64 = 32;
    let mut answered = 0;
    for n in 0..count {
        let send = person.message(to.device_ref(), n.to_string());
        socket.feed(&ClientFrame { id: 1_000_000 + n, kind: Some(client_frame::Kind::Send(send)) }).await?;
        if (n + 1) % WINDOW == 0 || n + 1 == count {
            socket.flush().await?;
            while answered <= n {
                let answer = socket.answer(1_000_000 + answered).await?;
                ensure!(matches!(answer, server_frame::Kind::Accepted(_)), "{answer:?}");
                answered += 1;
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn catch_up_pauses_at_its_window_goes_on_with_acknowledgements_and_resumes_from_the_cursor() -> Story {
    const MISSED: u64 = 2_600;
    let server = Options::new().start().await?;
    let (mut alice, mut bob) = (Person::register(&server.origin(), "alice").await?, Person::register(&server.origin(), "bob").await?);
    let conversation = bob.conversation(alice.device_ref());
    let (mut from, welcome) = alice.connect().await?;
    let window = u64::from(welcome.limits.context("limits")?.catch_up_window);
    ensure!(window < MISSED);
    send_many(&mut alice, &bob, &mut from, MISSED).await?;

    // Without acknowledgements no more than the window comes: whatever came before the answer to a later request is all there is.
    let (mut to, _) = bob.connect().await?;
    let mut got = 0;
    while got < window {
        got = got.max(delivered(&mut to).await?.seq);
    }
    let id = to.request(client_frame::Kind::Ping(v1::Ping {})).await?;
    to.find("the pong", SOON, |frame| {
        if let Some(server_frame::Kind::Deliver(deliver)) = &frame.kind {
            got = got.max(deliver.seq);
        }
        (frame.id == id).then_some(())
    })
    .await?;
    ensure!(got <= window + 64, "{got} came although the window is {window}");

    // Half of it acknowledged, then a new connection: it begins there.
    let half = window / 2;
    ensure!(matches!(to.ask(ack(conversation, half)).await?, server_frame::Kind::Done(_)));
    let (mut to, _) = bob.connect().await?;
    let mut next = half + 1;
    let mut finished = false;
    while !finished {
        match to.next_within(SOON).await? {
            Event::Frame(v1::ServerFrame { kind: Some(server_frame::Kind::Deliver(deliver)), .. }) => {
                ensure!(deliver.seq == next, "{} came instead of {next}", deliver.seq);
                ensure!(deliver.body == (next - 1).to_string(), "the body of {next}");
                if next % 200 == 0 {
                    to.notice(ack(conversation, next)).await?;
                }
                next += 1;
            }
            Event::Frame(frame) => finished = matches!(frame.kind, Some(server_frame::Kind::CaughtUp(_))),
            Event::Closed(ending) => bail!("{ending:?}"),
        }
    }
    ensure!(next == MISSED + 1, "caught up at {next}");

    // All acknowledged by both: nothing is left to catch up on.
    ensure!(matches!(to.ask(ack(conversation, MISSED)).await?, server_frame::Kind::Done(_)));
    let (mut to, _) = bob.connect().await?;
    loop {
        match to.next_within(SOON).await? {
            Event::Frame(frame) => match frame.kind {
                Some(server_frame::Kind::CaughtUp(_)) => return Ok(()),
                Some(server_frame::Kind::Deliver(_) | server_frame::Kind::Absent(_)) => bail!("{frame:?} came to a device that had missed nothing"),
                _ => {}
            },
            Event::Closed(ending) => bail!("{ending:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_conversation_that_has_changed_is_caught_up_on_and_ones_own_messages_are_absent() -> Story {
    let server = Options::new().start().await?;
    let mut bob = Person::register(&server.origin(), "bob").await?;
    let mut expected = BTreeMap::new();
    let mut friends = Vec::new();
    let (mut own, _) = bob.connect().await?;
    for n in 1..=5_u64 {
        let mut friend = Person::register(&server.origin(), "friend").await?;
        let (mut socket, _) = friend.connect().await?;
        send_many(&mut friend, &bob, &mut socket, n).await?;
        accepted(&mut own, bob.message(friend.device_ref(), "mine")).await?;
        expected.insert(friend.conversation(bob.device_ref()).to_bytes(), n);
        friends.push((friend, socket));
    }
    let (mut to, _) = bob.connect().await?;
    let mut seen: BTreeMap<bytes::Bytes, Vec<(u64, bool)>> = BTreeMap::new();
    loop {
        match to.next_within(SOON).await? {
            Event::Frame(v1::ServerFrame { kind: Some(server_frame::Kind::Deliver(deliver)), .. }) => {
                let own = deliver.absent() == v1::AbsentReason::Own;
                ensure!(own == deliver.body.is_empty() && own == deliver.slice.is_empty());
                seen.entry(deliver.conversation).or_default().push((deliver.seq, own));
            }
            Event::Frame(frame) if matches!(frame.kind, Some(server_frame::Kind::CaughtUp(_))) => break,
            Event::Frame(_) => {}
            Event::Closed(ending) => bail!("{ending:?}"),
        }
    }
    ensure!(seen.len() == expected.len());
    for (conversation, entries) in seen {
        let others = expected[&conversation];
        ensure!(entries == (1..=others + 1).map(|seq| (seq, seq > others)).collect::<Vec<_>>(), "{entries:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn paging_is_contiguous_and_moves_no_cursor() -> Story {
    let server = Options::new().start().await?;
    let (mut alice, mut bob) = (Person::register(&server.origin(), "alice").await?, Person::register(&server.origin(), "bob").await?);
    let conversation = bob.conversation(alice.device_ref());
    let (mut from, _) = alice.connect().await?;
    send_many(&mut alice, &bob, &mut from, 100).await?;
    let (mut to, _) = bob.connect().await?;
    caught_up(&mut to).await?;
    let mut after = 0;
    while after < 100 {
        let page = v1::Page { conversation: conversation.to_bytes(), after_seq: after, limit: 30 };
        let server_frame::Kind::Page(page) = to.ask(client_frame::Kind::Page(page)).await? else { bail!("no page") };
        ensure!(page.head == 100 && page.absent.is_empty() && !page.entries.is_empty() && page.entries.len() <= 30);
        for entry in page.entries {
            ensure!(entry.seq == after + 1, "{} after {after}", entry.seq);
            after = entry.seq;
        }
    }
    let states = v1::GetConversations { conversations: vec![conversation.to_bytes()] };
    let server_frame::Kind::Conversations(answer) = to.ask(client_frame::Kind::GetConversations(states)).await? else { bail!("no states") };
    ensure!(answer.items[0].cursor == 0 && answer.items[0].head == 100 && answer.items[0].first == 1, "{answer:?}");
    Ok(())
}
