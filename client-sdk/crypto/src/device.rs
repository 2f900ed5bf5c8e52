//! A device's keys and the certificate that ties them to an account, signed by both sides (§1, §9.6).

use crate::bytes::{FormatError, Reader, StateError, StateKind, StateWriter, read_state};
use crate::hash::sha256;
use crate::id::{AccountId, DeviceId};
use crate::identity::AccountIdentity;
use crate::secret::{Secret, opaque_debug};
use crate::sign::{Label, SIGNATURE_LEN, Signature, SignatureError, SigningKey, VerifyingKey, signed_string};
use crate::x25519::{DhPublic, DhSecret};
use rand_core::CryptoRng;
use zeroize::Zeroizing;

/// Length of a party as it enters a transcript: account_id ‖ AIK ‖ device_id ‖ Ed25519 ‖ X25519 (§9.11).
pub const PARTY_LEN: usize = 128;
const CERTIFICATE_FIELDS_LEN: usize = 16 + 32 + 16 + 32 * 3 + 8;
/// Length of a signed certificate: its fields, then the two signatures.
pub const CERTIFICATE_LEN: usize = CERTIFICATE_FIELDS_LEN + 2 * SIGNATURE_LEN;

/// A device's private keys: Ed25519 to sign, X25519 for sessions, Ed25519 for MLS.
#[derive(Clone)]
pub struct DeviceKeys {
    device_id: DeviceId,
    signing: SigningKey,
    agreement: DhSecret,
    mls: SigningKey,
}

opaque_debug!(DeviceKeys);

impl DeviceKeys {
    /// Draws the keys of a new device (32 random bytes each for signing, sessions, MLS).
    pub fn random<R: CryptoRng + ?Sized>(rng: &mut R, device_id: DeviceId) -> Self {
        Self::from_secrets(device_id, &Secret::random(rng), Secret::random(rng), &Secret::random(rng))
    }

    /// The keys with these private bytes.
    #[must_use]
    pub fn from_secrets(device_id: DeviceId, signing: &Secret<32>, agreement: Secret<32>, mls: &Secret<32>) -> Self {
        Self { device_id, signing: SigningKey::from_seed(signing), agreement: DhSecret::from_secret(agreement), mls: SigningKey::from_seed(mls) }
    }

    /// The device these keys belong to.
    #[must_use]
    pub const fn device_id(&self) -> DeviceId {
        self.device_id
    }

    /// The public signing key.
    #[must_use]
    pub fn verifying_key(&self) -> VerifyingKey {
        self.signing.public()
    }

    /// The public session key.
    #[must_use]
    pub const fn agreement_key(&self) -> DhPublic {
        self.agreement.public()
    }

    pub(crate) const fn signing_key(&self) -> &SigningKey {
        &self.signing
    }

    pub(crate) const fn agreement_secret(&self) -> &DhSecret {
        &self.agreement
    }

    /// This device as a party to handshakes, under the identity key its account has now.
    #[must_use]
    pub fn party(&self, account_id: AccountId, identity: VerifyingKey) -> Party {
        Party { account_id, identity, device_id: self.device_id, signing: self.signing.public(), agreement: self.agreement.public() }
    }

    /// Agrees to be certified: the half of the certificate that the device signs.
    #[must_use]
    pub fn request_certificate(&self, account_id: AccountId, identity: VerifyingKey, since_version: u64) -> CertificateRequest {
        let certificate = Certificate {
            account_id,
            identity,
            device_id: self.device_id,
            signing: self.signing.public(),
            agreement: self.agreement.public(),
            mls: self.mls.public(),
            since_version,
        };
        let acceptance = self.signing.sign(Label::DeviceAccept, &[&certificate.fields()]);
        CertificateRequest { certificate, acceptance }
    }

