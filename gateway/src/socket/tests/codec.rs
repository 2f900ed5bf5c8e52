//! The hand-written encoding of the frequent frames is the generated one; JSON and protobuf say the same.

use std::sync::Arc;

use kith_chat_core::log::{Admission, Append, Course, Entry, Gate, Outcome, Payload, Resolved, Ticket};
use kith_proto::{
    id::{AccountId, ClientMsgId, ConversationId, DeviceId, DeviceRef},
    v1,
};
use proptest::prelude::*;
use prost::Message as _;

use super::super::Codec;
use crate::connection::{LiveMessage, Outgoing};

fn encoded(codec: Codec, outgoing: &Outgoing) -> Vec<u8> {
    let mut out = Vec::new();
    let mut announced = 0;
    codec.encode(outgoing, &mut out, |len, _| announced = len);
    assert_eq!(announced, out.len());
    out
}

fn agree(outgoing: &Outgoing) {
    let frame = outgoing.to_frame().unwrap();
    assert_eq!(encoded(Codec::Binary, outgoing), frame.encode_to_vec());
    let json: v1::ServerFrame = serde_json::from_slice(&encoded(Codec::Json, outgoing)).unwrap();
    assert_eq!(json, frame);
}

fn payload() -> impl Strategy<Value = Payload> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..300).prop_map(bytes::Bytes::from);
    prop_oneof![
        (bytes(), bytes()).prop_map(|(body, slice)| Payload::Sealed { body, slice }),
        Just(Payload::Absent(v1::AbsentReason::Own)),
        Just(Payload::Absent(v1::AbsentReason::Expired)),
    ]
}

prop_compose! {
    fn entry()(seq in any::<u64>(), at_ms in any::<u64>(), ids in any::<[[u8; 16]; 3]>(), checkpoint in any::<bool>(),
        versions in prop::array::uniform2(prop_oneof![Just(0u64), any::<u64>()]), payload in payload()) -> Entry {
        Entry {
            seq,
            at_ms,
            sender: DeviceRef { account: AccountId(ids[0]), device: DeviceId(ids[1]) },
            client_msg_id: ClientMsgId(ids[2]),
            checkpoint,
            sender_list_version: versions[0],
            recipient_list_version: versions[1],
            payload,
        }
    }
}

fn append(entry: &Entry, body: bytes::Bytes, slice: bytes::Bytes, to: DeviceRef) -> Append {
    Append {
        ticket: Ticket { connection: 1, request: 1 },
        conversation: ConversationId([9; 16]),
        sender: entry.sender,
        epoch: 1,
        recipient: to.account,
        client_msg_id: entry.client_msg_id,
        device_counter: 1,
        checkpoint: entry.checkpoint,
        restart: false,
        sender_list_version: entry.sender_list_version,
        recipient_list_version: entry.recipient_list_version,
        body,
        slices: vec![v1::Slice { device: to.device.to_bytes(), data: slice }],
        own_slices: Vec::new(),
        gate: Arc::new(Gate::default()),
        admission: Admission::Admitted,
        course: Course::default(),
    }
}

proptest! {
    #[test]
    fn the_frequent_frames_are_encoded_as_generated(entry in entry(), id in any::<u64>(), duplicate in any::<bool>(), known in any::<bool>()) {
        let accepted = Outgoing::Accepted { id, client_msg_id: entry.client_msg_id, seq: entry.seq, at_ms: entry.at_ms, duplicate };
        agree(&accepted);
        agree(&Outgoing::Entry(ConversationId([9; 16]), Box::new(entry.clone())));
        if let Payload::Sealed { body, slice } = &entry.payload {
            let to = DeviceRef { account: AccountId([4; 16]), device: DeviceId([5; 16]) };
            let outcome = Outcome::Accepted { seq: entry.seq, at_ms: entry.at_ms, duplicate: false, mutual: false };
            let message = Arc::new(Resolved { append: append(&entry, body.clone(), slice.clone(), to), outcome });
            let device = if known { to } else { DeviceRef { device: DeviceId([6; 16]), ..to } };
            agree(&Outgoing::Live(LiveMessage::new(&message, &device).unwrap()));
        }
    }

    #[test]
    fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for codec in [Codec::Binary, Codec::Json] {
            let _ = codec.decode(bytes.clone().into());
        }
    }
}

#[test]
fn json_and_protobuf_frames_of_clients_are_the_same() {
    let send = v1::Send { conversation: vec![1; 16].into(), body: "body".into(), restart: true, device_counter: u64::MAX, ..v1::Send::default() };
    let frame = v1::ClientFrame { id: 3, kind: Some(v1::client_frame::Kind::Send(send)) };
    let json = serde_json::to_vec(&frame).unwrap();
    assert_eq!(Codec::Json.decode(json.into()), Ok(frame.clone()));
    assert_eq!(Codec::Binary.decode(frame.encode_to_vec().into()), Ok(frame));
}

#[test]
fn the_first_known_subprotocol_is_taken() {
    let negotiate = |offered: &str| Codec::negotiate(offered.split(','));
    assert_eq!(negotiate("kith.v1"), Some(Codec::Binary));
    assert_eq!(negotiate("mqtt, kith.v1.json, kith.v1"), Some(Codec::Json));
    assert_eq!(negotiate("mqtt"), None);
    assert_eq!(negotiate(""), None);
}
