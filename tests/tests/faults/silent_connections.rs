//! Ten thousand connections that send nothing: the server bears them, serves everybody else, and clears them away.

use std::net::Ipv4Addr;

use anyhow::{Context as _, ensure};
use kith_tests::{
    Story,
    expect::still_serves,
    server::{Options, allow_many_files, open_files, resident_bytes},
    socket::{SOON, Socket, connect_from},
    wait,
};
use tokio::task::JoinSet;

const CONNECTIONS: usize = 10_000;
const AT_ONCE: usize = 100;
/// What a connection that has said nothing may cost.
const BYTES_EACH: u64 = 16 << 10;
/// The silent ones come from here, the others from 127.0.0.1.
const SILENT: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3)];

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_silent_connections_are_borne_and_cleared_away() -> Story {
    allow_many_files(CONNECTIONS as u64 + 500)?;
    let server = Options::new().start().await?;
    let pid = server.pid().context("runs")?;
    let (memory, files) = (resident_bytes(pid)?, open_files(pid)?);

    // Half say nothing at all, half upgrade to WebSocket and then say nothing.
    let origin = server.origin();
    let address = origin.replace("http://", "");
    let mut tasks = JoinSet::new();
    let (mut bare, mut upgraded) = (Vec::with_capacity(CONNECTIONS), Vec::with_capacity(CONNECTIONS));
    for n in 0..CONNECTIONS {
        let from = SILENT[n / 2 % SILENT.len()];
        if n % 2 == 0 {
            bare.push(connect_from(from, &address).await?);
        } else {
            let origin = origin.clone();
            tasks.spawn(async move { Socket::open_from(from, &origin, "kith.v1").await });
        }
        if tasks.len() >= AT_ONCE {
            upgraded.push(tasks.join_next().await.context("tasks wait")???);
        }
        if n % 2_500 == 2_499 {
            still_serves(&origin).await.with_context(|| format!("with {n} silent connections"))?;
        }
    }
    while let Some(done) = tasks.join_next().await {
        upgraded.push(done??);
    }
    still_serves(&origin).await?;
    let grown = resident_bytes(pid)?.saturating_sub(memory);
    ensure!(grown < BYTES_EACH * CONNECTIONS as u64, "{grown} bytes for {CONNECTIONS} silent connections");

    // Our ends stay open: it is the server that clears them away.
    wait::until("the server has hung up on them", SOON * 3, async || (open_files(pid).ok()? < files + 100).then_some(())).await?;
    drop((bare, upgraded));
    still_serves(&origin).await
}

/// One address cannot take the places of all others.
#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_from_one_address_do_not_shut_out_the_others() -> Story {
    const PLACES: usize = 200;
    let server = Options::new().set("KITH_SESSIONS_MAX_UNAUTHENTICATED_PER_ADDRESS", &PLACES.to_string()).start().await?;
    let mut held = Vec::new();
    for _ in 0..PLACES {
        held.push(Socket::open_from(SILENT[0], &server.origin(), "kith.v1").await?);
    }
    ensure!(Socket::open_from(SILENT[0], &server.origin(), "kith.v1").await.is_err(), "the limit is not kept");
    still_serves(&server.origin()).await
}
