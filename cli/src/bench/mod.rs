//! `kith bench`: what the server can do, measured from outside with real accounts, real logins and real frames. Payloads are opaque bytes of the sizes
//! that the encryption gives; encrypting them is the clients' work and measured elsewhere.
//!
//! The generator runs on one thread and is cheap, so that on a machine of two cores it is the server that is measured. It checks what it measures: every
//! message is numbered, and a run fails if one was lost, doubled or out of order.

mod api;
mod catchup;
mod crowd;
mod direct;
mod idle;
mod inbox;
mod link;
mod login;
mod outbox;
mod pacer;
mod participant;
mod peer;
mod progress;
mod report;
mod storm;
mod target;
mod ws;

use std::{io::stdout, process::ExitCode, time::Duration};

use clap::{Args, Subcommand};
use tokio::{runtime, task::LocalSet};

use progress::Progress;
use target::{Target, TargetArgs};

/// An accepted message that has not come by then is lost. The server looks for what it failed to push every 30 seconds.
const LOST_AFTER: Duration = Duration::from_secs(45);

/// Arguments of `kith bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Direct messages: durable, delivered, acknowledged; closed loop (--window) or open loop (--rate)
    Direct(Run<direct::DirectArgs>),
    /// Memory of idle connections
    Idle(Run<idle::IdleArgs>),
    /// Authenticated connects per second
    Login(Run<login::LoginArgs>),
    /// How long a device that was away takes to catch up
    Catchup(Run<catchup::CatchupArgs>),
    /// A gateway dies: how soon its devices are back elsewhere, with nothing missing (--spawn-cluster)
    Storm(Run<storm::StormArgs>),
}

#[derive(Debug, Args)]
struct Run<A: Args> {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    args: A,
    /// Print one JSON object as the last line
    #[arg(long)]
    json: bool,
}

/// Runs a bench. The exit status is 0 only if nothing was lost, duplicated or misordered.
///
/// # Errors
/// If the run could not be completed.
pub(crate) fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, dispatch(args.what))
}

async fn dispatch(what: What) -> anyhow::Result<ExitCode> {
    let progress = Progress::new();
    let (target, json) = match &what {
        What::Direct(run) => (&run.target, run.json),
        What::Idle(run) => (&run.target, run.json),
        What::Login(run) => (&run.target, run.json),
        What::Catchup(run) => (&run.target, run.json),
        What::Storm(run) => (&run.target, run.json),
    };
    let mut target = Target::resolve(target).await?;
    // Names of one run are of that run alone, so that runs against one server do not meet.
    let run = format!("b{:08x}", rand::random::<u32>());
    let outcome = match what {
        What::Direct(args) => direct::run(&args.args, &target, &run, progress).await,
        What::Idle(args) => idle::run(&args.args, &target, &run, progress).await,
        What::Login(args) => login::run(&args.args, &target, &run, progress).await,
        What::Catchup(args) => catchup::run(&args.args, &target, &run, progress).await,
        What::Storm(args) => storm::run(&args.args, &mut target, &run, progress).await,
    };
    progress.clear();
    let ended = target.end().await;
    let outcome = outcome?;
    outcome.write(&mut stdout().lock(), json)?;
    ended?;
    Ok(if outcome.kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
