use super::{Tape, array, bytes, each_case, name, number};
use crate::Secret;
use crate::bytes::Reader;
use crate::handshake::responder::check_initial;
use crate::ratchet::header::{FirstContact, PLAINTEXT_LEN, Slice};
use crate::ratchet::keys::RootKey;
use crate::ratchet::session::{FirstFlight, ListVersions, Opened, Session, Turn};
use crate::ratchet::skipped::SkippedKeys;
use crate::x25519::{DhPublic, DhSecret};
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};

/// One side of a case. The responder has no session before its first message.
struct Side {
    session: Option<Session>,
    skipped: SkippedKeys,
    ratchet_privates: VecDeque<Vec<u8>>,
    kem_seeds: VecDeque<Vec<u8>>,
    kem_randomness: VecDeque<Vec<u8>>,
}

fn queue(value: &Value) -> VecDeque<Vec<u8>> {
    value.as_array().map(|list| list.iter().map(bytes).collect()).unwrap_or_default()
}

/// A session of an initiator that starts from the given secrets.
pub(super) fn initiator(th: [u8; 32], rk: [u8; 32], signed_prekey: [u8; 32], first_extra: &[u8]) -> Session {
    let contact = FirstContact::read(&mut Reader::new(first_extra)).unwrap();
    let first = FirstFlight { contact, versions: ListVersions { sender: 1, recipient: 1 } };
    Session::initiator(th, RootKey(Secret::from_bytes(rk)), DhPublic::from_bytes(signed_prekey), first, 0)
}

impl Side {
    fn state(&self) -> Vec<u8> {
        let mut out = self.skipped.to_bytes().to_vec();
        if let Some(session) = &self.session {
            let mut writer = crate::bytes::StateWriter::new(crate::bytes::StateKind::Sessions, session.stored_len());
            session.write(&mut writer);
            out.extend_from_slice(&writer.finish());
        }
        out
    }

    /// Draws of one seal; what was not drawn goes back.
    fn seal(&mut self, plaintext: &[u8; PLAINTEXT_LEN], r: Vec<u8>) -> Vec<u8> {
        let session = self.session.as_mut().unwrap();
        let due = matches!(session.turn, Turn::Due);
        let mut draws: Vec<Vec<u8>> = Vec::new();
        if due {
            draws.push(self.ratchet_privates.pop_front().unwrap());
        }
        // Whether an offer is begun shows only in the draw: give the seed and the r, and see whether the seed was used.
        let offers = due && session.pq.field().is_none() && session.pq.mix_to_send().is_none() && offer_is_due(session);
        if offers {
            draws.push(self.kem_seeds.pop_front().unwrap());
        }
        draws.push(r);
        let mut tape = Tape::of(draws);
        let sealed = session.seal(&mut tape, plaintext, 0).unwrap();
        assert!(tape.is_used_up());
        sealed.bytes
    }

    fn open(&self, case: &Value, bytes_: &[u8], tape: &mut Tape) -> Option<Opened> {
        let slice = Slice::parse(bytes_).ok()?;
        if let Some(session) = &self.session {
            return (session.id() == slice.header.session_id).then(|| session.open(tape, &slice, &self.skipped, 0).ok())?;
        }
        let th: [u8; 32] = array(&case["th"]);
        check_initial(&slice.header).ok()?;
        if crate::SessionId::of(&th) != slice.header.session_id || slice.first.is_none() {
            return None;
        }
        let spk = DhSecret::from_secret(Secret::from_bytes(array(&case["signed_prekey_private"])));
        let root = RootKey(Secret::from_bytes(array(&case["rk"])));
        Session::responder(th, &root, &spk, &slice, &self.skipped, 0).ok()
    }
}

fn offer_is_due(session: &Session) -> bool {
    session.role == crate::ratchet::session::Role::Initiator && session.confirmed && session.pq.messages() >= crate::MIX_AFTER_MESSAGES
}

