//! Slices against device lists; devices that come and go.

use super::*;
use crate::log::{ConnectError, LogError, Payload};

pub(crate) async fn slices_must_match_both_lists<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    for d in [device(1, 2), device(2, 2)] {
        bed.fixture.link(d).await;
    }
    let changed = |missing: &[DeviceRef], extra: &[DeviceRef]| Refusal::DevicesChanged { missing: missing.to_vec(), extra: extra.to_vec() };
    let from = |id, to: &[DeviceRef]| append_from(device(1, 1), 2, id, to);
    let outcome = bed.send(from(1, &[device(2, 1)])).await;
    assert_eq!(refused(&outcome), &changed(&[device(2, 2), device(1, 2)], &[]));
    let outcome = bed.send(from(1, &[device(2, 1), device(2, 2), device(2, 9), device(1, 2), device(1, 1)])).await;
    assert_eq!(refused(&outcome), &changed(&[], &[device(2, 9), device(1, 1)]), "the sending device takes no slice");
    let outcome = bed.send(from(1, &[device(2, 1), device(2, 1), device(2, 2), device(1, 2)])).await;
    assert_eq!(refused(&outcome), &changed(&[], &[device(2, 1)]), "twice is once too often");
    assert_eq!(accepted(&bed.send(from(1, &[device(2, 2), device(1, 2), device(2, 1)])).await), (1, false));
    let page = bed.page(device(1, 2), 0).await;
    let slice = Bytes::from(format!("for {}", device(1, 2).device));
    assert_eq!(page.entries[0].payload, Payload::Sealed { body: Bytes::from("body 1"), slice });
}

pub(crate) async fn a_checkpoint_may_leave_out_devices<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    bed.fixture.link(device(2, 2)).await;
    let checkpoint = |id, to: &[DeviceRef]| Append { checkpoint: true, ..append_from(device(1, 1), 2, id, to) };
    assert_eq!(accepted(&bed.send(checkpoint(1, &[device(2, 2)])).await), (1, false));
    let outcome = bed.send(checkpoint(2, &[device(2, 9)])).await;
    assert_eq!(refused(&outcome), &Refusal::DevicesChanged { missing: vec![], extra: vec![device(2, 9)] });
    let page = bed.page(device(2, 1), 0).await;
    assert!(page.entries[0].checkpoint);
    assert_eq!(page.entries[0].payload, Payload::Absent(v1::AbsentReason::NotAddressed));
}

pub(crate) async fn a_revoked_sender_is_refused_but_its_retry_is_answered<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    bed.fixture.link(device(1, 2)).await;
    let from = |id| append_from(device(1, 2), 2, id, &[device(2, 1), device(1, 1)]);
    bed.send(from(1)).await;
    bed.fixture.revoke(device(1, 2)).await;
    assert_eq!(refused(&bed.send(from(2)).await), &Refusal::SenderRevoked);
    assert_eq!(accepted(&bed.send(from(1)).await), (1, true));
    assert_eq!(refused(&bed.send(append_from(device(1, 7), 2, 3, &[device(2, 1), device(1, 1)])).await), &Refusal::SenderRevoked);
    let page = bed.page(device(2, 1), 0).await;
    assert_eq!(page.entries[0].sender, device(1, 2), "what it sent is still its own");
}

pub(crate) async fn a_new_device_starts_at_the_head<F: Fixture>() {
    for (flush, how) in [(false, None), (true, None), (false, Some(Reopen::Died)), (true, Some(Reopen::Closed))] {
        let mut bed = Bed::<F>::new().await;
        bed.send_many(1, 5).await;
        if flush {
            bed.log().flush().await.unwrap();
        }
        bed.fixture.link(device(2, 2)).await;
        if let Some(how) = how {
            bed = bed.reopen(how).await;
        }
        assert_eq!(bed.state(device(2, 2)).await.cursor, 5);
        assert!(bed.behind(device(2, 2)).await.is_empty());
        assert_eq!(bed.state(device(2, 2)).await.peer_delivered, 0);
        let page = bed.page(device(2, 2), 0).await;
        assert!(page.entries.is_empty());
        assert_eq!((page.absent[0].from, page.absent[0].to, page.absent[0].reason), (1, 5, v1::AbsentReason::BeforeLinked));
        assert_eq!(seqs(&bed.page(device(2, 1), 0).await), [1, 2, 3, 4, 5]);
    }
}

