//! Measures another chat server and Kith side by side on one machine: the same load, the same promises asked of both, one table.
//!
//! The peer is ejabberd with its message archive in PostgreSQL, both from the system's packages. The README beside this crate says what is compared with
//! what, and why that is fair. Not here: Kith's own load generator, which is `kith bench` and is run as it is.

mod client;
mod compare;
mod direct;
mod ejabberd;
mod idle;
mod inbox;
mod measures;
mod outbox;
mod pacer;
mod process;
mod table;
mod xmpp;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::{runtime, task::LocalSet};

#[derive(Debug, Parser)]
#[command(name = "peers", about = "Kith and another chat server, measured side by side on this machine")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// ejabberd: direct messages, archived, delivered, acknowledged; closed loop (--window) or open loop (--rate)
    Direct(direct::DirectArgs),
    /// ejabberd: memory of idle connections
    Idle(idle::IdleArgs),
    /// Both servers in the same shapes, and a table
    Compare(compare::CompareArgs),
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    // One thread: on a machine of few cores it is the server that is to be measured.
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        match arguments.what {
            What::Direct(args) => direct::run(&args).await,
            What::Idle(args) => idle::run(&args).await,
            What::Compare(args) => compare::run(&args).await,
        }
    })
}
