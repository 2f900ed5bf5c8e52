//! Promise 4: held until every device has it or its retention is over.

use super::*;

pub(crate) async fn what_every_device_has_is_purged<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    bed.send_many(1, 10).await;
    bed.ack(device(2, 1), 8).await;
    bed.ack(device(1, 1), 6).await;
    bed.log().purge(bed.now_ms).await.unwrap();
    assert_eq!(bed.state(device(1, 1)).await.first, 7);
    let page = bed.page(device(2, 1), 0).await;
    assert_eq!(seqs(&page), [7, 8, 9, 10]);
    assert_eq!((page.absent[0].from, page.absent[0].to, page.absent[0].reason), (1, 6, v1::AbsentReason::Expired));
    bed.log().flush().await.unwrap();
    bed.ack(device(1, 1), 9).await;
    bed.log().purge(bed.now_ms).await.unwrap();
    assert_eq!(seqs(&bed.page(device(2, 1), 0).await), [9, 10], "also what was summarised before");
    bed = bed.reopen(Reopen::Died).await;
    assert_eq!(seqs(&bed.page(device(2, 1), 0).await), [9, 10]);
}

pub(crate) async fn nothing_is_purged_that_one_device_lacks<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    bed.send_many(1, 300).await;
    bed.ack(device(2, 1), 300).await;
    for how in [Reopen::Died, Reopen::Closed] {
        bed.log().purge(bed.now_ms).await.unwrap();
        bed = bed.reopen(how).await;
    }
    assert_eq!(seqs(&bed.page(device(1, 1), 0).await).len(), 300, "the sender's own device counts");
}

pub(crate) async fn the_purged_tail_keeps_its_numbers<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    bed.send_many(1, 10).await;
    bed.ack(device(2, 1), 10).await;
    bed.ack(device(1, 1), 10).await;
    let purged = bed.log().purge(bed.now_ms).await.unwrap();
    assert_eq!((purged.delivered, purged.expired), (10, 0));
    for (id, how) in [(11, Reopen::Died), (12, Reopen::Closed)] {
        bed = bed.reopen(how).await;
        assert_eq!(accepted(&bed.send(append(id)).await), (u64::from(id), false));
    }
    let state = bed.state(device(1, 1)).await;
    assert_eq!((state.head, state.first), (12, 11));
}

pub(crate) async fn retention_ends<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    bed.send_many(1, 3).await;
    bed.send(append_from(device(1, 1), 3, 1, &[device(3, 1)])).await;
    bed.log().flush().await.unwrap();
    bed.advance(RETENTION_MS / 2);
    bed.send_many(4, 5).await;
    bed.advance(RETENTION_MS / 2 + 1);
    bed = bed.reopen(Reopen::Closed).await;
    let purged = bed.log().purge(bed.now_ms).await.unwrap();
    assert_eq!((purged.delivered, purged.expired), (0, 4));
    let page = bed.page(device(2, 1), 0).await;
    assert_eq!(seqs(&page), [4, 5]);
    assert_eq!((page.absent[0].from, page.absent[0].to, page.absent[0].reason), (1, 3, v1::AbsentReason::Expired));
    assert_eq!(bed.behind(device(2, 1)).await[0].cursor, 0, "the device is told that they are gone");
    bed.advance(RETENTION_MS);
    bed = bed.reopen(Reopen::Died).await;
    bed.log().purge(bed.now_ms).await.unwrap();
    let page = bed.page(device(2, 1), 3).await;
    assert_eq!((page.entries.len(), page.absent[0].from, page.absent[0].to), (0, 4, 5));
    bed.ack(device(2, 1), 5).await;
    assert!(bed.behind(device(2, 1)).await.is_empty());
    assert_eq!(accepted(&bed.send(append(6)).await), (6, false));
}

pub(crate) async fn a_long_conversation_expires_in_one_go<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    for first in (1..=2_000).step_by(100) {
        bed.send_many(first, first + 99).await;
    }
    bed.log().flush().await.unwrap();
    bed.advance(RETENTION_MS + 1);
    bed = bed.reopen(Reopen::Closed).await;
    let purged = bed.log().purge(bed.now_ms).await.unwrap();
    assert_eq!((purged.delivered, purged.expired), (0, 2_000));
    assert_eq!(bed.state(device(1, 1)).await.first, 2_001);
}

pub(crate) async fn a_jump_of_the_clock_stops_expiry<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    bed.send_many(1, 3).await;
    bed.ack(device(2, 1), 1).await;
    bed.ack(device(1, 1), 1).await;
    let purged = bed.log().purge(START_MS + 2 * RETENTION_MS).await.unwrap();
    assert_eq!((purged.delivered, purged.expired), (1, 0), "what everybody has may go whatever the clock says");
    assert_eq!(seqs(&bed.page(device(2, 1), 1).await), [2, 3]);
}
