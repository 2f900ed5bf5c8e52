//! Login challenges: made and checked without storing anything; a login that uses one up is stored with it (see [`SpentChallenge`]).
//!
//! A challenge is `expires u64 ‖ 8 random bytes ‖ 16 bytes of HMAC-SHA-256(key, account ‖ device ‖ expires ‖ random)` under a key that all gateways of a
//! service have, so that one may give it and another take it. Asking for challenges therefore costs the server no memory, and a challenge works for the one
//! device only.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use kith_chat_core::accounts::SpentChallenge;
use kith_proto::id::DeviceRef;
use sha2::Sha256;

/// How long a challenge lasts; milliseconds.
const CHALLENGE_MS: u64 = 60_000;
/// So far the clocks of two gateways may be apart for a challenge of the one to be taken by the other as soon as it was given; milliseconds.
const SKEW_MS: u64 = 30_000;
/// A used challenge is remembered for so long after its end, since another gateway's clock may be behind; milliseconds.
const REMEMBERED_MS: u64 = 600_000;

/// Not one of ours, for another device, or ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the challenge is not valid")]
pub struct InvalidChallenge;

/// Makes and checks challenges.
pub struct Challenges {
    keyed: Hmac<Sha256>,
}

impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Challenges")
    }
}

impl Challenges {
    /// Under a random key.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        let mut block = [0; 64];
        block[..32].copy_from_slice(&key);
        Self { keyed: Hmac::new(&block.into()) }
    }

    /// A challenge for a device and when it ends.
    #[must_use]
    pub fn issue(&self, device: DeviceRef, random: [u8; 8], now_ms: u64) -> ([u8; 32], u64) {
        let expires_ms = now_ms.saturating_add(CHALLENGE_MS);
        let mut challenge = [0; 32];
        challenge[..8].copy_from_slice(&expires_ms.to_be_bytes());
        challenge[8..16].copy_from_slice(&random);
        let mac = self.mac(device, &challenge[..16]).finalize().into_bytes();
        challenge[16..].copy_from_slice(&mac[..16]);
        (challenge, expires_ms)
    }

    /// Checks that the challenge was made for this device and has not ended; returns when it ends. Whether it was used is known where logins are stored.
    ///
    /// # Errors
    /// If it is not valid.
    pub fn check(&self, device: DeviceRef, challenge: &[u8; 32], now_ms: u64) -> Result<u64, InvalidChallenge> {
        let (head, mac) = challenge.split_at(16);
        self.mac(device, head).verify_truncated_left(mac).map_err(|_| InvalidChallenge)?;
        let expires_ms = expiry(challenge);
        // One that lasts for too long was made before a clock was set back.
        if expires_ms <= now_ms || expires_ms > now_ms.saturating_add(CHALLENGE_MS + SKEW_MS) {
            return Err(InvalidChallenge);
        }
        Ok(expires_ms)
    }

    /// What a login that was proved with this challenge, which was checked, uses up.
    #[must_use]
    pub fn spent(challenge: &[u8; 32]) -> SpentChallenge {
        let mut id = [0; 16];
        id.copy_from_slice(&challenge[16..]);
        SpentChallenge { id, until_ms: expiry(challenge).saturating_add(REMEMBERED_MS) }
    }

    fn mac(&self, device: DeviceRef, head: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.keyed.clone();
        mac.update(&device.account.0);
        mac.update(&device.device.0);
        mac.update(head);
        mac
    }
}

fn expiry(challenge: &[u8; 32]) -> u64 {
    let mut expires = [0; 8];
    expires.copy_from_slice(&challenge[..8]);
    u64::from_be_bytes(expires)
}

#[cfg(test)]
mod tests {
    use kith_proto::id::{AccountId, DeviceId};

    use super::*;

    const DEVICE: DeviceRef = DeviceRef { account: AccountId([1; 16]), device: DeviceId([2; 16]) };
    const NOW: u64 = 1_790_000_000_000;

    #[test]
    fn is_good_for_one_device_for_a_minute_wherever_the_key_is() {
        let challenges = Challenges::new([7; 32]);
        let (challenge, expires_ms) = challenges.issue(DEVICE, [1; 8], NOW);
        assert_eq!(expires_ms, NOW + 60_000);
        assert_eq!(Challenges::new([7; 32]).check(DEVICE, &challenge, NOW + 59_999), Ok(expires_ms));
        assert_eq!(challenges.check(DEVICE, &challenge, NOW + 60_000), Err(InvalidChallenge));
        let other = DeviceRef { device: DeviceId([3; 16]), ..DEVICE };
        assert_eq!(challenges.check(other, &challenge, NOW), Err(InvalidChallenge));
        assert_eq!(Challenges::new([8; 32]).check(DEVICE, &challenge, NOW), Err(InvalidChallenge));
    }

    #[test]
    fn a_gateway_whose_clock_is_a_little_behind_takes_it_and_one_that_was_set_back_does_not() {
        let challenges = Challenges::new([7; 32]);
        let (challenge, expires_ms) = challenges.issue(DEVICE, [1; 8], NOW);
        assert_eq!(challenges.check(DEVICE, &challenge, NOW - 30_000), Ok(expires_ms));
        assert_eq!(challenges.check(DEVICE, &challenge, NOW - 30_001), Err(InvalidChallenge));
    }

    #[test]
    fn a29_a_changed_challenge_is_refused() {
        let challenges = Challenges::new([7; 32]);
        let (challenge, _) = challenges.issue(DEVICE, [1; 8], NOW);
        for at in 0..32 {
            let mut changed = challenge;
            changed[at] ^= 1;
            assert_eq!(challenges.check(DEVICE, &changed, NOW), Err(InvalidChallenge), "at {at}");
        }
    }

    #[test]
    fn a_spent_one_is_remembered_until_no_gateway_takes_it() {
        let challenges = Challenges::new([7; 32]);
        let (challenge, expires_ms) = challenges.issue(DEVICE, [1; 8], NOW);
        let spent = Challenges::spent(&challenge);
        assert!(spent.until_ms > expires_ms + CHALLENGE_MS + SKEW_MS);
        assert_ne!(spent.id, Challenges::spent(&challenges.issue(DEVICE, [2; 8], NOW).0).id);
    }
}
