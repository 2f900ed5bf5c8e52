//! A revocation and its event are one change: both are there, or neither.

use super::*;
use crate::bus::{Event, What};

/// `events` reads what is in the outbox, in order.
pub(in crate::accounts) async fn a_revocation_and_its_event_are_one_change(store: Store, events: impl AsyncFn() -> Vec<Event>) {
    let (mut alice, phone) = account(&store, "alice", 0).await;
    let [laptop, tablet, watch] = ["laptop", "tablet", "watch"].map(|name| alice.device(name));
    publish(&store, &mut alice, &phone, &[&phone, &laptop, &tablet, &watch], &[&laptop, &tablet, &watch]).await.unwrap();
    assert!(events().await.is_empty(), "nobody was revoked");

    let base = state(&store, &alice).await;
    assert!(matches!(store.leave(laptop.at, 1, signed(laptop.leave(1)), NOW).await, Err(AccountsError::ListConflict)));
    store.leave(laptop.at, 2, signed(laptop.leave(2)), NOW).await.unwrap();
    let mut late = alice.clone();
    let list = late.next_list(&[&phone, &laptop]);
    assert!(matches!(store.publish(Some(phone.at), publication(base, list, &[], &alice), NOW).await, Err(AccountsError::ListConflict)));
    assert_eq!(events().await, [revoked(&laptop, NOW)], "what was refused has written nothing");

    publish(&store, &mut alice, &phone, &[&phone, &watch], &[]).await.unwrap();
    let base = state(&store, &alice).await;
    let rotation = signed(alice.rotate("alice again"));
    let after = device_list::rotate(&base, &rotation).unwrap();
    let fresh = alice.device("fresh");
    let certificates = vec![certificate(alice.certificate(&fresh))];
    let list = device_list::next(&after, signed(alice.next_list(&[&fresh])), certificates).unwrap();
    store.publish(None, Publication::new(base, Some(rotation), list, vec![new_device(&fresh, 0)]).unwrap(), NOW + 2).await.unwrap();

    let all = events().await;
    assert_eq!(all[..2], [revoked(&laptop, NOW), revoked(&tablet, NOW + 1)]);
    let both = [revoked(&phone, NOW + 2), revoked(&watch, NOW + 2)];
    assert!(all.len() == 4 && both.iter().all(|event| all[2..].contains(event)), "{all:?}");
}

fn revoked(device: &Device, at_ms: u64) -> Event {
    Event::new(What::DeviceRevoked(device.at), at_ms)
}
