//! `peers idle`: what a connection costs that has spoken once and is quiet; the same as `kith bench idle`.

use std::{
    io::{Write as _, stdout},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, value_parser};
use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use crate::{
    client::{Client, Shared},
    ejabberd::{HOST, PASSWORD, name},
    measures::Servers,
    outbox::Outbox,
};

const SPOKEN_WITHIN: Duration = Duration::from_secs(120);
const BODY_BYTES: usize = 256;
const SQL_POOL: u16 = 10;

#[derive(Debug, Args)]
pub(crate) struct IdleArgs {
    /// Connections, each of a user of its own
    #[arg(long, default_value_t = 15_000, value_parser = value_parser!(u32).range(2..=25_000))]
    connections: u32,
    /// How long they are quiet before memory is read; ejabberd puts a connection's process to sleep after 30 s
    #[arg(long, default_value_t = 60, value_parser = value_parser!(u32).range(1..=600))]
    quiet: u32,
}

#[derive(Debug, Serialize)]
struct Figures<'a> {
    bench: &'static str,
    server: &'a str,
    connections: u32,
    quiet_seconds: u32,
    server_bytes_per_connection: u64,
    server_base_bytes: u64,
    server_bytes: u64,
    lost: u64,
}

/// Runs the bench and prints its JSON line.
///
/// # Errors
/// If it cannot be completed; a connection that is lost ends the run.
pub(crate) async fn run(args: &IdleArgs) -> anyhow::Result<ExitCode> {
    let count = args.connections as usize & !1;
    let servers = Servers::start(count, SQL_POOL).await?;
    let base = servers.memory()?;
    let names: Vec<_> = (0..count).map(name).collect();
    let shared = Shared::new();
    let outbox = |n: usize| Outbox::new(format!("{}@{HOST}", names[n ^ 1]), BODY_BYTES, 1, shared.epoch);
    let clients = Client::start_all(servers.ejabberd.address(), HOST, &names, PASSWORD, outbox, &shared).await?;
    let last_login = Instant::now();
    clients.iter().for_each(|client| client.change(|outbox| outbox.keep_full(1)));
    let silent = || clients.iter().filter(|client| !client.look(|outbox, inbox| outbox.accepted() == 1 && inbox.taken() == 1)).count();
    shared.wait(SPOKEN_WITHIN, || silent() == 0).await?;
    sleep_until(last_login + Duration::from_secs(args.quiet.into())).await;
    shared.check()?;
    let (bytes, lost) = (servers.memory()?, silent() as u64);
    let figures = Figures {
        bench: "idle",
        server: servers.ejabberd.version(),
        connections: args.connections,
        quiet_seconds: args.quiet,
        server_bytes_per_connection: bytes.saturating_sub(base) / count as u64,
        server_base_bytes: base,
        server_bytes: bytes,
        lost,
    };
    writeln!(stdout().lock(), "{}", serde_json::to_string(&figures)?)?;
    Ok(if lost == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
