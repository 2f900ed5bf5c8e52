//! The owner of an account, for tests: makes signed statements from the page of the specification alone, right ones and wrong ones. Included by path where
//! it is needed, so that production code holds none of it.
#![allow(dead_code, unreachable_pub, missing_docs)]

use ed25519_dalek::{Signer as _, SigningKey};
use kith_proto::id::{AccountId, DeviceId, DeviceRef};
use sha2::{Digest as _, Sha256};

/// Bytes and the signature over them.
pub type Statement = (Vec<u8>, [u8; 64]);
/// The statement `device` with both signatures.
pub type Certificate = (Vec<u8>, [u8; 64], [u8; 64]);

/// 32 bytes that follow from a name.
pub fn seed(name: &str) -> [u8; 32] {
    Sha256::digest(name).into()
}

pub fn sign(key: &SigningKey, label: &str, fields: &[&[u8]]) -> Statement {
    let whole = format!("kith/v1/{label}");
    let mut out = vec![u8::try_from(whole.len()).unwrap()];
    out.extend_from_slice(whole.as_bytes());
    fields.iter().for_each(|field| out.extend_from_slice(field));
    let signature = key.sign(&out).to_bytes();
    (out, signature)
}

#[derive(Clone)]
pub struct Device {
    pub at: DeviceRef,
    pub key: SigningKey,
}

impl Device {
    pub fn new(account: AccountId, name: &str) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&seed(&format!("{name}/id"))[..16]);
        Self { at: DeviceRef { account, device: DeviceId(id) }, key: SigningKey::from_bytes(&seed(&format!("{name}/ed25519"))) }
    }

    /// Signature of a prekey for this device.
    pub fn prekey(&self, kind: u8, id: u32, created_ms: u64, key: &[u8]) -> [u8; 64] {
        self.prekey_for(self.at, kind, id, created_ms, key)
    }

    /// Signature of a prekey that claims to be for another device.
    pub fn prekey_for(&self, at: DeviceRef, kind: u8, id: u32, created_ms: u64, key: &[u8]) -> [u8; 64] {
        let fields: [&[u8]; 6] = [&at.account.0, &at.device.0, &[kind], &id.to_be_bytes(), &created_ms.to_be_bytes(), key];
        sign(&self.key, "prekey", &fields).1
    }

    pub fn leave(&self, version: u64) -> Statement {
        sign(&self.key, "leave", &[&self.at.account.0, &self.at.device.0, &version.to_be_bytes()])
    }

    pub fn login(&self, origin: &str, challenge: &[u8; 32], nonce: &[u8; 32], expires_ms: u64) -> [u8; 64] {
        let length = u16::try_from(origin.len()).unwrap().to_be_bytes();
        let fields: [&[u8]; 7] = [&length, origin.as_bytes(), &self.at.account.0, &self.at.device.0, challenge, nonce, &expires_ms.to_be_bytes()];
        sign(&self.key, "login", &fields).1
    }
}

#[derive(Clone)]
pub struct Owner {
    pub account: AccountId,
    pub aik: SigningKey,
    pub recovery: Option<SigningKey>,
    /// Of the newest statement.
    pub version: u64,
    pub hash: [u8; 32],
}

impl Owner {
    pub fn new(name: &str) -> Self {
        Self::with_recovery(name, Some(SigningKey::from_bytes(&seed(&format!("{name}/recovery")))))
    }

    pub fn with_recovery(name: &str, recovery: Option<SigningKey>) -> Self {
        let aik = SigningKey::from_bytes(&seed(&format!("{name}/aik")));
        let mut owner = Self { account: AccountId([0; 16]), aik, recovery, version: 0, hash: [0; 32] };
        let id = Sha256::new().chain_update("kith/v1/account").chain_update(owner.aik_public()).chain_update(owner.recovery_public()).finalize();
        owner.account.0.copy_from_slice(&id[..16]);
        owner
    }

