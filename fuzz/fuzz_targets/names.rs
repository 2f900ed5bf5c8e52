//! Text that names something: origins, user names, ids.
#![no_main]

use kith_chat_core::domain::{Username, login::is_origin};
use kith_crypto::login::Origin;
use kith_proto::id::AccountId;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(origin) = Origin::parse(text) {
        assert_eq!(Origin::parse(origin.as_str()).expect("its own form"), origin);
        // REST, where logins are signed, is never dialled as ws or wss.
        let dialled = origin.as_str().starts_with("http");
        assert!(!dialled || is_origin(origin.as_str()), "the client signs {:?} and the server refuses it", origin.as_str());
    }
    if let Ok(name) = Username::parse(text) {
        assert_eq!(Username::parse(name.as_str()).expect("its own form").as_str(), name.as_str());
        assert!((3..=32).contains(&name.as_str().len()));
    }
    if let Ok(id) = text.parse::<AccountId>() {
        assert_eq!(id.to_string(), text.to_lowercase());
    }
});
