//! Access tokens: who is calling and until when, under a key that only this server (all of its processes) has.
//!
//! A token is base64url of `1 ‖ account ‖ device ‖ expires u64 ‖ HMAC-SHA-256`. Checking one reads nothing: a revoked device is refused by the log and the
//! accounts, where the truth about devices is.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use kith_proto::id::{AccountId, DeviceId, DeviceRef};
use sha2::Sha256;

const VERSION: u8 = 1;
const SIGNED: usize = 1 + 16 + 16 + 8;
const LENGTH: usize = SIGNED + 32;

/// Who a token says is calling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The account and device.
    pub device: DeviceRef,
    /// When the token ends; Unix milliseconds.
    pub expires_ms: u64,
}

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token of this server.
    #[error("the token is invalid")]
    Invalid,
    /// It was one.
    #[error("the token has expired")]
    Expired,
}

/// The key that tokens are made and checked with. Cheap to clone.
#[derive(Clone)]
pub struct TokenKey {
    /// Keyed once; cloned for each use, which saves half of the hashing.
    keyed: Hmac<Sha256>,
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey")
    }
}

impl TokenKey {
    /// Of 32 random bytes. (HMAC pads a key with zeros to a block of its hash.)
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        let mut block = [0; 64];
        block[..32].copy_from_slice(&key);
        Self { keyed: Hmac::new(&block.into()) }
    }

    /// Makes a token that is good until `expires_ms`.
    #[must_use]
    pub fn issue(&self, device: DeviceRef, expires_ms: u64) -> String {
        let mut bytes = [0; LENGTH];
        bytes[0] = VERSION;
        bytes[1..17].copy_from_slice(&device.account.0);
        bytes[17..33].copy_from_slice(&device.device.0);
        bytes[33..SIGNED].copy_from_slice(&expires_ms.to_be_bytes());
        let mac = self.mac(&bytes[..SIGNED]).finalize().into_bytes();
        bytes[SIGNED..].copy_from_slice(&mac);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Says who is calling. Takes about a microsecond.
    ///
    /// # Errors
    /// If the token was not made with this key, or has ended.
    pub fn verify(&self, token: &str, now_ms: u64) -> Result<Caller, TokenError> {
        // One byte more than a token has, because the decoder wants room for its estimate.
        let mut bytes = [0; LENGTH + 2];
        let length = URL_SAFE_NO_PAD.decode_slice(token, &mut bytes).map_err(|_| TokenError::Invalid)?;
        if length != LENGTH || bytes[0] != VERSION {
            return Err(TokenError::Invalid);
        }
        self.mac(&bytes[..SIGNED]).verify_slice(&bytes[SIGNED..LENGTH]).map_err(|_| TokenError::Invalid)?;
        let caller = decode(&bytes);
        if caller.expires_ms <= now_ms { Err(TokenError::Expired) } else { Ok(caller) }
    }

    fn mac(&self, bytes: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.keyed.clone();
        mac.update(bytes);
        mac
    }
}

fn decode(bytes: &[u8; LENGTH + 2]) -> Caller {
    let (mut account, mut device, mut expires) = ([0; 16], [0; 16], [0; 8]);
    account.copy_from_slice(&bytes[1..17]);
    device.copy_from_slice(&bytes[17..33]);
    expires.copy_from_slice(&bytes[33..SIGNED]);
    Caller { device: DeviceRef { account: AccountId(account), device: DeviceId(device) }, expires_ms: u64::from_be_bytes(expires) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: DeviceRef = DeviceRef { account: AccountId([1; 16]), device: DeviceId([2; 16]) };

    #[test]
    fn says_who_is_calling_until_it_ends() {
        let key = TokenKey::new([7; 32]);
        let token = key.issue(DEVICE, 1_000);
        assert_eq!(key.verify(&token, 999), Ok(Caller { device: DEVICE, expires_ms: 1_000 }));
        assert_eq!(key.verify(&token, 1_000), Err(TokenError::Expired));
    }

    #[test]
    fn refuses_forged_tokens() {
        let key = TokenKey::new([7; 32]);
        let token = key.issue(DEVICE, 1_000);
        assert_eq!(TokenKey::new([8; 32]).verify(&token, 0), Err(TokenError::Invalid));
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(key.verify(std::str::from_utf8(&changed).unwrap(), 0), Err(TokenError::Invalid), "at {at}");
        }
        for wrong in ["", "A", "token", &token[1..], &format!("{token}A"), &format!("{token}AAAA"), &token.repeat(1_000)] {
            assert_eq!(key.verify(wrong, 0), Err(TokenError::Invalid));
        }
    }
}
