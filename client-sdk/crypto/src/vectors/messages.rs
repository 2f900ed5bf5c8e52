use super::ratchet::initiator;
use super::{Tape, array, bytes, each_case, name, number};
use crate::Secret;
use crate::chain::{ChainOwner, chain_hash};
use crate::checkpoint::{ChainHead, Checkpoint};
use crate::content::{Content, ContentHead, content_hash};
use crate::id::{AccountId, ClientMsgId, ConversationId, DeviceId, Incarnation};
use crate::log_hash::LogView;
use crate::message::{BodyAddress, SlicePlaintext, open_body, seal_body};
use crate::padding::{bucket, pad, unpadded_len};
use crate::ratchet::header::PLAINTEXT_LEN;
use crate::ratchet::post_quantum::PqField;
use serde_json::Value;
use zeroize::Zeroizing;

fn content(fields: &Value) -> Content {
    let head = ContentHead {
        conversation: ConversationId::from_bytes(array(&fields["conversation"])),
        incarnation: Incarnation::from_bytes(array(&fields["incarnation"])),
        k: number(&fields["k"]),
        prev: array(&fields["prev"]),
        client_msg_id: ClientMsgId::from_bytes(array(&fields["client_msg_id"])),
        salt: array(&fields["salt"]),
        view: LogView { seq: number(&fields["view_seq"]), hash: array(&fields["view_log"]) },
        list_version: number(&fields["list_version"]),
        list_hash: array(&fields["list_hash"]),
        kind: number(&fields["kind"]) as u8,
    };
    Content { head, body: Zeroizing::new(bytes(&fields["body"])) }
}

fn chain(case: &Value) {
    let owner = ChainOwner {
        conversation: ConversationId::from_bytes(array(&case["conversation"])),
        account: AccountId::from_bytes(array(&case["account_id"])),
        device: DeviceId::from_bytes(array(&case["device_id"])),
        incarnation: Incarnation::from_bytes(array(&case["incarnation"])),
    };
    assert_eq!(owner.start(), array(&case["chain_start"]));
    let mut h = owner.start();
    for entry in case["entries"].as_array().unwrap() {
        let content = content(entry);
        assert_eq!(content.to_bytes().to_vec(), bytes(&entry["content"]));
        assert_eq!(Content::from_bytes(&bytes(&entry["content"])).unwrap(), content);
        let c_k = content_hash(&content.to_bytes());
        assert_eq!(c_k, array(&entry["content_hash"]));
        h = chain_hash(&h, &c_k);
        assert_eq!(h, array(&entry["head"]));
        let mut padded = content.to_bytes().to_vec();
        pad(&mut padded).unwrap();
        assert_eq!(padded, bytes(&entry["padded"]));
    }
}

fn log(case: &Value) {
    let mut view = LogView::empty(ConversationId::from_bytes(array(&case["conversation"])));
    assert_eq!(view.hash, array(&case["log_start"]));
    for entry in case["entries"].as_array().unwrap() {
        let device = DeviceId::from_bytes(array(&entry["device_id"]));
        let id = ClientMsgId::from_bytes(array(&entry["client_msg_id"]));
        view = view.append(number(&entry["seq"]), device, id).unwrap();
        assert_eq!(view.hash, array(&entry["log"]));
    }
}

fn padding(case: &Value) {
    let mut content: Vec<u8> = (0..number(&case["content_length"])).map(|i| (i % 251) as u8 + 1).collect();
    pad(&mut content).unwrap();
    assert_eq!(content.len() as u64, number(&case["bucket"]), "{}", name(case));
    assert_eq!(crate::hash::sha256(&[&content]), array(&case["padded_sha256"]));
}

fn address(case: &Value) -> BodyAddress {
    BodyAddress {
        conversation: ConversationId::from_bytes(array(&case["conversation"])),
        device: DeviceId::from_bytes(array(&case["device_id"])),
        client_msg_id: ClientMsgId::from_bytes(array(&case["client_msg_id"])),
    }
}

/// The content of these cases is any bytes, so the parts under `seal_body` are used.
fn body(case: &Value) {
    let mut sealed = bytes(&case["content"]);
    pad(&mut sealed).unwrap();
    let key = Secret::from_bytes(array(&case["content_key"]));
    let associated = address(case).to_bytes();
    assert_eq!(associated.to_vec(), bytes(&case["associated_data"]));
    crate::aead::seal(&key, &[0; 12], &associated, &mut sealed, 0);
    assert_eq!(sealed, bytes(&case["sealed"]));
}

