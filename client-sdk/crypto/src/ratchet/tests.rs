use super::header::{PLAINTEXT_LEN, Slice};
use super::keys::RootKey;
use super::session::{FirstFlight, ListVersions, OpenError, SealError, Session, Turn};
use super::skipped::SkippedKeys;
use super::*;
use crate::prekey::PrekeyId;
use crate::ratchet::header::{FirstContact, PrekeyIds};
use crate::secret::Secret;
use crate::testing::{NOW, rng};
use crate::x25519::{DhPublic, DhSecret, low_order_points};
use crate::{ORDINARY_SLICE_LEN, PQ_SLICE_LEN, SliceType};
use proptest::prelude::*;
use rand::rngs::StdRng;

mod interleaving;
mod post_quantum;

/// One end of a session with its skipped keys.
struct End {
    session: Session,
    skipped: SkippedKeys,
    rng: StdRng,
    now_ms: u64,
}

fn plain(text: u64) -> [u8; PLAINTEXT_LEN] {
    let mut out = [0; PLAINTEXT_LEN];
    out[..8].copy_from_slice(&text.to_be_bytes());
    out
}

impl End {
    fn new(session: Session, skipped: SkippedKeys, seed: u64) -> Self {
        Self { session, skipped, rng: rng(seed), now_ms: NOW }
    }

    fn send(&mut self, text: u64) -> Vec<u8> {
        self.session.seal(&mut self.rng, &plain(text), self.now_ms).unwrap().bytes
    }

    fn open(&mut self, bytes: &[u8]) -> Result<u64, OpenError> {
        let slice = Slice::parse(bytes).unwrap();
        let opened = self.session.open(&mut self.rng, &slice, &self.skipped, self.now_ms)?;
        self.session = opened.session;
        if let Some(skipped) = opened.skipped {
            self.skipped = skipped;
        }
        Ok(u64::from_be_bytes(opened.plaintext[..8].try_into().unwrap()))
    }

    fn state(&self) -> Vec<u8> {
        let mut writer = crate::bytes::StateWriter::new(crate::bytes::StateKind::Sessions, self.session.stored_len());
        self.session.write(&mut writer);
        let mut bytes = writer.finish().to_vec();
        bytes.extend_from_slice(&self.skipped.to_bytes());
        bytes
    }

    /// Through the store and back.
    fn reload(&mut self) {
        let mut writer = crate::bytes::StateWriter::new(crate::bytes::StateKind::Sessions, self.session.stored_len());
        self.session.write(&mut writer);
        let bytes = writer.finish();
        let mut reader = crate::bytes::read_state(crate::bytes::StateKind::Sessions, &bytes).unwrap();
        self.session = Session::read(&mut reader).unwrap();
        reader.finish().unwrap();
        self.skipped = SkippedKeys::from_bytes(&self.skipped.to_bytes()).unwrap();
    }
}

fn initiator_session(spk: DhPublic) -> Session {
    let th = [9; 32];
    let id = PrekeyId::FIRST;
    let contact = FirstContact {
        ek: DhPublic::from_bytes([1; 32]),
        ids: PrekeyIds { signed: id, one_time: None, kem: id.next().unwrap() },
        ct: [2; crate::kem::CT_LEN],
    };
    let first = FirstFlight { contact, versions: ListVersions { sender: 1, recipient: 1 } };
    Session::initiator(th, RootKey::initial(&th, &Secret::from_bytes([3; 32])), spk, first, NOW)
}

/// A session whose first message (0) was delivered.
fn pair() -> (End, End) {
    let spk = DhSecret::random(&mut rng(7));
    let mut alice = End::new(initiator_session(spk.public()), SkippedKeys::default(), 1);
    let first = alice.send(0);
    let slice = Slice::parse(&first).unwrap();
    let root = RootKey::initial(&[9; 32], &Secret::from_bytes([3; 32]));
    let opened = Session::responder([9; 32], &root, &spk, &slice, &SkippedKeys::default(), NOW).unwrap();
    let bob = End::new(opened.session, opened.skipped.unwrap_or_default(), 2);
    (alice, bob)
}

