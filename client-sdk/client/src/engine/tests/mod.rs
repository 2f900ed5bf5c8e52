//! Whole conversations of engines: what must hold however phones die and servers lie.

mod attacks;
mod probing;
mod renewal;
mod world;

use super::{Fetch, Input};
use crate::fault::FaultPoint;
use crate::model::{Blocked, EntryBody, Integrity, NoticeKind, Tick, Undecryptable};
use kith_proto::v1;
use world::{Bomb, World};

const ALICE: usize = 0;
const BOB: usize = 1;
const CAROL: usize = 2;

fn numbers(from: usize, to: usize) -> Vec<String> {
    (from..=to).map(|n| format!("message {n}")).collect()
}

fn integrity(world: &World, at: usize, conversation: kith_proto::id::ConversationId) -> Vec<Integrity> {
    let event = |entry: crate::Entry| if let EntryBody::Integrity(event) = entry.body { Some(event) } else { None };
    world.history(at, conversation).into_iter().filter_map(event).collect()
}

#[test]
fn two_people_talk_and_the_ticks_move() {
    let mut world = World::with(&["alice", "bob"]);
    world.phones[BOB].online = false;
    let chat = world.meet(ALICE, BOB);
    world.say(ALICE, chat, "hello bob");
    assert_eq!(world.history(ALICE, chat)[0].tick, Some(Tick::Sent));
    world.phones[BOB].online = true;
    world.run();
    assert_eq!(world.texts(BOB, chat), ["hello bob"]);
    assert_eq!(world.shown(BOB, chat).unread, 1);
    assert_eq!(world.history(ALICE, chat)[0].tick, Some(Tick::Delivered));
    let (reply, _answer) = tokio::sync::oneshot::channel();
    world.input(BOB, Input::Command(super::Command::MarkRead { conversation: chat, seq: 1, reply }));
    world.say(BOB, chat, "hello alice");
    assert_eq!(world.history(ALICE, chat)[0].tick, Some(Tick::Read));
    assert_eq!(world.texts(ALICE, chat), ["hello bob", "hello alice"]);
    assert_eq!(world.shown(BOB, chat).unread, 0);
    for round in 0..30 {
        world.say(round % 2, chat, &format!("round {round}"));
    }
    assert_eq!(world.texts(ALICE, chat), world.texts(BOB, chat));
    assert!(integrity(&world, ALICE, chat).is_empty() && integrity(&world, BOB, chat).is_empty());
}

#[test]
fn what_comes_again_is_acknowledged_again() {
    let mut world = World::with(&["alice", "bob"]);
    let chat = world.meet(ALICE, BOB);
    world.lose_acks = true;
    world.say(ALICE, chat, "did you get this?");
    world.lose_acks = false;
    world.pass(60_000);
    assert_eq!(world.history(ALICE, chat).last().unwrap().tick, Some(Tick::Sent));
    // The server finds the device behind, and sends it again over the same connection.
    let again = world.delivered_to(BOB, chat, 1);
    world.push_to(BOB, v1::server_frame::Kind::Deliver(again));
    world.run();
    assert_eq!(world.history(ALICE, chat).last().unwrap().tick, Some(Tick::Delivered));
    assert_eq!(world.texts(BOB, chat), ["did you get this?"]);
    let acknowledged = world.told.len();
    world.pass(60_000);
    assert_eq!(world.told.len(), acknowledged);
}

#[test]
fn ticks_that_were_lost_on_their_way_are_asked_for_ever_less_often() {
    let mut world = World::with(&["alice", "bob"]);
    let chat = world.meet(ALICE, BOB);
    world.lose_ticks = true;
    world.say(ALICE, chat, "did you get this?");
    world.run();
    assert_eq!(world.history(ALICE, chat).last().unwrap().tick, Some(Tick::Sent));
    world.pass(60_000);
    assert_eq!(world.history(ALICE, chat).last().unwrap().tick, Some(Tick::Delivered), "asked for");
    // It is not read for two hours.
    let before = world.asked_for_ticks;
    world.pass(7_200_000);
    let asked = world.asked_for_ticks - before;
    assert!((10..=20).contains(&asked), "{asked} times");
    world.pass(24 * 3_600_000);
    let before = world.asked_for_ticks;
    world.pass(24 * 3_600_000);
    assert_eq!(world.asked_for_ticks, before, "nobody asks for ever");
}