fn slice_plaintext(case: &Value) {
    let plaintext = SlicePlaintext {
        content_key: Secret::from_bytes(array(&case["content_key"])),
        c_k: array(&case["content_hash"]),
        since: number(&case["since"]),
        list_hash: array(&case["list_hash"]),
    };
    let mut out = plaintext.to_bytes().to_vec();
    let field = bytes(&case["post_quantum_field"]);
    if !field.is_empty() {
        PqField::read(&field).unwrap().write(&mut out);
    }
    let expected = bytes(&case["plaintext"]);
    assert_eq!(out, expected, "{}", name(case));
    assert!(SlicePlaintext::from_bytes(expected.first_chunk::<PLAINTEXT_LEN>().unwrap()).unwrap() == plaintext);
}

fn checkpoint(case: &Value) {
    let head = |head: &Value| ChainHead {
        account: AccountId::from_bytes(array(&head["account_id"])),
        device: DeviceId::from_bytes(array(&head["device_id"])),
        incarnation: Incarnation::from_bytes(array(&head["incarnation"])),
        k: number(&head["k"]),
        h: array(head.get("h").or(head.get("head")).unwrap()),
    };
    let view = LogView { seq: number(&case["seq"]), hash: array(&case["log"]) };
    let checkpoint = Checkpoint::new(view, case["heads"].as_array().unwrap().iter().map(head).collect()).unwrap();
    assert_eq!(checkpoint.to_bytes(), bytes(&case["body"]));
    assert_eq!(Checkpoint::from_bytes(&bytes(&case["body"])).unwrap(), checkpoint);
    let content = content(&case["content_fields"]).to_bytes();
    assert_eq!(content.to_vec(), bytes(&case["content"]));
    assert_eq!(content_hash(&content), array(&case["content_hash"]));
}

fn message(case: &Value) {
    let content = content(&case["content_fields"]);
    assert_eq!(content.to_bytes().to_vec(), bytes(&case["content"]));
    let address = BodyAddress {
        conversation: content.head.conversation,
        device: DeviceId::from_bytes(array(&case["sender_device_id"])),
        client_msg_id: content.head.client_msg_id,
    };
    let content_key = Secret::from_bytes(array(&case["content_key"]));
    let (sealed, c_k) = seal_body(&content_key, address, &content.head, &content.body).unwrap();
    assert_eq!(sealed, bytes(&case["sealed_body"]));
    assert_eq!(c_k, array(&case["content_hash"]));
    assert_eq!(chain_hash(&content.head.prev, &c_k), array(&case["head"]));
    assert_eq!(bucket(bytes(&case["content"]).len()).unwrap() as u64, number(&case["padded_length"]));
    for slice in case["slices"].as_array().unwrap() {
        let (since, list_hash) = (number(&slice["since"]), array(&slice["list_hash"]));
        let plaintext = SlicePlaintext { content_key: content_key.clone(), c_k, since, list_hash };
        let mut session = initiator(array(&slice["th"]), array(&slice["rk"]), array(&slice["signed_prekey"]), &bytes(&slice["first_extra"]));
        let mut tape = Tape::of([bytes(&slice["ratchet_private"]), bytes(&slice["r"])]);
        let made = session.seal(&mut tape, &plaintext.to_bytes(), 0).unwrap();
        assert_eq!(hex::encode(made.bytes), slice["slice"].as_str().unwrap());
        assert_eq!(open_body(&plaintext, address, &sealed).unwrap(), content);
    }
}

#[test]
fn messages_agree_with_the_vectors() {
    let kinds = [
        "chain",
        "log",
        "padding",
        "padding_refused",
        "unpad",
        "unpad_refused",
        "body",
        "slice_plaintext",
        "checkpoint",
        "checkpoint_refused",
        "message",
    ];
    each_case("messages.json", &kinds, |kind, case| match kind {
        "chain" => chain(case),
        "log" => log(case),
        "padding" => padding(case),
        "padding_refused" => assert!(bucket(number(&case["content_length"]) as usize).is_err(), "{}", name(case)),
        "unpad" => {
            let padded = bytes(&case["padded"]);
            assert_eq!(padded[..unpadded_len(&padded).unwrap()], bytes(&case["content"]));
        }
        "unpad_refused" => assert!(unpadded_len(&bytes(&case["padded"])).is_err(), "{}", name(case)),
        "body" => body(case),
        "slice_plaintext" => slice_plaintext(case),
        "checkpoint" => checkpoint(case),
        "checkpoint_refused" => assert!(Checkpoint::from_bytes(&bytes(&case["body"])).is_err(), "{}", name(case)),
        _ => message(case),
    });
}
