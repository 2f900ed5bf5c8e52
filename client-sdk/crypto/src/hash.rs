//! SHA-256, HMAC and HKDF over parts, so that nothing is concatenated on the way.

use crate::secret::Secret;
use hkdf::HkdfExtract;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// SHA-256 of the concatenation of `parts`. Labels inside hashes carry no length prefix (§9.1).
pub(crate) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// HMAC-SHA-256 under a 32-byte key of the byte 01 and of the byte 02: both halves of a chain step, keyed once.
pub(crate) fn hmac_01_02(key: &Secret<32>) -> (Secret<32>, Secret<32>) {
    let mut block = Secret::<64>::zeroed();
    block.expose_mut()[..32].copy_from_slice(key.expose());
    let keyed = Hmac::<Sha256>::new(block.expose().into());
    let of = |mut mac: Hmac<Sha256>, byte: u8| {
        mac.update(&[byte]);
        let mut out = Secret::zeroed();
        out.expose_mut().copy_from_slice(&mac.finalize().into_bytes());
        out
    };
    (of(keyed.clone(), 1), of(keyed, 2))
}

/// HKDF-SHA-256 of the concatenation of `ikm` (§9.2).
pub(crate) fn hkdf<const N: usize>(salt: &[u8; 32], ikm: &[&[u8]], info: &[&[u8]]) -> Secret<N> {
    hkdf_salted(salt, ikm, info)
}

/// [`hkdf`] with a salt of any length (the message key step salts with 16 bytes).
pub(crate) fn hkdf_salted<const N: usize>(salt: &[u8], ikm: &[&[u8]], info: &[&[u8]]) -> Secret<N> {
    const {
        assert!(N <= 64, "no derivation of this protocol is longer than two blocks");
    };
    let mut extract = HkdfExtract::<Sha256>::new(Some(salt));
    for part in ikm {
        extract.input_ikm(part);
    }
    let (mut prk, expander) = extract.finalize();
    zeroize::Zeroize::zeroize(prk.as_mut_slice());
    let mut out = Secret::zeroed();
    match expander.expand_multi_info(info, out.expose_mut()) {
        Ok(()) => out,
        // HKDF-SHA-256 gives up to 8,160 bytes and N is at most 64, as asserted above.
        Err(_) => unreachable!("HKDF output of at most 64 bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hkdf_agrees_with_rfc_5869_case_1() {
        let salt: Vec<u8> = (0..=0x0c).collect();
        let info: Vec<u8> = (0xf0..=0xf9).collect();
        let okm: Secret<42> = hkdf_salted(&salt, &[&[0x0b; 10], &[0x0b; 12]], &[&info]);
        assert_eq!(hex::encode(okm.expose()), "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865");
    }

    #[test]
    fn chain_step_is_plain_hmac() {
        // HMAC-SHA-256 with a 32-byte key of 0x0b over 0x01, computed with Python's hmac module.
        let (mk, _) = hmac_01_02(&Secret::from_bytes([0x0b; 32]));
        assert_eq!(hex::encode(mk.expose()), "5471fc0232257251b704afb09e71f2ae3e700f12e2998146ddd6984b5ba287ae");
    }
}
