//! Passwords and ports that cannot be foreseen.

use std::{
    fmt::Write as _,
    fs,
    hash::{BuildHasher as _, Hasher as _},
    io::Read as _,
};

use anyhow::Context as _;

/// 128 bits as 32 hexadecimal digits.
pub(crate) fn random_text() -> anyhow::Result<String> {
    let mut random = [0; 16];
    fs::File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut random)).context("the system gives no randomness")?;
    let mut text = String::new();
    random.iter().try_for_each(|byte| write!(text, "{byte:02x}"))?;
    Ok(text)
}

/// The standard library seeds its hashers from the system's randomness, which is good enough for this.
pub(crate) fn random_below(limit: u16) -> u16 {
    let random = std::hash::RandomState::new().build_hasher().finish();
    u16::try_from(random % u64::from(limit)).expect("the remainder is below a u16")
}
