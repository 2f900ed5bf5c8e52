//! `kith admin`: what an operator does beside the running server.

mod dlq;

use std::{
    io::{Write as _, stdout},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use kith_gateway::{config::Config, create_invites};

/// Arguments of `kith admin`.
#[derive(Debug, Args)]
pub(crate) struct AdminArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make invite codes, each good for one registration; the server may be running, and must have run once
    Invite(InviteArgs),
    /// Look at events that could not be worked on, and replay them (Kafka only)
    Dlq(dlq::DlqArgs),
}

#[derive(Debug, Args)]
struct InviteArgs {
    /// The server's folder [default: as the configuration says, ./kith-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Configuration file (TOML); KITH_CONFIG names one as well
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How many codes
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    count: u16,
    /// Days until they end
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3_650))]
    days: u64,
}

/// Carries out an administrative command.
///
/// # Errors
/// If there is no database, or it cannot be written.
pub(crate) async fn run(args: AdminArgs) -> anyhow::Result<ExitCode> {
    match args.what {
        What::Invite(args) => invite(args).await,
        What::Dlq(args) => dlq::run(args).await,
    }
}

async fn invite(args: InviteArgs) -> anyhow::Result<ExitCode> {
    let mut config = Config::load(args.config.as_deref())?;
    if let Some(data) = args.data {
        if config.postgres.url.is_set() {
            bail!("--data is of no use: as the configuration says, accounts are in PostgreSQL");
        }
        config.data = data;
    }
    if !config.postgres.url.is_set() && !config.database().exists() {
        bail!("there is no server's database in {}; run `kith serve` there first, or say --data DIR", config.data.display());
    }
    let codes = create_invites(&config, args.count.into(), args.days).await.context("no invites were made")?;
    let mut out = stdout().lock();
    for code in codes {
        writeln!(out, "{code}")?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
