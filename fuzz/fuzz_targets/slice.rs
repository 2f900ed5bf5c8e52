//! The clear part of a slice: exact lengths, known types, no zero ids.
#![no_main]

use kith_crypto::Slice;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(slice) = Slice::parse(data) {
        assert!([kith_crypto::FIRST_SLICE_LEN, kith_crypto::ORDINARY_SLICE_LEN, kith_crypto::PQ_SLICE_LEN].contains(&data.len()));
        let _ = (slice.header(), slice.prekey_ids());
    }
});
