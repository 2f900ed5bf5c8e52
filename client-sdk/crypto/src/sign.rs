//! Labelled Ed25519 statements: every signature covers `u8 length ‖ label ‖ fields` and nothing else is ever signed.
//!
//! Verification is strict (§9.10): non-canonical or small-order keys and commitments and a scalar not below the group
//! order are refused; the equation is the cofactorless one.

use crate::secret::{Secret, opaque_debug};
use ed25519_dalek::Signer;
use rand_core::CryptoRng;
use thiserror::Error;

/// Length of an Ed25519 signature in bytes.
pub const SIGNATURE_LEN: usize = 64;

/// The statements that exist. A signature made for one can never pass as another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    /// The account certifies a device.
    Device,
    /// The device accepts being certified.
    DeviceAccept,
    /// The account signs its list of devices.
    Devices,
    /// A device signs a prekey.
    Prekey,
    /// A device leaves its account.
    Leave,
    /// The recovery key replaces the identity key.
    Rotate,
    /// A device logs in.
    Login,
}

impl Label {
    /// The label as it is signed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Device => "kith/v1/device",
            Self::DeviceAccept => "kith/v1/device-accept",
            Self::Devices => "kith/v1/devices",
            Self::Prekey => "kith/v1/prekey",
            Self::Leave => "kith/v1/leave",
            Self::Rotate => "kith/v1/rotate",
            Self::Login => "kith/v1/login",
        }
    }
}

/// Why a key or a signature was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SignatureError {
    /// The public key is no canonical point of large order.
    #[error("the public signing key is not acceptable")]
    BadKey,
    /// The signature does not belong to this key, label and fields.
    #[error("the signature does not verify")]
    BadSignature,
}

/// An Ed25519 signature as it travels.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; SIGNATURE_LEN]);

impl Signature {
    /// Takes the 64 bytes as received; they are judged at verification.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; SIGNATURE_LEN]) -> Self {
        Self(bytes)
    }

    /// The 64 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; SIGNATURE_LEN] {
        &self.0
    }
}

impl core::fmt::Debug for Signature {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Signature(..)")
    }
}

/// A public Ed25519 key that passed the strict checks.
///
/// It holds the decompressed point: a key is parsed once and verifies often (both prekeys of a bundle, every list), and
/// decompressing anew costs a tenth of a verification.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct VerifyingKey(ed25519_dalek::VerifyingKey);

impl VerifyingKey {
    /// Accepts a canonical encoding of a point of large order.
    ///
    /// # Errors
    /// [`SignatureError::BadKey`] for everything else, the all-zero key included.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, SignatureError> {
        if !is_canonical(&bytes) {
            return Err(SignatureError::BadKey);
        }
        let key = ed25519_dalek::VerifyingKey::from_bytes(&bytes).map_err(|_| SignatureError::BadKey)?;
        if key.is_weak() { Err(SignatureError::BadKey) } else { Ok(Self(key)) }
    }

    /// The 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Verifies a statement strictly.
    ///
    /// # Errors
    /// [`SignatureError::BadSignature`] if the signature is not this key's over this label and these fields.
    pub fn verify(&self, label: Label, fields: &[&[u8]], signature: &Signature) -> Result<(), SignatureError> {
        self.verify_string(&signed_string(label, fields), signature)
    }

    /// Verifies a whole signed string strictly.
    pub(crate) fn verify_string(&self, signed: &[u8], signature: &Signature) -> Result<(), SignatureError> {
        let signature = ed25519_dalek::Signature::from_bytes(signature.as_bytes());
        self.0.verify_strict(signed, &signature).map_err(|_| SignatureError::BadSignature)
    }
}

/// A private Ed25519 key. It signs labelled statements and nothing else.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

opaque_debug!(SigningKey);

impl zeroize::ZeroizeOnDrop for SigningKey {}

impl SigningKey {
    /// Draws a new key (32 random bytes).
    pub fn random<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        Self::from_seed(&Secret::random(rng))
    }

    /// The key of RFC 8032 with this 32-byte seed.
    #[must_use]
    pub fn from_seed(seed: &Secret<32>) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed.expose()))
    }

    /// The seed, for the store.
    #[must_use]
    pub fn seed(&self) -> Secret<32> {
        Secret::from_bytes(self.0.to_bytes())
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> VerifyingKey {
        VerifyingKey(self.0.verifying_key())
    }

    /// Signs a statement.
    #[must_use]
    pub fn sign(&self, label: Label, fields: &[&[u8]]) -> Signature {
        Signature(self.0.sign(&signed_string(label, fields)).to_bytes())
    }
}

