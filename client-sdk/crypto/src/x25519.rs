//! X25519 keys and agreement. An all-zero result is refused wherever it arises (§2, §9.13).

use crate::secret::{Secret, opaque_debug};
use rand_core::CryptoRng;
use thiserror::Error;
use x25519_dalek::{PublicKey, StaticSecret};

/// The peer's public key has low order: the agreement would be a known all-zero secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the public key has low order")]
pub struct LowOrder;

/// A public X25519 key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DhPublic([u8; 32]);

impl DhPublic {
    /// Takes the bytes as they are; a low-order point is found at the agreement.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes as received.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// A private X25519 key with its public half.
#[derive(Clone)]
pub struct DhSecret {
    secret: Secret<32>,
    public: DhPublic,
}

opaque_debug!(DhSecret);

impl zeroize::ZeroizeOnDrop for DhSecret {}

impl DhSecret {
    /// Draws a new key (32 random bytes).
    pub fn random<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        Self::from_secret(Secret::random(rng))
    }

    /// The key with these private bytes, clamped at use as RFC 7748 says.
    #[must_use]
    pub fn from_secret(secret: Secret<32>) -> Self {
        let public = DhPublic(PublicKey::from(&StaticSecret::from(*secret.expose())).to_bytes());
        Self { secret, public }
    }

    /// Both halves as they were stored; the public half is not computed anew.
    pub(crate) const fn from_parts(secret: Secret<32>, public: DhPublic) -> Self {
        Self { secret, public }
    }

    /// The public half.
    #[must_use]
    pub const fn public(&self) -> DhPublic {
        self.public
    }

    /// The private half, for the store.
    #[must_use]
    pub const fn secret(&self) -> &Secret<32> {
        &self.secret
    }

    /// Agrees on a secret with the holder of `peer`.
    ///
    /// # Errors
    /// [`LowOrder`] if the result is all zero, so that no peer can force a known secret.
    pub fn agree(&self, peer: &DhPublic) -> Result<Secret<32>, LowOrder> {
        let shared = StaticSecret::from(*self.secret.expose()).diffie_hellman(&PublicKey::from(peer.0));
        if shared.was_contributory() { Ok(Secret::from_bytes(shared.to_bytes())) } else { Err(LowOrder) }
    }
}

/// Every encoding of a low-order point that X25519 accepts, for the tests of all modules that agree on keys.
#[cfg(test)]
pub(crate) fn low_order_points() -> Vec<[u8; 32]> {
    let canonical = [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ];
    let mut points = Vec::new();
    for text in canonical {
        let mut point = [0; 32];
        hex::decode_to_slice(text, &mut point).unwrap();
        points.push(point);
        // The same point with the bit that RFC 7748 masks.
        point[31] |= 0x80;
        points.push(point);
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values from Python's `cryptography` (OpenSSL).
    #[test]
    fn agreement_matches_another_implementation() {
        let alice = DhSecret::from_secret(Secret::from_bytes(core::array::from_fn(|i| i as u8)));
        let bob = DhSecret::from_secret(Secret::from_bytes(core::array::from_fn(|i| i as u8 + 32)));
        assert_eq!(hex::encode(bob.public().as_bytes()), "358072d6365880d1aeea329adf9121383851ed21a28e3b75e965d0d2cd166254");
        let shared = alice.agree(&bob.public()).unwrap();
        assert_eq!(hex::encode(shared.expose()), "9663aa1da97e848a914a436d04163dfbb89178f107f1b5b77ed3854203382854");
        assert_eq!(bob.agree(&alice.public()).unwrap(), shared);
    }

    #[test]
    fn a05_refuses_every_low_order_point() {
        let own = DhSecret::from_secret(Secret::from_bytes([9; 32]));
        for point in low_order_points() {
            assert_eq!(own.agree(&DhPublic::from_bytes(point)), Err(LowOrder));
        }
    }
}
