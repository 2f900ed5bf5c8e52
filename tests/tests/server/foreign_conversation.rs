//! Knowing the id of a conversation authorises nothing. (A27, A41)

use anyhow::{bail, ensure};
use kith_proto::{
    id::ConversationId,
    v1::{self, ErrorCode, client_frame, server_frame},
};
use kith_tests::{
    Story,
    expect::{accepted, delivered, error, refused},
    identity::random,
    person::{Person, ack},
    server::Options,
    socket::Socket,
};

/// Alice and Bob have spoken; Mallory knows everything about it but the content.
struct Scene {
    server: kith_tests::server::Server,
    alice: (Person, Socket),
    bob: (Person, Socket),
    mallory: (Person, Socket),
    conversation: ConversationId,
}

async fn scene() -> anyhow::Result<Scene> {
    let server = Options::new().start().await?;
    let mut people = Vec::new();
    for name in ["alice", "bob", "mallory"] {
        let mut person = Person::register(&server.origin(), name).await?;
        let (socket, _) = person.connect().await?;
        people.push((person, socket));
    }
    let [mut alice, mut bob, mallory] = <[_; 3]>::try_from(people).map_err(|_| anyhow::anyhow!("three people"))?;
    let conversation = alice.0.conversation(bob.0.device_ref());
    let to_bob = alice.0.message(bob.0.device_ref(), "hello bob");
    let to_alice = bob.0.message(alice.0.device_ref(), "hello alice");
    accepted(&mut alice.1, to_bob).await?;
    delivered(&mut bob.1).await?;
    accepted(&mut bob.1, to_alice).await?;
    delivered(&mut alice.1).await?;
    Ok(Scene { server, alice, bob, mallory, conversation })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_cannot_write_into_it() -> Story {
    let mut scene = scene().await?;
    let (mallory, socket) = &mut scene.mallory;
    let bob = scene.bob.0.device_ref();
    for recipient in [bob.account, scene.alice.0.identity.account, mallory.identity.account] {
        let mut send = mallory.message(bob, "I am alice");
        send.conversation = scene.conversation.to_bytes();
        send.recipient = recipient.to_bytes();
        send.restart = true;
        let refusal = error(socket.ask(client_frame::Kind::Send(send)).await?)?;
        ensure!(matches!(refusal.code(), ErrorCode::NotAMember | ErrorCode::InvalidFrame), "{refusal:?}");
    }
    // To oneself there is no conversation either.
    let own = mallory.device_ref();
    let mut send = mallory.message(own, "to myself");
    send.restart = true;
    error(socket.ask(client_frame::Kind::Send(send)).await?)?;

    // The sender's name on a message is the connection's, not the frame's: what Mallory writes to Bob is Mallory's.
    let mut send = mallory.message(bob, "it is me");
    send.restart = true;
    accepted(socket, send).await?;
    let seen = delivered(&mut scene.bob.1).await?;
    ensure!(seen.sender_account == own.account.to_bytes() && seen.sender_device == own.device.to_bytes());
    ensure!(seen.conversation == mallory.conversation(bob).to_bytes());

    let head = accepted(&mut scene.alice.1, scene.alice.0.message(bob, "still ours")).await?.seq;
    ensure!(head == 3, "the conversation has {head} entries instead of 3");
    drop(scene.server);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_can_neither_read_nor_move_it_nor_tell_whether_it_exists() -> Story {
    let mut scene = scene().await?;
    let (_, socket) = &mut scene.mallory;
    let mut answers = Vec::new();
    for conversation in [scene.conversation, ConversationId(random())] {
        let id = conversation.to_bytes();
        let page = socket.ask(client_frame::Kind::Page(v1::Page { conversation: id.clone(), after_seq: 0, limit: 10 })).await?;
        refused(page.clone(), ErrorCode::NotAMember)?;
        let acked = socket.ask(ack(conversation, 1)).await?;
        refused(acked.clone(), ErrorCode::NotAMember)?;
        let read = socket.ask(client_frame::Kind::Read(v1::Read { conversation: id.clone(), seq: 1 })).await?;
        refused(read.clone(), ErrorCode::NotAMember)?;
        let states = socket.ask(client_frame::Kind::GetConversations(v1::GetConversations { conversations: vec![id] })).await?;
        let server_frame::Kind::Conversations(known) = &states else { bail!("{states:?}") };
        ensure!(known.items.is_empty());
        answers.push((page, acked, read, states));
    }
    ensure!(answers[0] == answers[1], "an existing conversation is told from one that does not exist");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_learns_neither_presence_nor_receipts_and_cannot_type() -> Story {
    let mut scene = scene().await?;
    let (alice, bob) = (scene.alice.0.identity.account, scene.bob.0.identity.account);
    let (mallory, socket) = &mut scene.mallory;
    // Mallory has written to Bob and Bob has not answered: nothing flows.
    accepted(socket, mallory.message(scene.bob.0.device_ref(), "psst")).await?;
    delivered(&mut scene.bob.1).await?;
    let theirs = scene.bob.0.conversation(mallory.device_ref());
    ensure!(matches!(scene.bob.1.ask(ack(theirs, 1)).await?, server_frame::Kind::Done(_)));

    let watch = v1::WatchPresence { accounts: vec![alice.to_bytes(), bob.to_bytes()] };
    ensure!(matches!(socket.ask(client_frame::Kind::WatchPresence(watch)).await?, server_frame::Kind::Done(_)));
    for conversation in [scene.conversation, theirs] {
        let typing = v1::Typing { conversation: conversation.to_bytes(), peer: bob.to_bytes(), active: true };
        socket.notice(client_frame::Kind::Typing(typing)).await?;
    }
    scene.bob.0.connect().await?;

    // Everything sent to Mallory before this answer would have come before it.
    let id = socket.request(client_frame::Kind::Ping(v1::Ping {})).await?;
    let mut told = Vec::new();
    socket
        .find("the pong", kith_tests::socket::SOON, |frame| {
            let done = frame.id == id;
            told.extend(frame.kind);
            done.then_some(())
        })
        .await?;
    let leaked = told
        .iter()
        .find(|kind| matches!(kind, server_frame::Kind::Presence(_) | server_frame::Kind::Watermarks(_) | server_frame::Kind::PeerTyping(_)));
    ensure!(leaked.is_none(), "a stranger was told {leaked:?}");

    let id = scene.alice.1.request(client_frame::Kind::Ping(v1::Ping {})).await?;
    scene
        .alice
        .1
        .find("the pong", kith_tests::socket::SOON, |frame| match frame.kind {
            Some(server_frame::Kind::PeerTyping(typing)) if typing.account != bob.to_bytes() => Some(Err(anyhow::anyhow!("{typing:?}"))),
            _ => (frame.id == id).then_some(Ok(())),
        })
        .await??;
    Ok(())
}
