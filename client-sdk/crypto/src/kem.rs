//! ML-KEM-768 with the private key kept as its 64-byte seed d ‖ z (§2, §9.13).

use crate::secret::{Secret, opaque_debug};
use ml_kem::kem::{Decapsulate, Encapsulate, KeyExport};
use ml_kem::{DecapsulationKey768, EncapsulationKey768};
use rand_core::CryptoRng;
use thiserror::Error;
use zeroize::Zeroize;

/// Length of an ML-KEM-768 encapsulation key in bytes.
pub const EK_LEN: usize = 1184;
/// Length of an ML-KEM-768 ciphertext in bytes.
pub const CT_LEN: usize = 1088;
/// Length of the seed that the private key is kept as.
pub const KEM_SEED_LEN: usize = 64;

/// The encapsulation key fails the checks of FIPS 203.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the encapsulation key is malformed")]
pub struct BadEncapsulationKey;

/// A private ML-KEM-768 key, kept as its seed and expanded when used.
#[derive(Clone)]
pub struct KemSecret(Secret<KEM_SEED_LEN>);

opaque_debug!(KemSecret);

impl zeroize::ZeroizeOnDrop for KemSecret {}

impl KemSecret {
    /// Draws a new key (64 random bytes: d, then z).
    pub fn random<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        Self(Secret::random(rng))
    }

    /// The key with this seed d ‖ z.
    #[must_use]
    pub const fn from_seed(seed: Secret<KEM_SEED_LEN>) -> Self {
        Self(seed)
    }

    /// The seed d ‖ z, for the store.
    #[must_use]
    pub const fn seed(&self) -> &Secret<KEM_SEED_LEN> {
        &self.0
    }

    /// The encapsulation key that belongs to the seed.
    #[must_use]
    pub fn encapsulation_key(&self) -> Box<[u8; EK_LEN]> {
        self.expand().encapsulation_key()
    }

    /// The shared secret in `ct`. A ciphertext for another key gives an unrelated secret, as FIPS 203 says, not an error.
    #[must_use]
    pub fn decapsulate(&self, ct: &[u8; CT_LEN]) -> Secret<32> {
        self.expand().decapsulate(ct)
    }

    /// The key in its working form, for whoever needs it more than once: the expansion is most of the work.
    pub(crate) fn expand(&self) -> ExpandedKem {
        let mut seed = (*self.0.expose()).into();
        let key = DecapsulationKey768::from_seed(seed);
        seed.as_mut_slice().zeroize();
        ExpandedKem(key)
    }
}

/// An expanded private key; it wipes itself on drop.
pub(crate) struct ExpandedKem(DecapsulationKey768);

impl ExpandedKem {
    pub(crate) fn encapsulation_key(&self) -> Box<[u8; EK_LEN]> {
        Box::new(self.0.encapsulation_key().to_bytes().into())
    }

    pub(crate) fn decapsulate(&self, ct: &[u8; CT_LEN]) -> Secret<32> {
        let mut shared = self.0.decapsulate(&(*ct).into());
        let secret = Secret::from_bytes(shared.into());
        shared.as_mut_slice().zeroize();
        secret
    }
}

/// Encapsulates a fresh secret to `ek` (draws 32 random bytes).
///
/// # Errors
/// [`BadEncapsulationKey`] if `ek` fails the modulus check of FIPS 203.
pub fn encapsulate<R: CryptoRng + ?Sized>(rng: &mut R, ek: &[u8; EK_LEN]) -> Result<(Box<[u8; CT_LEN]>, Secret<32>), BadEncapsulationKey> {
    let key = EncapsulationKey768::new(&(*ek).into()).map_err(|_| BadEncapsulationKey)?;
    let (ct, mut shared) = key.encapsulate_with_rng(rng);
    let secret = Secret::from_bytes(shared.into());
    shared.as_mut_slice().zeroize();
    Ok((Box::new(ct.into()), secret))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::rng;

    #[test]
    fn both_sides_share_a_secret_and_another_key_does_not() {
        let mut rng = rng(1);
        let (own, other) = (KemSecret::random(&mut rng), KemSecret::random(&mut rng));
        let (ct, shared) = encapsulate(&mut rng, &own.encapsulation_key()).unwrap();
        assert_eq!(own.decapsulate(&ct), shared);
        assert_ne!(other.decapsulate(&ct), shared);
    }

    #[test]
    fn a_key_outside_the_field_is_refused() {
        assert_eq!(encapsulate(&mut rng(1), &[0xff; EK_LEN]).unwrap_err(), BadEncapsulationKey);
    }
}
