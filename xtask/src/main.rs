//! The commands that CI runs, under the names that people use: `cargo xtask test` is everything that must pass, and each of its steps can be run alone.
//!
//! A step installs what a fresh machine lacks where it can, says what is missing where it cannot, and then fails: nothing is ever skipped. Every step has
//! a time limit, and all of them together have one.

mod conformance;
mod fuzz;
mod machine;
mod python;
mod report;
mod run;
mod steps;

use std::{process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "What CI runs, and each step of it alone")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Everything that must pass, in order, with a summary at the end
    Test,
    /// Formatting
    Fmt,
    /// Lints, warnings refused
    Clippy,
    /// All programs, tests and benches
    Build,
    /// PostgreSQL, Redis and Kafka for the tests, installed and fetched where they are missing
    Services,
    /// All Rust tests: unit, property, scenario and documentation tests
    Unit,
    /// The stories of whole systems on PostgreSQL and Redis
    Cluster,
    /// Documentation, warnings refused
    Doc,
    /// The committed test vectors are what the independent Python implementation makes
    Vectors,
    /// The symbolic model of first contact and ratchet
    Model,
    /// The black-box client in Python, written from docs/protocol.md alone, against a server process
    Conformance,
    /// `kith demo`
    Demo,
    /// Every fuzz target, several at once
    Fuzz {
        /// How long each target runs
        #[arg(long, default_value_t = fuzz::DEFAULT_SECONDS)]
        seconds: u64,
        /// Only this target
        #[arg(long)]
        target: Option<String>,
    },
    /// Faults at random on a fleet under load (docs/reliability.md); what follows goes to the program: --seed N --minutes M [--gateways K]
    Chaos {
        /// See `cargo xtask chaos -- --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        arguments: Vec<String>,
    },
    /// The measurements of docs/performance.md, in the release profile
    Bench,
}

fn main() -> ExitCode {
    let steps = match Arguments::parse().command {
        Command::Test => return report::run_all(&steps::everything(), Duration::from_secs(80 * 60)),
        Command::Fmt => steps::fmt(),
        Command::Clippy => steps::clippy(),
        Command::Build => steps::build(),
        Command::Services => return report::run_all(&[steps::build(), steps::services()], Duration::from_secs(40 * 60)),
        Command::Unit => return report::run_all(&[steps::build(), steps::services(), steps::unit()], Duration::from_secs(40 * 60)),
        Command::Cluster => return report::run_all(&[steps::build(), steps::services(), steps::cluster()], Duration::from_secs(40 * 60)),
        Command::Doc => steps::doc(),
        Command::Vectors => steps::vectors(),
        Command::Model => steps::model(),
        Command::Conformance => return report::run_all(&[steps::build(), steps::conformance()], Duration::from_secs(40 * 60)),
        Command::Demo => return report::run_all(&[steps::build(), steps::services(), steps::demo()], Duration::from_secs(40 * 60)),
        Command::Fuzz { seconds, target } => steps::fuzz(seconds, target),
        Command::Chaos { arguments } => {
            return report::run_all(&[steps::build(), steps::services(), steps::chaos(arguments)], Duration::from_secs(24 * 3_600));
        }
        Command::Bench => steps::bench(),
    };
    report::run_one(&steps)
}
