//! Body and slices of a log entry, and packs of several, as they lie in the server's database: a damaged one is an error, never another device's bytes.
#![no_main]

use kith_fuzz::Plan;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut plan = Plan(data);
    let devices: Vec<i64> = (0..plan.u8() % 8).map(|_| plan.number().cast_signed()).collect();
    kith_chat_core::log::fuzzed_row(plan.0, &devices);
    kith_chat_core::log::postgres::fuzzed_pack(plan.0, devices.len());
});
