//! Order, and who gets what.

use super::*;

pub(super) async fn events_of_a_key_are_in_order(bus: Store) {
    let notes = Notes::of_all();
    let _member = join(&bus, "one", &notes).await;
    // Several of a key in one batch, and batch after batch.
    let events: Vec<_> = (0..300).map(|n| event(u8::try_from(n % 9).unwrap(), n)).collect();
    for batch in events.chunks(50) {
        bus.publish(&records(batch.iter().copied())).await.unwrap();
    }
    until("all are done", || notes.has_done(&events)).await;
    notes.assert_in_order();
}

pub(super) async fn every_group_is_handed_everything(bus: Store) {
    let events: Vec<_> = (0..20).map(|n| event(u8::try_from(n % 5).unwrap(), n)).collect();
    bus.publish(&records(events[..10].iter().copied())).await.unwrap();
    let (early, late) = (Notes::of_all(), Notes::of_all());
    let _early = join(&bus, "early", &early).await;
    until("the first group has what was there", || early.has_done(&events[..10])).await;
    bus.publish(&records(events[10..].iter().copied())).await.unwrap();
    let _late = join(&bus, "late", &late).await;
    until("both have everything", || early.has_done(&events) && late.has_done(&events)).await;
    // Of the other topic they are handed nothing.
    assert_eq!(early.done.lock().len(), 20);
}

pub(super) async fn two_members_share_a_topic(bus: Store) {
    let (one, other) = (Notes::of_all(), Notes::of_all());
    let _one = join(&bus, "shared", &one).await;
    let _other = join(&bus, "shared", &other).await;
    let begun = Instant::now();
    let mut events = Vec::new();
    // Partitions are dealt out while this runs.
    while one.done.lock().is_empty() || other.done.lock().is_empty() {
        assert!(begun.elapsed() < SOON, "one member does everything");
        let n = events.len() as u64;
        let batch: Vec<_> = (0..32).map(|key| event(key, n)).collect();
        bus.publish(&records(batch.iter().copied())).await.unwrap();
        events.extend(batch);
        // Not as many as a quick machine could while partitions are dealt out: all of them have to be worked off.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let all = || {
        let mut done: HashSet<_> = one.done.lock().iter().copied().collect();
        done.extend(other.done.lock().iter().copied());
        events.iter().all(|event| done.contains(&place(event)))
    };
    until("together they do everything", all).await;
    one.assert_in_order();
    other.assert_in_order();
}

pub(super) async fn who_leaves_has_noted_how_far_it_came(bus: Store) {
    let events: Vec<_> = (0..20).map(|n| event(u8::try_from(n % 5).unwrap(), n)).collect();
    let (first, second) = (Notes::of_all(), Notes::of_all());
    let member = join(&bus, "shift", &first).await;
    bus.publish(&records(events[..10].iter().copied())).await.unwrap();
    until("the first half is done", || first.has_done(&events[..10])).await;
    member.leave().await;
    bus.publish(&records(events[10..].iter().copied())).await.unwrap();
    let _member = join(&bus, "shift", &second).await;
    until("the second half is done", || second.has_done(&events[10..])).await;
    assert_eq!((first.done.lock().len(), second.done.lock().len()), (10, 10), "nothing is done twice");
}