/// [`pair`], and one message back.
fn confirmed() -> (End, End) {
    let (mut alice, mut bob) = pair();
    let reply = bob.send(0);
    alice.open(&reply).unwrap();
    let confirm = alice.send(0);
    bob.open(&confirm).unwrap();
    assert!(alice.session.confirmed && bob.session.confirmed);
    (alice, bob)
}

/// A round trip, which steps the root on both sides.
fn round_trip(alice: &mut End, bob: &mut End) {
    let there = alice.send(1);
    assert_eq!(bob.open(&there), Ok(1));
    let back = bob.send(2);
    assert_eq!(alice.open(&back), Ok(2));
}

#[test]
fn a10_a_changed_header_fails_and_changes_nothing() {
    let (mut alice, mut bob) = confirmed();
    let slice = alice.send(1);
    for at in 2..header::HEADER_LEN {
        let before = bob.state();
        let mut changed = slice.clone();
        changed[at] ^= 1;
        assert!(bob.open(&changed).is_err(), "byte {at}");
        assert_eq!(bob.state(), before, "byte {at}");
    }
    assert_eq!(bob.open(&slice), Ok(1));
}

#[test]
fn a11_changed_or_cut_ciphertexts_are_refused() {
    let (mut alice, mut bob) = confirmed();
    let slice = alice.send(1);
    let before = bob.state();
    for at in header::HEADER_LEN..slice.len() {
        let mut changed = slice.clone();
        changed[at] ^= 0x80;
        assert_eq!(bob.open(&changed), Err(OpenError::NotAuthentic));
        assert!(Slice::parse(&slice[..at]).is_err());
    }
    assert_eq!(bob.state(), before);
    assert_eq!(bob.open(&slice), Ok(1));
}

/// A slice of the open sending chain with another N: what a hostile peer may claim.
fn with_counters(slice: &[u8], pn: u32, n: u32) -> Vec<u8> {
    let mut out = slice.to_vec();
    out[42..46].copy_from_slice(&pn.to_be_bytes());
    out[46..50].copy_from_slice(&n.to_be_bytes());
    out
}

#[test]
fn a12_a_hostile_counter_costs_bounded_work_and_memory() {
    let (mut alice, mut bob) = confirmed();
    let slice = alice.send(1);
    let before = bob.state();
    for n in [1 << 31, u32::MAX, MAX_JUMP + 2] {
        assert_eq!(bob.open(&with_counters(&slice, 0, n)), Err(OpenError::JumpTooFar));
    }
    // A new ratchet key with a hostile PN.
    let reply = bob.send(2);
    alice.open(&reply).unwrap();
    let before_step = bob.state();
    let fresh = alice.send(3);
    assert_eq!(bob.open(&with_counters(&fresh, u32::MAX, 0)), Err(OpenError::JumpTooFar));
    assert_eq!(bob.open(&with_counters(&fresh, 0, u32::MAX)), Err(OpenError::JumpTooFar));
    assert_eq!(bob.state(), before_step);
    assert_ne!(before, before_step);
    assert_eq!(bob.open(&fresh), Ok(3));
}

#[test]
fn a13_jumps_up_to_the_limit_are_followed_and_one_more_is_not() {
    for (jump, allowed) in [(MAX_JUMP, true), (MAX_JUMP + 1, false)] {
        let (mut alice, mut bob) = confirmed();
        let mut sent = Vec::new();
        for text in 0..=u64::from(jump) {
            sent.push(alice.send(text));
        }
        let last = sent.pop().unwrap();
        assert_eq!(bob.open(&last).is_ok(), allowed);
        if allowed {
            assert_eq!(bob.skipped.len(), MAX_SKIPPED);
            let oldest_kept = sent.len() - MAX_SKIPPED;
            assert_eq!(bob.open(&sent[oldest_kept - 1]), Err(OpenError::KeyGone));
            assert_eq!(bob.open(&sent[oldest_kept]), Ok(oldest_kept as u64));
            assert_eq!(bob.open(&sent[oldest_kept]), Err(OpenError::KeyGone));
            assert_eq!(bob.skipped.len(), MAX_SKIPPED - 1);
        }
    }
}

