//! How a run went.

use std::{collections::BTreeMap, time::Duration};

use super::{plan::Round, trial::Survival};

#[derive(Debug, Default)]
struct Kind {
    count: u64,
    slowest: Duration,
    level: Duration,
}

/// All rounds so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    kinds: BTreeMap<String, Kind>,
    rounds: u64,
    faults: u64,
    accepted: u64,
    delivered: u64,
    shown: u64,
    stayed: usize,
    ghosts: u64,
}

impl Report {
    pub(super) fn add(&mut self, round: &Round, survival: Survival) {
        self.rounds += 1;
        self.faults += round.faults.len() as u64;
        self.accepted += survival.accepted;
        self.delivered += survival.delivered;
        self.shown += survival.shown;
        self.stayed += survival.level.stayed;
        self.ghosts += survival.ghosts;
        for timed in &round.faults {
            let kind = self.kinds.entry(timed.kind()).or_default();
            kind.count += 1;
            kind.slowest = kind.slowest.max(survival.recovered);
            kind.level = kind.level.max(survival.level.took);
        }
    }

    /// The table, and the line that says that all is well.
    pub(super) fn finish(&self, seed: u64, took: Duration) {
        say("\n| fault | times | slowest recovery | slowest last message |\n| --- | --- | --- | --- |");
        for (name, kind) in &self.kinds {
            say(&format!("| {name} | {} | {:.1} s | {:.1} s |", kind.count, kind.slowest.as_secs_f64(), kind.level.as_secs_f64()));
        }
        let Self { rounds, faults, accepted, delivered, shown, stayed, ghosts, .. } = self;
        let (minutes, kinds) = (took.as_secs_f64() / 60.0, self.kinds.len());
        say(&format!(
            "\nchaos: ok seed={seed} minutes={minutes:.1} faults={faults} rounds={rounds} kinds={kinds} accepted={accepted} delivered={delivered} shown={shown} stayed={stayed} ghosts={ghosts}"
        ));
    }
}

/// This is for a person at a terminal, or for a log.
#[expect(clippy::print_stdout, reason = "what the program is for")]
pub(super) fn say(line: &str) {
    println!("{line}");
}
