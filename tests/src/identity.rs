//! Keys and signed statements of an account, built from docs/protocol.md and the encryption specification (sections 1 and 9), not by the SDK.

use ed25519_dalek::{Signer as _, SigningKey};
use kith_proto::{
    id::{AccountId, DeviceId, DeviceRef},
    rest::{Base64, Base64Array, Certificate, OneTimePrekey, PrekeyUpload, SignedPrekey, SignedStatement},
};
use ml_kem::{DecapsulationKey768, kem::KeyExport as _};
use sha2::{Digest as _, Sha256};

/// A device's keys. The raw client signs with them and never opens a session, so the X25519 keys are only numbers that look right.
#[derive(Debug)]
pub struct Device {
    /// Its id.
    pub id: DeviceId,
    signing: SigningKey,
    x25519: [u8; 32],
    mls: [u8; 32],
    next_prekey: u32,
}

/// An account: identity key, devices, and where its signed list stands.
#[derive(Debug)]
pub struct Identity {
    /// The id that follows from the keys.
    pub account: AccountId,
    aik: SigningKey,
    list_version: u64,
    list_hash: [u8; 32],
}

/// Random bytes.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes);
    bytes
}

/// Unix milliseconds, for statements that carry a time.
#[must_use]
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn statement(label: &str, fields: &[&[u8]]) -> Vec<u8> {
    let label = format!("kith/v1/{label}");
    let mut out = vec![u8::try_from(label.len()).expect("labels are short")];
    out.extend_from_slice(label.as_bytes());
    fields.iter().for_each(|field| out.extend_from_slice(field));
    out
}

fn sign(key: &SigningKey, bytes: &[u8]) -> Base64Array<64> {
    Base64Array(key.sign(bytes).to_bytes())
}

impl Default for Device {
    fn default() -> Self {
        Self {
            id: DeviceId(random()),
            signing: SigningKey::from_bytes(&random()),
            x25519: x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(random::<32>())).to_bytes(),
            mls: SigningKey::from_bytes(&random()).verifying_key().to_bytes(),
            next_prekey: 1,
        }
    }
}

impl Device {
    /// A signed prekey, a last-resort KEM prekey and `one_time` of either one-time kind.
    pub fn prekeys(&mut self, account: AccountId, one_time: usize) -> PrekeyUpload {
        let x25519 =
            |device: &mut Self| (device.take_id(), x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(random::<32>())).to_bytes());
        let (id, key) = x25519(self);
        let signed = self.sign_prekey(account, 1, id, key.to_vec());
        let id = self.take_id();
        let last_resort = self.sign_prekey(account, 3, id, kem_key());
        PrekeyUpload {
            signed: Some(signed),
            last_resort_kem: Some(last_resort),
            one_time: (0..one_time)
                .map(|_| {
                    let (id, key) = x25519(self);
                    OneTimePrekey { id, key: Base64Array(key) }
                })
                .collect(),
            one_time_kem: (0..one_time)
                .map(|_| {
                    let id = self.take_id();
                    self.sign_prekey(account, 2, id, kem_key())
                })
                .collect(),
        }
    }

    fn take_id(&mut self) -> u32 {
        self.next_prekey += 1;
        self.next_prekey - 1
    }

    fn sign_prekey(&self, account: AccountId, kind: u8, id: u32, key: Vec<u8>) -> SignedPrekey {
        let created_ms = now_ms();
        let signed = statement("prekey", &[&account.0, &self.id.0, &[kind], &id.to_be_bytes(), &created_ms.to_be_bytes(), &key]);
        SignedPrekey { id, created_ms, signature: sign(&self.signing, &signed), key: Base64(key) }
    }

    /// The statement `login` for an answer to a challenge.
    #[must_use]
    pub fn sign_login(&self, account: AccountId, origin: &str, challenge: &[u8; 32], nonce: &[u8; 32], expires_ms: u64) -> Base64Array<64> {
        let length = u16::try_from(origin.len()).expect("origins are short").to_be_bytes();
        let signed = statement("login", &[&length, origin.as_bytes(), &account.0, &self.id.0, challenge, nonce, &expires_ms.to_be_bytes()]);
        sign(&self.signing, &signed)
    }
}

fn kem_key() -> Vec<u8> {
    DecapsulationKey768::from_seed(random::<64>().into()).encapsulation_key().to_bytes().to_vec()
}

impl Default for Identity {
    /// Without a recovery key.
    fn default() -> Self {
        let aik = SigningKey::from_bytes(&random());
        let hash = Sha256::new().chain_update("kith/v1/account").chain_update(aik.verifying_key()).chain_update([0; 32]).finalize();
        let mut account = [0; 16];
        account.copy_from_slice(&hash[..16]);
        Self { account: AccountId(account), aik, list_version: 0, list_hash: [0; 32] }
    }
}

impl Identity {
    /// The identity key.
    #[must_use]
    pub fn aik(&self) -> [u8; 32] {
        self.aik.verifying_key().to_bytes()
    }

    /// The version of the list signed last.
    #[must_use]
    pub fn list_version(&self) -> u64 {
        self.list_version
    }

    /// A device of this account, as sessions name it.
    #[must_use]
    pub fn device_ref(&self, device: &Device) -> DeviceRef {
        DeviceRef { account: self.account, device: device.id }
    }

    /// Certifies a device, which accepts.
    #[must_use]
    pub fn certify(&self, device: &Device, since_version: u64) -> Certificate {
        let ed25519 = device.signing.verifying_key().to_bytes();
        let since = since_version.to_be_bytes();
        let aik = self.aik();
        let fields: [&[u8]; 7] = [&self.account.0, &aik, &device.id.0, &ed25519, &device.x25519, &device.mls, &since];
        let signed = statement("device", &fields);
        Certificate {
            aik_signature: sign(&self.aik, &signed),
            accept_signature: sign(&device.signing, &statement("device-accept", &fields)),
            signed: Base64(signed),
        }
    }

    /// Signs the next list, naming these devices by their certificates.
    pub fn sign_list(&mut self, devices: &[(&Device, &Certificate)]) -> SignedStatement {
        let mut entries: Vec<_> = devices.iter().map(|(device, certificate)| (device.id, certificate_hash(certificate))).collect();
        entries.sort();
        self.list_version += 1;
        let (version, issued, count) =
            (self.list_version.to_be_bytes(), now_ms().to_be_bytes(), u16::try_from(entries.len()).expect("few devices").to_be_bytes());
        let listed: Vec<u8> = entries.iter().flat_map(|(id, hash)| id.0.iter().chain(hash).copied()).collect();
        let signed = statement("devices", &[&self.account.0, &self.aik(), &[0; 32], &version, &self.list_hash, &issued, &count, &listed]);
        self.list_hash = Sha256::digest(&signed).into();
        SignedStatement { signature: sign(&self.aik, &signed), signed: Base64(signed) }
    }
}

fn certificate_hash(certificate: &Certificate) -> [u8; 32] {
    Sha256::new()
        .chain_update(&certificate.signed.0)
        .chain_update(certificate.aik_signature.0)
        .chain_update(certificate.accept_signature.0)
        .finalize()
        .into()
}
