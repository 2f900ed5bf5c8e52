//! Plays rounds until the time is over or a promise is broken.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{
    fleet::FleetOptions,
    plan::{Round, round},
    report::{Report, say},
    trial::{Trial, manners},
};

/// People who write to one another.
const PAIRS: usize = 12;

/// What to play.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Decides everything.
    pub seed: u64,
    /// No round begins later.
    pub lasts: Duration,
    /// The first round.
    pub from: u64,
    /// At most so many.
    pub rounds: u64,
    /// How many gateways.
    pub gateways: usize,
    /// Where logs go if a promise is broken.
    pub logs: PathBuf,
}

/// Plays, and says how it goes and how it went.
///
/// # Errors
/// If something does not start, and at the first promise that was not kept; logs are kept then.
pub async fn run(options: &RunOptions) -> anyhow::Result<()> {
    let fleet = FleetOptions { gateways: options.gateways, kafka: true, disk: true, ..FleetOptions::default() };
    let mut trial = Trial::start(&fleet, &manners(PAIRS)).await?;
    let (mut report, begun) = (Report::default(), Instant::now());
    let last = options.from.saturating_add(options.rounds);
    for number in options.from..last {
        if begun.elapsed() >= options.lasts {
            break;
        }
        let round = round(options.seed, number, options.gateways);
        say(&format!("{:>7.1} s  {round}", begun.elapsed().as_secs_f64()));
        match trial.survive(&round.faults, round.silent).await {
            Ok(survival) => {
                say(&format!("           {survival}"));
                report.add(&round, survival);
            }
            Err(error) => return Err(violation(options, &trial, &round, &error)),
        }
    }
    report.finish(options.seed, begun.elapsed());
    Ok(())
}

fn violation(options: &RunOptions, trial: &Trial, round: &Round, error: &anyhow::Error) -> anyhow::Error {
    let RunOptions { seed, gateways, logs, .. } = options;
    let again = format!("cargo xtask chaos --seed {seed} --gateways {gateways} --from {} --rounds 1", round.number);
    let text = format!("seed {seed}, {round}\n{error:#}\nagain: {again}\n");
    let kept = trial.fleet().keep_logs(logs).and_then(|()| Ok(fs::write(logs.join("violation"), &text)?));
    match kept {
        Ok(()) => anyhow::anyhow!("{text}logs are in {}", logs.display()),
        Err(error) => anyhow::anyhow!("{text}logs could not be kept: {error:#}"),
    }
}
