//! Ids as they travel and ids as they are hashed are the same 16 bytes in two types; this is the one place where they meet.

use kith_crypto::id as crypto;
use kith_proto::id as wire;

macro_rules! both_ways {
    ($($to_crypto:ident, $to_wire:ident, $type:ident);+) => {$(
        pub(crate) const fn $to_crypto(id: wire::$type) -> crypto::$type {
            crypto::$type::from_bytes(id.0)
        }
        pub(crate) const fn $to_wire(id: crypto::$type) -> wire::$type {
            wire::$type(id.to_bytes())
        }
    )+};
}
both_ways!(
    account, wire_account, AccountId;
    device, wire_device, DeviceId;
    conversation, wire_conversation, ConversationId
);
