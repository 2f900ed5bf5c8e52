//! What is inside a body: padding, head, checkpoint.
#![no_main]

use kith_crypto::{checkpoint::Checkpoint, content::Content, padding::unpadded_len};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(length) = unpadded_len(data) {
        assert!(length < data.len() && data[length] == 0x80);
    }
    if let Ok(content) = Content::from_bytes(data) {
        assert_eq!(content.to_bytes().as_slice(), data);
    }
    if let Ok(checkpoint) = Checkpoint::from_bytes(data) {
        assert_eq!(checkpoint.to_bytes(), data);
    }
});