    pub fn aik_public(&self) -> [u8; 32] {
        self.aik.verifying_key().to_bytes()
    }

    pub fn recovery_public(&self) -> [u8; 32] {
        self.recovery.as_ref().map_or([0; 32], |key| key.verifying_key().to_bytes())
    }

    pub fn device(&self, name: &str) -> Device {
        Device::new(self.account, name)
    }

    pub fn certificate(&self, device: &Device) -> Certificate {
        self.certificate_by(device, &self.aik, &device.key)
    }

    /// A certificate that names the right keys and is signed by any.
    pub fn certificate_by(&self, device: &Device, aik: &SigningKey, accept: &SigningKey) -> Certificate {
        let (ed25519, x25519, mls) = (device.key.verifying_key().to_bytes(), seed("x25519"), seed("mls"));
        let (aik_public, since) = (self.aik_public(), 1_u64.to_be_bytes());
        let fields: [&[u8]; 7] = [&self.account.0, &aik_public, &device.at.device.0, &ed25519, &x25519, &mls, &since];
        let (signed, aik_signature) = sign(aik, "device", &fields);
        (signed, aik_signature, sign(accept, "device-accept", &fields).1)
    }

    pub fn certificate_hash(certificate: &Certificate) -> [u8; 32] {
        Sha256::new().chain_update(&certificate.0).chain_update(certificate.1).chain_update(certificate.2).finalize().into()
    }

    /// The next list, of which `self` then takes note.
    pub fn next_list(&mut self, devices: &[&Device]) -> Statement {
        let list = self.list(self.version + 1, self.hash, devices);
        self.version += 1;
        self.hash = Sha256::digest(&list.0).into();
        list
    }

    /// Any list.
    pub fn list(&self, version: u64, prev_hash: [u8; 32], devices: &[&Device]) -> Statement {
        let entries = devices.iter().map(|d| (d.at.device, Self::certificate_hash(&self.certificate(d)))).collect();
        self.list_by(&self.aik, version, prev_hash, entries)
    }

    /// Any list, signed by any key.
    pub fn list_by(&self, key: &SigningKey, version: u64, prev_hash: [u8; 32], mut entries: Vec<(DeviceId, [u8; 32])>) -> Statement {
        entries.sort_unstable();
        let count = u16::try_from(entries.len()).unwrap().to_be_bytes();
        let entries: Vec<u8> = entries.iter().flat_map(|(id, hash)| id.0.iter().chain(hash).copied()).collect();
        let (aik, recovery, issued) = (self.aik_public(), self.recovery_public(), 1_790_000_000_000_u64.to_be_bytes());
        let fields: [&[u8]; 8] = [&self.account.0, &aik, &recovery, &version.to_be_bytes(), &prev_hash, &issued, &count, &entries];
        sign(key, "devices", &fields)
    }

    /// The recovery key replaces both keys; `self` then holds the new ones.
    pub fn rotate(&mut self, name: &str) -> Statement {
        let by = self.recovery.clone().unwrap_or_else(|| SigningKey::from_bytes(&[0; 32]));
        let rotated = self.rotate_by(&by, name);
        self.aik = SigningKey::from_bytes(&seed(&format!("{name}/aik")));
        self.recovery = Some(SigningKey::from_bytes(&seed(&format!("{name}/recovery"))));
        self.version += 1;
        self.hash = Sha256::digest(&rotated.0).into();
        rotated
    }

    /// A rotation to the keys of `name`, signed by any key.
    pub fn rotate_by(&self, key: &SigningKey, name: &str) -> Statement {
        let public = |what: &str| SigningKey::from_bytes(&seed(&format!("{name}/{what}"))).verifying_key().to_bytes();
        let (old, new_aik, new_recovery) = (self.aik_public(), public("aik"), public("recovery"));
        let version = (self.version + 1).to_be_bytes();
        sign(key, "rotate", &[&self.account.0, &old, &new_aik, &new_recovery, &version, &self.hash])
    }
}
