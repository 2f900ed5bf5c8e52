//! How two gateways show each other that they belong to the same service: a MAC under a secret that all of them read from the database they share.
//!
//! The gateway that dials sends `from.to.at_ms.mac` in the stream's metadata, and the other answers with a MAC of its own over the same, made for the other
//! direction, so that neither can be given back what it has said itself. A proof names the run of the gateway that it is for, is good for a minute on either
//! side of its time, and not again: of one dialler each proof must be later than the one before.

use std::{
    collections::HashMap,
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use kith_chat_core::sessions::GatewayId;
use parking_lot::Mutex;
use sha2::Sha256;

/// How far the clocks of two gateways may be apart.
const CLOCKS_WITHIN_MS: u64 = 60_000;
/// Diallers whose last proof is remembered: many more than a service has gateways, and forgotten only when proofs of their time would have ended.
const MAX_REMEMBERED: usize = 4_096;

const DIAL: &[u8] = b"kith/v1/link/dial";
const ANSWER: &[u8] = b"kith/v1/link/answer";

/// What one gateway says to the other when it dials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    /// Who dials.
    pub(super) from: GatewayId,
    /// Who is dialled.
    pub(super) to: GatewayId,
    /// When; Unix milliseconds.
    pub(super) at_ms: u64,
}

/// Why a proof is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProofError {
    /// No proof, or one made without the secret.
    #[error("the proof is not valid")]
    Invalid,
    /// It is for another gateway, perhaps an earlier run of this one.
    #[error("the proof is for another gateway")]
    NotForUs,
    /// The clocks are too far apart, or it was shown before.
    #[error("the proof is too old or too new")]
    Untimely,
}

/// Makes and checks proofs.
pub(super) struct Proofs {
    keyed: Hmac<Sha256>,
    me: GatewayId,
    last_made_ms: AtomicU64,
    last_seen_ms: Mutex<HashMap<GatewayId, u64>>,
}

impl fmt::Debug for Proofs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proofs")
    }
}

impl Proofs {
    pub(super) fn new(secret: [u8; 32], me: GatewayId) -> Self {
        let mut block = [0; 64];
        block[..32].copy_from_slice(&secret);
        Self { keyed: Hmac::new(&block.into()), me, last_made_ms: AtomicU64::new(0), last_seen_ms: Mutex::default() }
    }

    /// For dialling `to`; with the text that is sent.
    pub(super) fn dial(&self, to: GatewayId, now_ms: u64) -> (Claim, String) {
        // Later than any before, also when the clock has gone back a little.
        let next = |last: u64| Some(now_ms.max(last + 1));
        let before = self.last_made_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or(0);
        let claim = Claim { from: self.me, to, at_ms: now_ms.max(before + 1) };
        let mac = hex::encode(self.mac(DIAL, &claim).finalize().into_bytes());
        (claim, format!("{:016x}.{:016x}.{:x}.{mac}", claim.from.0, claim.to.0, claim.at_ms))
    }

    /// Checks what a dialler has sent.
    ///
    /// # Errors
    /// If it does not show that the dialler knows the secret and means this gateway, now.
    pub(super) fn check_dial(&self, text: &str, now_ms: u64) -> Result<Claim, ProofError> {
        let (claim, mac) = parse(text).ok_or(ProofError::Invalid)?;
        self.mac(DIAL, &claim).verify_slice(&mac).map_err(|_| ProofError::Invalid)?;
        if claim.to != self.me || claim.from == self.me {
            return Err(ProofError::NotForUs);
        }
        if claim.at_ms.abs_diff(now_ms) > CLOCKS_WITHIN_MS {
            return Err(ProofError::Untimely);
        }
        let mut seen = self.last_seen_ms.lock();
        if seen.len() >= MAX_REMEMBERED {
            seen.retain(|_, at_ms| at_ms.abs_diff(now_ms) <= CLOCKS_WITHIN_MS);
        }
        let is_later = seen.get(&claim.from).map_or(seen.len() < MAX_REMEMBERED, |last| claim.at_ms > *last);
        if !is_later {
            return Err(ProofError::Untimely);
        }
        seen.insert(claim.from, claim.at_ms);
        Ok(claim)
    }

    /// Answers what was checked.
    pub(super) fn answer(&self, claim: &Claim) -> String {
        hex::encode(self.mac(ANSWER, claim).finalize().into_bytes())
    }

    /// Checks the answer to what was dialled with.
    ///
    /// # Errors
    /// If whoever answers does not know the secret.
    pub(super) fn check_answer(&self, claim: &Claim, text: &str) -> Result<(), ProofError> {
        let mut mac = [0; 32];
        hex::decode_to_slice(text, &mut mac).map_err(|_| ProofError::Invalid)?;
        self.mac(ANSWER, claim).verify_slice(&mac).map_err(|_| ProofError::Invalid)
    }

    fn mac(&self, direction: &[u8], claim: &Claim) -> Hmac<Sha256> {
        let mut mac = self.keyed.clone();
        mac.update(direction);
        for number in [claim.from.0, claim.to.0, claim.at_ms] {
            mac.update(&number.to_be_bytes());
        }
        mac
    }
}

fn parse(text: &str) -> Option<(Claim, [u8; 32])> {
    let mut parts = text.split('.');
    let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
    let claim = Claim { from: GatewayId(number()?), to: GatewayId(number()?), at_ms: number()? };
    let mut mac = [0; 32];
    hex::decode_to_slice(parts.next()?, &mut mac).ok()?;
    parts.next().is_none().then_some((claim, mac))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_790_000_000_000;

    fn pair() -> (Proofs, Proofs) {
        (Proofs::new([7; 32], GatewayId(1)), Proofs::new([7; 32], GatewayId(2)))
    }

    #[test]
    fn both_sides_are_shown_to_know_the_secret() {
        let (a, b) = pair();
        let (claim, text) = a.dial(GatewayId(2), NOW);
        assert_eq!(b.check_dial(&text, NOW + 30_000), Ok(claim));
        assert_eq!(a.check_answer(&claim, &b.answer(&claim)), Ok(()));
        let stranger = Proofs::new([8; 32], GatewayId(2));
        assert_eq!(a.check_answer(&claim, &stranger.answer(&claim)), Err(ProofError::Invalid));
        let mac_of_dial = text.rsplit('.').next().unwrap();
        assert_eq!(a.check_answer(&claim, mac_of_dial), Err(ProofError::Invalid), "what was said is no answer");
    }

    #[test]
    fn what_is_forged_meant_for_others_old_or_repeated_is_refused() {
        let (a, b) = pair();
        let (_, text) = Proofs::new([8; 32], GatewayId(1)).dial(GatewayId(2), NOW);
        assert_eq!(b.check_dial(&text, NOW), Err(ProofError::Invalid));
        for wrong in ["", "1.2.3", "1.2.3.4", "..."] {
            assert_eq!(b.check_dial(wrong, NOW), Err(ProofError::Invalid));
        }
        let (_, text) = a.dial(GatewayId(3), NOW);
        assert_eq!(b.check_dial(&text, NOW), Err(ProofError::NotForUs));
        let (_, text) = a.dial(GatewayId(2), NOW);
        assert_eq!(b.check_dial(&text, NOW + 61_000), Err(ProofError::Untimely));
        assert!(b.check_dial(&text, NOW).is_ok());
        assert_eq!(b.check_dial(&text, NOW), Err(ProofError::Untimely), "not twice");
        let (_, text) = a.dial(GatewayId(2), NOW - 5_000);
        assert!(b.check_dial(&text, NOW - 5_000).is_ok(), "a clock that goes back a little does not keep a gateway out");
    }
}
