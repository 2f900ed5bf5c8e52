//! The last message of a conversation has no successor to expose its loss. It reaches a device that never reconnects within 35 s, whatever live delivery
//! drops. (DESIGN.md, rule 1)

use std::time::Duration;

use anyhow::ensure;
use kith_proto::v1::server_frame;
use kith_tests::{
    Story,
    expect::{accepted, caught_up},
    person::{Person, ack},
    server::{DROP_DELIVERIES, Options},
};

const PROMISED: Duration = Duration::from_secs(35);

#[tokio::test(flavor = "multi_thread")]
async fn the_last_message_arrives_although_live_delivery_drops_everything() -> Story {
    let server = Options::new().set(DROP_DELIVERIES, "true").start().await?;
    let (mut alice, mut bob) = (Person::register(&server.origin(), "alice").await?, Person::register(&server.origin(), "bob").await?);
    let ((mut from, _), (mut to, _)) = (alice.connect().await?, bob.connect().await?);
    caught_up(&mut to).await?;
    let conversation = bob.conversation(alice.device_ref());
    for n in 1..=3_u64 {
        accepted(&mut from, alice.message(bob.device_ref(), n.to_string())).await?;
    }
    let mut seen = 0;
    to.find("the last message", PROMISED, |frame| {
        if let Some(server_frame::Kind::Deliver(deliver)) = frame.kind {
            seen = seen.max(deliver.seq);
        }
        (seen == 3).then_some(())
    })
    .await?;
    to.notice(ack(conversation, 3)).await?;

    // And once more after that: the check is repeated for as long as the connection lives.
    accepted(&mut from, alice.message(bob.device_ref(), "the very last")).await?;
    let body = to
        .find("the very last message", PROMISED, |frame| match frame.kind {
            Some(server_frame::Kind::Deliver(deliver)) if deliver.seq == 4 => Some(deliver.body),
            _ => None,
        })
        .await?;
    ensure!(body == "the very last");
    Ok(())
}
