//! Work that fails, and members that die.

use super::*;
use crate::bus::BusError;

pub(super) async fn what_a_dead_member_worked_on_is_worked_on_again(bus: Store) {
    let events: Vec<_> = (0..5).map(|n| event(7, n)).collect();
    let dying = Notes::deciding(|(_, n), _| if n == 2 { Err(Trouble::Hangs) } else { Ok(()) });
    let member = join(&bus, "mortal", &dying).await;
    bus.publish(&records(events.iter().copied())).await.unwrap();
    until("it is in the middle of the third", || dying.handed((7, 2)) == 1).await;
    drop(member);
    let heir = Notes::of_all();
    let _heir = join(&bus, "mortal", &heir).await;
    until("the rest is done", || heir.has_done(&events[2..])).await;
    heir.assert_in_order();
    assert_eq!(dying.handed((7, 3)), 0, "the third had not been done");
}

pub(super) async fn what_fails_is_tried_again_in_its_place(bus: Store) {
    let again = |(_, n), before| if n == 1 && before < 2 { Err(Trouble::Fails(HandlerError::Again("busy"))) } else { Ok(()) };
    let notes = Notes::deciding(again);
    let _member = join(&bus, "patient", &notes).await;
    let events: Vec<_> = (0..4).map(|n| event(1, n)).collect();
    bus.publish(&records(events.iter().copied())).await.unwrap();
    until("all are done", || notes.has_done(&events)).await;
    assert_eq!(*notes.handed.lock(), [(1, 0), (1, 1), (1, 1), (1, 1), (1, 2), (1, 3)]);
    assert!(bus.dead_letters(Topic::Sleeping, 10).await.unwrap().is_empty());
}

pub(super) async fn poison_becomes_a_dead_letter_and_blocks_nobody(bus: Store) {
    let notes = Notes::deciding(|place, _| match place {
        (1, 0) => Err(Trouble::Hangs),
        (2, 0) => Err(Trouble::Fails(HandlerError::Never("poison"))),
        _ => Ok(()),
    });
    let _member = join(&bus, "wary", &notes).await;
    let (stuck, poison) = (event(1, 0), event(2, 0));
    let rest = [event(2, 1), event(9, 1), event(10, 1)];
    bus.publish(&records([poison, rest[0], rest[1], rest[2]])).await.unwrap();
    until("what was behind the poison is done", || notes.has_done(&rest)).await;
    let letters = bus.dead_letters(Topic::Sleeping, 10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].reason.as_str(), letters[0].group.as_str(), letters[0].attempts), ("poison", "wary", 1));
    assert_eq!(letters[0].event(), Ok(poison));
    assert_eq!(letters[0].key, poison.what.key());
    assert!(letters[0].at_ms > 1_700_000_000_000, "{letters:?}");
    // While one event hangs, other partitions go on.
    bus.publish(&records([stuck])).await.unwrap();
    until("one hangs", || notes.handed((1, 0)) == 1).await;
    let more: Vec<_> = (2..10).map(|n| event(OTHER_PARTITION, n)).collect();
    bus.publish(&records(more.iter().copied())).await.unwrap();
    until("another partition goes on", || notes.has_done(&more)).await;
}

/// Neither bus puts this key into the partition of key 1.
const OTHER_PARTITION: u8 = 2;

pub(super) async fn what_fails_too_often_becomes_a_dead_letter(bus: Store) {
    let notes = Notes::deciding(|(_, n), _| if n == 0 { Err(Trouble::Fails(HandlerError::Again("down"))) } else { Ok(()) });
    let _member = join(&bus, "stubborn", &notes).await;
    bus.publish(&records([event(3, 0), event(3, 1)])).await.unwrap();
    until("the next one is done", || notes.has_done(&[event(3, 1)])).await;
    assert_eq!(*notes.handed.lock(), [(3, 0), (3, 0), (3, 0), (3, 1)]);
    let letters = bus.dead_letters(Topic::Sleeping, 10).await.unwrap();
    assert_eq!(letters.iter().map(|l| (l.reason.as_str(), l.attempts)).collect::<Vec<_>>(), [("down", 3)]);
}

pub(super) async fn what_cannot_be_read_becomes_a_dead_letter(bus: Store) {
    let notes = Notes::of_all();
    let _member = join(&bus, "reader", &notes).await;
    let garbage = Record { topic: Topic::Sleeping, key: [4; 16], payload: vec![0xff; 3] };
    bus.publish(&[garbage.clone(), event(4, 1).to_record()]).await.unwrap();
    until("the next one is done", || notes.has_done(&[event(4, 1)])).await;
    let letters = bus.dead_letters(Topic::Sleeping, 10).await.unwrap();
    assert_eq!(letters.iter().map(|l| (l.reason.as_str(), l.attempts, &l.payload)).collect::<Vec<_>>(), [("malformed", 0, &garbage.payload)]);
}

pub(super) async fn a_handler_that_panics_or_hangs_has_failed(bus: Store) {
    let notes = Notes::deciding(|(_, n), before| match (n, before) {
        (0, 0) => Err(Trouble::Panics),
        (1, 0) => Err(Trouble::Hangs),
        _ => Ok(()),
    });
    let quick = Subscription { retry: Retry { attempt_within: Duration::from_millis(50), ..RETRY }, ..subscription("clumsy") };
    let _member = bus.subscribe(quick, Arc::<Notes>::clone(&notes)).await.unwrap();
    let events = [event(5, 0), event(5, 1)];
    bus.publish(&records(events)).await.unwrap();
    until("both are done", || notes.has_done(&events)).await;
    assert_eq!(*notes.handed.lock(), [(5, 0), (5, 0), (5, 1), (5, 1)]);
}

pub(super) async fn dead_letters_are_replayed_once(bus: Store) {
    let healed = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let well = Arc::clone(&healed);
    let notes = Notes::deciding(move |(_, n), _| {
        let ill = n < 3 && !well.load(std::sync::atomic::Ordering::Relaxed);
        if ill { Err(Trouble::Fails(HandlerError::Never("ill"))) } else { Ok(()) }
    });
    let _member = join(&bus, "replayed", &notes).await;
    let events: Vec<_> = (0..4).map(|n| event(6, n)).collect();
    bus.publish(&records(events.iter().copied())).await.unwrap();
    until("the last is done", || notes.has_done(&events[3..])).await;
    assert_eq!(bus.dead_letters(Topic::Sleeping, 2).await.unwrap().len(), 2, "no more than asked for");
    assert_eq!(bus.dead_letters(Topic::Sleeping, 10).await.unwrap().len(), 3);
    assert!(bus.dead_letters(Topic::Accounts, 10).await.unwrap().is_empty());

    healed.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(bus.replay(Topic::Sleeping, 2).await.unwrap(), 2);
    until("two are done", || notes.has_done(&events[..2])).await;
    assert_eq!(bus.dead_letters(Topic::Sleeping, 10).await.unwrap().len(), 1);
    assert_eq!(bus.replay(Topic::Sleeping, 10).await.unwrap(), 1);
    assert_eq!(bus.replay(Topic::Sleeping, 10).await.unwrap(), 0);
    until("all are done", || notes.has_done(&events)).await;
    assert_eq!((0..4).map(|n| notes.handed((6, n))).collect::<Vec<_>>(), [2, 2, 2, 1]);
}

pub(super) async fn a_closed_bus_refuses(bus: Store) {
    bus.publish(&records([event(8, 0)])).await.unwrap();
    bus.close().await;
    assert!(matches!(bus.publish(&records([event(8, 1)])).await, Err(BusError::Closed)));
}