fn run(case: &Value) {
    let th: [u8; 32] = array(&case["th"]);
    let alice = initiator(th, array(&case["rk"]), array(&case["signed_prekey"]), &bytes(&case["first_extra"]));
    let side = |session, who: &str| Side {
        session,
        skipped: SkippedKeys::default(),
        ratchet_privates: queue(&case[format!("{who}_ratchet_privates")]),
        kem_seeds: queue(&case[format!("{who}_kem_seeds")]),
        kem_randomness: queue(&case[format!("{who}_kem_randomness")]),
    };
    let mut sides = BTreeMap::from([("initiator", side(Some(alice), "initiator")), ("responder", side(None, "responder"))]);
    let mut sent: BTreeMap<u64, (Vec<u8>, Vec<u8>)> = BTreeMap::new();
    for (i, step) in case["steps"].as_array().unwrap().iter().enumerate() {
        let at = format!("{} step {i}", name(case));
        match step["do"].as_str().unwrap() {
            "send" => {
                let side = sides.get_mut(step["from"].as_str().unwrap()).unwrap();
                let before = side.session.as_ref().unwrap().clone();
                let plaintext = bytes(&step["plaintext"]);
                let slice = side.seal(plaintext.first_chunk().unwrap(), bytes(&step["r"]));
                assert_eq!(hex::encode(&slice), step["slice"].as_str().unwrap(), "{at}");
                check_sent(side.session.as_ref().unwrap(), &before, step, &at);
                sent.insert(number(&step["message"]), (slice, plaintext));
            }
            "receive" => {
                let side = sides.get_mut(step["to"].as_str().unwrap()).unwrap();
                let (slice, plaintext) = &sent[&number(&step["message"])];
                let had_answer = side.session.as_ref().is_some_and(|session| session.pq.field().is_some());
                let mut tape = Tape::of(side.kem_randomness.front().cloned());
                let opened = side.open(case, slice, &mut tape).unwrap_or_else(|| panic!("{at}: refused"));
                if tape.is_used_up() && !side.kem_randomness.is_empty() && !had_answer {
                    side.kem_randomness.pop_front();
                }
                assert_eq!(opened.plaintext.as_slice(), &plaintext[..PLAINTEXT_LEN], "{at}");
                let root_before = side.session.as_ref().map(|session| session.root.clone());
                side.session = Some(opened.session);
                side.skipped = opened.skipped.unwrap_or_else(|| side.skipped.clone());
                check_received(side, root_before.as_ref(), step, &at);
            }
            "refuse" => {
                let side = sides.get_mut(step["to"].as_str().unwrap()).unwrap();
                let before = side.state();
                let mut tape = Tape::of(side.kem_randomness.front().cloned());
                assert!(side.open(case, &bytes(&step["slice"]), &mut tape).is_none(), "{at}: {}", step["reason"]);
                assert_eq!(side.state(), before, "{at}");
            }
            "skip_sends" => {
                let side = sides.get_mut(step["from"].as_str().unwrap()).unwrap();
                for _ in 0..number(&step["count"]) {
                    side.seal(&[0; PLAINTEXT_LEN], vec![0; 16]);
                }
            }
            other => panic!("{at}: unknown step {other}"),
        }
    }
}

fn check_sent(after: &Session, before: &Session, step: &Value, at: &str) {
    let Turn::Sending { chain, .. } = &after.turn else { panic!("{at}: no sending chain") };
    assert_eq!(chain.0.expose().to_vec(), bytes(&step["chain_key_after"]), "{at}");
    if !step["root_step"].is_null() {
        let root = &step["root_step"];
        assert_eq!(before.root.0.expose().to_vec(), bytes(&root["root_before"]), "{at}");
        assert_eq!(after.root.0.expose().to_vec(), bytes(&root["root_after"]), "{at}");
        root_step(root);
    }
    let key = crate::ratchet::keys::MessageKey(Secret::from_bytes(array(&step["message_key"])));
    let (aead_key, nonce) = key.aead(&array(&step["r"]));
    assert_eq!((aead_key.expose().to_vec(), nonce.to_vec()), (bytes(&step["key"]), bytes(&step["nonce"])), "{at}");
}

fn root_step(root: &Value) {
    let mixed = (!root["k_e"].is_null()).then(|| Secret::from_bytes(array(&root["k_e"])));
    let dh = Secret::from_bytes(array(&root["dh_output"]));
    let (next, chain) = RootKey(Secret::from_bytes(array(&root["root_before"]))).step(&dh, mixed.as_ref());
    assert_eq!(next.0.expose().to_vec(), bytes(&root["root_after"]));
    assert_eq!(chain.0.expose().to_vec(), bytes(&root["chain_key"]));
}

fn check_received(side: &Side, root_before: Option<&RootKey>, step: &Value, at: &str) {
    let session = side.session.as_ref().unwrap();
    let chain = &session.receiving.as_ref().unwrap().chain;
    if !step["chain_key_after"].is_null() {
        assert_eq!(chain.0.expose().to_vec(), bytes(&step["chain_key_after"]), "{at}");
    }
    if !step["root_step"].is_null() {
        let root = &step["root_step"];
        if let Some(before) = root_before {
            assert_eq!(before.0.expose().to_vec(), bytes(&root["root_before"]), "{at}");
        }
        assert_eq!(session.root.0.expose().to_vec(), bytes(&root["root_after"]), "{at}");
        root_step(root);
    }
    assert_eq!(side.skipped.len() as u64, number(&step["skipped_kept"]), "{at}");
}

#[test]
fn ratchet_agrees_with_the_vectors() {
    each_case("ratchet.json", &["session"], |_, case| run(case));
}