pub(crate) async fn a_new_device_is_addressed_at_once<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    bed.send_many(1, 2).await;
    bed.fixture.link(device(2, 2)).await;
    assert_eq!(refused(&bed.send(append(3)).await), &Refusal::DevicesChanged { missing: vec![device(2, 2)], extra: vec![] });
    let both = |id| append_from(device(1, 1), 2, id, &[device(2, 1), device(2, 2)]);
    assert_eq!(accepted(&bed.send(both(3)).await), (3, false));
    bed = bed.reopen(Reopen::Died).await;
    assert_eq!(bed.behind(device(2, 2)).await[0].cursor, 2);
    assert_eq!(seqs(&bed.page(device(2, 2), 2).await), [3]);
    bed.ack(device(2, 1), 3).await;
    bed.ack(device(1, 1), 3).await;
    bed.log().purge(bed.now_ms).await.unwrap();
    assert_eq!(bed.state(device(2, 1)).await.first, 3, "the new device holds only what it was sent");
}

pub(crate) async fn a_revoked_device_holds_nothing<F: Fixture>() {
    for (flush, reopen) in [(false, false), (true, false), (true, true)] {
        let mut bed = Bed::<F>::new().await;
        bed.fixture.link(device(2, 2)).await;
        for id in 1..=3 {
            bed.send(append_from(device(1, 1), 2, id, &[device(2, 1), device(2, 2)])).await;
        }
        bed.ack(device(1, 1), 3).await;
        bed.ack(device(2, 1), 3).await;
        if flush {
            bed.log().flush().await.unwrap();
        }
        assert_eq!(bed.state(device(1, 1)).await.first, 1);
        bed.fixture.revoke(device(2, 2)).await;
        if reopen {
            bed = bed.reopen(Reopen::Died).await;
        }
        bed.log().purge(bed.now_ms).await.unwrap();
        assert_eq!(bed.state(device(1, 1)).await.first, 4);
        assert!(bed.behind(device(2, 2)).await.is_empty());
        let page = bed.log().page(device(2, 2), between(1, 2), 0, ALL).await;
        assert!(matches!(page, Err(LogError::NotAMember)));
    }
}

pub(crate) async fn connecting_raises_the_epoch<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    assert_eq!(bed.log().connect(device(1, 1), 5).await.unwrap().previous_epoch, 0);
    for stale in [5, 4, 0] {
        assert!(matches!(bed.log().connect(device(1, 1), stale).await, Err(ConnectError::StaleStore { known: 5 })));
    }
    bed = bed.reopen(Reopen::Died).await;
    assert!(matches!(bed.log().connect(device(1, 1), 5).await, Err(ConnectError::StaleStore { .. })));
    assert_eq!(bed.log().connect(device(1, 1), 6).await.unwrap().previous_epoch, 5);
    bed.fixture.revoke(device(1, 1)).await;
    assert!(matches!(bed.log().connect(device(1, 1), 7).await, Err(ConnectError::Revoked)));
    assert!(matches!(bed.log().connect(device(9, 1), 7).await, Err(ConnectError::Revoked)));
    let wrong_account = DeviceRef { account: account(2), ..device(3, 1) };
    assert!(matches!(bed.log().connect(wrong_account, 7).await, Err(ConnectError::Revoked)));
}

pub(crate) async fn the_counter_survives_dying_and_purging<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    bed.send_many(1, 40).await;
    bed.send(append(7)).await;
    assert_eq!(bed.log().connect(device(1, 1), 1).await.unwrap().device_counter, 40);
    bed = bed.reopen(Reopen::Died).await;
    assert_eq!(bed.log().connect(device(1, 1), 2).await.unwrap().device_counter, 40);
    bed.ack(device(1, 1), 40).await;
    bed.ack(device(2, 1), 40).await;
    bed.log().purge(bed.now_ms).await.unwrap();
    for (epoch, how) in [(3, Reopen::Died), (4, Reopen::Closed)] {
        bed = bed.reopen(how).await;
        assert_eq!(bed.log().connect(device(1, 1), epoch).await.unwrap().device_counter, 40);
    }
    assert_eq!(bed.log().connect(device(2, 1), 1).await.unwrap().device_counter, 0);
}
