//! Login challenges: the server takes those that it made itself, for the device they were made for, while they last; and what is remembered of a used one outlives it.
#![no_main]

use kith_fuzz::Plan;
use kith_gateway::fuzzing::{Challenges, InvalidChallenge};
use kith_proto::id::{AccountId, DeviceId, DeviceRef};
use libfuzzer_sys::fuzz_target;

const LASTS_MS: u64 = 60_000;
/// So far the clock of whoever made it may be ahead.
const SKEW_MS: u64 = 30_000;

/// Whatever is taken would have been made just so.
fn check(challenges: &Challenges, device: DeviceRef, challenge: &[u8; 32], now_ms: u64) -> Result<u64, InvalidChallenge> {
    let checked = challenges.check(device, challenge, now_ms);
    if let Ok(expires_ms) = checked {
        let random = challenge[8..16].try_into().expect("eight bytes");
        let made = [expires_ms.saturating_sub(LASTS_MS), now_ms];
        assert!(made.iter().any(|at| challenges.issue(device, random, *at).0 == *challenge), "a challenge that was not made here");
        assert!(expires_ms > now_ms && expires_ms - now_ms <= LASTS_MS + SKEW_MS, "a challenge that has ended or not begun");
    }
    checked
}

fuzz_target!(|data: &[u8]| {
    let challenges = Challenges::new([7; 32]);
    let mut plan = Plan(data);
    let device = DeviceRef { account: AccountId(plan.array()), device: DeviceId(plan.array()) };
    let (made_ms, now_ms) = (plan.number(), plan.number());
    let _ = check(&challenges, device, &plan.array(), now_ms);

    let (challenge, expires_ms) = challenges.issue(device, plan.array(), made_ms);
    let lasts = made_ms < expires_ms;
    assert_eq!(check(&challenges, device, &challenge, made_ms).is_ok(), lasts);
    let good = now_ms < expires_ms && expires_ms - now_ms <= LASTS_MS + SKEW_MS;
    assert_eq!(check(&challenges, device, &challenge, now_ms), if good { Ok(expires_ms) } else { Err(InvalidChallenge) });
    assert!(Challenges::new([8; 32]).check(device, &challenge, now_ms).is_err(), "made with another key");

    let bit = usize::from(plan.u8());
    let mut flipped = challenge;
    flipped[bit / 8] ^= 1 << (bit % 8);
    assert!(challenges.check(device, &flipped, made_ms).is_err(), "bit {bit}");
    let mut other = device;
    other.device.0[bit / 16] ^= 1 << (bit % 8);
    assert!(challenges.check(other, &challenge, made_ms).is_err(), "another device's");

    let (used, same) = (Challenges::spent(&challenge), Challenges::spent(&challenge));
    assert_eq!((used.id, used.until_ms), (same.id, same.until_ms));
    assert!(used.until_ms == u64::MAX || used.until_ms > expires_ms.saturating_add(LASTS_MS + SKEW_MS), "forgotten while somebody takes it");
});
