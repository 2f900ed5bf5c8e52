//! What a hostile server tells a client about accounts, and a hostile peer inside the encryption about what could not be read: signed statements on their
//! way into the types that verify them, bundles of prekeys, repair requests and their answers.
#![no_main]

use kith_client::fuzzing::{account_history, bundle, repair_messages};
use kith_fuzz::Plan;
use kith_proto::{
    id::{AccountId, DeviceId},
    rest::{Bundle, Bundles, Certificate, History, OneTimePrekey, SignedPrekey, SignedStatement, Statement},
};
use libfuzzer_sys::fuzz_target;

const LABELS: [&str; 5] = ["kith/v1/devices", "kith/v1/device", "kith/v1/rotate", "kith/v1/leave", ""];

/// What is signed begins with its label, mostly the right one.
fn signed(plan: &mut Plan<'_>, label: usize) -> Vec<u8> {
    let label = if plan.u8() < 230 { label } else { usize::from(plan.u8()) % LABELS.len() };
    let length = plan.u16().into();
    let label = LABELS[label].as_bytes();
    [&[u8::try_from(label.len()).expect("short")], label, plan.bytes(length)].concat()
}

fn statement(plan: &mut Plan<'_>, label: usize) -> SignedStatement {
    SignedStatement { signed: signed(plan, label).into(), signature: plan.array::<64>().into() }
}

fn certificate(plan: &mut Plan<'_>) -> Certificate {
    Certificate { signed: signed(plan, 1).into(), aik_signature: plan.array::<64>().into(), accept_signature: plan.array::<64>().into() }
}

fn page(plan: &mut Plan<'_>) -> History {
    let mut statements = Vec::new();
    for _ in 0..plan.u8() % 4 {
        let version = plan.number();
        statements.push(if plan.flag() {
            Statement::Rotate { version, rotate: statement(plan, 2) }
        } else {
            let list = statement(plan, 0);
            let certificates = (0..plan.u8() % 3).map(|_| certificate(plan)).collect();
            Statement::Devices { version, list, certificates }
        });
    }
    let leaves = (0..plan.u8() % 3).map(|_| statement(plan, 3)).collect();
    let (username, newest_version, more) = (plan.text().to_owned(), plan.number(), plan.flag());
    History { account: AccountId(plan.array()), username: kith_proto::rest::Private(username), newest_version, statements, leaves, more }
}

fn prekey(plan: &mut Plan<'_>) -> SignedPrekey {
    // 32 bytes for X25519, 1,184 for ML-KEM-768, or something else.
    let length = [32, 1_184, usize::from(plan.u16())][usize::from(plan.u8() % 3)];
    let (id, created_ms) = (u32::try_from(plan.number()).unwrap_or(u32::MAX), plan.number());
    SignedPrekey { id, created_ms, signature: plan.array::<64>().into(), key: plan.bytes(length).to_vec().into() }
}

fuzz_target!(|data: &[u8]| {
    let mut plan = Plan(data);
    match plan.u8() % 5 {
        0 => {
            if let Ok(history) = serde_json::from_slice::<History>(plan.0) {
                let _ = account_history(&[history]);
            }
        }
        1 => {
            let pages: Vec<History> = (0..plan.u8() % 4).map(|_| page(&mut plan)).collect();
            let _ = account_history(&pages);
        }
        2 => {
            if let Ok(bundles) = serde_json::from_slice::<Bundles>(plan.0) {
                bundles.bundles.iter().for_each(|from| {
                    let _ = bundle(from);
                });
            }
        }
        3 => {
            let one_time = plan.flag().then(|| OneTimePrekey { id: u32::from(plan.u16()), key: plan.array::<32>().into() });
            let (signed, kem_kind, kem) = (prekey(&mut plan), plan.u8() % 5, prekey(&mut plan));
            let _ = bundle(&Bundle { device: DeviceId(plan.array()), signed, kem_kind, kem, one_time, limited: plan.flag() });
        }
        _ => repair_messages(plan.0),
    }
});
