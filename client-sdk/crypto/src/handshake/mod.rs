//! First contact: PQXDH with ML-KEM-768 (§2, §9.11 to §9.16). There is no version without the KEM.
//!
//! The initiator begins from a [`crate::prekey::VerifiedBundle`]; the responder from a first message and its own private
//! prekeys. Both hash everything public into the transcript TH, which salts the root key and is part of the associated
//! data of every message, so that neither side can be led to think that it talks to another.

pub(crate) mod initiator;
pub(crate) mod responder;
pub(crate) mod transcript;

#[cfg(test)]
mod tests;

use crate::hash::hkdf;
use crate::secret::Secret;
use crate::x25519::LowOrder;
use thiserror::Error;

/// Version of the handshake, as it enters TH.
pub const HANDSHAKE_VERSION: u8 = 1;

/// Why a session could not be begun. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HandshakeError {
    /// A Diffie-Hellman key has low order.
    #[error(transparent)]
    LowOrder(#[from] LowOrder),
    /// The KEM prekey fails the checks of FIPS 203.
    #[error("the KEM prekey is malformed")]
    BadKemKey,
    /// A private prekey that the first message names is not among those given: erased, used up, or never there.
    #[error("a prekey of the first message is gone")]
    MissingPrekey,
    /// The ids of the first message name prekeys of the wrong kind.
    #[error("a prekey of the first message is of the wrong kind")]
    WrongPrekeyKind,
    /// The first message was made for other keys than this device's.
    #[error("the first message is for another device")]
    OtherDevice,
    /// The transcript does not begin with the session id: something public was swapped on the way.
    #[error("the transcript does not fit the session id")]
    TranscriptMismatch,
    /// This first message was accepted before.
    #[error("the first message is a replay")]
    Replayed,
    /// The memory of accepted first messages is full; nothing is forgotten to make room.
    #[error("the memory of first messages is full")]
    ReplayMemoryFull,
    /// PN or the post-quantum epoch of a first message is not 0.
    #[error("the header of the first message is not a first one")]
    NotInitial,
    /// The slice is no first message.
    #[error("the slice is no first message")]
    NotFirst,
}

/// The four agreements and the KEM secret in their order.
pub(crate) struct Agreements {
    pub(crate) dh1: Secret<32>,
    pub(crate) dh2: Secret<32>,
    pub(crate) dh3: Secret<32>,
    pub(crate) dh4: Option<Secret<32>>,
    pub(crate) ss: Secret<32>,
}

impl Agreements {
    /// `SK = HKDF(salt 0³², FF³² ‖ DH1 ‖ DH2 ‖ DH3 [‖ DH4] ‖ SS, "Kith_CURVE25519_SHA-256_ML-KEM-768")`.
    pub(crate) fn secret_key(&self) -> Secret<32> {
        let dh4: &[u8] = self.dh4.as_ref().map_or(&[], |dh| dh.expose());
        let ikm: [&[u8]; 6] = [&[0xff; 32], self.dh1.expose(), self.dh2.expose(), self.dh3.expose(), dh4, self.ss.expose()];
        hkdf(&[0; 32], &ikm, &[b"Kith_CURVE25519_SHA-256_ML-KEM-768"])
    }
}