#[test]
fn a_clock_that_is_set_back_stops_no_timer() {
    let mut world = World::with(&["alice", "bob"]);
    let chat = world.meet(ALICE, BOB);
    world.lose_ticks = true;
    world.say(ALICE, chat, "did you get this?");
    world.run();
    world.now -= 3_600_000;
    world.pass(60_000);
    assert_eq!(world.history(ALICE, chat).last().unwrap().tick, Some(Tick::Delivered), "asked for");
}

#[test]
fn a18_a_crash_between_any_two_steps_reuses_no_key_and_loses_and_repeats_nothing() {
    for point in FaultPoint::ALL.into_iter().filter(|point| !matches!(point, FaultPoint::SendWritten | FaultPoint::AckWritten)) {
        for victim in [ALICE, BOB] {
            for nth in [0, 3] {
                let mut world = World::with(&["alice", "bob"]);
                let chat = world.meet(ALICE, BOB);
                world.say(ALICE, chat, "message 0");
                world.say(BOB, chat, "message 0");
                world.kill(victim);
                world.phones[victim].bomb = Some(Bomb::at(point, nth));
                world.run();
                let mut accepted = [vec!["message 0".to_owned()], vec!["message 0".to_owned()]];
                for n in 1..=8 {
                    for phone in [ALICE, BOB] {
                        let text = format!("message {n}");
                        let mut answer = world.text(phone, chat, &text);
                        world.run();
                        match answer.try_recv() {
                            Ok(Ok(_)) => accepted[phone].push(text),
                            // Killed before it could answer. If it is durable it is sent all the same: what the app was not told is either there or not.
                            _ => {
                                let there = world.history(phone, chat).iter().any(|entry| entry.tick.is_some() && entry.text() == Some(&text));
                                accepted[phone].extend(there.then_some(text));
                            }
                        }
                    }
                }
                world.pass(3_000);
                for (reader, writer) in [(ALICE, BOB), (BOB, ALICE)] {
                    let history = world.history(reader, chat);
                    let got: Vec<String> =
                        history.iter().filter(|entry| entry.tick.is_none()).filter_map(|entry| entry.text().map(str::to_owned)).collect();
                    assert_eq!(got, accepted[writer], "{point:?} hit {nth} in {victim}");
                    assert!(integrity(&world, reader, chat).is_empty(), "{point:?} hit {nth} in {victim}");
                    assert!(history.iter().all(|entry| !matches!(entry.body, EntryBody::Undecryptable { .. })));
                }
            }
        }
    }
}

#[test]
fn a_conversation_that_could_not_be_stored_is_not_taken_for_the_next_one() {
    let mut world = World::with(&["alice", "bob", "carol"]);
    world.run();
    let database = rusqlite::Connection::open(world.phones[ALICE].home.join("store.db")).unwrap();
    let full = "CREATE TRIGGER full BEFORE INSERT ON conversation BEGIN SELECT RAISE(ABORT, 'the disk is full'); END";
    database.execute_batch(full).unwrap();
    assert!(world.try_meet(ALICE, BOB).is_err(), "nothing was stored");
    database.execute_batch("DROP TRIGGER full").unwrap();
    world.run();
    let (with_bob, with_carol) = (world.conversation(ALICE, BOB), world.meet(ALICE, CAROL));
    let mut answer = world.text(ALICE, with_bob, "for bob");
    world.run();
    assert!(answer.try_recv().unwrap().is_err(), "there is no such conversation yet");
    assert!(world.history(ALICE, with_carol).is_empty());
    assert_eq!(world.meet(ALICE, BOB), with_bob);
    world.say(ALICE, with_bob, "for bob");
    assert_eq!(world.texts(BOB, with_bob), ["for bob"]);
    assert!(world.phones[CAROL].published.conversation(with_carol).is_none(), "carol got nothing");
}