    /// The state to store.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut writer = StateWriter::new(StateKind::Device, 16 + 3 * 32);
        writer.put(self.device_id.as_bytes()).put(self.signing.seed().expose());
        writer.put(self.agreement.secret().expose()).put(self.mls.seed().expose());
        writer.finish()
    }

    /// Reads stored device keys back.
    ///
    /// # Errors
    /// [`StateError`] if the bytes are not exactly what [`Self::to_bytes`] gave.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StateError> {
        let mut reader = read_state(StateKind::Device, bytes)?;
        let device_id = DeviceId::from_bytes(reader.array()?);
        let signing = Secret::from_bytes(reader.array()?);
        let agreement = Secret::from_bytes(reader.array()?);
        let mls = Secret::from_bytes(reader.array()?);
        reader.finish()?;
        Ok(Self::from_secrets(device_id, &signing, agreement, &mls))
    }
}

/// One side of a handshake as both sides must name it; the server cannot swap any part of it (A6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Party {
    /// The account.
    pub account_id: AccountId,
    /// The account's identity key at the list version that the first message names (§9.14).
    pub identity: VerifyingKey,
    /// The device within the account.
    pub device_id: DeviceId,
    /// The device's signing key.
    pub signing: VerifyingKey,
    /// The device's session key.
    pub agreement: DhPublic,
}

impl Party {
    /// account_id ‖ AIK ‖ device_id ‖ Ed25519 ‖ X25519.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; PARTY_LEN] {
        let mut out = [0; PARTY_LEN];
        let parts: [&[u8]; 5] =
            [self.account_id.as_bytes(), self.identity.as_bytes(), self.device_id.as_bytes(), self.signing.as_bytes(), self.agreement.as_bytes()];
        let mut at = 0;
        for part in parts {
            out[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        out
    }
}

/// What a certificate says. It authorises nothing: membership in the newest signed list does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Certificate {
    /// The account.
    pub account_id: AccountId,
    /// The identity key that signs.
    pub identity: VerifyingKey,
    /// The device.
    pub device_id: DeviceId,
    /// The device's signing key.
    pub signing: VerifyingKey,
    /// The device's session key.
    pub agreement: DhPublic,
    /// The device's MLS signing key.
    pub mls: VerifyingKey,
    /// The list version that first names this device.
    pub since_version: u64,
}

impl Certificate {
    fn fields(&self) -> [u8; CERTIFICATE_FIELDS_LEN] {
        let mut out = [0; CERTIFICATE_FIELDS_LEN];
        let since = self.since_version.to_be_bytes();
        let parts: [&[u8]; 7] = [
            self.account_id.as_bytes(),
            self.identity.as_bytes(),
            self.device_id.as_bytes(),
            self.signing.as_bytes(),
            self.agreement.as_bytes(),
            self.mls.as_bytes(),
            &since,
        ];
        let mut at = 0;
        for part in parts {
            out[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        out
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        Ok(Self {
            account_id: AccountId::from_bytes(reader.array()?),
            identity: read_key(reader, "identity key")?,
            device_id: DeviceId::from_bytes(reader.array()?),
            signing: read_key(reader, "device signing key")?,
            agreement: DhPublic::from_bytes(reader.array()?),
            mls: read_key(reader, "device MLS key")?,
            since_version: reader.u64()?,
        })
    }
}

pub(crate) fn read_key(reader: &mut Reader<'_>, field: &'static str) -> Result<VerifyingKey, FormatError> {
    VerifyingKey::from_bytes(reader.array()?).map_err(|_| FormatError::OutOfRange(field))
}

/// A certificate that the device signed and the account has yet to sign.
#[derive(Debug, Clone, Copy)]
pub struct CertificateRequest {
    certificate: Certificate,
    acceptance: Signature,
}

impl CertificateRequest {
    /// What the device asks to have certified.
    #[must_use]
    pub const fn certificate(&self) -> &Certificate {
        &self.certificate
    }
}

impl AccountIdentity {
    /// Certifies a device of this account.
    ///
    /// # Errors
    /// [`SignatureError`] if the request is for other keys than this account's or the device did not sign it.
    pub fn certify(&self, request: &CertificateRequest) -> Result<SignedCertificate, SignatureError> {
        let certificate = request.certificate;
        if certificate.account_id != self.account_id() || certificate.identity != self.public() {
            return Err(SignatureError::BadKey);
        }
        let signature = self.signing_key().sign(Label::Device, &[&certificate.fields()]);
        let signed = SignedCertificate { certificate, signature, acceptance: request.acceptance };
        signed.verify()?;
        Ok(signed)
    }
}

/// A certificate with the account's signature and the device's countersignature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedCertificate {
    certificate: Certificate,
    signature: Signature,
    acceptance: Signature,
}

impl SignedCertificate {
    /// What is certified. Not to be trusted before a [`crate::trusted_list::TrustedList`] holds it.
    #[must_use]
    pub const fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Verifies both signatures.
    ///
    /// # Errors
    /// [`SignatureError::BadSignature`] if either does not verify.
    pub fn verify(&self) -> Result<(), SignatureError> {
        let fields = self.certificate.fields();
        self.certificate.identity.verify(Label::Device, &[&fields], &self.signature)?;
        self.certificate.signing.verify(Label::DeviceAccept, &[&fields], &self.acceptance)
    }

