//! What goes wrong when: a function of the seed and the number of the round.

use std::{fmt, time::Duration};

use kith_harness::Direction;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

use super::fault::{Fault, Link, Party, Trouble};

/// A fault with its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timed {
    /// What.
    pub fault: Fault,
    /// Since the beginning of the round.
    pub begins: Duration,
    /// From beginning to healing.
    pub lasts: Duration,
}

/// Faults that are there together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// From 0.
    pub number: u64,
    /// One, or several.
    pub faults: Vec<Timed>,
    /// In the midst of the first one everybody falls silent.
    pub silent: bool,
}

/// A kind of fault: how one is drawn.
type Draw = fn(&mut StdRng, usize) -> (Fault, Duration);

/// Of so many rounds the last has several faults at once.
const OF_ROUNDS: u64 = 4;

/// Every kind; each comes once before any comes again.
const KINDS: &[Draw] = &[
    |random, of| (Fault::Kill(Party::Gateway(one(random, of))), tenths(random, 10, 200)),
    |random, of| (Fault::Pause(Party::Gateway(one(random, of))), tenths(random, 5, 45)),
    |random, of| (Fault::Pause(Party::Gateway(one(random, of))), tenths(random, 120, 200)),
    |random, of| (Fault::Stop(Party::Gateway(one(random, of))), tenths(random, 10, 160)),
    |_, _| (Fault::RollingRestart, Duration::ZERO),
    |random, _| (Fault::Kill(Party::Postgres), tenths(random, 1, 60)),
    |random, _| (Fault::Pause(Party::Postgres), tenths(random, 5, 140)),
    |random, _| (Fault::Stop(Party::Postgres), tenths(random, 0, 10)),
    |_, _| (Fault::FullDisk, Duration::from_secs(5)),
    |random, _| (Fault::Kill(Party::Redis), tenths(random, 5, 140)),
    |random, _| (Fault::Pause(Party::Redis), tenths(random, 5, 140)),
    |random, _| (Fault::Stop(Party::Redis), tenths(random, 0, 20)),
    |_, _| (Fault::Flush, Duration::ZERO),
    |random, _| (Fault::Kill(Party::Kafka), tenths(random, 30, 140)),
    |random, _| (Fault::Pause(Party::Kafka), tenths(random, 30, 140)),
    |_, _| (Fault::Kill(Party::Kafka), Duration::from_secs(60)),
    |random, of| (Fault::Clock(one(random, of), jump(random)), tenths(random, 30, 180)),
    |random, of| (Fault::Clock(one(random, of), -jump(random)), tenths(random, 30, 180)),
    |random, of| (Fault::Way(Link::Clients(one(random, of)), Trouble::Cut), tenths(random, 10, 180)),
    |random, of| (Fault::Way(Link::Clients(one(random, of)), slow(random)), tenths(random, 30, 180)),
    |random, of| (Fault::Way(Link::Clients(one(random, of)), one_way(random)), tenths(random, 10, 180)),
    |random, of| (Fault::Way(Link::Clients(one(random, of)), Trouble::BlackHole), tenths(random, 10, 180)),
    |random, of| (Fault::Way(Link::Peers(one(random, of)), Trouble::Cut), tenths(random, 10, 140)),
    |random, of| (Fault::Way(Link::Peers(one(random, of)), slow(random)), tenths(random, 10, 140)),
    |random, of| (Fault::Way(Link::Peers(one(random, of)), one_way(random)), tenths(random, 10, 140)),
    |random, of| (Fault::Way(Link::Peers(one(random, of)), Trouble::BlackHole), tenths(random, 10, 140)),
    |random, of| (Fault::Way(Link::Postgres(one(random, of)), Trouble::Cut), tenths(random, 5, 140)),
    |random, of| (Fault::Way(Link::Postgres(one(random, of)), slow(random)), tenths(random, 10, 140)),
    |random, of| (Fault::Way(Link::Postgres(one(random, of)), one_way(random)), tenths(random, 5, 140)),
    |random, of| (Fault::Way(Link::Postgres(one(random, of)), Trouble::BlackHole), tenths(random, 5, 140)),
    |random, of| (Fault::Way(Link::Redis(one(random, of)), Trouble::Cut), tenths(random, 5, 140)),
    |random, of| (Fault::Way(Link::Redis(one(random, of)), slow(random)), tenths(random, 10, 140)),
    |random, of| (Fault::Way(Link::Redis(one(random, of)), one_way(random)), tenths(random, 5, 140)),
    |random, of| (Fault::Way(Link::Redis(one(random, of)), Trouble::BlackHole), tenths(random, 5, 140)),
    |random, _| (Fault::Way(Link::Kafka, Trouble::Cut), tenths(random, 10, 140)),
    |random, _| (Fault::Way(Link::Kafka, slow(random)), tenths(random, 10, 140)),
    |random, _| (Fault::Way(Link::Kafka, one_way(random)), tenths(random, 10, 140)),
    |random, _| (Fault::Way(Link::Kafka, Trouble::BlackHole), tenths(random, 10, 140)),
];

/// How many kinds there are; so many single faults are all of them.
#[must_use]
pub fn kinds() -> usize {
    KINDS.len()
}

