//! Access tokens: what verifies is, character for character, what was minted with the key; anything else is refused.
#![no_main]

use std::sync::LazyLock;

use kith_fuzz::{Plan, damage};
use kith_gateway::token::{Caller, TokenError, TokenKey};
use kith_proto::id::{AccountId, DeviceId, DeviceRef};
use libfuzzer_sys::fuzz_target;

static KEY: LazyLock<TokenKey> = LazyLock::new(|| TokenKey::new([7; 32]));

/// Whatever the key takes it would have made just so.
fn check(text: &str, now_ms: u64) -> Result<Caller, TokenError> {
    let verified = KEY.verify(text, now_ms);
    if let Ok(caller) = verified {
        assert_eq!(KEY.issue(caller.device, caller.expires_ms), text, "a token that was not minted");
        assert!(caller.expires_ms > now_ms, "a token that has ended");
    }
    verified
}

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = check(text, 0);
    }
    let mut plan = Plan(data);
    let device = DeviceRef { account: AccountId(plan.array()), device: DeviceId(plan.array()) };
    let (expires_ms, now_ms) = (plan.number(), plan.number());
    let token = KEY.issue(device, expires_ms);
    let expected = if expires_ms > now_ms { Ok(Caller { device, expires_ms }) } else { Err(TokenError::Expired) };
    assert_eq!(check(&token, now_ms), expected);
    assert_eq!(TokenKey::new([8; 32]).verify(&token, now_ms), Err(TokenError::Invalid), "made with another key");

    // Every bit of the text counts.
    let bit = usize::from(plan.u16()) % (token.len() * 8);
    let mut flipped = token.clone().into_bytes();
    flipped[bit / 8] ^= 1 << (bit % 8);
    if let Ok(flipped) = std::str::from_utf8(&flipped) {
        assert_eq!(KEY.verify(flipped, 0), Err(TokenError::Invalid), "bit {bit}");
    }
    let mut damaged = token.clone().into_bytes();
    if damage(&mut damaged, plan.0)
        && let Ok(damaged) = std::str::from_utf8(&damaged)
    {
        let _ = check(damaged, 0);
    }
});
