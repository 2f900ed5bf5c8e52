use crate::handshake::HandshakeError;
use crate::incoming::IncomingError;
use crate::prekey::{BundleError, PrekeyBundle, PrekeyId, PrekeySecret};
use crate::ratchet::header::HEADER_LEN;
use crate::sign::SignatureError;
use crate::testing::{NOW, Person, Sent, rng, text};
use crate::x25519::{DhPublic, LowOrder, low_order_points};
use crate::{ClientMsgId, ConversationId, OpenError, Slice, SliceType};

fn handshake_error(result: Result<crate::incoming::Incoming, IncomingError>) -> HandshakeError {
    match result.unwrap_err() {
        IncomingError::Handshake(error) => error,
        other => panic!("{other:?}"),
    }
}

fn first_message() -> (Person, Person, Sent) {
    let (mut alice, bob) = (Person::new(1), Person::new(2));
    let mut to_bob = alice.sessions_with(&bob);
    let sent = alice.send(&mut to_bob, &bob, b"hello");
    (alice, bob, sent)
}

#[test]
fn a01_a_replayed_first_message_without_one_time_keys_makes_no_session() {
    let (mut alice, mut bob) = (Person::new(1), Person::new(2));
    bob.exhaust_one_time();
    let mut to_bob = alice.sessions_with(&bob);
    let sent = alice.send(&mut to_bob, &bob, b"hello");
    let freshness = sent.outgoing.slices[0].freshness.unwrap();
    assert!(freshness.one_time_missing && freshness.last_resort_kem);
    let mut to_alice = bob.sessions_with(&alice);
    assert_eq!(text(bob.receive(&mut to_alice, &alice, &sent)), b"hello");
    // The session is still there: the copy is recognised as a message whose key was used.
    assert_eq!(bob.receive(&mut to_alice, &alice, &sent).unwrap_err(), OpenError::KeyGone.into());
    // The session is gone: the memory recognises the copy.
    let mut empty = bob.sessions_with(&alice);
    assert_eq!(handshake_error(bob.receive(&mut empty, &alice, &sent)), HandshakeError::Replayed);
    assert!(!empty.has_active());
}

#[test]
fn a02_a_replay_with_the_last_resort_key_is_remembered_until_the_signed_prekey_is_erased() {
    let (mut alice, mut bob) = (Person::new(1), Person::new(2));
    bob.exhaust_one_time();
    let mut to_bob = alice.sessions_with(&bob);
    let sent = alice.send(&mut to_bob, &bob, b"hello");
    let mut to_alice = bob.sessions_with(&alice);
    bob.receive(&mut to_alice, &alice, &sent).unwrap();
    bob.replay.forget_below(bob.prekeys.signed.id());
    let mut empty = bob.sessions_with(&alice);
    assert_eq!(handshake_error(bob.receive(&mut empty, &alice, &sent)), HandshakeError::Replayed);
}

#[test]
fn a01_a_used_one_time_key_is_named_for_deletion_and_its_absence_refuses() {
    let (alice, mut bob, sent) = first_message();
    let mut to_alice = bob.sessions_with(&alice);
    let incoming = bob.receive(&mut to_alice, &alice, &sent).unwrap();
    let used = incoming.first_contact.unwrap().used_up;
    assert_eq!(used, [bob.prekeys.one_time.as_ref().unwrap().id(), bob.prekeys.kem.id()]);
    bob.prekeys.one_time = None;
    let mut empty = bob.sessions_with(&alice);
    assert_eq!(handshake_error(bob.receive(&mut empty, &alice, &sent)), HandshakeError::MissingPrekey);
}

#[test]
fn a03_the_kem_key_of_another_is_refused_by_signature_and_by_transcript() {
    let (_, bob, sent) = first_message();
    let mallory = Person::new(3);
    let party = bob.list.device(bob.keys.device_id()).unwrap().party();
    let swapped = PrekeyBundle { kem: mallory.bundle().kem, ..bob.bundle() };
    assert_eq!(swapped.verify(&party, None).unwrap_err(), BundleError::Signature(SignatureError::BadSignature));
    // Bob's own other KEM key under the same id gives another transcript.
    let (alice, mut bob) = (Person::new(1), bob);
    let mut rng = rng(9);
    bob.prekeys.kem = PrekeySecret::kem_one_time(&mut rng, bob.prekeys.kem.id(), NOW);
    let mut to_alice = bob.sessions_with(&alice);
    assert_eq!(handshake_error(bob.receive(&mut to_alice, &alice, &sent)), HandshakeError::TranscriptMismatch);
}

