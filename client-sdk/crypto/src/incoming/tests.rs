use super::*;
use crate::checkpoint::{ChainHead, Checkpoint};
use crate::content::{KIND_CHECKPOINT, MAX_BODY_LEN};
use crate::log_hash::LogView;
use crate::outgoing::{ComposeError, Draft, Recipient, Sender, compose};
use crate::testing::{CONVERSATION, NOW, Person, reload, text};
use crate::{FIRST_SLICE_LEN, ORDINARY_SLICE_LEN, PQ_SLICE_LEN};
use proptest::prelude::*;

fn people() -> (Person, Person, SessionSet, SessionSet) {
    let (alice, bob) = (Person::new(1), Person::new(2));
    let (to_bob, to_alice) = (alice.sessions_with(&bob), bob.sessions_with(&alice));
    (alice, bob, to_bob, to_alice)
}

#[test]
fn a42_bodies_and_slices_have_few_lengths() {
    let (mut alice, mut bob, mut to_bob, mut to_alice) = people();
    let mut lengths = std::collections::BTreeSet::new();
    for len in [0, 1, 70, 71, 300, 1000, MAX_BODY_LEN] {
        let sent = alice.send(&mut to_bob, &bob, &vec![1; len]);
        lengths.insert(sent.outgoing.body.len());
        assert_eq!(sent.slice().len(), FIRST_SLICE_LEN);
        assert_eq!(text(bob.receive(&mut to_alice, &alice, &sent)).len(), len);
    }
    assert_eq!(lengths.into_iter().collect::<Vec<_>>(), [272, 528, 2064, 32_784]);
    let sent = bob.send(&mut to_alice, &alice, b"x");
    assert_eq!(sent.slice().len(), ORDINARY_SLICE_LEN);
    let too_long = vec![1; MAX_BODY_LEN + 1];
    let before = (alice.chain.clone(), to_bob.to_bytes());
    let error = alice.try_send(&mut to_bob, &bob, None, 1, &too_long, NOW).unwrap_err();
    assert!(matches!(error, ComposeError::TooLong(_)));
    assert_eq!(before, (alice.chain.clone(), to_bob.to_bytes()));
}

#[test]
fn nineteen_slices_and_a_body_fit_a_frame() {
    let most = 19 * FIRST_SLICE_LEN.max(PQ_SLICE_LEN) + 32_768 + 16;
    assert!(most < 64 * 1024, "{most}");
}

