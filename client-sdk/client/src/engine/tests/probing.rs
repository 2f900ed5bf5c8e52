//! What somebody can find out by sending (A41) and by measuring (A42).

use super::super::control::{KIND_REPAIR, KIND_RESENT, RepairRequest, Resent};
use super::world::World;
use super::{ALICE, BOB};
use crate::model::EntryBody;
use kith_crypto::content::{Content, KIND_CHECKPOINT};
use kith_proto::id::ConversationId;
use prost::Message as _;

/// Everything that can be asked of a message that does not exist, or no longer, without anything being shown.
fn probes(world: &World, chat: ConversationId) -> Vec<(u8, Vec<u8>)> {
    let nobody = world.phones[ALICE].device.to_bytes().to_vec();
    let of_another = RepairRequest { device: vec![9; 16], messages: vec![vec![7; 16]] };
    let unknown = RepairRequest { device: nobody, messages: (0..64).map(|n| vec![n; 16]).collect() };
    let _ = chat;
    vec![
        (KIND_REPAIR, of_another.encode_to_vec()),
        (KIND_REPAIR, unknown.encode_to_vec()),
        (KIND_REPAIR, b"no protobuf".to_vec()),
        (KIND_RESENT, Resent { content: vec![0; 200] }.encode_to_vec()),
        (KIND_RESENT, b"no protobuf".to_vec()),
        (KIND_CHECKPOINT, Vec::new()),
    ]
}

/// What Alice has told others since a place, but for acknowledgements, which go to the server only.
fn told(world: &World, since: usize) -> Vec<&'static str> {
    world.told[since..].iter().filter(|(phone, what)| *phone == ALICE && *what != "ack").map(|(_, what)| *what).collect()
}

#[test]
fn a41_a_stranger_gets_no_answer_whatever_is_sent() {
    let mut world = World::with(&["alice", "mallory"]);
    let chat = world.meet(BOB, ALICE);
    world.say(BOB, chat, "hello");
    for (kind, body) in probes(&world, chat) {
        world.silent(BOB, chat, kind, body);
        world.pass(10_000);
    }
    // Nor for what cannot be read at all, nor for a kind that does not exist.
    world.tamper = Some(Box::new(|deliver| {
        deliver.slice = vec![1; deliver.slice.len()].into();
        true
    }));
    world.say(BOB, chat, "garbage");
    world.tamper = None;
    world.silent(BOB, chat, 99, b"a reaction to nothing".to_vec());
    world.pass(4_000_000);
    assert_eq!(told(&world, 0), Vec::<&str>::new());
    assert!(!world.shown(ALICE, chat).accepted);
}

#[test]
fn a41_a_contact_who_asks_for_what_does_not_exist_sees_no_more_than_an_ordinary_message_shows() {
    let mut world = World::with(&["alice", "mallory"]);
    let chat = world.meet(BOB, ALICE);
    world.say(BOB, chat, "hello");
    world.say(ALICE, chat, "hello");
    world.pass(10_000);
    let shown = world.history(ALICE, chat).len();
    let since = world.told.len();
    world.say(BOB, chat, "an ordinary message");
    world.pass(10_000);
    let ordinary: Vec<_> = world.told[since..].iter().filter(|(phone, _)| *phone == ALICE).copied().collect();
    for (kind, body) in probes(&world, chat) {
        let since = world.told.len();
        world.silent(BOB, chat, kind, body);
        world.pass(10_000);
        let probed: Vec<_> = world.told[since..].iter().filter(|(phone, _)| *phone == ALICE).copied().collect();
        assert_eq!(probed, ordinary, "kind {kind}");
    }
    assert_eq!(world.history(ALICE, chat).len(), shown + 1, "and nothing of it is shown");
}

#[test]
fn a27_a_resent_content_changes_nothing_that_can_be_read_and_nothing_of_another() {
    let mut world = World::with(&["alice", "mallory"]);
    let chat = world.meet(BOB, ALICE);
    world.say(BOB, chat, "the first word");
    world.say(ALICE, chat, "an answer");
    let mut heads = world.phones[BOB].engine.as_ref().unwrap().store.newest_of(1, crate::store::Role::Mine, 1).unwrap();
    let sent = heads.pop().unwrap().record;
    let other = kith_proto::v1::Content {
        version: 1,
        kind: Some(kith_proto::v1::content::Kind::Text(kith_proto::v1::Text { text: "another word".to_owned() })),
    };
    let forged = [sent.head.as_slice(), &other.encode_to_vec()].concat();
    assert!(Content::from_bytes(&forged).is_ok());
    world.silent(BOB, chat, KIND_RESENT, Resent { content: forged }.encode_to_vec());
    world.pass(5_000);
    assert_eq!(world.texts(ALICE, chat), ["the first word", "an answer"]);
    assert!(world.history(ALICE, chat).iter().all(|entry| matches!(entry.body, EntryBody::Text(_))));
}

#[test]
fn a42_nothing_that_leaves_a_client_has_the_length_of_what_it_holds() {
    let mut world = World::with(&["alice", "bob"]);
    let chat = world.meet(ALICE, BOB);
    for length in [1, 2, 40, 63, 200, 300, 1_000, 5_000, 20_000, crate::MAX_TEXT_BYTES] {
        world.say(ALICE, chat, &"x".repeat(length));
        world.say(BOB, chat, &"y".repeat(length));
    }
    // Checkpoints, requests for repair and what answers them, too.
    world.silent(ALICE, chat, KIND_CHECKPOINT, Vec::new());
    world.tamper = Some(Box::new(|deliver| {
        let last = deliver.slice.len().saturating_sub(1);
        deliver.slice = deliver.slice.iter().enumerate().map(|(at, byte)| if at == last { byte ^ 1 } else { *byte }).collect::<Vec<_>>().into();
        true
    }));
    world.say(ALICE, chat, &"z".repeat(crate::MAX_TEXT_BYTES));
    world.tamper = None;
    world.pass(5_000);
    assert_eq!(world.texts(BOB, chat).last().map(String::len), Some(crate::MAX_TEXT_BYTES), "repaired");
    let (bodies, slices) = &world.lengths;
    let bucket = |length: &usize| (length - 16).is_power_of_two() && (256..=32_768).contains(&(length - 16));
    assert!(bodies.iter().all(bucket), "{bodies:?}");
    assert!(bodies.len() <= 8);
    assert!(slices.iter().all(|length| [190, 1_322, 1_379].contains(length)), "{slices:?}");
}

#[test]
fn a22_a_message_held_for_an_earlier_one_survives_a_crash() {
    let mut world = World::with(&["alice", "bob"]);
    let chat = world.meet(ALICE, BOB);
    world.say(ALICE, chat, "one");
    let mut first = true;
    world.tamper = Some(Box::new(move |_| !std::mem::take(&mut first)));
    world.say(ALICE, chat, "two");
    world.say(ALICE, chat, "three");
    world.tamper = None;
    assert_eq!(world.texts(BOB, chat), ["one"], "the third is held in memory");
    world.kill(BOB);
    world.run();
    assert_eq!(world.texts(BOB, chat), ["one", "two", "three"]);
    assert!(super::integrity(&world, BOB, chat).is_empty());
}
