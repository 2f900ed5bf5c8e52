//! Runs the test vectors under `client-sdk/crypto/vectors`, which were written from the specification alone, by someone
//! who had not seen this code. Their README says what each kind means.

mod identity;
mod messages;
mod pqxdh;
mod ratchet;

use rand_core::{Infallible, TryCryptoRng, TryRng};
use serde_json::Value;
use std::collections::VecDeque;

/// Runs `check` on every case of a file and tells how many there were of each kind that has to be there.
fn each_case(file: &str, kinds: &[&str], mut check: impl FnMut(&str, &Value)) {
    let path = format!("{}/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let file: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(file["version"], 1);
    let cases = file["cases"].as_array().unwrap();
    for kind in kinds {
        assert!(cases.iter().any(|case| case["kind"] == *kind), "no case of kind {kind}");
    }
    for case in cases {
        let kind = case["kind"].as_str().unwrap();
        assert!(kinds.contains(&kind), "unknown kind {kind}");
        check(kind, case);
    }
}

/// The name of a case, for messages.
fn name(case: &Value) -> &str {
    case["name"].as_str().unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

/// Randomness that was written down: each draw must be of exactly the next length.
#[derive(Default)]
struct Tape(VecDeque<Vec<u8>>);

impl Tape {
    fn of(draws: impl IntoIterator<Item = Vec<u8>>) -> Self {
        Self(draws.into_iter().collect())
    }

    fn is_used_up(&self) -> bool {
        self.0.is_empty()
    }
}

impl TryRng for Tape {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        panic!("only bytes are drawn")
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        panic!("only bytes are drawn")
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        let draw = self.0.pop_front().expect("a draw that was written down");
        out.copy_from_slice(&draw);
        Ok(())
    }
}

impl TryCryptoRng for Tape {}
