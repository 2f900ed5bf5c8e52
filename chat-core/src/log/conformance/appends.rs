//! Promises 1, 2 and 3: durable, dense, idempotent; and the order of the checks.

use super::*;

pub(crate) async fn numbers_are_dense_and_in_order<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    let mut batch = Vec::new();
    for id in 0..1200 {
        batch.push(append(id));
        batch.push(append_from(device(3, 1), 2, id, &[device(2, 1)]));
    }
    let outcomes = bed.submit(batch).await;
    let (mine, theirs): (Vec<_>, Vec<_>) = outcomes.iter().map(accepted).enumerate().partition(|(n, _)| n % 2 == 0);
    for conversation in [mine, theirs] {
        let seqs: Vec<_> = conversation.into_iter().map(|(_, (seq, _))| seq).collect();
        assert_eq!(seqs, (1..=1200).collect::<Vec<_>>());
    }
}

pub(crate) async fn a_retry_returns_the_original<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    bed.send_many(1, 3).await;
    let Outcome::Accepted { at_ms, .. } = bed.send(append(2)).await else { panic!() };
    bed.advance(5000);
    let again = bed.send(append(2)).await;
    assert_eq!(again, Outcome::Accepted { seq: 2, at_ms, duplicate: true, mutual: false });
    assert_eq!(accepted(&bed.send(append(4)).await), (4, false));
}

pub(crate) async fn a_retry_in_the_same_batch_is_a_duplicate<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    let outcomes = bed.submit(vec![append(1), append(1), append(2), append(1)]).await;
    assert_eq!(outcomes.iter().map(accepted).collect::<Vec<_>>(), [(1, false), (1, true), (2, false), (1, true)]);
}

pub(crate) async fn retries_among_new_messages_are_known_one_by_one<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    bed.send_many(1, 20).await;
    let mixed = [13, 21, 4, 22, 20, 1, 23];
    let outcomes = bed.submit(mixed.map(append).into()).await;
    let known = |id| (u64::from(id), id <= 20);
    assert_eq!(outcomes.iter().map(accepted).collect::<Vec<_>>(), mixed.map(known));
    for id in (1..=23).rev() {
        assert_eq!(accepted(&bed.send(append(id)).await), (u64::from(id), true));
    }
    assert_eq!(seqs(&bed.page(device(2, 1), 0).await), (1..=23).collect::<Vec<_>>());
}

/// A device that counts otherwise than it should gets its messages through, and its retries are known.
pub(crate) async fn counters_that_fall_are_no_retries<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    let counted = |id: u32, device_counter| Append { device_counter, ..append(id) };
    let batch = || [(1, 50), (2, 40), (3, 41), (4, 41), (5, 90), (6, 1)].map(|(id, counter)| counted(id, counter));
    for (expected, is_retry) in [([1, 2, 3, 4, 5, 6], false), ([1, 2, 3, 4, 5, 6], true)] {
        let outcomes = bed.submit(batch().into()).await;
        assert_eq!(outcomes.iter().map(accepted).collect::<Vec<_>>(), expected.map(|seq| (seq, is_retry)));
    }
    assert_eq!(accepted(&bed.send(counted(7, 2)).await), (7, false));
    assert_eq!(accepted(&bed.send(counted(7, 2)).await), (7, true));
}

pub(crate) async fn the_same_id_elsewhere_is_another_message<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    let back = append_from(device(2, 1), 1, 1, &[device(1, 1)]);
    let other = append_from(device(1, 1), 3, 1, &[device(3, 1)]);
    let outcomes = bed.submit(vec![append(1), back, other]).await;
    assert_eq!(outcomes.iter().map(accepted).collect::<Vec<_>>(), [(1, false), (2, false), (1, false)]);
}

