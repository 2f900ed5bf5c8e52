//! The `kith` program: the server, a terminal client, a demonstration, administration and the load generator, each a subcommand.
//!
//! It holds no rules of the protocol and no cryptography: `serve` is `kith_gateway`, `chat` and `demo` are `kith_client`, and `bench` speaks the frames of
//! `kith_proto` by itself, so that it measures the server and not the SDK.

mod bench;
mod process;
mod server_child;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Small pages are given back soon, which is what a server with many idle connections needs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(name = "kith", version, about = "End-to-end-encrypted chat that you host yourself")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure a server
    Bench(bench::BenchArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Bench(args) => bench::run(args),
    };
    match done {
        Ok(code) => code,
        Err(_) => ExitCode::FAILURE,
    }
}