#[test]
fn a_retry_after_an_unknown_outcome_sends_the_identical_bytes() {
    let mut world = World::with(&["alice", "bob"]);
    let chat = world.meet(ALICE, BOB);
    world.say(ALICE, chat, "one");
    // The answer never comes: the phone dies as it arrives. Nor does the log tell: only a retry can.
    world.kill(ALICE);
    world.tamper = Some(Box::new(|deliver| deliver.absent() != v1::AbsentReason::Own));
    world.phones[ALICE].bomb = Some(Bomb::at(FaultPoint::AcceptedArrived, 0));
    world.run();
    drop(world.text(ALICE, chat, "two"));
    world.run();
    assert_eq!(world.identical_retries, 1);
    assert_eq!(world.texts(BOB, chat), ["one", "two"]);
    assert_eq!(world.history(ALICE, chat).last().unwrap().tick, Some(Tick::Delivered));
}

#[test]
fn refusals_stop_the_pipeline_and_order_survives() {
    let mut world = World::with(&["alice", "bob"]);
    let chat = world.meet(ALICE, BOB);
    world.say(ALICE, chat, "message 1");
    for (code, retry) in [(v1::ErrorCode::Overloaded, v1::Retry::After), (v1::ErrorCode::Internal, v1::Retry::Same)] {
        let mut error = v1::Error { after_ms: 500, ..v1::Error::default() };
        error.set_code(code);
        error.set_retry(retry);
        world.refuse.push_back(error);
    }
    let answers: Vec<_> = numbers(2, 40).iter().map(|text| world.text(ALICE, chat, text)).collect();
    world.run();
    world.pass(5_000);
    drop(answers);
    assert_eq!(world.texts(BOB, chat), numbers(1, 40));
    assert!(integrity(&world, BOB, chat).is_empty());
}

/// What cannot be read just now is not gone. (A device that took it for gone would acknowledge it, and then the server deletes it.)
#[test]
fn a_hole_stays_open_for_as_long_as_the_server_cannot_read() {
    let mut world = World::with(&["alice", "bob"]);
    let chat = world.meet(ALICE, BOB);
    world.say(ALICE, chat, "message 1");
    world.unreadable = true;
    let lost = std::rc::Rc::new(std::cell::Cell::new(true));
    let once = std::rc::Rc::clone(&lost);
    world.tamper = Some(Box::new(move |_| !once.replace(false)));
    world.say(ALICE, chat, "message 2");
    world.say(ALICE, chat, "message 3");
    world.pass(20_000);
    assert!(world.pages > 5, "{} pages were asked for", world.pages);
    assert_eq!(world.texts(BOB, chat), ["message 1"]);
    world.unreadable = false;
    world.pass(5_000);
    assert_eq!(world.texts(BOB, chat), numbers(1, 3));
    assert!(integrity(&world, BOB, chat).is_empty());
}

#[test]
fn a_message_refused_for_good_is_shown_failed_and_leaves_no_gap() {
    let mut world = World::with(&["alice", "bob"]);
    let chat = world.meet(ALICE, BOB);
    world.say(ALICE, chat, "message 1");
    let mut error = v1::Error::default();
    error.set_code(v1::ErrorCode::TooLarge);
    error.set_retry(v1::Retry::Never);
    world.refuse.push_back(error);
    let answers: Vec<_> = numbers(2, 4).iter().map(|text| world.text(ALICE, chat, text)).collect();
    world.run();
    world.pass(1_000);
    drop(answers);
    assert_eq!(world.texts(BOB, chat), ["message 1", "message 3", "message 4"]);
    assert!(integrity(&world, BOB, chat).is_empty());
    assert!(world.history(ALICE, chat).iter().any(|entry| entry.text() == Some("message 2") && entry.tick == Some(Tick::Failed)));
}

