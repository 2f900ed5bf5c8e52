//! Ten thousand connections that send nothing: the server lets them in, serves everybody else, and clears them away.

use anyhow::{Context as _, ensure};
use kith_tests::{
    Story,
    expect::still_serves,
    server::{Options, allow_many_files, open_files, resident_bytes},
    socket::{SOON, Socket},
    wait,
};
use tokio::{net::TcpStream, task::JoinSet};

const CONNECTIONS: usize = 10_000;
const AT_ONCE: usize = 100;
/// What a connection that has said nothing may cost.
const BYTES_EACH: u64 = 16 << 10;

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
    let mut bare = Vec::with_capacity(CONNECTIONS);
    let mut upgraded = Vec::with_capacity(CONNECTIONS);
    for n in 0..CONNECTIONS {
        if n % 2 == 0 {
            bare.push(TcpStream::connect(&address).await?);
        } else {
            let origin = origin.clone();
            tasks.spawn(async move { Socket::open(&origin).await });
        }
        if tasks.len() >= AT_ONCE {
            upgraded.extend(tasks.join_next().await.context("tasks wait")??.ok());
        }
        if n % 2_500 == 2_499 {
            still_serves(&origin).await.with_context(|| format!("with {n} silent connections"))?;
        }
    }
    while let Some(done) = tasks.join_next().await {
        upgraded.extend(done?.ok());
    }
    still_serves(&origin).await?;
    let grown = resident_bytes(pid)?.saturating_sub(memory);
    ensure!(grown < BYTES_EACH * CONNECTIONS as u64, "{grown} bytes for {CONNECTIONS} silent connections");

    // Our ends stay open: it is the server that clears them away.
    wait::until("the server has hung up on them", SOON * 3, async || (open_files(pid).ok()? < files + 100).then_some(())).await?;
    drop((bare, upgraded));
    still_serves(&origin).await?;
    Ok(())
}
