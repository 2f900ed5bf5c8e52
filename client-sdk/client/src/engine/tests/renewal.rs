//! Keys that are replaced: prekeys by the week, the identity by its recovery key.

use super::world::World;
use super::{ALICE, BOB, integrity};
use crate::model::{EntryBody, NoticeKind, Undecryptable};

const HOUR: u64 = 60 * 60 * 1000;
const DAY: u64 = 24 * HOUR;

#[test]
fn signed_and_last_resort_prekeys_are_replaced_weekly_and_erased_45_days_later() {
    let mut world = World::with(&["alice", "bob"]);
    world.run();
    let first = world.weekly_keys(ALICE);
    world.now += 7 * DAY - HOUR;
    world.pass(1_000);
    assert_eq!(world.weekly_keys(ALICE), first, "before the week is over");
    world.now += 7 * HOUR;
    world.pass(1_000);
    let second = world.weekly_keys(ALICE);
    assert!(second[0] > first[0] && second[1] > first[1], "{first:?} {second:?}");
    assert!(first.into_iter().chain(second).all(|id| world.holds(ALICE, id)), "what others have fetched is still good");
    world.now += 44 * DAY;
    world.pass(1_000);
    let third = world.weekly_keys(ALICE);
    assert!(third[0] > second[0]);
    assert!(first.into_iter().chain(second).all(|id| world.holds(ALICE, id)), "44 days after");
    // Without a connection, too: what is due goes.
    world.phones[ALICE].online = false;
    world.run();
    world.now += DAY + 6 * HOUR;
    world.pass(1_000);
    assert!(first.iter().all(|id| !world.holds(ALICE, *id)), "45 days after");
    assert!(second.into_iter().chain(third).all(|id| world.holds(ALICE, id)), "the time of the second ones began when the third came");
}

#[test]
fn a_replaced_prekey_is_known_as_such_when_the_answer_to_its_replacement_was_lost() {
    let mut world = World::with(&["alice"]);
    world.run();
    let first = world.weekly_keys(ALICE);
    world.now += 8 * DAY;
    world.lose_uploads = true;
    world.pass(1_000);
    assert!(world.weekly_keys(ALICE)[0] > first[0], "the server has the new ones and the phone does not know");
    world.kill(ALICE);
    world.lose_uploads = false;
    world.pass(1_000);
    world.now += 46 * DAY;
    world.pass(1_000);
    assert!(first.iter().all(|id| !world.holds(ALICE, *id)));
}

#[test]
fn a_first_message_opens_until_its_prekeys_are_erased() {
    for (days, opens) in [(44, true), (46, false)] {
        let mut world = World::with(&["alice", "bob"]);
        let chat = world.meet(BOB, ALICE);
        world.tamper = Some(Box::new(|_| false));
        world.say(BOB, chat, "on its way for long");
        world.now += 7 * DAY;
        world.pass(1_000);
        world.now += days * DAY;
        world.pass(1_000);
        world.tamper = None;
        world.kill(ALICE);
        world.run();
        let entries = world.history(ALICE, chat);
        let gone = |entry: &crate::Entry| matches!(entry.body, EntryBody::Undecryptable { reason: Undecryptable::PrekeyGone, .. });
        assert_eq!(world.texts(ALICE, chat).len(), usize::from(opens), "after {days} days");
        assert_eq!(entries.iter().any(gone), !opens, "after {days} days");
    }
}

#[test]
fn a25_an_identity_replaced_by_its_recovery_key_is_told_and_unverified_and_the_conversation_goes_on() {
    let mut world = World::with(&["alice", "bob"]);
    let chat = world.meet(BOB, ALICE);
    world.say(BOB, chat, "one");
    world.say(ALICE, chat, "two");
    world.verify(BOB, chat);
    assert!(world.shown(BOB, chat).verified);
    let (number, sessions) = (world.safety_number(BOB, chat), world.sessions());
    // On its way while it happens.
    world.tamper = Some(Box::new(|_| false));
    world.say(BOB, chat, "three");
    world.say(ALICE, chat, "four");
    world.rotate_identity(ALICE);
    world.pass(1_000);
    world.tamper = None;
    let told = world.notices(BOB);
    assert!(told.iter().any(|notice| notice.kind == NoticeKind::KeysRotated && notice.conversation == Some(chat)), "{told:?}");
    let shown = world.shown(BOB, chat);
    assert!(!shown.verified, "nobody has compared the new number");
    assert_eq!(shown.blocked, None, "the recovery key said so, so nothing is held back");
    assert_ne!(world.safety_number(BOB, chat), number);
    world.kill(ALICE);
    world.kill(BOB);
    world.run();
    world.say(BOB, chat, "five");
    assert!(world.sessions() > sessions, "nothing more is sent under the old identity");
    world.say(ALICE, chat, "six");
    world.say(BOB, chat, "seven");
    let all = ["one", "two", "three", "four", "five", "six", "seven"];
    for phone in [ALICE, BOB] {
        assert_eq!(world.texts(phone, chat), all);
        assert_eq!(world.history(phone, chat).len(), all.len());
        assert!(integrity(&world, phone, chat).is_empty());
    }
    assert_eq!(world.safety_number(ALICE, chat), world.safety_number(BOB, chat));
}

#[test]
fn someone_met_after_a_rotation_is_believed_from_the_first_keys_on() {
    let mut world = World::with(&["alice", "bob"]);
    world.run();
    world.rotate_identity(ALICE);
    let chat = world.meet(BOB, ALICE);
    world.say(BOB, chat, "hello");
    world.say(ALICE, chat, "welcome");
    assert_eq!(world.texts(BOB, chat), ["hello", "welcome"]);
    assert!(world.notices(BOB).iter().all(|notice| notice.kind != NoticeKind::KeysRotated));
    assert_eq!(world.safety_number(ALICE, chat), world.safety_number(BOB, chat));
}
