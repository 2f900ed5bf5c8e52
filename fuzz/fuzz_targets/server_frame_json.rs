//! What a hostile server sends under `kith.v1.json`.
#![no_main]

use kith_proto::v1::ServerFrame;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(frame) = serde_json::from_slice::<ServerFrame>(data) {
        let json = serde_json::to_vec(&frame).expect("a frame has a JSON form");
        assert_eq!(serde_json::from_slice::<ServerFrame>(&json).expect("own text"), frame);
    }
});