#[test]
fn a21_what_waited_in_a_store_that_is_copied_back_is_sent_once() {
    let mut world = World::with(&["alice", "bob"]);
    let chat = world.meet(ALICE, BOB);
    world.say(ALICE, chat, "message 1");
    world.say(BOB, chat, "reply 1");
    for text in numbers(2, 4) {
        world.say_offline(ALICE, chat, &text);
    }
    let backup = world.back_up(ALICE);
    world.run();
    world.pass(1_000);
    assert_eq!(world.texts(BOB, chat).last().unwrap(), "message 4");
    world.kill(ALICE);
    world.copy_back(ALICE, &backup);
    world.copied_back = true;
    world.run();
    world.pass(5_000);
    world.say(ALICE, chat, "after");
    let texts = world.texts(BOB, chat);
    for text in numbers(2, 4) {
        assert_eq!(texts.iter().filter(|shown| **shown == text).count(), 1, "{texts:?}");
    }
    assert_eq!(texts.last().unwrap(), "after");
}

#[test]
fn a21_a_store_copied_back_is_noticed_before_anything_is_sent() {
    let mut world = World::with(&["alice", "bob"]);
    let chat = world.meet(ALICE, BOB);
    world.say(ALICE, chat, "message 1");
    world.say(BOB, chat, "reply 1");
    world.kill(ALICE);
    let backup = world.back_up(ALICE);
    world.run();
    for text in numbers(2, 6) {
        world.say(ALICE, chat, &text);
    }
    world.kill(ALICE);
    world.copy_back(ALICE, &backup);
    world.run();
    world.say(ALICE, chat, "after");
    world.pass(5_000);
    let kinds: Vec<NoticeKind> = world.notices(ALICE).iter().map(|notice| notice.kind).collect();
    assert!(kinds.contains(&NoticeKind::StoreRolledBack), "{kinds:?}");
    assert!(integrity(&world, ALICE, chat).contains(&Integrity::OwnRollback));
    assert!(integrity(&world, BOB, chat).contains(&Integrity::SenderRestarted));
    assert_eq!(world.texts(BOB, chat).last().unwrap(), "after");
    let lost = |entry: &crate::Entry| matches!(entry.body, EntryBody::Undecryptable { reason: Undecryptable::LostByRollback, .. });
    assert_eq!(world.history(ALICE, chat).iter().filter(|entry| lost(entry)).count(), 5);
    // The other way works too, with the new prekeys.
    world.say(BOB, chat, "reply 2");
    assert_eq!(world.texts(ALICE, chat).last().unwrap(), "reply 2");
}

#[test]
fn a23_a_ghost_device_gets_nothing_and_the_user_is_told() {
    let mut world = World::with(&["alice", "bob"]);
    let chat = world.meet(ALICE, BOB);
    world.say(ALICE, chat, "before");
    let account = world.phones[BOB].account.to_bytes();
    world.ghosts = vec![v1::DeviceRef { account, device: vec![0x66; 16].into() }];
    drop(world.text(ALICE, chat, "secret"));
    world.run();
    assert_eq!(world.shown(ALICE, chat).blocked, Some(Blocked::GhostDevice));
    assert!(world.notices(ALICE).iter().any(|notice| notice.kind == NoticeKind::GhostDevice));
    assert_eq!(world.history(ALICE, chat).last().unwrap().tick, Some(Tick::Pending));
    world.ghosts.clear();
    world.pass(70_000);
    assert_eq!(world.texts(BOB, chat), ["before", "secret"]);
    assert!(integrity(&world, BOB, chat).is_empty());
}