#[test]
fn a13_pn_up_to_the_limit_is_followed_and_one_more_is_not() {
    for (jump, allowed) in [(MAX_JUMP, true), (MAX_JUMP + 1, false)] {
        let (mut alice, mut bob) = confirmed();
        for text in 0..u64::from(jump) {
            alice.send(text);
        }
        let reply = bob.send(1);
        alice.open(&reply).unwrap();
        let fresh = alice.send(2);
        assert_eq!(bob.open(&fresh).is_ok(), allowed);
    }
}

#[test]
fn a12_skipped_keys_of_many_chains_stay_within_the_cap_and_the_oldest_go_first() {
    let (mut alice, mut bob) = confirmed();
    let mut first_lost = None;
    for _ in 0..4 {
        for text in 0..600 {
            let lost = alice.send(text);
            first_lost.get_or_insert(lost);
        }
        round_trip(&mut alice, &mut bob);
        assert!(bob.skipped.len() <= MAX_SKIPPED);
    }
    assert_eq!(bob.skipped.len(), MAX_SKIPPED);
    assert_eq!(bob.open(&first_lost.unwrap()), Err(OpenError::KeyGone));
    assert!(bob.skipped.to_bytes().len() < 100_000);
}

#[test]
fn a12_skipped_keys_are_kept_for_the_newest_five_receiving_chains() {
    let (mut alice, mut bob) = confirmed();
    let mut lost = Vec::new();
    for text in 0..6 {
        lost.push(alice.send(100 + text));
        round_trip(&mut alice, &mut bob);
    }
    // Six chains lost one each; the open one is the sixth of them and the newest of five.
    assert!(bob.open(&lost[0]).is_err());
    for (i, slice) in lost.iter().enumerate().skip(1) {
        assert_eq!(bob.open(slice), Ok(100 + i as u64));
    }
    assert_eq!(bob.skipped.len(), 0);
}

#[test]
fn a14_a_message_key_works_once_and_is_not_in_the_state_afterwards() {
    let (mut alice, mut bob) = confirmed();
    let (first, second) = (alice.send(1), alice.send(2));
    bob.open(&second).unwrap();
    let key = SkippedKeys::take(&bob.skipped, bob.session.id(), &bob.session.their, 1, NOW).unwrap().0;
    let holds = |state: &[u8]| state.windows(32).any(|window| window == key.0.expose());
    assert!(holds(&bob.state()));
    bob.open(&first).unwrap();
    assert!(!holds(&bob.state()));
    assert_eq!(bob.open(&first), Err(OpenError::KeyGone));
    assert_eq!(bob.open(&second), Err(OpenError::KeyGone));
}

#[test]
fn a13_a_skipped_key_expires_after_30_days() {
    let (mut alice, mut bob) = confirmed();
    let (first, second) = (alice.send(1), alice.send(2));
    bob.open(&second).unwrap();
    bob.now_ms += SKIPPED_LIFETIME_MS;
    assert_eq!(bob.open(&first), Err(OpenError::KeyGone));
    bob.now_ms -= 1;
    assert_eq!(bob.open(&first), Ok(1));
}

#[test]
fn a15_after_a_round_trip_a_leaked_state_reads_nothing_more() {
    let (mut alice, mut bob) = confirmed();
    let mut thief = End::new(bob.session.clone(), bob.skipped.clone(), 99);
    let now = alice.send(1);
    assert_eq!(thief.open(&now), Ok(1));
    assert_eq!(bob.open(&now), Ok(1));
    let back = bob.send(2);
    alice.open(&back).unwrap();
    let healed = alice.send(3);
    // The thief makes a ratchet key of its own, as it must to go on, and cannot read what follows.
    thief.send(0);
    assert_eq!(thief.open(&healed), Err(OpenError::NotAuthentic));
    assert_eq!(bob.open(&healed), Ok(3));
}

