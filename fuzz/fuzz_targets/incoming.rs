//! Whole messages, damaged: a damaged slice does not open, and a damaged body gives no content. The fuzzer watches comparisons and so can learn the right
//! tag for the fixed keys of the scene; what it must not find is a message that opens with the tag it had before.
#![no_main]

use std::sync::LazyLock;

use kith_fuzz::{Scene, damage, same_tag};
use libfuzzer_sys::fuzz_target;

static SCENE: LazyLock<Scene> = LazyLock::new(Scene::new);

fuzz_target!(|data: &[u8]| {
    let Some((which, plan)) = data.split_first() else { return };
    let (known, original) = match which % 4 {
        0 => (false, &SCENE.first),
        1 => (true, &SCENE.first),
        2 => (true, &SCENE.second),
        _ => (true, &SCENE.later),
    };
    let mut message = original.clone();
    let (slice_plan, body_plan) = if which & 4 == 0 { (plan, &[][..]) } else { plan.split_at(plan.len() / 8 * 4) };
    let slice_damaged = damage(&mut message.slice, slice_plan);
    let body_damaged = damage(&mut message.body, body_plan);
    match SCENE.open(known, &message) {
        Ok(incoming) => {
            assert!(!slice_damaged || !same_tag(&original.slice, &message.slice), "a damaged slice was opened");
            assert!(!body_damaged || incoming.message.is_err() || !same_tag(&original.body, &message.body), "a damaged body was read");
        }
        // The first message has been taken already in the known session: its key is gone.
        Err(_) => assert!(slice_damaged || body_damaged || (known && which % 4 == 1), "an undamaged message was refused"),
    }
});
