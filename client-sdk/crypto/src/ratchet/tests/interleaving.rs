//! Random runs of two sides over a bad line.

use super::*;
use std::collections::BTreeMap;

/// One step of a random run.
#[derive(Debug, Clone)]
enum Step {
    Send { alice: bool },
    Deliver { alice: bool, which: usize },
    Drop { alice: bool, which: usize },
    Duplicate { alice: bool, which: usize },
    Corrupt { alice: bool, which: usize, at: usize },
    Reload { alice: bool },
    Wait { hours: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let who = any::<bool>();
    prop_oneof![
        8 => who.prop_map(|alice| Step::Send { alice }),
        8 => (who, 0usize..4).prop_map(|(alice, which)| Step::Deliver { alice, which }),
        1 => (who, any::<usize>()).prop_map(|(alice, which)| Step::Drop { alice, which }),
        1 => (who, any::<usize>()).prop_map(|(alice, which)| Step::Duplicate { alice, which }),
        1 => (who, any::<usize>(), 2usize..190).prop_map(|(alice, which, at)| Step::Corrupt { alice, which, at }),
        1 => who.prop_map(|alice| Step::Reload { alice }),
        1 => (0u64..60).prop_map(|hours| Step::Wait { hours }),
    ]
}

/// Runs the steps and tells how many epochs were mixed.
fn run(steps: Vec<Step>) -> Result<u32, TestCaseError> {
    let (mut alice, mut bob) = confirmed();
    // On their way to Bob, and to Alice; and what was opened already, by text.
    let mut wires: [Vec<(u64, Vec<u8>)>; 2] = [Vec::new(), Vec::new()];
    let mut done: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut text = 1000;
    for step in steps {
        match step {
            Step::Send { alice: from_alice } => {
                let end = if from_alice { &mut alice } else { &mut bob };
                text += 2;
                let text = text + u64::from(from_alice);
                wires[usize::from(!from_alice)].push((text, end.send(text)));
            }
            Step::Deliver { alice: to_alice, which } => {
                let end = if to_alice { &mut alice } else { &mut bob };
                let wire = &mut wires[usize::from(to_alice)];
                if wire.is_empty() {
                    continue;
                }
                let (text, slice) = wire.remove(which % wire.len());
                match end.open(&slice) {
                    Ok(opened) => prop_assert_eq!(opened, text),
                    // So late that its chain is none of the newest five.
                    Err(error) => prop_assert!(
                        matches!(error, OpenError::NotAuthentic | OpenError::EarlyStep | OpenError::UnknownMixEpoch | OpenError::KeyGone),
                        "{:?}",
                        error
                    ),
                }
                done.insert(text, slice);
            }
            Step::Drop { alice: to_alice, which } => {
                let wire = &mut wires[usize::from(to_alice)];
                if !wire.is_empty() {
                    wire.remove(which % wire.len());
                }
            }
            Step::Duplicate { alice: to_alice, which } => {
                let end = if to_alice { &mut alice } else { &mut bob };
                let mine: Vec<&Vec<u8>> = done.iter().filter(|(text, _)| (**text % 2 == 0) == to_alice).map(|(_, slice)| slice).collect();
                if !mine.is_empty() {
                    let before = end.state();
                    prop_assert!(end.open(mine[which % mine.len()]).is_err());
                    prop_assert_eq!(end.state(), before);
                }
            }
            Step::Corrupt { alice: to_alice, which, at } => {
                let end = if to_alice { &mut alice } else { &mut bob };
                let wire = &wires[usize::from(to_alice)];
                if !wire.is_empty() {
                    let mut slice = wire[which % wire.len()].1.clone();
                    slice[at] ^= 4;
                    let before = end.state();
                    prop_assert!(end.open(&slice).is_err());
                    prop_assert_eq!(end.state(), before);
                }
            }
            Step::Reload { alice: of_alice } => {
                let end = if of_alice { &mut alice } else { &mut bob };
                let before = end.state();
                end.reload();
                prop_assert_eq!(end.state(), before);
            }
            Step::Wait { hours } => {
                alice.now_ms += hours * 60 * 60 * 1000;
                bob.now_ms += hours * 60 * 60 * 1000;
            }
        }
    }
    // Whatever happened, an orderly exchange works afterwards.
    for i in 0..4 {
        let there = alice.send(i);
        prop_assert_eq!(bob.open(&there), Ok(i));
        let back = bob.send(i);
        prop_assert_eq!(alice.open(&back), Ok(i));
    }
    Ok(alice.session.pq.last_mixed())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_interleaving_loss_and_repetition_decrypts_or_fails_cleanly(steps in proptest::collection::vec(step(), 0..300)) {
        run(steps)?;
    }
}

#[test]
fn random_runs_do_mix_post_quantum_secrets() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut epochs = 0;
    for _ in 0..8 {
        let steps = proptest::collection::vec(step(), 600).new_tree(&mut runner).unwrap().current();
        epochs += run(steps).unwrap();
    }
    assert!(epochs >= 8, "{epochs} epochs in eight runs");
}
