//! Kith's end-to-end encryption as values.
#![forbid(unsafe_code)]
#![deny(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::cast_possible_truncation
    )
)]

mod aead;
mod bytes;
pub mod chain;
pub mod checkpoint;
pub mod content;
pub mod device;
pub mod device_list;
mod handshake;
mod hash;
pub mod id;
pub mod identity;
pub mod incoming;
pub mod kem;
pub mod log_hash;
pub mod login;
pub mod message;
pub mod outgoing;
pub mod padding;
pub mod prekey;
mod ratchet;
pub mod repair;
pub mod replay;
pub mod safety_number;
pub mod seal;
mod secret;
pub mod session_set;
pub mod sign;
pub mod trusted_list;
pub mod x25519;

#[cfg(test)]
mod testing;

pub use bytes::{FormatError, StateError};
pub use handshake::initiator::Freshness;
pub use handshake::responder::ResponderPrekeys;
pub use handshake::{HANDSHAKE_VERSION, HandshakeError};
pub use id::{AccountId, ClientMsgId, ConversationId, DeviceId, Incarnation};
pub use ratchet::header::{
    FIRST_SLICE_LEN, Header, ORDINARY_SLICE_LEN, PQ_SLICE_LEN, PrekeyIds, SessionId, Slice,
    SliceType,
};
pub use ratchet::session::{ListVersions, OpenError, SealError};
pub use ratchet::{
    MAX_JUMP, MAX_RECEIVING_CHAINS, MAX_SKIPPED, MIX_AFTER_MESSAGES, MIX_AFTER_MS,
    SKIPPED_LIFETIME_MS,
};
pub use secret::Secret;
