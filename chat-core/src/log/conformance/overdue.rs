//! What some device has not acknowledged for a while.

use super::*;
use crate::log::{Found, Overdue, OverdueMessage};

const HOUR_MS: i64 = 3_600_000;
/// Whatever a clock says: everything that was accepted is overdue.
const EVERYTHING: i64 = -10 * 365 * 24 * HOUR_MS;

/// A watermark before anything that is sent from now on.
async fn begun<F: Fixture>(bed: &Bed<F>) {
    let mut overdue = bed.fixture.overdue(HOUR_MS);
    assert_eq!(look(&mut *overdue, 10).await, (vec![], false));
    overdue.done().await.unwrap();
    overdue.release().await;
}

async fn look(overdue: &mut dyn Overdue, limit: usize) -> (Vec<OverdueMessage>, bool) {
    loop {
        match overdue.next(limit).await.unwrap() {
            Found::Here { messages, more, .. } => return (messages, more),
            // The database has not noticed yet that the one before has let go.
            Found::Elsewhere => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
        }
    }
}

/// Seq and who lacks it, in the conversation of accounts 1 and 2.
fn lacking(found: &[OverdueMessage]) -> Vec<(u64, Vec<DeviceRef>)> {
    let here = found.iter().filter(|message| message.conversation == between(1, 2));
    let sorted = |mut devices: Vec<DeviceRef>| {
        devices.sort_unstable_by_key(|device| (device.account, device.device));
        devices
    };
    here.map(|message| (message.seq, sorted(message.devices.clone()))).collect()
}

pub(crate) async fn overdue_is_what_a_device_lacks_but_for_its_own<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    begun(&bed).await;
    bed.fixture.link(device(1, 2)).await;
    let everybody = [device(2, 1), device(1, 2)];
    for id in 1..=3 {
        accepted(&bed.send(append_from(device(1, 1), 2, id, &everybody)).await);
    }
    let checkpoint = Append { checkpoint: true, ..append_from(device(1, 1), 2, 4, &[device(1, 2)]) };
    accepted(&bed.send(checkpoint).await);
    accepted(&bed.send(append_from(device(2, 1), 1, 5, &[device(1, 1), device(1, 2)])).await);
    bed.ack(device(2, 1), 2).await;
    bed.ack(device(1, 2), 1).await;
    let mut overdue = bed.fixture.overdue(EVERYTHING);
    let (found, more) = look(&mut *overdue, 100).await;
    assert!(!more);
    let expected = vec![(2, vec![device(1, 2)]), (3, vec![device(1, 2), device(2, 1)]), (5, vec![device(1, 1), device(1, 2)])];
    assert_eq!(lacking(&found), expected, "no checkpoint, and nobody lacks what they sent");
    assert!(found.iter().all(|message| message.at_ms > 0));
    // Until it is dealt with it is found again, as it is by then.
    bed.ack(device(1, 2), 5).await;
    bed.fixture.revoke(device(2, 1)).await;
    bed.log().flush().await.unwrap();
    let (found, _) = look(&mut *overdue, 100).await;
    assert_eq!(lacking(&found), [(5, vec![device(1, 1)])], "who is revoked lacks nothing");
    overdue.done().await.unwrap();
    assert_eq!(look(&mut *overdue, 100).await, (vec![], false));
}

pub(crate) async fn overdue_comes_in_order_and_once_however_it_is_cut<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    begun(&bed).await;
    bed.send_many(1, 25).await;
    bed.log().flush().await.unwrap();
    bed.advance(5);
    bed.send_many(26, 30).await;
    let (mut seen, mut more) = (Vec::new(), true);
    while more {
        // Whoever looks dies after each look, before or after it was dealt with.
        for dealt_with in [false, true] {
            let mut overdue = bed.fixture.overdue(EVERYTHING);
            let (found, rest) = look(&mut *overdue, 7).await;
            assert!(found.len() <= 7);
            if dealt_with {
                overdue.done().await.unwrap();
                seen.extend(found.iter().map(|message| message.seq));
                more = rest;
            }
            overdue.release().await;
        }
    }
    assert_eq!(seen, (1..=30).collect::<Vec<_>>());
}

pub(crate) async fn overdue_takes_its_time_and_begins_at_the_present<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    bed.send_many(1, 3).await;
    // Without a watermark: what was accepted long before is not told of at once.
    let mut overdue = bed.fixture.overdue(EVERYTHING);
    assert_eq!(look(&mut *overdue, 10).await, (vec![], false), "it begins at the present");
    overdue.done().await.unwrap();
    overdue.release().await;
    let mut bed = Bed::<F>::new().await;
    begun(&bed).await;
    bed.send_many(1, 3).await;
    let mut patient = bed.fixture.overdue(HOUR_MS);
    assert_eq!(look(&mut *patient, 10).await, (vec![], false), "they have an hour");
    patient.done().await.unwrap();
    patient.release().await;
    let mut overdue = bed.fixture.overdue(EVERYTHING);
    assert_eq!(look(&mut *overdue, 10).await.0.len(), 3);
    overdue.release().await;
    let bed = bed.reopen(Reopen::Died).await;
    let mut overdue = bed.fixture.overdue(EVERYTHING);
    assert_eq!(look(&mut *overdue, 10).await.0.len(), 3, "nobody has dealt with them");
}
