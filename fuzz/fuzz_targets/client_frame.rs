//! What a client sends under `kith.v1`: any bytes decode or are refused, and what decodes means the same when written again.
#![no_main]

use kith_proto::v1::ClientFrame;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

fuzz_target!(|data: &[u8]| {
    if let Ok(frame) = ClientFrame::decode(data) {
        assert_eq!(ClientFrame::decode(frame.encode_to_vec().as_slice()).expect("own bytes"), frame);
    }
});
