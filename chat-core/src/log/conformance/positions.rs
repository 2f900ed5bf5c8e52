//! Cursors, watermarks, and what a device is behind on.

use super::*;
use crate::log::LogError;

pub(crate) async fn behind_is_what_was_missed<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    assert!(bed.behind(device(2, 1)).await.is_empty());
    bed.send_many(1, 3).await;
    let expected = |device, cursor, head| Behind { device, conversation: between(1, 2), cursor, head };
    for flush in [false, true, false] {
        assert_eq!(bed.behind(device(2, 1)).await, [expected(device(2, 1), 0, 3)]);
        if flush {
            bed.log().flush().await.unwrap();
        }
    }
    bed.ack(device(2, 1), 2).await;
    assert_eq!(bed.behind(device(2, 1)).await, [expected(device(2, 1), 2, 3)]);
    bed.ack(device(2, 1), 3).await;
    assert!(bed.behind(device(2, 1)).await.is_empty(), "visible at once");
    bed.log().flush().await.unwrap();
    assert!(bed.behind(device(2, 1)).await.is_empty());
    bed.send_many(4, 4).await;
    let both = bed.log().behind(&[device(2, 1), device(3, 1), device(1, 1)]).await.unwrap();
    assert_eq!(both, [expected(device(2, 1), 3, 4), expected(device(1, 1), 0, 4)]);
}

pub(crate) async fn behind_survives_dying<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    bed.send_many(1, 3).await;
    bed.log().flush().await.unwrap();
    bed.ack(device(2, 1), 3).await;
    bed.log().flush().await.unwrap();
    bed.send_many(4, 5).await;
    for how in [Reopen::Died, Reopen::Closed] {
        bed = bed.reopen(how).await;
        let behind = bed.behind(device(2, 1)).await;
        assert_eq!((behind[0].cursor, behind[0].head), (3, 5));
    }
}

pub(crate) async fn cursors_move_by_maximum_and_not_beyond_the_head<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    bed.send_many(1, 5).await;
    bed.ack(device(2, 1), 4).await;
    bed.ack(device(2, 1), 2).await;
    assert_eq!(bed.state(device(2, 1)).await.cursor, 4);
    let beyond = bed.log().acknowledge(device(2, 1), &[(between(1, 2), 6)]).await;
    assert!(matches!(beyond, Err(LogError::BeyondHead)));
    bed.log().flush().await.unwrap();
    bed = bed.reopen(Reopen::Died).await;
    assert_eq!(bed.state(device(2, 1)).await.cursor, 4);
    bed.ack(device(2, 1), 5).await;
    let read = bed.log().mark_read(device(2, 1), between(1, 2), 6).await;
    assert!(matches!(read, Err(LogError::BeyondHead)));
}

pub(crate) async fn one_bad_cursor_moves_nothing<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    bed.send_many(1, 5).await;
    bed.send(append_from(device(1, 1), 3, 1, &[device(3, 1)])).await;
    let strangers = bed.log().acknowledge(device(2, 1), &[(between(1, 2), 5), (between(1, 3), 1)]).await;
    assert!(matches!(strangers, Err(LogError::NotAMember)));
    let unknown = bed.log().acknowledge(device(2, 1), &[(between(1, 2), 5), (between(7, 8), 1)]).await;
    assert!(matches!(unknown, Err(LogError::NotAMember)));
    let beyond = bed.log().acknowledge(device(1, 1), &[(between(1, 2), 5), (between(1, 3), 2)]).await;
    assert!(matches!(beyond, Err(LogError::BeyondHead)));
    assert_eq!(bed.state(device(2, 1)).await.cursor, 0);
    assert_eq!(bed.state(device(1, 1)).await.cursor, 0);
}

