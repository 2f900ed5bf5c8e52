//! A commit whose answer was cut off: it is settled, and the sender gets the place that the message has.

use std::time::Duration;

use anyhow::{bail, ensure};
use kith_harness::Direction;
use kith_proto::v1::{ServerFrame, client_frame, server_frame::Kind};
use kith_tests::{
    Story,
    chaos::{Fault, Fleet, FleetOptions, Link, Trouble},
    expect::{accepted, caught_up},
    person::Person,
};

use crate::fleet::SOON;

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_was_cut_off_is_settled() -> Story {
    // Often enough for the second gateway to find what the first one could not tell it of.
    let mut fleet = Fleet::start(&FleetOptions { keep_alive: Duration::from_millis(500), ..FleetOptions::default() }).await?;
    let mut alice = Person::register_at(fleet.rest(0)?, "alice").await?;
    let mut bob = Person::register_at(fleet.rest(1)?, "bob").await?;
    let ((mut from, _), (mut to, _)) = (alice.connect().await?, bob.connect().await?);
    caught_up(&mut to).await?;
    let first = accepted(&mut from, alice.message(bob.device_ref(), "first")).await?;

    fleet.inject(&Fault::Way(Link::Postgres(0), Trouble::OneWay(Direction::ToServer))).await?;
    let asked = from.request(client_frame::Kind::Send(alice.message(bob.device_ref(), "unanswered"))).await?;
    // That somebody has it shows that it was committed, although nobody has told the gateway.
    let committed = |frame: ServerFrame| match frame.kind {
        Some(Kind::Deliver(deliver)) if deliver.body == "unanswered" => Some(deliver.seq),
        _ => None,
    };
    let seq = to.find("the message whose commit was not answered", SOON, committed).await?;
    ensure!(seq == first.seq + 1, "{seq} after {}", first.seq);

    fleet.inject(&Fault::Way(Link::Postgres(0), Trouble::Cut)).await?;
    fleet.heal(&Fault::Way(Link::Postgres(0), Trouble::Cut)).await?;
    match from.answer(asked).await? {
        Kind::Accepted(accepted) => ensure!(accepted.seq == seq, "accepted as {}, delivered as {seq}", accepted.seq),
        other => bail!("Accepted was expected, not {other:?}"),
    }
    let next = accepted(&mut from, alice.message(bob.device_ref(), "next")).await?;
    ensure!(next.seq == seq + 1, "something was appended between {seq} and {}", next.seq);
    Ok(())
}
