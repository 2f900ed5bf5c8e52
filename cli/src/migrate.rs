//! `kith migrate`: the schema of PostgreSQL, brought up to date before the servers that need it are started.

use std::{
    io::{Write as _, stdout},
    path::PathBuf,
    process::ExitCode,
};

use clap::Args;
use kith_gateway::config::Config;

/// Arguments of `kith migrate`.
#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    /// Configuration file (TOML); KITH_CONFIG names one as well
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Applies what is missing and says what it was. Several at a time do no harm.
///
/// # Errors
/// If PostgreSQL cannot be reached, its schema is newer than this program, or a migration fails.
pub(crate) async fn run(args: MigrateArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(args.config.as_deref())?;
    let applied = kith_gateway::migrate(&config).await?;
    let mut out = stdout().lock();
    match applied.as_deref() {
        None => writeln!(out, "no PostgreSQL is configured; the embedded database is brought up to date when a server opens it")?,
        Some([]) => writeln!(out, "the schema is up to date")?,
        Some(names) => names.iter().try_for_each(|name| writeln!(out, "applied {name}"))?,
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