pub(crate) async fn watermarks_are_the_furthest_device<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    bed.fixture.link(device(2, 2)).await;
    for id in 1..=4 {
        bed.send(append_from(device(1, 1), 2, id, &[device(2, 1), device(2, 2)])).await;
    }
    let ack = |d, seq| {
        let log = bed.log();
        async move { log.acknowledge(d, &[(between(1, 2), seq)]).await.unwrap() }
    };
    let moved = ack(device(2, 1), 3).await;
    assert_eq!((moved[0].account, moved[0].peer, moved[0].delivered, moved[0].mutual), (account(2), account(1), 3, false));
    assert!(ack(device(2, 2), 2).await.is_empty());
    assert_eq!(ack(device(2, 2), 4).await[0].delivered, 4);
    bed.log().flush().await.unwrap();
    bed.fixture.revoke(device(2, 2)).await;
    bed = bed.reopen(Reopen::Died).await;
    assert_eq!(bed.state(device(1, 1)).await.peer_delivered, 4, "does not fall with the device");
}

pub(crate) async fn a41_a_checkpoint_is_acknowledged_in_silence<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    let checkpoint = |id| Append { checkpoint: true, ..append(id) };
    let ack = |bed: &Bed<F>, seq| {
        let log = bed.log();
        async move { log.acknowledge(device(2, 1), &[(between(1, 2), seq)]).await.unwrap() }
    };
    bed.send_many(1, 2).await;
    bed.send(checkpoint(3)).await;
    assert_eq!(ack(&bed, 3).await[0].delivered, 2, "up to the last message");
    // A retry does not count as a message, even before a checkpoint in one batch.
    let outcomes = bed.submit(vec![append(2), checkpoint(4)]).await;
    assert_eq!(outcomes.iter().map(accepted).collect::<Vec<_>>(), [(2, true), (4, false)]);
    assert_eq!(ack(&bed, 4).await, []);
    bed.log().flush().await.unwrap();
    bed.send(checkpoint(5)).await;
    for how in [Reopen::Died, Reopen::Closed] {
        bed = bed.reopen(how).await;
        assert_eq!(bed.state(device(1, 1)).await.peer_delivered, 2);
    }
    assert_eq!(ack(&bed, 5).await, []);
    assert_eq!(bed.state(device(2, 1)).await.cursor, 5);
    let outcomes = bed.submit(vec![append(2), append(6), checkpoint(7)]).await;
    assert_eq!(outcomes.iter().map(accepted).collect::<Vec<_>>(), [(2, true), (6, false), (7, false)]);
    assert_eq!(ack(&bed, 7).await[0].delivered, 6);
    assert_eq!(bed.state(device(1, 1)).await.peer_delivered, 6);
}

pub(crate) async fn read_marks_are_per_account<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    bed.send_many(1, 4).await;
    let moved = bed.log().mark_read(device(2, 1), between(1, 2), 3).await.unwrap().unwrap();
    assert_eq!((moved.read, moved.delivered), (3, 0), "reading implies nothing about delivery");
    assert_eq!(bed.log().mark_read(device(2, 1), between(1, 2), 2).await.unwrap(), None);
    bed.fixture.link(device(2, 2)).await;
    assert_eq!(bed.state(device(2, 2)).await.own_read, 3);
    assert_eq!(bed.state(device(1, 1)).await.peer_read, 3);
    bed.log().flush().await.unwrap();
    bed = bed.reopen(Reopen::Died).await;
    assert_eq!(bed.state(device(1, 1)).await.peer_read, 3);
    let strangers = bed.log().mark_read(device(3, 1), between(1, 2), 1).await;
    assert!(matches!(strangers, Err(LogError::NotAMember)));
}

pub(crate) async fn states_leave_out_strangers<F: Fixture>() {
    let mut bed = Bed::<F>::new().await;
    bed.send_many(1, 2).await;
    bed.send(append_from(device(1, 1), 3, 1, &[device(3, 1)])).await;
    let all = [between(1, 2), between(5, 6), between(1, 3), between(2, 3)];
    for how in [None, Some(Reopen::Closed), Some(Reopen::Died)] {
        if let Some(how) = how {
            bed = bed.reopen(how).await;
        }
        let states = bed.log().states(device(2, 1), &all).await.unwrap();
        assert_eq!(states.iter().map(|s| s.conversation).collect::<Vec<_>>(), [between(1, 2)]);
        let states = bed.log().states(device(1, 1), &all).await.unwrap();
        assert_eq!(states.iter().map(|s| (s.conversation, s.head, s.first)).collect::<Vec<_>>(), [(between(1, 2), 2, 1), (between(1, 3), 1, 1)]);
    }
}
