//! What a client sends under `kith.v1.json`, and that both forms carry the same.
#![no_main]

use kith_proto::v1::ClientFrame;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

fuzz_target!(|data: &[u8]| {
    let Ok(frame) = serde_json::from_slice::<ClientFrame>(data) else { return };
    let json = serde_json::to_vec(&frame).expect("a frame has a JSON form");
    assert_eq!(serde_json::from_slice::<ClientFrame>(&json).expect("own text"), frame);
    assert_eq!(ClientFrame::decode(frame.encode_to_vec().as_slice()).expect("own bytes"), frame);
});