/// The bytes that are signed: `u8 length of the label ‖ label ‖ fields` (§9.1).
#[must_use]
pub fn signed_string(label: Label, fields: &[&[u8]]) -> Vec<u8> {
    let label = label.as_str().as_bytes();
    let len = fields.iter().map(|field| field.len()).sum::<usize>();
    let mut out = Vec::with_capacity(1 + label.len() + len);
    // Labels are shorter than 24 bytes.
    out.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(label);
    fields.iter().for_each(|field| out.extend_from_slice(field));
    out
}

/// Whether the y coordinate is below 2^255 - 19. (x = 0 with a sign bit occurs only with small order, refused anyway.)
fn is_canonical(bytes: &[u8; 32]) -> bool {
    let [first, middle @ .., last] = bytes;
    !(last & 0x7f == 0x7f && *first >= 0xed && middle.iter().all(|byte| *byte == 0xff))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed(&Secret::from_bytes([seed; 32]))
    }

    #[test]
    fn a29_a_statement_never_passes_as_another() {
        let key = key(1);
        let signature = key.sign(Label::Login, &[b"fields"]);
        assert_eq!(key.public().verify(Label::Login, &[b"fie", b"lds"], &signature), Ok(()));
        for label in [Label::Device, Label::DeviceAccept, Label::Devices, Label::Prekey, Label::Leave, Label::Rotate] {
            assert_eq!(key.public().verify(label, &[b"fields"], &signature), Err(SignatureError::BadSignature));
        }
        assert!(key.public().verify(Label::Login, &[b"other"], &signature).is_err());
        let other = tests::key(2);
        assert!(other.public().verify(Label::Login, &[b"fields"], &signature).is_err());
    }

    #[test]
    fn the_length_prefix_counts_the_whole_label() {
        assert_eq!(signed_string(Label::Leave, &[b"x"]), b"\x0dkith/v1/leavex");
    }

    #[test]
    fn a45_small_order_and_non_canonical_keys_are_refused() {
        let small_order = [
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0000000000000000000000000000000000000000000000000000000000000080",
            "0100000000000000000000000000000000000000000000000000000000000000",
            "0100000000000000000000000000000000000000000000000000000000000080",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        ];
        for text in small_order {
            let bytes: [u8; 32] = hex::decode(text).unwrap().try_into().unwrap();
            assert_eq!(VerifyingKey::from_bytes(bytes), Err(SignatureError::BadKey), "{text}");
        }
        for low in 0xed..=0xff {
            for high in [0x7f, 0xff] {
                let mut bytes = [0xff; 32];
                (bytes[0], bytes[31]) = (low, high);
                assert_eq!(VerifyingKey::from_bytes(bytes), Err(SignatureError::BadKey));
            }
        }
    }

    #[test]
    fn a45_a_scalar_not_below_the_order_is_refused() {
        const ORDER: [u8; 32] = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            0, 0x10,
        ];
        let key = key(1);
        let mut bytes = *key.sign(Label::Login, &[b"x"]).as_bytes();
        let mut carry = 0u16;
        for (byte, order) in bytes[32..].iter_mut().zip(ORDER) {
            carry += u16::from(*byte) + u16::from(order);
            *byte = (carry & 0xff) as u8;
            carry >>= 8;
        }
        let malleated = Signature::from_bytes(bytes);
        assert_eq!(key.public().verify(Label::Login, &[b"x"], &malleated), Err(SignatureError::BadSignature));
    }

    #[test]
    fn a45_a_small_order_commitment_is_refused() {
        let mut bytes = *key(1).sign(Label::Login, &[b"x"]).as_bytes();
        bytes[..32].fill(0);
        bytes[0] = 1;
        let signature = Signature::from_bytes(bytes);
        assert_eq!(key(1).public().verify(Label::Login, &[b"x"], &signature), Err(SignatureError::BadSignature));
    }
}