    /// What a device list holds of it: SHA-256(device signed string ‖ AIK signature ‖ device-accept signature) (§9.6).
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        let statement = signed_string(Label::Device, &[&self.certificate.fields()]);
        sha256(&[&statement, self.signature.as_bytes(), self.acceptance.as_bytes()])
    }

    /// fields ‖ AIK signature ‖ device-accept signature.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; CERTIFICATE_LEN] {
        let mut out = [0; CERTIFICATE_LEN];
        out[..CERTIFICATE_FIELDS_LEN].copy_from_slice(&self.certificate.fields());
        out[CERTIFICATE_FIELDS_LEN..][..SIGNATURE_LEN].copy_from_slice(self.signature.as_bytes());
        out[CERTIFICATE_FIELDS_LEN + SIGNATURE_LEN..].copy_from_slice(self.acceptance.as_bytes());
        out
    }

    /// Reads a certificate; the signatures are judged by [`Self::verify`].
    ///
    /// # Errors
    /// [`FormatError`] if the length is wrong or a key is unacceptable.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes);
        let certificate = Certificate::read(&mut reader)?;
        let signature = Signature::from_bytes(reader.array()?);
        let acceptance = Signature::from_bytes(reader.array()?);
        reader.finish()?;
        Ok(Self { certificate, signature, acceptance })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::rng;
    use proptest::prelude::*;

    fn certified() -> (AccountIdentity, DeviceKeys, SignedCertificate) {
        let mut rng = rng(1);
        let account = AccountIdentity::create(&mut rng, None);
        let device = DeviceKeys::random(&mut rng, DeviceId::from_bytes([1; 16]));
        let request = device.request_certificate(account.account_id(), account.public(), 1);
        let certificate = account.certify(&request).unwrap();
        (account, device, certificate)
    }

    #[test]
    fn a_certificate_needs_both_signatures() {
        let (_, _, certificate) = certified();
        assert_eq!(certificate.verify(), Ok(()));
        let bytes = certificate.to_bytes();
        assert_eq!(SignedCertificate::from_bytes(&bytes).unwrap(), certificate);
        for at in [0, CERTIFICATE_FIELDS_LEN - 1, CERTIFICATE_FIELDS_LEN, CERTIFICATE_LEN - 64] {
            let mut changed = bytes;
            changed[at] ^= 1;
            assert!(SignedCertificate::from_bytes(&changed).unwrap().verify().is_err(), "byte {at}");
        }
    }

    #[test]
    fn a23_an_account_certifies_only_its_own_requests() {
        let (account, device, _) = certified();
        let stranger = AccountIdentity::create(&mut rng(2), None);
        let request = device.request_certificate(account.account_id(), account.public(), 1);
        assert_eq!(stranger.certify(&request).unwrap_err(), SignatureError::BadKey);
    }

    #[test]
    fn stored_device_keys_read_back() {
        let (account, device, _) = certified();
        let read = DeviceKeys::from_bytes(&device.to_bytes()).unwrap();
        let (id, key) = (account.account_id(), account.public());
        assert_eq!(read.party(id, key), device.party(id, key));
        assert_eq!(format!("{read:?}"), "DeviceKeys { .. }");
    }

    proptest! {
        #[test]
        fn a49_certificate_parser_takes_anything(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = SignedCertificate::from_bytes(&bytes);
        }
    }
}
