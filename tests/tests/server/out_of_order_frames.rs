//! Frames that are valid at another time.

use anyhow::{bail, ensure};
use kith_proto::v1::{self, ClientFrame, ErrorCode, client_frame, server_frame};
use kith_tests::{
    Story,
    expect::{accepted, delivered, error, refused, still_serves},
    person::{Person, ack},
    server::Options,
    socket::{Event, SOON, Socket},
};

async fn two(origin: &str) -> anyhow::Result<(Person, Person)> {
    Ok((Person::register(origin, "alice").await?, Person::register(origin, "bob").await?))
}

#[tokio::test(flavor = "multi_thread")]
async fn anything_before_hello_ends_the_connection() -> Story {
    let server = Options::new().start().await?;
    let (mut alice, bob) = two(&server.origin()).await?;
    let send = alice.message(bob.device_ref(), "too early");
    for kind in [
        client_frame::Kind::Send(send),
        client_frame::Kind::Ping(v1::Ping {}),
        client_frame::Kind::Renew(v1::Renew { token: alice.token().to_owned() }),
    ] {
        let mut socket = Socket::open(&server.origin()).await?;
        socket.request(kind).await?;
        let ending = socket.ending(SOON).await?;
        ensure!(ending.reason() == Some(ErrorCode::HelloRequired), "{ending:?}");
    }
    still_serves(&server.origin()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_hello_within_its_time_ends_the_connection() -> Story {
    let server = Options::new().start().await?;
    let mut socket = Socket::open(&server.origin()).await?;
    let ending = socket.ending(SOON).await?;
    ensure!(ending.reason() == Some(ErrorCode::HelloRequired), "{ending:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_hello_changes_nothing() -> Story {
    let server = Options::new().start().await?;
    let (mut alice, bob) = two(&server.origin()).await?;
    let (mut socket, _) = alice.connect().await?;
    let hello = v1::Hello { token: bob.token().to_owned(), version: 1, features: Vec::new(), epoch: 1 };
    socket.request(client_frame::Kind::Hello(hello)).await?;
    // Whatever the server calls it, this connection must not become Bob's.
    if let Event::Frame(v1::ServerFrame { kind: Some(server_frame::Kind::Welcome(_)), .. }) = socket.next_within(SOON).await? {
        bail!("a second hello was welcomed");
    }
    still_serves(&server.origin()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledging_or_reading_what_does_not_exist_is_refused_and_changes_nothing() -> Story {
    let server = Options::new().start().await?;
    let (mut alice, mut bob) = two(&server.origin()).await?;
    let ((mut from, _), (mut to, _)) = (alice.connect().await?, bob.connect().await?);
    accepted(&mut from, alice.message(bob.device_ref(), "one")).await?;
    delivered(&mut to).await?;
    let conversation = bob.conversation(alice.device_ref());

    refused(to.ask(ack(conversation, 2)).await?, ErrorCode::AckBeyondHead)?;
    refused(to.ask(ack(conversation, u64::MAX)).await?, ErrorCode::AckBeyondHead)?;
    to.notice(ack(conversation, 2)).await?;
    let read = |seq| client_frame::Kind::Read(v1::Read { conversation: conversation.to_bytes(), seq });
    error(to.ask(read(2)).await?)?;
    // One bad cursor spoils the whole acknowledgement.
    let cursors = [(conversation, 1), (conversation, 9)].map(|(conversation, seq)| v1::Cursor { conversation: conversation.to_bytes(), seq });
    refused(to.ask(client_frame::Kind::Ack(v1::Ack { cursors: cursors.into() })).await?, ErrorCode::AckBeyondHead)?;

    let states = v1::GetConversations { conversations: vec![conversation.to_bytes()] };
    let server_frame::Kind::Conversations(answer) = to.ask(client_frame::Kind::GetConversations(states)).await? else { bail!("no states") };
    ensure!(answer.items.len() == 1 && answer.items[0].cursor == 0 && answer.items[0].own_read == 0, "{answer:?}");

    // Not acknowledged, so it comes again.
    let (mut again, _) = bob.connect().await?;
    ensure!(delivered(&mut again).await?.seq == 1);
    ensure!(matches!(again.ask(ack(conversation, 1)).await?, server_frame::Kind::Done(_)));
    ensure!(matches!(again.ask(ack(conversation, 0)).await?, server_frame::Kind::Done(_)), "an older acknowledgement is harmless");
    Ok(())
}

/// DESIGN.md, rule 4: after a refusal the pipeline stops, so that order survives.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_refusal_the_pipeline_stops_until_restart_and_duplicates_are_still_answered() -> Story {
    let server = Options::new().start().await?;
    let (mut alice, bob) = two(&server.origin()).await?;
    let (mut socket, _) = alice.connect().await?;
    let first = alice.message(bob.device_ref(), "first");
    accepted(&mut socket, first.clone()).await?;

    let mut without_slice = alice.message(bob.device_ref(), "second");
    without_slice.slices.clear();
    let third = alice.message(bob.device_ref(), "third");
    let sends = [without_slice.clone(), third.clone(), first.clone()];
    for (id, send) in (200..).zip(sends) {
        socket.feed(&ClientFrame { id, kind: Some(client_frame::Kind::Send(send)) }).await?;
    }
    socket.flush().await?;
    refused(socket.answer(200).await?, ErrorCode::DevicesChanged)?;
    refused(socket.answer(201).await?, ErrorCode::EarlierRefused)?;
    let server_frame::Kind::Accepted(duplicate) = socket.answer(202).await? else { bail!("a duplicate was refused") };
    ensure!(duplicate.duplicate && duplicate.seq == 1, "{duplicate:?}");

    let mut second = without_slice;
    second.slices = first.slices.clone();
    second.restart = true;
    ensure!(accepted(&mut socket, second).await?.seq == 2);
    ensure!(accepted(&mut socket, third).await?.seq == 3);
    Ok(())
}

/// Promise 3: a retry returns the original seq, before anything else is looked at.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_returns_the_original_place_on_any_connection() -> Story {
    let server = Options::new().start().await?;
    let (mut alice, mut bob) = two(&server.origin()).await?;
    let (mut socket, _) = alice.connect().await?;
    let sends: Vec<_> = (0..20_u8).map(|n| alice.message(bob.device_ref(), vec![n + 1])).collect();
    let mut places = Vec::new();
    for send in &sends {
        places.push(accepted(&mut socket, send.clone()).await?);
    }
    let (mut socket, welcome) = alice.connect().await?;
    ensure!(welcome.device_counter == 20, "the largest counter is told: {}", welcome.device_counter);
    for (send, place) in sends.iter().zip(&places).rev() {
        let again = accepted(&mut socket, send.clone()).await?;
        ensure!(again.duplicate && again.seq == place.seq && again.at_ms == place.at_ms, "{again:?} is not {place:?}");
    }
    let (mut to, _) = bob.connect().await?;
    let mut seen = std::collections::BTreeMap::new();
    while seen.len() < 20 {
        let deliver = delivered(&mut to).await?;
        seen.insert(deliver.seq, deliver.client_msg_id);
    }
    ensure!(seen.into_iter().eq(places.into_iter().map(|place| (place.seq, place.client_msg_id))));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_with_impossible_values_are_answered_and_the_connection_lives() -> Story {
    let server = Options::new().start().await?;
    let (mut alice, bob) = two(&server.origin()).await?;
    let (mut socket, _) = alice.connect().await?;
    let good = alice.message(bob.device_ref(), "good");
    let spoil: [fn(&mut v1::Send); 8] = [
        |send| send.conversation = send.conversation.slice(..15),
        |send| send.recipient = bytes::Bytes::new(),
        |send| send.client_msg_id = vec![1; 17].into(),
        |send| send.body = bytes::Bytes::new(),
        |send| send.slices[0].device = bytes::Bytes::from_static(b"short"),
        |send| send.slices.push(send.slices[0].clone()),
        |send| send.device_counter = 0,
        |send| send.slices = vec![send.slices[0].clone(); 500],
    ];
    for (at, spoil) in spoil.into_iter().enumerate() {
        let mut bad = good.clone();
        bad.restart = true;
        spoil(&mut bad);
        let refusal = error(socket.ask(client_frame::Kind::Send(bad)).await?)?;
        ensure!(matches!(refusal.code(), ErrorCode::InvalidFrame | ErrorCode::NotAMember | ErrorCode::DevicesChanged), "{at}: {refusal:?}");
    }
    let long = vec![bytes::Bytes::from_static(&[7; 16]); 3_000];
    refused(socket.ask(client_frame::Kind::GetConversations(v1::GetConversations { conversations: long.clone() })).await?, ErrorCode::InvalidFrame)?;
    refused(socket.ask(client_frame::Kind::WatchPresence(v1::WatchPresence { accounts: long })).await?, ErrorCode::InvalidFrame)?;
    let answer = socket.ask(client_frame::Kind::Ping(v1::Ping {})).await?;
    ensure!(matches!(answer, server_frame::Kind::Pong(_)), "{answer:?}");
    let mut good = good;
    good.restart = true;
    ensure!(accepted(&mut socket, good).await?.seq == 1);
    Ok(())
}