pub(crate) async fn a_retry_is_recognised_after_dying_and_after_a_flush<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    bed.send_many(1, 3).await;
    bed = bed.reopen(Reopen::Died).await;
    assert_eq!(accepted(&bed.send(append(2)).await), (2, true));
    bed.log().flush().await.unwrap();
    assert_eq!(accepted(&bed.send(append(3)).await), (3, true));
    for how in [Reopen::Closed, Reopen::Died] {
        bed = bed.reopen(how).await;
        assert_eq!(accepted(&bed.send(append(1)).await), (1, true));
    }
}

/// While a device has not acknowledged it an entry is kept, and so is its id.
pub(crate) async fn a_retry_is_recognised_until_purged<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    bed.send_many(1, 3).await;
    bed.ack(device(2, 1), 2).await;
    bed.log().flush().await.unwrap();
    for id in 1..=3 {
        assert_eq!(accepted(&bed.send(append(id)).await), (u64::from(id), true));
    }
    bed.ack(device(1, 1), 2).await;
    bed.log().purge(bed.now_ms).await.unwrap();
    assert_eq!(accepted(&bed.send(append(3)).await), (3, true));
}

pub(crate) async fn a_duplicate_comes_before_every_refusal<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    bed.send_many(1, 1).await;
    let mut retry = append(1);
    retry.gate.shut();
    retry.admission = Admission::DuplicateOnly(Refusal::RateLimited { after_ms: 7 });
    retry.slices.clear();
    assert_eq!(accepted(&bed.send(retry).await), (1, true));
}

pub(crate) async fn checks_come_in_order<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    let limited = Refusal::RateLimited { after_ms: 7 };
    let bad = |gate_shut: bool, admission: Admission, recipient: u8| {
        let append = Append { admission, ..append_from(device(1, 1), recipient, 9, &[]) };
        if gate_shut {
            append.gate.shut();
        }
        append
    };
    let only = || Admission::DuplicateOnly(limited.clone());
    assert_eq!(refused(&bed.send(bad(true, only(), 99)).await), &Refusal::EarlierRefused);
    assert_eq!(refused(&bed.send(bad(false, only(), 99)).await), &limited);
    assert_eq!(refused(&bed.send(bad(false, Admission::Admitted, 99)).await), &Refusal::UnknownRecipient);
    let missing = Refusal::DevicesChanged { missing: vec![device(2, 1)], extra: vec![] };
    assert_eq!(refused(&bed.send(bad(false, Admission::Admitted, 2)).await), &missing);
    assert_eq!(accepted(&bed.send(append(1)).await).0, 1, "refusals take no number");
}

pub(crate) async fn a_refusal_shuts_the_gate_until_restart<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    let gate = Arc::new(Gate::default());
    let with = |mut append: Append, restart| {
        append.gate = Arc::clone(&gate);
        append.restart = restart;
        append
    };
    let limited = Append { admission: Admission::DuplicateOnly(Refusal::RateLimited { after_ms: 1 }), ..append(1) };
    let outcomes = bed.submit(vec![with(limited, false), with(append(2), false), with(append(1), true), with(append(2), false)]).await;
    assert_eq!(refused(&outcomes[0]), &Refusal::RateLimited { after_ms: 1 });
    assert_eq!(refused(&outcomes[1]), &Refusal::EarlierRefused);
    assert_eq!([accepted(&outcomes[2]).0, accepted(&outcomes[3]).0], [1, 2]);
}

pub(crate) async fn time_stamps_do_not_go_back<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    bed.send_many(1, 1).await;
    bed.fixture.set_clock(START_MS - 60_000);
    bed.send_many(2, 2).await;
    bed = Bed { fixture: bed.fixture.reopen(Reopen::Died).await, now_ms: START_MS };
    bed.fixture.set_clock(START_MS - 90_000);
    bed.send_many(3, 3).await;
    let page = bed.page(device(2, 1), 0).await;
    assert!(page.entries.iter().all(|e| e.at_ms == START_MS), "{page:?}");
}

