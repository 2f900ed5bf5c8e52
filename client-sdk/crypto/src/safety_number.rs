//! Sixty digits that two people compare to know that nobody sits between them.
//!
//! Each half is `h_0 = SHA-256("kith/v1/safety" ‖ account_id ‖ AIK ‖ R)`, then 5,200 times
//! `h_{i+1} = SHA-256("kith/v1/safety" ‖ h_i ‖ account_id ‖ AIK ‖ R)` (R zeros if declined), so that trying keys for a
//! similar number is slow. The first 30 bytes of the last h, in groups of five, big-endian, modulo 100,000, are six groups of five
//! digits. The lower half comes first, so both sides show the same number.

use crate::hash::sha256;
use crate::id::AccountId;
use crate::identity::recovery_bytes;
use crate::secret::constant_time_eq;
use crate::sign::VerifyingKey;
use crate::trusted_list::TrustedList;

const ITERATIONS: u32 = 5_200;
const HALF_DIGITS: usize = 30;

/// The number of a pair of accounts. It changes when either rotates its keys.
#[derive(Clone, Copy)]
pub struct SafetyNumber([u8; 2 * HALF_DIGITS]);

impl SafetyNumber {
    /// The number of two accounts, the same whoever computes it.
    #[must_use]
    pub fn of(one: &TrustedList, other: &TrustedList) -> Self {
        let half = |list: &TrustedList| half(list.account_id(), &list.identity(), list.recovery().as_ref());
        Self::join(half(one), half(other))
    }

    fn join(a: [u8; HALF_DIGITS], b: [u8; HALF_DIGITS]) -> Self {
        let (low, high) = if a <= b { (a, b) } else { (b, a) };
        let mut digits = [0; 2 * HALF_DIGITS];
        digits[..HALF_DIGITS].copy_from_slice(&low);
        digits[HALF_DIGITS..].copy_from_slice(&high);
        Self(digits)
    }

    /// The sixty digits without spaces, as a QR code carries them.
    #[must_use]
    pub fn digits(&self) -> String {
        self.0.iter().map(|digit| char::from(*digit)).collect()
    }

    /// Whether scanned digits are this number, in constant time.
    #[must_use]
    pub fn matches(&self, digits: &str) -> bool {
        constant_time_eq(&self.0, digits.as_bytes())
    }
}

impl PartialEq for SafetyNumber {
    fn eq(&self, other: &Self) -> bool {
        constant_time_eq(&self.0, &other.0)
    }
}

impl Eq for SafetyNumber {}

impl core::fmt::Debug for SafetyNumber {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

/// Twelve groups of five digits.
impl core::fmt::Display for SafetyNumber {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for (i, digit) in self.0.iter().enumerate() {
            if i > 0 && i % 5 == 0 {
                f.write_str(" ")?;
            }
            write!(f, "{}", char::from(*digit))?;
        }
        Ok(())
    }
}

/// One account's thirty digits.
#[doc(hidden)]
#[must_use]
pub fn half(account: AccountId, identity: &VerifyingKey, recovery: Option<&VerifyingKey>) -> [u8; HALF_DIGITS] {
    let recovery = recovery_bytes(recovery);
    let label = b"kith/v1/safety";
    let mut h = sha256(&[label, account.as_bytes(), identity.as_bytes(), &recovery]);
    for _ in 0..ITERATIONS {
        h = sha256(&[label, &h, account.as_bytes(), identity.as_bytes(), &recovery]);
    }
    let mut digits = [0; HALF_DIGITS];
    for (group, out) in h[..HALF_DIGITS].chunks_exact(5).zip(digits.chunks_exact_mut(5)) {
        let mut value = group.iter().fold(0u64, |value, byte| (value << 8) | u64::from(*byte)) % 100_000;
        for digit in out.iter_mut().rev() {
            // A digit is below 10.
            *digit = b'0' + u8::try_from(value % 10).unwrap_or(0);
            value /= 10;
        }
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::AccountIdentity;
    use crate::testing::rng;

    #[test]
    fn a46_the_number_is_symmetric_and_changes_with_any_key() {
        let mut rng = rng(1);
        let (alice, bob) = (AccountIdentity::create(&mut rng, None), AccountIdentity::create(&mut rng, None));
        let of = |account: &AccountIdentity| half(account.account_id(), &account.public(), account.recovery().as_ref());
        let number = SafetyNumber::join(of(&alice), of(&bob));
        assert_eq!(number, SafetyNumber::join(of(&bob), of(&alice)));
        assert!(number.matches(&number.digits()));
        assert_eq!(number.digits().len(), 60);
        assert_eq!(number.to_string().split(' ').count(), 12);
        let swapped = half(bob.account_id(), &alice.public(), None);
        assert_ne!(number, SafetyNumber::join(of(&alice), swapped));
        let with_recovery = half(bob.account_id(), &bob.public(), Some(&alice.public()));
        assert_ne!(number, SafetyNumber::join(of(&alice), with_recovery));
    }
}
