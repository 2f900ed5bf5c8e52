//! Whoever could have an entry acknowledged that nobody sees could watch in silence when a device is on. (A41, on the server's side)

use anyhow::{Context as _, bail, ensure};
use kith_proto::{
    id::ConversationId,
    v1::{self, ConversationState, Send, client_frame, server_frame},
};
use kith_tests::{
    Story,
    expect::{accepted, delivered},
    person::{Person, ack},
    server::Options,
    socket::{SOON, Socket},
    wait,
};

#[tokio::test(flavor = "multi_thread")]
async fn a41_a_checkpoint_that_was_acknowledged_moves_no_tick() -> Story {
    let server = Options::new().start().await?;
    let (mut alice, mut bob) = (Person::register(&server.origin(), "alice").await?, Person::register(&server.origin(), "bob").await?);
    let (mut from, mut to) = (alice.connect().await?.0, bob.connect().await?.0);
    let conversation = alice.conversation(bob.device_ref());
    accepted(&mut to, bob.message(alice.device_ref(), "1: from now on ticks flow")).await?;
    accepted(&mut from, alice.message(bob.device_ref(), "2: hello")).await?;
    acknowledge(&mut to, conversation, 2).await?;
    ensure!(told(&mut from, conversation).await? == 2);

    accepted(&mut from, Send { checkpoint: true, ..alice.message(bob.device_ref(), "3: nobody sees this") }).await?;
    acknowledge(&mut to, conversation, 3).await?;
    ensure!(told(&mut from, conversation).await? == 2, "alice was told of a checkpoint");

    accepted(&mut from, alice.message(bob.device_ref(), "4: are you there?")).await?;
    acknowledge(&mut to, conversation, 4).await?;
    ensure!(told(&mut from, conversation).await? == 4);
    Ok(())
}

/// Takes the next entry, and waits until the server knows of it.
async fn acknowledge(socket: &mut Socket, conversation: ConversationId, seq: u64) -> anyhow::Result<()> {
    let entry = delivered(socket).await?;
    ensure!(entry.seq == seq, "{} came, not {seq}", entry.seq);
    socket.notice(ack(conversation, seq)).await?;
    let known = wait::until("the acknowledgement is known", SOON, async || match state(socket, conversation).await {
        Ok(state) if state.cursor < seq => None,
        other => Some(other),
    });
    known.await?.map(drop)
}

async fn told(socket: &mut Socket, conversation: ConversationId) -> anyhow::Result<u64> {
    Ok(state(socket, conversation).await?.peer.context("ticks do not flow")?.delivered)
}

async fn state(socket: &mut Socket, conversation: ConversationId) -> anyhow::Result<ConversationState> {
    let ask = v1::GetConversations { conversations: vec![conversation.to_bytes()] };
    match socket.ask(client_frame::Kind::GetConversations(ask)).await? {
        server_frame::Kind::Conversations(mut answer) => answer.items.pop().context("no such conversation"),
        other => bail!("Conversations was expected, not {other:?}"),
    }
}
