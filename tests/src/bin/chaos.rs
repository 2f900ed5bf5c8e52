//! Faults at random under load, for as long as one likes; `cargo xtask chaos` builds everything and starts it.

use std::{path::PathBuf, time::Duration};

use clap::Parser;
use kith_tests::chaos::{RunOptions, round, run};

#[derive(Parser)]
#[command(name = "chaos", about = "Faults at random under load; the same seed plays the same faults")]
struct Arguments {
    /// Decides what goes wrong, and when
    #[arg(long)]
    seed: u64,
    /// How long; a round that has begun is finished
    #[arg(long, default_value_t = 20)]
    minutes: u64,
    /// How many gateways
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=9))]
    gateways: u8,
    /// The first round
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// At most so many rounds
    #[arg(long, default_value_t = u64::MAX)]
    rounds: u64,
    /// Only print what would go wrong in the first rounds
    #[arg(long)]
    plan: bool,
    /// Where logs are kept when a promise was broken
    #[arg(long, default_value = "target/chaos")]
    logs: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { seed, minutes, gateways, from, rounds, plan, logs } = Arguments::parse();
    let gateways = usize::from(gateways);
    if plan {
        print_plan(seed, from, rounds.min(100), gateways);
        return Ok(());
    }
    let logs = logs.join(format!("seed-{seed}"));
    let options = RunOptions { seed, lasts: Duration::from_secs(minutes * 60), from, rounds, gateways, logs };
    run(&options).await
}

#[expect(clippy::print_stdout, reason = "what was asked for")]
fn print_plan(seed: u64, from: u64, rounds: u64, gateways: usize) {
    (from..from + rounds).for_each(|number| println!("{}", round(seed, number, gateways)));
}