#[test]
fn a16_a_leaked_state_reads_nothing_earlier() {
    let (mut alice, mut bob) = confirmed();
    let before = alice.send(1);
    bob.open(&before).unwrap();
    let mut thief = End::new(bob.session.clone(), bob.skipped.clone(), 99);
    assert_eq!(thief.open(&before), Err(OpenError::KeyGone));
    round_trip(&mut alice, &mut bob);
    let mut thief = End::new(bob.session.clone(), bob.skipped.clone(), 99);
    assert!(thief.open(&before).is_err());
}

#[test]
fn a05_a_low_order_ratchet_key_is_refused_and_changes_nothing() {
    let (mut alice, mut bob) = confirmed();
    let reply = bob.send(1);
    alice.open(&reply).unwrap();
    let fresh = alice.send(2);
    let before = bob.state();
    for point in low_order_points() {
        let mut changed = fresh.clone();
        changed[10..42].copy_from_slice(&point);
        assert_eq!(bob.open(&changed), Err(OpenError::LowOrder(crate::x25519::LowOrder)));
        assert_eq!(bob.state(), before);
    }
    let mut session = initiator_session(DhPublic::from_bytes([0; 32]));
    assert!(matches!(session.seal(&mut rng(1), &plain(1), NOW), Err(SealError::LowOrder(_))));
}

#[test]
fn a10_a_second_new_ratchet_key_before_an_answer_is_refused() {
    let (mut alice, mut bob) = confirmed();
    let reply = bob.send(1);
    alice.open(&reply).unwrap();
    let fresh = alice.send(2);
    bob.open(&fresh).unwrap();
    let mut another = alice.send(3);
    another[10..42].copy_from_slice(DhSecret::random(&mut rng(5)).public().as_bytes());
    assert_eq!(bob.open(&another), Err(OpenError::EarlyStep));
}

#[test]
fn a18_a_rolled_back_state_never_repeats_a_key_and_nonce() {
    let (alice, _) = confirmed();
    let mut one = End::new(alice.session.clone(), alice.skipped.clone(), 50);
    let mut other = End::new(alice.session, alice.skipped, 51);
    let (a, b) = (one.send(1), other.send(1));
    let r = |slice: &[u8]| slice[54..70].to_vec();
    assert_ne!(r(&a), r(&b));
    assert_ne!(a[70..], b[70..]);
}

#[test]
fn a18_a_used_up_sending_chain_refuses_and_stays() {
    let (mut alice, _) = confirmed();
    if let Turn::Sending { n, .. } = &mut alice.session.turn {
        *n = u32::MAX;
    }
    let before = alice.state();
    let error = alice.session.seal(&mut alice.rng, &plain(1), NOW).map(|_| ()).unwrap_err();
    assert_eq!(error, SealError::ChainExhausted);
    assert_eq!(alice.state(), before);
}

proptest! {
    #[test]
    fn a49_session_reader_takes_anything(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let mut reader = crate::bytes::Reader::new(&bytes);
        let _ = Session::read(&mut reader);
        let mut framed = crate::bytes::StateWriter::new(crate::bytes::StateKind::Skipped, bytes.len());
        framed.put(&bytes);
        let _ = SkippedKeys::from_bytes(&framed.finish());
    }
}

#[test]
fn a40_debug_of_ratchet_values_shows_nothing() {
    let (alice, _) = confirmed();
    assert_eq!(format!("{:?}", alice.session), "Session { .. }");
    assert_eq!(format!("{:?}", alice.session.pq), "PqState { .. }");
}

#[test]
fn a47_ratchet_secrets_are_wiped_on_drop() {
    fn wiped<T: zeroize::ZeroizeOnDrop>() {}
    wiped::<RootKey>();
    wiped::<keys::ChainKey>();
    wiped::<keys::MessageKey>();
    wiped::<DhSecret>();
    wiped::<crate::kem::KemSecret>();
    wiped::<crate::sign::SigningKey>();
    wiped::<Secret<32>>();
}
