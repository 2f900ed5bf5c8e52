//! What a hostile server sends to a client, and what a hostile peer puts into the encryption.
#![no_main]

use kith_proto::v1::{Content, ServerFrame};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

fuzz_target!(|data: &[u8]| {
    if let Ok(frame) = ServerFrame::decode(data) {
        assert_eq!(ServerFrame::decode(frame.encode_to_vec().as_slice()).expect("own bytes"), frame);
    }
    if let Ok(content) = Content::decode(data) {
        assert_eq!(Content::decode(content.encode_to_vec().as_slice()).expect("own bytes"), content);
    }
});
