//! Sealed values of the store and the wrapped store key: nothing opens that was not sealed, and no parameter makes us take the memory it asks for.
#![no_main]

use std::sync::LazyLock;

use kith_crypto::seal::{Place, StoreKey, WrappedKey};
use kith_fuzz::{damage, rng};
use libfuzzer_sys::fuzz_target;

static KEY: LazyLock<StoreKey> = LazyLock::new(|| StoreKey::random(&mut rng(9)));
const PLACE: Place<'static> = Place { table: "message", row: b"1", column: "body" };

fuzz_target!(|data: &[u8]| {
    assert!(KEY.open(PLACE, data).is_err());
    let mut sealed = KEY.seal(&mut rng(10), PLACE, b"value");
    let different = damage(&mut sealed, data);
    assert_eq!(KEY.open(PLACE, &sealed).is_err(), different);
    if let Ok(wrapped) = WrappedKey::from_bytes(data) {
        assert_eq!(wrapped.to_bytes(), data);
    }
});