#[test]
fn a25_a_swapped_identity_key_is_refused_before_the_first_send() {
    let mut world = World::with(&["alice", "bob", "mallory"]);
    let (account, history) = (world.phones[BOB].account, world.honest_history(2));
    let (reply, mut answer) = tokio::sync::oneshot::channel();
    world.input(ALICE, Input::Command(super::Command::Meet { account, username: "bob".to_owned(), history, reply }));
    world.run();
    assert!(matches!(answer.try_recv().unwrap(), Err(crate::RequestError::NotTrusted(_))));
    // And after contact: the server shows mallory's list for bob.
    let chat = world.meet(ALICE, BOB);
    world.say(ALICE, chat, "before");
    let mut forged = world.honest_history(2);
    forged.newest_version = 2;
    world.forge(BOB, forged);
    let ghost = v1::DeviceListChanged { account: world.phones[BOB].account.to_bytes(), version: 2 };
    world.push_to(ALICE, v1::server_frame::Kind::DeviceListChanged(ghost));
    world.run();
    assert!(world.shown(ALICE, chat).blocked.is_some());
    assert!(world.notices(ALICE).iter().any(|notice| matches!(notice.kind, NoticeKind::ListRefused | NoticeKind::KeysChanged)));
}

#[test]
fn a27_a_message_under_another_senders_name_is_refused() {
    let mut world = World::with(&["alice", "bob", "mallory"]);
    let chat = world.meet(ALICE, BOB);
    world.say(ALICE, chat, "real");
    let (account, device) = (world.phones[2].account.to_bytes(), world.phones[2].device.to_bytes());
    world.tamper = Some(Box::new(move |deliver| {
        (deliver.sender_account, deliver.sender_device) = (account.clone(), device.clone());
        true
    }));
    world.say(ALICE, chat, "spoofed");
    world.tamper = None;
    assert_eq!(world.texts(BOB, chat), ["real"]);
    let last = world.history(BOB, chat).pop().unwrap();
    assert!(matches!(last.body, EntryBody::Undecryptable { reason: Undecryptable::NotAMember, .. }), "{last:?}");
}

#[test]
fn a28_what_the_server_drops_replays_or_delays_is_noticed() {
    let mut world = World::with(&["alice", "bob"]);
    let chat = world.meet(ALICE, BOB);
    world.say(ALICE, chat, "message 1");
    // Delayed and lost pushes are no more than holes: they are asked for and nobody notices.
    let mut seen = 0;
    world.tamper = Some(Box::new(move |_| {
        seen += 1;
        seen % 3 != 0
    }));
    for text in numbers(2, 12) {
        world.say(ALICE, chat, &text);
    }
    world.tamper = None;
    world.pass(3_000);
    world.say(ALICE, chat, "message 13");
    world.pass(3_000);
    assert_eq!(world.texts(BOB, chat), numbers(1, 13));
    assert!(integrity(&world, BOB, chat).is_empty());
    // A message taken out of the log and its place given to nothing: the chain shows it.
    world.tamper = Some(Box::new(|deliver| {
        deliver.slice = bytes::Bytes::new();
        deliver.body = bytes::Bytes::new();
        deliver.set_absent(v1::AbsentReason::NotAddressed);
        true
    }));
    world.say(ALICE, chat, "message 14");
    world.tamper = None;
    world.say(ALICE, chat, "message 15");
    assert_eq!(integrity(&world, BOB, chat), [Integrity::Gap { missing: 1 }]);
    // A message shown a second time, under the place of another.
    let copy = world.delivered_to(BOB, chat, 15);
    world.tamper = Some(Box::new(move |deliver| {
        let seq = deliver.seq;
        *deliver = v1::Deliver { seq, ..copy.clone() };
        true
    }));
    world.say(ALICE, chat, "message 16");
    world.tamper = None;
    assert!(integrity(&world, BOB, chat).contains(&Integrity::Replay));
    assert_eq!(world.texts(BOB, chat).iter().filter(|text| *text == "message 15").count(), 1);
}

