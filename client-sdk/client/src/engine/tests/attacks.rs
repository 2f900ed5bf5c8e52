//! Lines of the attack list that need whole clients.

use super::world::{Bomb, World};
use super::{ALICE, BOB, integrity};
use crate::fault::FaultPoint;
use crate::model::{EntryBody, Integrity, StopReason, Tick};
use kith_proto::v1;

#[test]
fn a09_both_write_first_at_once_and_every_message_is_read() {
    let mut world = World::with(&["alice", "bob"]);
    let chat = world.meet(ALICE, BOB);
    world.meet(BOB, ALICE);
    // Nothing arrives before both have sent.
    world.tamper = Some(Box::new(|_| false));
    let answers: Vec<_> = [ALICE, BOB, ALICE, BOB].into_iter().map(|phone| world.text(phone, chat, &format!("first of {phone}"))).collect();
    world.run();
    drop(answers);
    world.tamper = None;
    world.kill(ALICE);
    world.kill(BOB);
    world.run();
    let begun = world.sessions();
    assert!(begun >= 2, "each began a session before it knew of the other's");
    for round in 0..10 {
        world.say(round % 2, chat, &format!("round {round}"));
    }
    assert_eq!(world.sessions(), begun, "they settled on sessions that were there");
    assert_eq!(world.texts(ALICE, chat), world.texts(BOB, chat));
    assert_eq!(world.texts(ALICE, chat).len(), 14);
    for phone in [ALICE, BOB] {
        assert!(world.history(phone, chat).iter().all(|entry| matches!(entry.body, EntryBody::Text(_))));
    }
}

#[test]
fn a09_a_first_message_that_never_left_the_phone_is_the_same_after_a_restart() {
    let mut world = World::with(&["alice", "bob"]);
    let chat = world.meet(ALICE, BOB);
    world.kill(ALICE);
    world.phones[ALICE].bomb = Some(Bomb::at(FaultPoint::ComposeCommitted, 0));
    drop(world.text(ALICE, chat, "lost on its way"));
    world.run();
    world.say(ALICE, chat, "second");
    world.say(BOB, chat, "third");
    assert_eq!(world.texts(BOB, chat), world.texts(ALICE, chat));
    assert_eq!(world.texts(BOB, chat).last().unwrap(), "third");
    assert_eq!(world.sessions(), 1);
}

#[test]
fn a20_an_unreadable_session_stops_the_client_and_no_other_is_begun_in_its_place() {
    let mut world = World::with(&["alice", "bob"]);
    let chat = world.meet(ALICE, BOB);
    world.say(ALICE, chat, "one");
    world.say(BOB, chat, "two");
    let (sessions, sends) = (world.sessions(), world.sends);
    world.kill(BOB);
    world.damage_sessions(BOB);
    world.run();
    let mut answer = world.text(BOB, chat, "three");
    world.run();
    assert!(matches!(answer.try_recv(), Ok(Err(crate::CallError::Storage(_)))), "it was not taken");
    let state = *world.phones[BOB].published.connection.borrow();
    assert_eq!((world.sessions(), world.sends), (sessions, sends), "{state:?}");
    assert_eq!(world.stopped_for[BOB], Some(StopReason::StoreFailed), "{state:?}");
}

#[test]
fn a28_another_log_than_the_senders_is_noticed_at_the_next_message() {
    let mut world = World::with(&["alice", "bob"]);
    let chat = world.meet(ALICE, BOB);
    world.say(ALICE, chat, "one");
    world.say(BOB, chat, "two");
    // Bob is shown somebody else's checkpoint where Alice's message stands.
    world.tamper = Some(Box::new(|deliver| {
        (deliver.body, deliver.slice) = (bytes::Bytes::new(), bytes::Bytes::new());
        deliver.client_msg_id = vec![0x55; 16].into();
        deliver.set_absent(v1::AbsentReason::NotAddressed);
        true
    }));
    world.say(ALICE, chat, "three");
    world.tamper = None;
    world.say(ALICE, chat, "four");
    let noticed = integrity(&world, BOB, chat);
    assert!(noticed.contains(&Integrity::Reorder) && noticed.contains(&Integrity::Gap { missing: 1 }), "{noticed:?}");
    assert!(integrity(&world, ALICE, chat).is_empty());
}

#[test]
fn places_that_no_log_has_are_not_places() {
    let mut world = World::with(&["alice", "bob"]);
    let chat = world.meet(ALICE, BOB);
    world.say(ALICE, chat, "one");
    let real = world.delivered_to(BOB, chat, 1);
    for (from_seq, to_seq) in [(2, u64::MAX), (0, 5), (9, 3), (u64::MAX, u64::MAX)] {
        let absent = v1::Absent { conversation: chat.to_bytes(), from_seq, to_seq, reason: v1::AbsentReason::Expired.into() };
        world.push_to(BOB, v1::server_frame::Kind::Absent(absent));
        world.run();
    }
    for seq in [0, 1 << 62, u64::MAX] {
        world.push_to(BOB, v1::server_frame::Kind::Deliver(v1::Deliver { seq, ..real.clone() }));
        world.pass(60_000);
    }
    world.say(ALICE, chat, "two");
    world.say(BOB, chat, "three");
    for at in [ALICE, BOB] {
        assert_eq!(world.texts(at, chat), ["one", "two", "three"]);
        assert!(integrity(&world, at, chat).is_empty());
    }
}

#[test]
fn an_acceptance_of_no_place_ends_the_connection_and_the_next_one_knows_better() {
    let mut world = World::with(&["alice", "bob"]);
    let chat = world.meet(ALICE, BOB);
    for seq in [0, 1 << 62, u64::MAX] {
        let connection = world.phones[ALICE].connection;
        world.misplaced = Some(seq);
        world.say(ALICE, chat, &format!("accepted at {seq}"));
        world.pass(60_000);
        assert_ne!(world.phones[ALICE].connection, connection);
        assert_eq!(world.history(ALICE, chat).last().unwrap().tick, Some(Tick::Delivered));
    }
    assert_eq!(world.texts(ALICE, chat), world.texts(BOB, chat));
    assert_eq!(world.texts(BOB, chat).len(), 3);
}

#[test]
fn a23_a_device_that_left_is_owed_nothing_and_what_nobody_can_get_is_shown_failed() {
    let mut world = World::with(&["alice", "bob"]);
    let chat = world.meet(ALICE, BOB);
    world.say(ALICE, chat, "one");
    // Bob owes a checkpoint from now on.
    world.accept(BOB, chat);
    world.leave(ALICE, BOB);
    let sends = world.sends;
    world.pass(10_000);
    assert_eq!(world.sends, sends);
    let engine = world.phones[BOB].engine.as_ref().unwrap();
    assert!(engine.wake_at() > world.now, "there is nothing left to do");
    drop(world.text(BOB, chat, "to nobody"));
    world.run();
    world.pass(10_000);
    assert_eq!(world.history(BOB, chat).last().unwrap().tick, Some(Tick::Failed));
    assert_eq!(world.sends, sends);
}
