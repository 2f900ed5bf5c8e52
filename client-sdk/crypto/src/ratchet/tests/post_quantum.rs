//! The post-quantum step under loss, reordering and hostility.

use super::*;

/// Exchanges messages until the initiator's next chain begins with an offer.
fn until_offer_due(alice: &mut End, bob: &mut End) {
    while alice.session.pq.messages() < MIX_AFTER_MESSAGES {
        round_trip(alice, bob);
    }
}

#[test]
fn a17_the_post_quantum_step_is_offered_answered_mixed_and_erased() {
    let (mut alice, mut bob) = confirmed();
    for epoch in 1..=3 {
        until_offer_due(&mut alice, &mut bob);
        let offer = alice.send(1);
        assert_eq!(offer.len(), PQ_SLICE_LEN);
        assert_eq!(bob.open(&offer), Ok(1));
        let answer = bob.send(2);
        assert_eq!(answer.len(), PQ_SLICE_LEN);
        assert_eq!(alice.open(&answer), Ok(2));
        let mixed = alice.send(3);
        let second = alice.send(4);
        for slice in [&mixed, &second] {
            let header = *Slice::parse(slice).unwrap().header();
            assert_eq!((header.mix_epoch, header.slice_type), (epoch, SliceType::Ordinary));
        }
        // The second arrives first: every message of the chain names the epoch.
        assert_eq!(bob.open(&second), Ok(4));
        assert_eq!(bob.open(&mixed), Ok(3));
        assert_eq!((alice.session.pq.last_mixed(), bob.session.pq.last_mixed()), (epoch, epoch));
        let back = bob.send(5);
        assert_eq!(Slice::parse(&back).unwrap().header().mix_epoch, 0);
        assert_eq!((back.len(), alice.open(&back)), (ORDINARY_SLICE_LEN, Ok(5)));
    }
}

#[test]
fn a17_a_lost_offer_and_a_lost_answer_are_repeated_per_chain() {
    let (mut alice, mut bob) = confirmed();
    until_offer_due(&mut alice, &mut bob);
    let _lost_offer = alice.send(1);
    let next = alice.send(2);
    assert_eq!(next.len(), ORDINARY_SLICE_LEN);
    bob.open(&next).unwrap();
    let back = bob.send(3);
    assert_eq!(back.len(), ORDINARY_SLICE_LEN);
    alice.open(&back).unwrap();
    let offer = alice.send(4);
    assert_eq!(offer.len(), PQ_SLICE_LEN);
    bob.open(&offer).unwrap();
    let _lost_answer = bob.send(5);
    let next = bob.send(6);
    alice.open(&next).unwrap();
    let repeated = alice.send(7);
    assert_eq!(repeated.len(), PQ_SLICE_LEN);
    bob.open(&repeated).unwrap();
    let answer = bob.send(8);
    assert_eq!(answer.len(), PQ_SLICE_LEN);
    alice.open(&answer).unwrap();
    let mixed = alice.send(9);
    assert_eq!(Slice::parse(&mixed).unwrap().header().mix_epoch, 1);
    assert_eq!(bob.open(&mixed), Ok(9));
}

#[test]
fn a17_a_week_is_enough_and_an_unconfirmed_session_offers_nothing() {
    let (mut alice, mut bob) = pair();
    alice.now_ms += MIX_AFTER_MS;
    assert_eq!(alice.send(1).len(), crate::FIRST_SLICE_LEN);
    let reply = bob.send(2);
    alice.open(&reply).unwrap();
    assert_eq!(alice.send(3).len(), PQ_SLICE_LEN);
}

#[test]
fn a17_an_epoch_without_its_secret_is_refused() {
    let (mut alice, mut bob) = confirmed();
    let reply = bob.send(1);
    alice.open(&reply).unwrap();
    let mut fresh = alice.send(2);
    let before = bob.state();
    fresh[53] = 1;
    assert_eq!(bob.open(&fresh), Err(OpenError::UnknownMixEpoch));
    assert_eq!(bob.state(), before);
    // The initiator never takes one.
    let mut reply = {
        fresh[53] = 0;
        bob.open(&fresh).unwrap();
        bob.send(3)
    };
    reply[53] = 1;
    assert_eq!(alice.open(&reply), Err(OpenError::UnknownMixEpoch));
}

#[test]
fn a17_hostile_offers_and_answers_change_nothing() {
    let (mut alice, mut bob) = confirmed();
    let mut rng = rng(3);
    let ek = crate::kem::KemSecret::random(&mut rng).encapsulation_key();
    let idle = bob.session.pq.stored_len();
    for (e, ek) in [(0, ek.clone()), (2, ek.clone()), (u32::MAX, ek), (1, Box::new([0xff; crate::kem::EK_LEN]))] {
        bob.session.pq.take_offer(&mut rng, &[9; 32], e, &ek);
        assert_eq!(bob.session.pq.stored_len(), idle);
    }
    alice.session.pq.take_answer(&[9; 32], 1, &[0; crate::kem::CT_LEN]);
    assert!(alice.session.pq.mix_to_send().is_none());
    round_trip(&mut alice, &mut bob);
}

#[test]
fn a17_an_answer_is_made_once() {
    let (mut alice, mut bob) = confirmed();
    until_offer_due(&mut alice, &mut bob);
    let offer = alice.send(1);
    bob.open(&offer).unwrap();
    let field = bob.session.pq.field();
    let other = crate::kem::KemSecret::random(&mut rng(4)).encapsulation_key();
    bob.session.pq.take_offer(&mut rng(5), &[9; 32], 1, &other);
    assert!(bob.session.pq.field() == field);
}
