//! `kith bench idle`: what a connection costs that has spoken once and is quiet.

use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, value_parser};
use kith_proto::id::ConversationId;
use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use super::{
    LOST_AFTER,
    api::Account,
    crowd,
    outbox::Outbox,
    participant::Participant,
    peer::Shared,
    progress::Progress,
    report::{self, Outcome},
    target::Target,
};
use crate::process;

/// Files that the server and the generator need besides their connections.
const SPARE_FILES: u64 = 200;
const BODY_BYTES: usize = 256;

#[derive(Debug, Args)]
pub(super) struct IdleArgs {
    /// Connections, each of an account of its own
    #[arg(long, default_value_t = 15_000, value_parser = value_parser!(u32).range(2..=1_000_000))]
    connections: u32,
    /// How long they are quiet before memory is read
    #[arg(long, default_value_t = 30, value_parser = value_parser!(u32).range(1..=600))]
    quiet: u32,
}

#[derive(Debug, Serialize)]
struct Figures {
    bench: &'static str,
    connections: u32,
    quiet_seconds: u32,
    server_bytes_per_connection: u64,
    server_base_bytes: u64,
    server_registered_bytes: u64,
    server_bytes: u64,
    lost: u64,
}

/// Runs the bench.
///
/// # Errors
/// If it cannot be completed; a connection that is lost ends the run.
pub(super) async fn run(args: &IdleArgs, target: &Target, run: &str, progress: Progress) -> anyhow::Result<Outcome> {
    let unknown = "memory is measured by process: use --spawn, or give --server-pid";
    let base = target.memory()?.context(unknown)?;
    let count = args.connections as usize & !1;
    if process::raise_open_files() < count as u64 + SPARE_FILES {
        bail!("{count} connections need more open files than this process may have (ulimit -Hn)");
    }
    let mut accounts = crowd::register(&target.api, run, count, &progress).await?;
    let registered = target.memory()?.context(unknown)?;
    let shared = Shared::new();
    let refs: Vec<_> = accounts.iter().map(|account| account.device).collect();
    let participant = |n: usize, account: &Account| {
        let peer = refs[n ^ 1];
        let conversation = ConversationId::direct(account.device.account, peer.account);
        let outbox = Outbox::new(conversation, peer, BODY_BYTES, 1, rand::random(), shared.epoch);
        Participant::new(account.device.account, shared.epoch, Some(outbox))
    };
    let peers = crowd::connect_all(|n| target.endpoint(n), &mut accounts, &shared, &progress, participant).await?;
    let last_connect = Instant::now();
    progress.say("each sends and receives a message");
    for peer in &peers {
        peer.change(|p| p.outbox.iter_mut().for_each(|outbox| outbox.keep_full(1)));
    }
    let spoken = || peers.iter().filter(|peer| !peer.look(|p| p.taken() == 1 && p.is_acknowledged())).count();
    shared.wait(LOST_AFTER, || spoken() == 0).await?;
    progress.say("being quiet");
    sleep_until(last_connect + Duration::from_secs(args.quiet.into())).await;
    shared.check()?;
    let bytes = target.memory()?.context(unknown)?;
    let figures = Figures {
        bench: "idle",
        connections: args.connections,
        quiet_seconds: args.quiet,
        server_bytes_per_connection: bytes.saturating_sub(base) / count as u64,
        server_base_bytes: base,
        server_registered_bytes: registered,
        server_bytes: bytes,
        lost: spoken() as u64,
    };
    let title = format!("idle: {count} connections, each after one message sent and one received, {} s after the last connect", args.quiet);
    Outcome::new(title, rows(&figures), &figures, figures.lost == 0)
}

fn rows(figures: &Figures) -> report::Rows {
    vec![
        ("server memory per connection", format!("{} bytes", report::count(figures.server_bytes_per_connection))),
        ("server memory at its start", format!("{} bytes", report::count(figures.server_base_bytes))),
        ("after the registrations", format!("{} bytes", report::count(figures.server_registered_bytes))),
        ("at the end", format!("{} bytes", report::count(figures.server_bytes))),
        ("connections without their message", figures.lost.to_string()),
    ]
}