/// The round of that number.
#[must_use]
pub fn round(seed: u64, number: u64, gateways: usize) -> Round {
    let mut random = StdRng::seed_from_u64(seed ^ (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let faults = if number % OF_ROUNDS == OF_ROUNDS - 1 { several(&mut random, gateways) } else { vec![single(seed, number, &mut random, gateways)] };
    Round { number, faults, silent: random.random_bool(0.5) }
}

/// Kinds are dealt like cards, so that none is left out by chance.
fn single(seed: u64, number: u64, random: &mut StdRng, gateways: usize) -> Timed {
    let nth = number - number / OF_ROUNDS;
    let (deck, card) = (nth / KINDS.len() as u64, usize::try_from(nth % KINDS.len() as u64).unwrap_or(0));
    let mut order: Vec<usize> = (0..KINDS.len()).collect();
    order.shuffle(&mut StdRng::seed_from_u64(seed.wrapping_add(deck)));
    let (fault, lasts) = KINDS[order[card]](random, gateways);
    Timed::now(fault, lasts)
}

fn several(random: &mut StdRng, gateways: usize) -> Vec<Timed> {
    const LONGEST: Duration = Duration::from_secs(20);
    let mut faults: Vec<Timed> = Vec::new();
    let wanted = random.random_range(2..=3);
    while faults.len() < wanted {
        let (fault, lasts) = KINDS[random.random_range(0..KINDS.len())](random, gateways);
        let alone = matches!(fault, Fault::RollingRestart | Fault::Stop(Party::Gateway(_))) || lasts > LONGEST;
        if alone || faults.iter().any(|other| other.fault.place() == fault.place()) {
            continue;
        }
        faults.push(Timed { fault, begins: tenths(random, 0, 30), lasts });
    }
    // A gateway is started when everything it needs is there.
    let end = faults.iter().map(|timed| timed.begins + timed.lasts).max().unwrap_or_default();
    for timed in faults.iter_mut().filter(|timed| timed.fault.ends_with_a_start()) {
        timed.lasts = end + Duration::from_millis(1) - timed.begins;
    }
    faults
}

fn one(random: &mut StdRng, of: usize) -> usize {
    random.random_range(0..of)
}

/// Tenths of a second, so that a plan is easy to read.
fn tenths(random: &mut StdRng, least: u64, most: u64) -> Duration {
    Duration::from_millis(100 * random.random_range(least..=most))
}

fn slow(random: &mut StdRng) -> Trouble {
    Trouble::Slow(Duration::from_millis([20, 100, 400, 1_000][random.random_range(0..4)]))
}

fn one_way(random: &mut StdRng) -> Trouble {
    Trouble::OneWay([Direction::ToServer, Direction::FromServer][random.random_range(0..2)])
}

/// A minute and a half, two hours, or forty days, in milliseconds.
fn jump(random: &mut StdRng) -> i64 {
    [90, 2 * 3_600, 40 * 86_400][random.random_range(0..3)] * 1_000
}

impl Timed {
    /// At once, for so long.
    #[must_use]
    pub const fn now(fault: Fault, lasts: Duration) -> Self {
        Self { fault, begins: Duration::ZERO, lasts }
    }

    /// The name under which it is counted.
    #[must_use]
    pub fn kind(&self) -> String {
        self.fault.kind(self.lasts)
    }
}

impl fmt::Display for Timed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {:.1} s", self.fault, self.lasts.as_secs_f64())?;
        if self.begins > Duration::ZERO {
            write!(f, " after {:.1} s", self.begins.as_secs_f64())?;
        }
        Ok(())
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "round {}{}: ", self.number, if self.silent { " in silence" } else { "" })?;
        for (n, timed) in self.faults.iter().enumerate() {
            write!(f, "{}{timed}", if n > 0 { "; " } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_plan_follows_from_its_seed() {
        let plan = |seed| (0..200).map(|number| round(seed, number, 3)).collect::<Vec<_>>();
        assert_eq!(plan(1), plan(1));
        assert_ne!(plan(1), plan(2));
        // Whichever round is asked for first.
        assert_eq!(round(1, 150, 3), plan(1)[150]);
    }

    #[test]
    fn every_kind_comes_before_any_comes_again() {
        let singles: Vec<_> = (0..).map(|number| round(7, number, 3)).filter(|round| round.faults.len() == 1).take(kinds()).collect();
        let different: HashSet<_> = singles.iter().map(|round| round.faults[0].kind()).collect();
        // Kafka is killed twice: shortly, and for a minute.
        assert_eq!(different.len(), kinds() - 1);
    }

    #[test]
    fn faults_at_one_time_do_not_meet_at_one_place_and_gateways_are_started_last() {
        for number in (0..400).filter(|number| number % OF_ROUNDS == OF_ROUNDS - 1) {
            let round = round(3, number, 3);
            let places: HashSet<_> = round.faults.iter().map(|timed| timed.fault.place()).collect();
            assert_eq!(places.len(), round.faults.len(), "{round}");
            let end = |timed: &Timed| timed.begins + timed.lasts;
            let others = round.faults.iter().filter(|timed| !timed.fault.ends_with_a_start()).map(end).max();
            for started in round.faults.iter().filter(|timed| timed.fault.ends_with_a_start()) {
                assert!(Some(end(started)) > others, "{round}");
            }
        }
    }
}