#[test]
fn a28_messages_are_numbered_chained_and_judged() {
    let (mut alice, mut bob, mut to_bob, mut to_alice) = people();
    let sent: Vec<_> = (0..5u8).map(|i| alice.send(&mut to_bob, &bob, &[i])).collect();
    let verdict = |incoming: Result<Incoming, IncomingError>| incoming.unwrap().message.unwrap().verdict;
    assert_eq!(verdict(bob.receive(&mut to_alice, &alice, &sent[0])), Verdict::InOrder);
    assert_eq!(verdict(bob.receive(&mut to_alice, &alice, &sent[1])), Verdict::InOrder);
    assert_eq!(verdict(bob.receive(&mut to_alice, &alice, &sent[4])), Verdict::Gap { from: 3, to: 4 });
    assert_eq!(verdict(bob.receive(&mut to_alice, &alice, &sent[3])), Verdict::Earlier);
    assert_eq!(sent.iter().map(|sent| sent.outgoing.k).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
}

#[test]
fn a27_a_later_bad_body_commits_the_ratchet_and_leaves_the_chain() {
    let (mut alice, mut bob, mut to_bob, mut to_alice) = people();
    let first = alice.send(&mut to_bob, &bob, b"1");
    bob.receive(&mut to_alice, &alice, &first).unwrap();
    let mut bad = alice.send(&mut to_bob, &bob, b"2");
    bad.outgoing.body[3] ^= 1;
    let chain = bob.received.clone();
    let incoming = bob.receive(&mut to_alice, &alice, &bad).unwrap();
    assert_eq!(incoming.message.unwrap_err(), BodyError::NotAuthentic);
    assert_eq!(bob.received, chain);
    // Its key is spent.
    assert_eq!(bob.receive(&mut to_alice, &alice, &bad).unwrap_err(), OpenError::KeyGone.into());
    let next = alice.send(&mut to_bob, &bob, b"3");
    let verdict = bob.receive(&mut to_alice, &alice, &next).unwrap().message.unwrap().verdict;
    assert_eq!(verdict, Verdict::Gap { from: 2, to: 2 });
}

#[test]
fn a28_one_slice_cannot_be_given_another_body() {
    let (mut alice, mut bob, mut to_bob, mut to_alice) = people();
    let first = alice.send(&mut to_bob, &bob, b"1");
    bob.receive(&mut to_alice, &alice, &first).unwrap();
    let (one, other) = (alice.send(&mut to_bob, &bob, b"2"), alice.send(&mut to_bob, &bob, b"3"));
    let mut mixed = one.clone();
    mixed.outgoing.body = other.outgoing.body.clone();
    let envelope = mixed.envelope();
    let incoming = bob.try_open(&to_alice, &alice, &envelope, NOW).unwrap();
    assert_eq!(incoming.message.unwrap_err(), BodyError::NotAuthentic);
    // A sender that seals two contents under one key is caught by c_k.
    let plaintext = SlicePlaintext { content_key: crate::Secret::from_bytes([1; 32]), c_k: [0; 32], since: 1, list_hash: [0; 32] };
    let address = BodyAddress { conversation: CONVERSATION, device: alice.keys.device_id(), client_msg_id: one.outgoing.client_msg_id };
    let content = bob.receive(&mut to_alice, &alice, &one).unwrap().message.unwrap().content;
    let (body, c_k) = crate::message::seal_body(&plaintext.content_key, address, &content.head, &content.body).unwrap();
    assert_eq!(open_body(&plaintext, address, &body).unwrap_err(), BodyError::OtherContent);
    let plaintext = SlicePlaintext { c_k, ..plaintext };
    assert_eq!(open_body(&plaintext, address, &body).unwrap(), content);
    let renamed = BodyAddress { client_msg_id: ClientMsgId::from_bytes([9; 16]), ..address };
    let (body, _) = crate::message::seal_body(&plaintext.content_key, renamed, &content.head, &content.body).unwrap();
    assert_eq!(open_body(&plaintext, renamed, &body).unwrap_err(), BodyError::OtherEnvelope);
}

#[test]
fn a23_the_addressing_names_the_list_that_was_used() {
    let (mut alice, mut bob, mut to_bob, mut to_alice) = people();
    let sent = alice.send(&mut to_bob, &bob, b"1");
    let incoming = bob.receive(&mut to_alice, &alice, &sent).unwrap();
    assert_eq!(incoming.addressing, Addressing { since: 1, list_hash: *bob.list.hash() });
    let head = incoming.message.unwrap().content.head;
    assert_eq!((head.list_version, head.list_hash), (1, *alice.list.hash()));
    let sent = alice.send(&mut to_bob, &bob, b"2");
    assert_eq!(bob.receive(&mut to_alice, &alice, &sent).unwrap().addressing.since, 1);
}

#[test]
fn a_checkpoint_answers_without_taking_a_place() {
    let (mut alice, mut bob, mut to_bob, mut to_alice) = people();
    let sent = alice.send(&mut to_bob, &bob, b"1");
    bob.receive(&mut to_alice, &alice, &sent).unwrap();
    let heads: Vec<ChainHead> = bob.received.iter().map(ReceiverChain::head).collect();
    let body = Checkpoint::new(LogView::empty(CONVERSATION), heads).unwrap().to_bytes();
    let checkpoint = bob.try_send(&mut to_alice, &alice, None, KIND_CHECKPOINT, &body, NOW).unwrap();
    assert!(checkpoint.outgoing.checkpoint && checkpoint.outgoing.k == 0);
    let message = alice.receive(&mut to_bob, &bob, &checkpoint).unwrap().message.unwrap();
    assert_eq!(message.verdict, Verdict::CheckpointAgrees);
    let covered = Checkpoint::from_bytes(&message.content.body).unwrap().heads()[0];
    assert_eq!((covered.k, covered.h), (alice.chain.k(), *alice.chain.h()));
    assert!(to_bob.is_confirmed());
    let sent = bob.send(&mut to_alice, &alice, b"first");
    let incoming = alice.receive(&mut to_bob, &bob, &sent).unwrap();
    assert_eq!((sent.outgoing.k, incoming.addressing.since), (1, 1));
    assert_eq!(incoming.message.unwrap().verdict, Verdict::InOrder);
}

#[test]
fn one_body_serves_many_devices_and_a_failure_changes_nothing() {
    let (mut alice, mut bob, mut to_bob, mut to_alice) = people();
    let mut carol = Person::new(3);
    let (mut to_carol, mut carol_to_alice) = (alice.sessions_with(&carol), carol.sessions_with(&alice));
    let draft = Draft { client_msg_id: ClientMsgId::from_bytes([1; 16]), kind: 1, view: LogView::empty(CONVERSATION), body: b"all" };
    let sender = Sender { keys: &alice.keys, list: &alice.list };
    let bundles = [bob.verified_bundle(), carol.verified_bundle()];
    let before = alice.chain.clone();
    let mut recipients = [
        Recipient { list: &bob.list, sessions: &mut to_bob, bundle: Some(&bundles[0]) },
        Recipient { list: &carol.list, sessions: &mut to_carol, bundle: None },
    ];
    let error = compose(&mut alice.rng, sender, &mut alice.chain, draft, &mut recipients, NOW).unwrap_err();
    assert_eq!(error, ComposeError::NeedsBundle(1));
    recipients[1].bundle = Some(&bundles[0]);
    let error = compose(&mut alice.rng, sender, &mut alice.chain, draft, &mut recipients, NOW).unwrap_err();
    assert_eq!(error, ComposeError::Mismatched);
    assert!(alice.chain == before && !recipients[0].sessions.has_active());
    recipients[1].bundle = Some(&bundles[1]);
    let outgoing = compose(&mut alice.rng, sender, &mut alice.chain, draft, &mut recipients, NOW).unwrap();
    let from = (alice.account.account_id(), alice.keys.device_id());
    let to_first = crate::testing::Sent { from, outgoing: outgoing.clone() };
    let mut to_second = to_first.clone();
    to_second.outgoing.slices.remove(0);
    assert_eq!(text(bob.receive(&mut to_alice, &alice, &to_first)), b"all");
    assert_eq!(text(carol.receive(&mut carol_to_alice, &alice, &to_second)), b"all");
}

#[test]
fn a27_a_sender_off_the_newest_list_begins_nothing() {
    let (mut alice, mut bob, mut to_bob, mut to_alice) = people();
    let sent = alice.send(&mut to_bob, &bob, b"1");
    let leave = alice.keys.leave(alice.account.account_id(), 1);
    alice.list = alice.list.leave(&leave).unwrap();
    assert_eq!(bob.receive(&mut to_alice, &alice, &sent).unwrap_err(), ListError::UnknownDevice.into());
    let mut envelope = sent.envelope();
    envelope.versions = Some(ListVersions { sender: 2, recipient: 1 });
    let error = bob.try_open(&to_alice, &alice, &envelope, NOW).unwrap_err();
    assert!(matches!(error, IncomingError::List(ListError::MissingVersions { .. })));
}

/// An outgoing message is one commit: what a crash before it repeats has other randomness, so no key and nonce meet twice.
#[test]
fn a18_composing_again_from_an_older_state_never_repeats_a_ciphertext_key() {
    let (mut alice, bob, mut to_bob, _) = people();
    alice.send(&mut to_bob, &bob, b"1");
    let mut older = reload(&to_bob);
    let chain = alice.chain.clone();
    let one = alice.send(&mut to_bob, &bob, b"2");
    alice.chain = chain;
    let two = alice.send(&mut older, &bob, b"3");
    assert_ne!(one.outgoing.body[..32], two.outgoing.body[..32]);
    let r = |slice: &[u8]| slice[54..70].to_vec();
    assert_ne!(r(one.slice()), r(two.slice()));
}

#[test]
fn a48_failing_randomness_ends_the_operation_before_anything_exists() {
    struct Broken;
    impl rand_core::TryRng for Broken {
        type Error = std::fmt::Error;
        fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
            Err(std::fmt::Error)
        }
        fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
            Err(std::fmt::Error)
        }
        fn try_fill_bytes(&mut self, _: &mut [u8]) -> Result<(), Self::Error> {
            Err(std::fmt::Error)
        }
    }
    impl rand_core::TryCryptoRng for Broken {}
    let (mut alice, bob, mut to_bob, _) = people();
    alice.send(&mut to_bob, &bob, b"1");
    let (chain, state) = (alice.chain.clone(), to_bob.to_bytes());
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let draft = Draft { client_msg_id: ClientMsgId::from_bytes([9; 16]), kind: 1, view: LogView::empty(CONVERSATION), body: b"" };
        let sender = Sender { keys: &alice.keys, list: &alice.list };
        let mut recipients = [Recipient { list: &bob.list, sessions: &mut to_bob, bundle: None }];
        let mut rng = rand_core::UnwrapErr(Broken);
        compose(&mut rng, sender, &mut alice.chain, draft, &mut recipients, NOW)
    }));
    assert!(outcome.is_err());
    assert_eq!((chain, state), (alice.chain.clone(), to_bob.to_bytes()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a49_opening_takes_anything(slice in proptest::collection::vec(any::<u8>(), 0..1400), body in proptest::collection::vec(any::<u8>(), 0..600), pick in 0usize..4) {
        let (mut alice, mut bob, mut to_bob, to_alice) = people();
        let sent = alice.send(&mut to_bob, &bob, b"1");
        let mut slice = slice;
        if let Some(len) = [FIRST_SLICE_LEN, ORDINARY_SLICE_LEN, PQ_SLICE_LEN].get(pick) {
            slice.resize(*len, 0);
            slice[0] = 1;
            slice[1] = pick as u8 + 1;
        }
        let mut envelope = sent.envelope();
        envelope.slice = &slice;
        envelope.body = &body;
        prop_assert!(bob.try_open(&to_alice, &alice, &envelope, NOW).is_err());
    }
}
