//! Bytes that must not outlive their use.

use core::fmt;
use rand_core::CryptoRng;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// `N` secret bytes: wiped on drop, compared in constant time, absent from `Debug`.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret<const N: usize>([u8; N]);

impl<const N: usize> Secret<N> {
    /// Takes over secret bytes; wiping the caller's copy is the caller's business.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; N]) -> Self {
        Self(bytes)
    }

    /// Draws `N` random bytes.
    pub fn random<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        let mut secret = Self([0; N]);
        rng.fill_bytes(&mut secret.0);
        secret
    }

    /// An all-zero secret, to be filled in place.
    pub(crate) const fn zeroed() -> Self {
        Self([0; N])
    }

    /// The secret bytes.
    #[must_use]
    pub const fn expose(&self) -> &[u8; N] {
        &self.0
    }

    pub(crate) const fn expose_mut(&mut self) -> &mut [u8; N] {
        &mut self.0
    }
}

impl<const N: usize> fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret<{N}>(..)")
    }
}

impl<const N: usize> PartialEq for Secret<N> {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl<const N: usize> Eq for Secret<N> {}

/// Random bytes that are not secret (a salt, an id).
pub(crate) fn random_array<R: CryptoRng + ?Sized, const N: usize>(rng: &mut R) -> [u8; N] {
    let mut bytes = [0; N];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// Compares in constant time; the lengths are not secret.
pub(crate) fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// Writes a `Debug` that names the type and shows nothing of it.
macro_rules! opaque_debug {
    ($($name:ident),+ $(,)?) => {$(
        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )+};
}
pub(crate) use opaque_debug;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a46_secrets_compare_in_constant_time_and_by_value() {
        assert_eq!(Secret::from_bytes([1; 32]), Secret::from_bytes([1; 32]));
        assert_ne!(Secret::from_bytes([1; 32]), Secret::from_bytes([2; 32]));
        assert!(!constant_time_eq(b"abc", b"abcd"));
    }

    #[test]
    fn a47_a_wiped_secret_is_zero() {
        let mut secret = Secret::from_bytes([7; 32]);
        secret.zeroize();
        assert_eq!(secret.expose(), &[0; 32]);
    }

    #[test]
    fn a40_debug_shows_no_secret() {
        assert_eq!(format!("{:?}", Secret::from_bytes([7; 32])), "Secret<32>(..)");
    }
}