#[test]
fn what_cannot_be_read_is_shown_and_repaired() {
    let mut world = World::with(&["alice", "bob"]);
    let chat = world.meet(ALICE, BOB);
    world.say(ALICE, chat, "one");
    world.say(BOB, chat, "two");
    world.tamper = Some(Box::new(|deliver| {
        if let Some(last) = deliver.slice.len().checked_sub(1) {
            let mut slice = deliver.slice.to_vec();
            slice[last] ^= 1;
            deliver.slice = slice.into();
        }
        true
    }));
    world.say(ALICE, chat, "three");
    world.tamper = None;
    let broken = world.history(BOB, chat).pop().unwrap();
    assert!(matches!(broken.body, EntryBody::Undecryptable { reason: Undecryptable::NotAuthentic, .. }), "{broken:?}");
    world.pass(4_000);
    let texts = world.texts(BOB, chat);
    assert_eq!(texts, ["one", "two", "three"]);
    assert_eq!(world.history(BOB, chat).pop().unwrap().id, broken.id, "it stays the same entry");
    world.say(ALICE, chat, "four");
    world.say(BOB, chat, "five");
    assert_eq!(world.texts(ALICE, chat), ["one", "two", "three", "four", "five"]);
    assert!(integrity(&world, BOB, chat).is_empty(), "what is shown as unreadable is no gap");
}

#[test]
fn a_one_sided_conversation_is_confirmed_and_proved_by_checkpoints() {
    let mut world = World::with(&["alice", "bob"]);
    let chat = world.meet(ALICE, BOB);
    world.say(ALICE, chat, "one");
    world.pass(5_000);
    assert_eq!(world.shown(ALICE, chat).proved, 0, "a stranger learns nothing");
    world.accept(BOB, chat);
    world.pass(5_000);
    assert!(world.shown(ALICE, chat).proved >= 1);
    let sends = world.sends;
    world.pass(20_000);
    assert_eq!(world.sends, sends, "checkpoints are not answered by checkpoints");
    assert_eq!(world.texts(BOB, chat), ["one"]);
}

#[test]
fn a_contacts_new_store_and_own_queue_survive_restarts() {
    let mut world = World::with(&["alice", "bob"]);
    let chat = world.meet(ALICE, BOB);
    world.phones[ALICE].online = false;
    world.run();
    for text in numbers(1, 20) {
        world.say(ALICE, chat, &text);
    }
    world.kill(ALICE);
    world.run();
    assert!(world.history(ALICE, chat).iter().all(|entry| entry.tick == Some(Tick::Pending)));
    world.phones[ALICE].online = true;
    world.run();
    assert_eq!(world.texts(BOB, chat), numbers(1, 20));
}

#[test]
fn few_prekeys_are_topped_up() {
    let mut world = World::with(&["alice", "bob"]);
    world.run();
    world.drain_keys(BOB);
    let mut fetch = None;
    world.push_to(BOB, v1::server_frame::Kind::KeysLow(v1::KeysLow { one_time: 0, one_time_kem: 0 }));
    world.run();
    fetch.get_or_insert(Fetch::Keys);
    assert!(world.stock(BOB) >= 50);
}

#[test]
fn a40_debug_shows_nothing_of_anyone() {
    let mut world = World::with(&["alice", "bob"]);
    let chat = world.meet(ALICE, BOB);
    world.say(ALICE, chat, "canary");
    let shown = format!("{:?} {:?} {:?}", world.history(ALICE, chat), world.shown(ALICE, chat), world.notices(ALICE));
    assert!(!shown.contains("canary") && !shown.contains("user1"), "{shown}");
    assert!(!shown.contains("99, 97, 110, 97, 114, 121"));
}
