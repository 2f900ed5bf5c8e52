//! The `kith` program: the server, a terminal client, a demonstration, administration and the load generator, each a subcommand.
//!
//! It holds no rules of the protocol and no cryptography: `serve` is `kith_gateway`, `chat` and `demo` are `kith_client`, and `bench` speaks the frames of
//! `kith_proto` by itself, so that it measures the server and not the SDK.

mod admin;
mod bench;
mod chat;
mod cluster;
mod demo;
mod local_time;
mod migrate;
mod process;
mod serve;
mod server_child;

use std::{
    io::{Write as _, stderr},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use tokio::runtime;

/// Small pages are given back soon, which is what a server with many idle connections needs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(
    name = "kith",
    version,
    about = "End-to-end-encrypted chat that you host yourself. Without a subcommand: serve",
    args_conflicts_with_subcommands = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    Serve(serve::ServeArgs),
    /// Chat, in a terminal or (--plain) by lines
    Chat(chat::ChatArgs),
    /// Watch a server and two people, and a crash that loses nothing
    Demo(demo::DemoArgs),
    /// Bring the schema of PostgreSQL up to date (`postgres.url` in the configuration, KITH_POSTGRES_URL), also while servers run
    Migrate(migrate::MigrateArgs),
    /// Look after a server
    Admin(admin::AdminArgs),
    /// Measure a server
    Bench(bench::BenchArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(args) => on_runtime(serve::run(args)),
        Command::Migrate(args) => on_runtime(migrate::run(args)),
        Command::Admin(args) => on_runtime(admin::run(args)),
        Command::Chat(args) => on_runtime(chat::run(args)),
        Command::Demo(args) => on_runtime(demo::run(&args)),
        Command::Bench(args) => bench::run(args),
    };
    done.unwrap_or_else(|error| {
        let _ = writeln!(stderr(), "kith: {error:#}");
        ExitCode::FAILURE
    })
}

/// Runs something to its end. What still blocks then (reading standard input cannot be interrupted) is left behind.
fn on_runtime(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(work);
    runtime.shutdown_background();
    done
}
