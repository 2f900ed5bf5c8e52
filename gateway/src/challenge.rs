//! Login challenges: made and checked without storing anything; only those that were used are remembered, until they would have ended anyway.
//!
//! A challenge is `expires u64 ‖ 8 random bytes ‖ 16 bytes of HMAC-SHA-256(key, account ‖ device ‖ expires ‖ random)` under a key that lives as long as this
//! process. Asking for challenges therefore costs the server no memory, and a challenge works for the one device only.

use std::{collections::HashSet, fmt};

use hmac::{Hmac, KeyInit as _, Mac as _};
use kith_proto::id::DeviceRef;
use parking_lot::Mutex;
use sha2::Sha256;

/// How long a challenge lasts; milliseconds.
const CHALLENGE_MS: u64 = 60_000;
/// Used challenges remembered per generation, of which there are two: 4,000 logins a second for a minute.
const REMEMBERED: usize = 262_144;

/// Why a challenge is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChallengeError {
    /// Not one of ours, for another device, ended, or used before.
    #[error("the challenge is not valid")]
    Invalid,
    /// More logins than can be remembered.
    #[error("too many logins")]
    Overloaded,
}

/// Makes, checks and uses up challenges.
pub struct Challenges {
    keyed: Hmac<Sha256>,
    used: Mutex<Used>,
}

#[derive(Default)]
struct Used {
    young: HashSet<[u8; 16]>,
    old: HashSet<[u8; 16]>,
    /// When the young generation was begun.
    since_ms: u64,
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
        Self { keyed: Hmac::new(&block.into()), used: Mutex::default() }
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

    /// Checks that the challenge was made for this device and has not ended; returns when it ends. It is not used up yet.
    ///
    /// # Errors
    /// If it is not valid.
    pub fn check(&self, device: DeviceRef, challenge: &[u8; 32], now_ms: u64) -> Result<u64, ChallengeError> {
        self.mac(device, &challenge[..16]).verify_truncated_left(&challenge[16..]).map_err(|_| ChallengeError::Invalid)?;
        let mut expires = [0; 8];
        expires.copy_from_slice(&challenge[..8]);
        let expires_ms = u64::from_be_bytes(expires);
        if expires_ms <= now_ms || expires_ms > now_ms.saturating_add(CHALLENGE_MS) {
            return Err(ChallengeError::Invalid);
        }
        Ok(expires_ms)
    }

    /// Uses up a challenge that was checked and rightly signed. Of two that come at once one succeeds.
    ///
    /// # Errors
    /// If it was used before.
    pub fn spend(&self, challenge: &[u8; 32], now_ms: u64) -> Result<(), ChallengeError> {
        let mut mac = [0; 16];
        mac.copy_from_slice(&challenge[16..]);
        let mut used = self.used.lock();
        // Threads may read the clock in another order than they come here; only a clock that was set back far begins anew.
        if now_ms.abs_diff(used.since_ms) >= CHALLENGE_MS {
            used.old = std::mem::take(&mut used.young);
            used.since_ms = now_ms;
        }
        if used.old.contains(&mac) || used.young.contains(&mac) {
            return Err(ChallengeError::Invalid);
        }
        if used.young.len() >= REMEMBERED {
            return Err(ChallengeError::Overloaded);
        }
        used.young.insert(mac);
        Ok(())
    }

    fn mac(&self, device: DeviceRef, head: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.keyed.clone();
        mac.update(&device.account.0);
        mac.update(&device.device.0);
        mac.update(head);
        mac
    }
}

#[cfg(test)]
mod tests {
    use kith_proto::id::{AccountId, DeviceId};

    use super::*;

    const DEVICE: DeviceRef = DeviceRef { account: AccountId([1; 16]), device: DeviceId([2; 16]) };
    const NOW: u64 = 1_790_000_000_000;

    #[test]
    fn works_once_for_one_device_for_a_minute() {
        let challenges = Challenges::new([7; 32]);
        let (challenge, expires_ms) = challenges.issue(DEVICE, [1; 8], NOW);
        assert_eq!(expires_ms, NOW + 60_000);
        assert_eq!(challenges.check(DEVICE, &challenge, NOW + 59_999), Ok(expires_ms));
        assert_eq!(challenges.check(DEVICE, &challenge, NOW + 60_000), Err(ChallengeError::Invalid));
        let other = DeviceRef { device: DeviceId([3; 16]), ..DEVICE };
        assert_eq!(challenges.check(other, &challenge, NOW), Err(ChallengeError::Invalid));
        assert_eq!(Challenges::new([8; 32]).check(DEVICE, &challenge, NOW), Err(ChallengeError::Invalid));
        assert_eq!(challenges.spend(&challenge, NOW + 59_999), Ok(()));
        assert_eq!(challenges.spend(&challenge, NOW + 59_999), Err(ChallengeError::Invalid));
    }

    #[test]
    fn a29_a_changed_challenge_is_refused() {
        let challenges = Challenges::new([7; 32]);
        let (challenge, _) = challenges.issue(DEVICE, [1; 8], NOW);
        for at in 0..32 {
            let mut changed = challenge;
            changed[at] ^= 1;
            assert_eq!(challenges.check(DEVICE, &changed, NOW), Err(ChallengeError::Invalid), "at {at}");
        }
    }

    #[test]
    fn a_used_challenge_is_remembered_until_it_has_ended() {
        let challenges = Challenges::new([7; 32]);
        challenges.spend(&[0; 32], NOW).unwrap();
        let (challenge, expires_ms) = challenges.issue(DEVICE, [1; 8], NOW + 59_000);
        challenges.spend(&challenge, NOW + 59_500).unwrap();
        for now in (NOW + 59_500..expires_ms).step_by(500) {
            assert_eq!(challenges.spend(&challenge, now), Err(ChallengeError::Invalid), "at {now}");
            // Other logins go on and begin new generations.
            let (other, _) = challenges.issue(DEVICE, now.to_be_bytes(), now);
            challenges.spend(&other, now).unwrap();
        }
    }

    #[test]
    fn memory_is_bounded() {
        let challenges = Challenges::new([7; 32]);
        let spend = |n: usize| {
            let mut challenge = [0; 32];
            challenge[16..24].copy_from_slice(&n.to_be_bytes());
            challenges.spend(&challenge, NOW)
        };
        assert!((0..REMEMBERED).all(|n| spend(n) == Ok(())));
        assert_eq!(spend(REMEMBERED), Err(ChallengeError::Overloaded));
    }
}
