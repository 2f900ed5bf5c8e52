//! The account's own keys: the identity key on its first device, the recovery key on paper (§1).
//!
//! `account_id = SHA-256("kith/v1/account" ‖ AIK ‖ R)[..16]` of the *first* pair of keys; it never changes afterwards.

use crate::bytes::{FormatError, StateError, StateKind, StateWriter, read_state};
use crate::hash::sha256;
use crate::id::{AccountId, ID_LEN};
use crate::secret::{Secret, opaque_debug};
use crate::sign::{SigningKey, VerifyingKey};
use rand_core::CryptoRng;
use zeroize::Zeroizing;

/// The public recovery key as it is signed: 32 zeros when the user declined one.
pub(crate) fn recovery_bytes(recovery: Option<&VerifyingKey>) -> [u8; 32] {
    recovery.map_or([0; 32], |key| *key.as_bytes())
}

/// Reads a public recovery key: 32 zeros mean that there is none.
pub(crate) fn recovery_from_bytes(bytes: [u8; 32]) -> Result<Option<VerifyingKey>, FormatError> {
    if bytes == [0; 32] {
        return Ok(None);
    }
    VerifyingKey::from_bytes(bytes).map(Some).map_err(|_| FormatError::OutOfRange("recovery key"))
}

impl AccountId {
    /// The id that belongs to an account's first pair of identity and recovery keys.
    #[must_use]
    pub fn derive(identity: &VerifyingKey, recovery: Option<&VerifyingKey>) -> Self {
        let digest = sha256(&[b"kith/v1/account", identity.as_bytes(), &recovery_bytes(recovery)]);
        let mut id = [0; ID_LEN];
        id.copy_from_slice(&digest[..ID_LEN]);
        Self::from_bytes(id)
    }
}

/// The offline key that may replace a lost or stolen identity key. Its 32-byte seed is the entropy of 24 words.
#[derive(Clone)]
pub struct RecoveryKey(SigningKey);

opaque_debug!(RecoveryKey);

impl RecoveryKey {
    /// Draws the entropy of a new recovery key (32 random bytes).
    pub fn random<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        Self(SigningKey::random(rng))
    }

    /// The key whose words encode this entropy.
    #[must_use]
    pub fn from_entropy(entropy: &Secret<32>) -> Self {
        Self(SigningKey::from_seed(entropy))
    }

    /// The entropy to encode as 24 words; shown once, never stored.
    #[must_use]
    pub fn entropy(&self) -> Secret<32> {
        self.0.seed()
    }

    /// The public half, which every device list carries.
    #[must_use]
    pub fn public(&self) -> VerifyingKey {
        self.0.public()
    }

    pub(crate) const fn signing_key(&self) -> &SigningKey {
        &self.0
    }
}

/// The account's identity key (AIK) with what it speaks for. It lives on the first device only.
#[derive(Clone)]
pub struct AccountIdentity {
    account_id: AccountId,
    key: SigningKey,
    recovery: Option<VerifyingKey>,
}

opaque_debug!(AccountIdentity);

impl AccountIdentity {
    /// A new account: draws its identity key and derives its id.
    pub fn create<R: CryptoRng + ?Sized>(rng: &mut R, recovery: Option<VerifyingKey>) -> Self {
        Self::from_first_key(SigningKey::random(rng), recovery)
    }

    /// A new account with a given identity key.
    #[must_use]
    pub fn from_first_key(key: SigningKey, recovery: Option<VerifyingKey>) -> Self {
        Self { account_id: AccountId::derive(&key.public(), recovery.as_ref()), key, recovery }
    }

    /// The identity that a rotation brought in: the account keeps its id.
    #[must_use]
    pub const fn rotated(account_id: AccountId, key: SigningKey, recovery: Option<VerifyingKey>) -> Self {
        Self { account_id, key, recovery }
    }

    /// The account these keys speak for.
    #[must_use]
    pub const fn account_id(&self) -> AccountId {
        self.account_id
    }

    /// The public identity key.
    #[must_use]
    pub fn public(&self) -> VerifyingKey {
        self.key.public()
    }

    /// The public recovery key, if the user has one.
    #[must_use]
    pub const fn recovery(&self) -> Option<VerifyingKey> {
        self.recovery
    }

    pub(crate) const fn signing_key(&self) -> &SigningKey {
        &self.key
    }

    /// The state to store.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut writer = StateWriter::new(StateKind::Account, 16 + 32 + 32);
        writer.put(self.account_id.as_bytes()).put(self.key.seed().expose()).put(&recovery_bytes(self.recovery.as_ref()));
        writer.finish()
    }

    /// Reads a stored identity back.
    ///
    /// # Errors
    /// [`StateError`] if the bytes are not exactly what [`Self::to_bytes`] gave.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StateError> {
        let mut reader = read_state(StateKind::Account, bytes)?;
        let account_id = AccountId::from_bytes(reader.array()?);
        let key = SigningKey::from_seed(&Secret::from_bytes(reader.array()?));
        let recovery = recovery_from_bytes(reader.array()?)?;
        reader.finish()?;
        Ok(Self { account_id, key, recovery })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::rng;

    #[test]
    fn stored_identity_reads_back() {
        let mut rng = rng(1);
        let recovery = RecoveryKey::random(&mut rng);
        for recovery in [None, Some(recovery.public())] {
            let identity = AccountIdentity::create(&mut rng, recovery);
            let read = AccountIdentity::from_bytes(&identity.to_bytes()).unwrap();
            assert_eq!(read.account_id(), AccountId::derive(&identity.public(), recovery.as_ref()));
            assert_eq!(read.public(), identity.public());
            assert_eq!(read.recovery(), recovery);
        }
    }

    #[test]
    fn a20_an_unreadable_identity_is_an_error() {
        let bytes = AccountIdentity::create(&mut rng(1), None).to_bytes();
        for cut in 0..bytes.len() {
            assert!(AccountIdentity::from_bytes(&bytes[..cut]).is_err());
        }
        let device = crate::device::DeviceKeys::random(&mut rng(2), crate::id::DeviceId::from_bytes([1; 16]));
        assert_eq!(AccountIdentity::from_bytes(&device.to_bytes()).unwrap_err(), StateError::WrongKind);
    }

    #[test]
    fn a40_debug_shows_no_key() {
        let key = AccountIdentity::create(&mut rng(1), None);
        assert_eq!(format!("{key:?}"), "AccountIdentity { .. }");
        assert_eq!(format!("{:?}", RecoveryKey::random(&mut rng(1))), "RecoveryKey { .. }");
    }
}
