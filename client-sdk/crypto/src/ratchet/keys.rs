//! Root, chain and message keys and the steps between them (§3).

use crate::hash::{hkdf, hkdf_salted, hmac_01_02};
use crate::secret::{Secret, opaque_debug};
use zeroize::ZeroizeOnDrop;

/// The root key RK.
#[derive(Clone, PartialEq, Eq, ZeroizeOnDrop)]
pub(crate) struct RootKey(pub(crate) Secret<32>);

/// A chain key CK.
#[derive(Clone, PartialEq, Eq, ZeroizeOnDrop)]
pub(crate) struct ChainKey(pub(crate) Secret<32>);

/// A message key MK: used once.
#[derive(Clone, PartialEq, Eq, ZeroizeOnDrop)]
pub(crate) struct MessageKey(pub(crate) Secret<32>);

opaque_debug!(RootKey, ChainKey, MessageKey);

impl RootKey {
    /// `HKDF(salt TH, SK, "kith/v1/root0")`.
    pub(crate) fn initial(th: &[u8; 32], sk: &Secret<32>) -> Self {
        Self(hkdf(th, &[sk.expose()], &[b"kith/v1/root0"]))
    }

    /// `HKDF(salt RK, DH, "kith/v1/root")`, or with a post-quantum secret `HKDF(salt RK, DH ‖ K_e, "kith/v1/root-pq")`.
    pub(crate) fn step(&self, dh: &Secret<32>, mixed: Option<&Secret<32>>) -> (Self, ChainKey) {
        let out: Secret<64> = match mixed {
            None => hkdf(self.0.expose(), &[dh.expose()], &[b"kith/v1/root"]),
            Some(key) => hkdf(self.0.expose(), &[dh.expose(), key.expose()], &[b"kith/v1/root-pq"]),
        };
        let (mut root, mut chain) = (Secret::zeroed(), Secret::zeroed());
        root.expose_mut().copy_from_slice(&out.expose()[..32]);
        chain.expose_mut().copy_from_slice(&out.expose()[32..]);
        (Self(root), ChainKey(chain))
    }
}

impl ChainKey {
    /// The key of the message at this place, `HMAC(CK, 01)`, and the chain key of the next, `HMAC(CK, 02)`.
    pub(crate) fn step(&self) -> (MessageKey, Self) {
        let (message, next) = hmac_01_02(&self.0);
        (MessageKey(message), Self(next))
    }
}

impl MessageKey {
    /// `HKDF(salt r, MK, "kith/v1/msg")`: 32 bytes of key, then 12 of nonce.
    pub(crate) fn aead(&self, r: &[u8; 16]) -> (Secret<32>, [u8; 12]) {
        let out: Secret<44> = hkdf_salted(r, &[self.0.expose()], &[b"kith/v1/msg"]);
        let (mut key, mut nonce) = (Secret::zeroed(), [0; 12]);
        key.expose_mut().copy_from_slice(&out.expose()[..32]);
        nonce.copy_from_slice(&out.expose()[32..]);
        (key, nonce)
    }
}
