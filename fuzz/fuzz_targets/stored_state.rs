//! What the store keeps, damaged in a way that its check does not see: it reads back as it stands, or is an error; and what reads back can be used.
#![no_main]

use std::sync::LazyLock;

use kith_crypto::{
    chain::{ReceiverChain, SenderChain},
    device::DeviceKeys,
    identity::AccountIdentity,
    log_hash::LogView,
    prekey::PrekeySecret,
    replay::ReplayMemory,
    session_set::SessionSet,
    trusted_list::TrustedList,
};
use kith_fuzz::{CONVERSATION, Scene, damage};
use libfuzzer_sys::fuzz_target;
use sha2::{Digest as _, Sha256};

/// kind ‖ version, and the check at the end.
const HEAD: usize = 2;
const CHECK: usize = 8;

struct States {
    scene: Scene,
    sessions: Vec<u8>,
    skipped: Vec<u8>,
    others: Vec<Vec<u8>>,
}

static STATES: LazyLock<States> = LazyLock::new(|| {
    let scene = Scene::new();
    // With two messages outstanding there are skipped keys.
    let after = scene.open(true, &scene.later).expect("opens").sessions;
    let others = vec![
        scene.alice.chain.to_bytes().to_vec(),
        scene.chains[0].to_bytes().to_vec(),
        scene.replay.to_bytes().to_vec(),
        LogView::empty(CONVERSATION).to_bytes().to_vec(),
        scene.bob.signed.to_bytes().to_vec(),
        scene.bob.kem.to_bytes().to_vec(),
        scene.bob.account.to_bytes().to_vec(),
        scene.bob.keys.to_bytes().to_vec(),
        scene.alice.list.to_bytes().to_vec(),
    ];
    States { sessions: after.to_bytes().to_vec(), skipped: after.skipped_to_bytes().to_vec(), others, scene }
});

/// Damages the payload and makes the check right again.
fn damaged(state: &[u8], plan: &[u8]) -> Vec<u8> {
    let mut payload = state[HEAD..state.len() - CHECK].to_vec();
    damage(&mut payload, plan);
    let mut out = [&state[..HEAD], &payload].concat();
    let check = Sha256::new().chain_update(b"kith/v1/state").chain_update(&out).finalize();
    out.extend_from_slice(&check[..CHECK]);
    out
}

fuzz_target!(|data: &[u8]| {
    let Some((which, plan)) = data.split_first() else { return };
    let states = &*STATES;
    match usize::from(*which) {
        which @ 0..64 => {
            let (sessions, skipped) = if which % 2 == 0 {
                (damaged(&states.sessions, plan), states.skipped.clone())
            } else {
                (states.sessions.clone(), damaged(&states.skipped, plan))
            };
            let Ok(set) = SessionSet::from_bytes(&sessions, Some(&skipped)) else { return };
            assert_eq!(set.to_bytes().as_slice(), sessions);
            assert_eq!(set.skipped_to_bytes().as_slice(), skipped);
            for message in [&states.scene.first, &states.scene.second, &states.scene.later] {
                let _ = states.scene.open_with(&set, message);
            }
        }
        which => {
            let bytes = damaged(&states.others[which % states.others.len()], plan);
            if let Ok(state) = SenderChain::from_bytes(&bytes) {
                assert_eq!(state.to_bytes().as_slice(), bytes);
            }
            if let Ok(state) = ReceiverChain::from_bytes(&bytes) {
                assert_eq!(state.to_bytes().as_slice(), bytes);
            }
            if let Ok(state) = ReplayMemory::from_bytes(&bytes) {
                assert_eq!(state.to_bytes().as_slice(), bytes);
            }
            if let Ok(state) = LogView::from_bytes(&bytes) {
                assert_eq!(state.to_bytes().as_slice(), bytes);
            }
            if let Ok(state) = PrekeySecret::from_bytes(&bytes) {
                assert_eq!(state.to_bytes().as_slice(), bytes);
                let _ = state.signed_public(states.scene.bob.account.account_id(), &states.scene.bob.keys);
            }
            if let Ok(state) = AccountIdentity::from_bytes(&bytes) {
                assert_eq!(state.to_bytes().as_slice(), bytes);
            }
            if let Ok(state) = DeviceKeys::from_bytes(&bytes) {
                assert_eq!(state.to_bytes().as_slice(), bytes);
            }
            if let Ok(state) = TrustedList::from_bytes(&bytes) {
                assert_eq!(state.to_bytes().as_slice(), bytes);
            }
        }
    }
});
