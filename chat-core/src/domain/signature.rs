//! Strict Ed25519, encryption specification §9.10.

use ed25519_dalek::{Signature, VerifyingKey};

use super::StatementError;

/// The field's prime 2^255 - 19, little-endian.
const P: [u8; 32] = {
    let mut p = [0xff; 32];
    p[0] = 0xed;
    p[31] = 0x7f;
    p
};

/// Verifies a signature: A and R canonical and not of small order, S below L, the equation without the cofactor.
///
/// # Errors
/// [`StatementError::Signature`] if it does not hold.
pub fn verify(key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> Result<(), StatementError> {
    // The library decodes a key whose y is not reduced; everything else is in `verify_strict`.
    if !is_reduced(key) {
        return Err(StatementError::Signature);
    }
    let key = VerifyingKey::from_bytes(key).map_err(|_| StatementError::Signature)?;
    key.verify_strict(message, &Signature::from_bytes(signature)).map_err(|_| StatementError::Signature)
}

/// Whether the y coordinate, the sign bit aside, is below the prime. (x = 0 with a sign bit is of small order anyway.)
fn is_reduced(key: &[u8; 32]) -> bool {
    let mut y = *key;
    y[31] &= 0x7f;
    y.iter().rev().lt(P.iter().rev())
}