pub(crate) async fn mutual_once_both_have_sent<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    let mutual = |outcome: &Outcome| matches!(outcome, Outcome::Accepted { mutual: true, .. });
    assert!(!mutual(&bed.send(append(1)).await));
    assert!(bed.log().mutual(account(1), &[account(2), account(3)]).await.unwrap().is_empty());
    assert!(mutual(&bed.send(append_from(device(2, 1), 1, 1, &[device(1, 1)])).await));
    assert!(mutual(&bed.send(append(2)).await));
    bed = bed.reopen(Reopen::Died).await;
    assert!(bed.state(device(1, 1)).await.mutual);
    assert_eq!(bed.log().mutual(account(1), &[account(2), account(3)]).await.unwrap(), [account(2)]);
    bed.advance(1000);
    bed.send(append_from(device(3, 1), 1, 1, &[device(1, 1)])).await;
    bed.send(append_from(device(1, 1), 3, 1, &[device(3, 1)])).await;
    bed.log().flush().await.unwrap();
    assert_eq!(bed.log().mutual_of(account(1), 9).await.unwrap(), [account(3), account(2)], "the most recent first");
    assert_eq!(bed.log().mutual_of(account(1), 1).await.unwrap().len(), 1);
    assert_eq!(bed.log().mutual_of(account(2), 9).await.unwrap(), [account(1)]);
}

pub(crate) async fn nothing_accepted_is_lost_by_dying<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    for round in 0..4 {
        bed.send_many(round * 100 + 1, round * 100 + 100).await;
        if round % 2 == 1 {
            bed.log().flush().await.unwrap();
        }
        bed = bed.reopen(Reopen::Died).await;
    }
    assert_eq!(seqs(&bed.page(device(2, 1), 0).await), (1..=400).collect::<Vec<_>>());
}

pub(crate) async fn a_full_disk_refuses_everything_and_recovers<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    bed.send_many(1, 10).await;
    bed.fixture.fill_disk(true).await;
    let big = |id| Append { body: Bytes::from(vec![1; 60_000]), ..append(id) };
    let gate = Arc::new(Gate::default());
    let outcomes = bed.submit((11..=40).map(|id| Append { gate: Arc::clone(&gate), ..big(id) }).collect()).await;
    assert!(outcomes.contains(&Outcome::Refused(Refusal::StorageUnavailable)), "the disk did not fill up");
    assert!(gate.is_shut());
    let accepted_ids: Vec<_> = (11..).zip(&outcomes).filter(|(_, o)| matches!(o, Outcome::Accepted { .. })).map(|(id, _)| id).collect();
    let head = 10 + accepted_ids.len() as u64;
    bed.ack(device(2, 1), 10).await;
    assert_eq!(bed.state(device(2, 1)).await.head, head);
    bed.fixture.fill_disk(false).await;
    let first_refused = (11..=40).find(|id| !accepted_ids.contains(id)).unwrap();
    assert_eq!(accepted(&bed.send(big(first_refused)).await), (head + 1, false));
    bed = bed.reopen(Reopen::Died).await;
    assert_eq!(seqs(&bed.page(device(2, 1), 0).await), (1..=head + 1).collect::<Vec<_>>());
    bed.log().flush().await.unwrap();
}

/// A full queue gives the append back instead of growing, and everything that was taken is resolved once somebody listens again.
pub(crate) async fn the_writer_waits_for_its_consumer<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    let mut taken = 0_u32;
    let given_back = loop {
        match bed.log().submit(append(taken)) {
            Ok(()) => taken += 1,
            Err(append) => break append,
        }
        assert!(taken < 5_000_000, "the queue has no bound");
    };
    assert_eq!(given_back.device_counter, u64::from(taken));
    let mut resolved = 0;
    while resolved < taken {
        for item in bed.fixture.resolved().await {
            resolved += 1;
            assert_eq!(accepted(&item.outcome).0, u64::from(resolved));
        }
    }
}