#[test]
fn a04_unsigned_wrongly_signed_and_misplaced_prekeys_are_refused() {
    let (bob, mallory) = (Person::new(2), Person::new(3));
    let party = bob.list.device(bob.keys.device_id()).unwrap().party();
    let bundle = bob.bundle();
    assert!(bundle.verify(&party, Some(PrekeyId::FIRST)).is_ok());
    let refused = |bundle: PrekeyBundle| bundle.verify(&party, None).unwrap_err();
    assert!(matches!(refused(PrekeyBundle { signed: mallory.bundle().signed, ..bundle.clone() }), BundleError::Signature(_)));
    assert_eq!(refused(PrekeyBundle { signed: bundle.kem.clone(), ..bundle.clone() }), BundleError::WrongKind);
    assert_eq!(refused(PrekeyBundle { kem: bundle.signed.clone(), ..bundle.clone() }), BundleError::WrongKind);
    let same_id = bundle.one_time.map(|key| crate::prekey::OneTimePrekey { id: bundle.signed.id(), ..key });
    assert_eq!(refused(PrekeyBundle { one_time: same_id, ..bundle.clone() }), BundleError::WrongKind);
    for at in 0..bundle.signed.to_bytes().len() {
        let mut bytes = bundle.signed.to_bytes();
        bytes[at] ^= 1;
        if let Ok(signed) = crate::prekey::SignedPrekey::from_bytes(&bytes) {
            assert!(PrekeyBundle { signed, ..bundle.clone() }.verify(&party, None).is_err(), "byte {at}");
        }
    }
}

#[test]
fn a04_a_signed_prekey_older_than_one_seen_is_refused() {
    let bob = Person::new(2);
    let party = bob.list.device(bob.keys.device_id()).unwrap().party();
    let newer = PrekeyId::from_wire(2).unwrap();
    assert_eq!(bob.bundle().verify(&party, Some(newer)).unwrap_err(), BundleError::OldSignedPrekey);
}

#[test]
fn a05_the_initiator_refuses_every_low_order_point() {
    let (mut alice, bob) = (Person::new(1), Person::new(2));
    for point in low_order_points() {
        let point = DhPublic::from_bytes(point);
        let mut bundles = [bob.verified_bundle(), bob.verified_bundle(), bob.verified_bundle()];
        bundles[0].signed_key = point;
        bundles[1].device.agreement = point;
        bundles[2].one_time = bundles[2].one_time.map(|key| crate::prekey::OneTimePrekey { key: point, ..key });
        for bundle in bundles {
            let mut to_bob = alice.sessions_with(&bob);
            let own = alice.list.clone();
            let versions = crate::ListVersions { sender: 1, recipient: 1 };
            let error = to_bob.begin(&mut alice.rng, &alice.keys, &own, &bundle, versions, NOW).unwrap_err();
            assert_eq!(error, HandshakeError::LowOrder(LowOrder));
            assert!(!to_bob.has_active());
        }
    }
}

#[test]
fn a05_the_responder_refuses_low_order_torsioned_and_high_bit_keys() {
    let (alice, mut bob, sent) = first_message();
    let mut points = low_order_points();
    let mut high_bit: [u8; 32] = sent.slice()[HEADER_LEN..HEADER_LEN + 32].try_into().unwrap();
    high_bit[31] ^= 0x80;
    points.push(high_bit);
    for point in points {
        let mut changed = sent.clone();
        changed.outgoing.slices[0].bytes[HEADER_LEN..HEADER_LEN + 32].copy_from_slice(&point);
        let mut to_alice = bob.sessions_with(&alice);
        assert_eq!(handshake_error(bob.receive(&mut to_alice, &alice, &changed)), HandshakeError::TranscriptMismatch);
        // A sender who computes its transcript over the bad key is stopped by the agreement itself.
        let ratchet_key = HEADER_LEN - 60;
        let mut changed = sent.clone();
        changed.outgoing.slices[0].bytes[ratchet_key..ratchet_key + 32].copy_from_slice(&point);
        let error = bob.receive(&mut to_alice, &alice, &changed).unwrap_err();
        assert!(matches!(error, IncomingError::Open(OpenError::LowOrder(_) | OpenError::NotAuthentic)), "{error:?}");
    }
}

