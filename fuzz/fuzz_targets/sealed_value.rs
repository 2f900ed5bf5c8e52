//! Sealed values of the store and the wrapped store key: nothing opens that was not sealed, and no parameter makes us take the memory it asks for.
//! The fuzzer watches comparisons and so can learn the right tag for a fixed key; damage that leaves the tag alone must be noticed.
#![no_main]

use std::sync::LazyLock;

use kith_crypto::seal::{Place, StoreKey, WrappedKey};
use kith_fuzz::{damage, rng, same_tag};
use libfuzzer_sys::fuzz_target;

static KEY: LazyLock<StoreKey> = LazyLock::new(|| StoreKey::random(&mut rng(9)));
const PLACE: Place<'static> = Place { table: "message", row: b"1", column: "body" };

fuzz_target!(|data: &[u8]| {
    let _ = KEY.open(PLACE, data);
    let original = KEY.seal(&mut rng(10), PLACE, b"value");
    let mut sealed = original.clone();
    let different = damage(&mut sealed, data);
    let opened = KEY.open(PLACE, &sealed);
    assert!(different || opened.is_ok());
    assert!(!different || opened.is_err() || !same_tag(&original, &sealed));
    if let Ok(wrapped) = WrappedKey::from_bytes(data) {
        assert_eq!(wrapped.to_bytes(), data);
    }
});
