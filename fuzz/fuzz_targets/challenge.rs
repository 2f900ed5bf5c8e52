//! Login challenges: the server takes those that it made itself, for the device they were made for, while they last, and each of them once.
#![no_main]

use kith_fuzz::Plan;
use kith_gateway::fuzzing::{ChallengeError, Challenges};
use kith_proto::id::{AccountId, DeviceId, DeviceRef};
use libfuzzer_sys::fuzz_target;

const LASTS_MS: u64 = 60_000;

/// Whatever is taken would have been made just so.
fn check(challenges: &Challenges, device: DeviceRef, challenge: &[u8; 32], now_ms: u64) -> Result<u64, ChallengeError> {
    let checked = challenges.check(device, challenge, now_ms);
    if let Ok(expires_ms) = checked {
        let random = challenge[8..16].try_into().expect("eight bytes");
        let made = [expires_ms.saturating_sub(LASTS_MS), now_ms];
        assert!(made.iter().any(|at| challenges.issue(device, random, *at).0 == *challenge), "a challenge that was not made here");
        assert!(expires_ms > now_ms && expires_ms - now_ms <= LASTS_MS, "a challenge that has ended or not begun");
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
    let good = now_ms < expires_ms && expires_ms - now_ms <= LASTS_MS;
    assert_eq!(check(&challenges, device, &challenge, now_ms), if good { Ok(expires_ms) } else { Err(ChallengeError::Invalid) });
    assert!(Challenges::new([8; 32]).check(device, &challenge, now_ms).is_err(), "made by another process");

    let bit = usize::from(plan.u8());
    let mut flipped = challenge;
    flipped[bit / 8] ^= 1 << (bit % 8);
    assert!(challenges.check(device, &flipped, made_ms).is_err(), "bit {bit}");
    let mut other = device;
    other.device.0[bit / 16] ^= 1 << (bit % 8);
    assert!(challenges.check(other, &challenge, made_ms).is_err(), "another device's");

    // However time goes on within its life, a challenge that was used stays used.
    let mut clock_ms = made_ms;
    let mut first = true;
    while !plan.is_over() && clock_ms < expires_ms {
        assert_eq!(challenges.spend(&challenge, clock_ms).is_ok(), first, "once");
        first = false;
        let _ = challenges.spend(&plan.array(), clock_ms);
        clock_ms = clock_ms.saturating_add(u64::from(plan.u16()));
    }
});