#[test]
fn a06_a_first_message_for_another_device_conversation_or_sender_is_refused() {
    let (alice, mut bob, sent) = first_message();
    let mallory = Person::new(3);
    let mut to_alice = bob.sessions_with(&alice);
    let mut envelope = sent.envelope();
    envelope.conversation = ConversationId::from_bytes([8; 16]);
    assert_eq!(bob.try_open(&to_alice, &alice, &envelope, NOW).unwrap_err(), IncomingError::SenderMismatch);
    // The server says that Mallory sent it: Bob computes the transcript with Mallory's keys.
    let to_mallory = bob.sessions_with(&mallory);
    let mut envelope = sent.envelope();
    (envelope.account, envelope.device) = (mallory.account.account_id(), mallory.keys.device_id());
    let error = handshake_error(bob.try_open(&to_mallory, &mallory, &envelope, NOW));
    assert_eq!(error, HandshakeError::TranscriptMismatch);
    // The server hands it to Mallory, whose ids happen to be the same.
    let mut mallory = mallory;
    let to_alice_from_mallory = mallory.sessions_with(&alice);
    let error = handshake_error(mallory.try_open(&to_alice_from_mallory, &alice, &sent.envelope(), NOW));
    assert_eq!(error, HandshakeError::TranscriptMismatch);
    assert_eq!(text(bob.receive(&mut to_alice, &alice, &sent)), b"hello");
}

#[test]
fn a07_the_sender_is_told_which_one_time_keys_were_missing() {
    let (mut alice, mut bob, sent) = first_message();
    let freshness = sent.outgoing.slices[0].freshness.unwrap();
    assert!(!freshness.one_time_missing && !freshness.last_resort_kem);
    bob.prekeys.one_time = None;
    let mut again = alice.sessions_with(&bob);
    let sent = alice.send(&mut again, &bob, b"x");
    let freshness = sent.outgoing.slices[0].freshness.unwrap();
    assert!(freshness.one_time_missing && !freshness.last_resort_kem);
}

#[test]
fn a08_nothing_of_a_first_message_can_be_stripped_or_changed() {
    let (alice, mut bob, sent) = first_message();
    let to_alice = bob.sessions_with(&alice);
    // Every byte counts: version, type, ids, KEM ciphertext, counters, text.
    for at in 0..sent.slice().len() {
        let mut changed = sent.clone();
        changed.outgoing.slices[0].bytes[at] ^= 1;
        assert!(bob.try_open(&to_alice, &alice, &changed.envelope(), NOW).is_err(), "byte {at}");
        assert!(bob.replay.is_empty());
    }
    // Made to look ordinary, it has no session.
    let mut stripped = sent.slice()[..crate::ORDINARY_SLICE_LEN].to_vec();
    stripped[1] = SliceType::Ordinary as u8;
    let mut envelope = sent.envelope();
    envelope.slice = &stripped;
    assert_eq!(bob.try_open(&to_alice, &alice, &envelope, NOW).unwrap_err(), OpenError::UnknownSession.into());
    let mut envelope = sent.envelope();
    envelope.versions = None;
    assert_eq!(bob.try_open(&to_alice, &alice, &envelope, NOW).unwrap_err(), IncomingError::NeedsVersions);
}

#[test]
fn a01_a_first_message_with_a_bad_body_begins_nothing() {
    let (alice, mut bob, sent) = first_message();
    let mut to_alice = bob.sessions_with(&alice);
    let mut changed = sent.clone();
    changed.outgoing.body[40] ^= 1;
    let error = bob.receive(&mut to_alice, &alice, &changed).unwrap_err();
    assert_eq!(error, IncomingError::FirstBody(crate::message::BodyError::NotAuthentic));
    let mut renamed = sent.clone();
    renamed.outgoing.client_msg_id = ClientMsgId::from_bytes([9; 16]);
    assert!(matches!(bob.receive(&mut to_alice, &alice, &renamed), Err(IncomingError::FirstBody(_))));
    assert!(bob.replay.is_empty() && !to_alice.has_active());
    assert_eq!(text(bob.receive(&mut to_alice, &alice, &sent)), b"hello");
}

#[test]
fn a08_a_first_message_with_counters_of_a_later_one_is_refused() {
    let (alice, mut bob, sent) = first_message();
    let to_alice = bob.sessions_with(&alice);
    for at in [45, 53] {
        let mut changed = sent.clone();
        changed.outgoing.slices[0].bytes[at] = 1;
        let error = handshake_error(bob.try_open(&to_alice, &alice, &changed.envelope(), NOW));
        assert_eq!(error, HandshakeError::NotInitial);
    }
    assert!(Slice::parse(sent.slice()).is_ok());
}
