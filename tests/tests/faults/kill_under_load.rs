//! SIGKILL at random moments under load, fifty times: every accepted message is delivered once and in order afterwards. Some of the disks lose what was not
//! synced, and the suite is shown to notice when the server does not sync.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use kith_tests::{
    Story,
    load::{Load, Outcome},
    peer::Settings,
    server::{Options, SYNCHRONOUS, Server},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

const SEED: u64 = 50;
const PAIRS: usize = 8;
/// The server must get this far between two kills, so that each kill hits a server at work.
const ACCEPT_WITHIN: Duration = Duration::from_secs(60);

async fn kill_times(server: &mut Server, load: &Load, kills: u32, seed: u64) -> Story {
    let mut random = StdRng::seed_from_u64(seed);
    for kill in 1..=kills {
        // A number of messages, not a time: the moment is random with respect to the server's batches and checkpoints.
        load.accept_more(random.random_range(1..400), ACCEPT_WITHIN).await.with_context(|| format!("before kill {kill}"))?;
        server.kill().await?;
        server.start().await.with_context(|| format!("after kill {kill}"))?;
    }
    Ok(())
}

async fn survives(options: Options, kills: u32, seed: u64) -> anyhow::Result<Outcome> {
    let mut server = options.start().await?;
    let load = Load::start(&server.origin(), PAIRS, Settings::new(10, 256)).await?;
    kill_times(&mut server, &load, kills, seed).await?;
    load.accept_more(100, ACCEPT_WITHIN).await?;
    let outcome = load.settle().await?;
    ensure!(outcome.messages > u64::from(kills), "{outcome:?}");
    Ok(outcome)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_accepted_is_lost_when_the_process_is_killed() -> Story {
    survives(Options::new(), 26, SEED).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_accepted_is_lost_when_the_power_is_cut() -> Story {
    survives(Options::new().power_cut(0, SEED), 12, SEED + 1).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_accepted_is_lost_when_the_power_is_cut_in_the_middle_of_writing() -> Story {
    survives(Options::new().power_cut(40, SEED), 12, SEED + 2).await?;
    Ok(())
}

/// If this fails, the three above prove nothing.
#[tokio::test(flavor = "multi_thread")]
async fn without_syncing_a_power_cut_is_noticed_as_loss() -> Story {
    let mut server = Options::new().power_cut(0, SEED).start().await?;
    let load = Load::start(&server.origin(), 2, Settings::new(10, 256)).await?;
    load.accept_more(100, ACCEPT_WITHIN).await?;
    // From here on nothing is synced, and what is accepted dies with the power.
    restart_with(&mut server, "off").await?;
    load.accept_more(500, ACCEPT_WITHIN).await?;
    restart_with(&mut server, "full").await?;

    let went_on = load.accept_more(100, ACCEPT_WITHIN).await;
    let verdict = load.settle().await;
    ensure!(verdict.is_err(), "with synchronous=OFF nothing was lost, so the suite proves nothing: {verdict:?}, {went_on:?}");
    Ok(())
}

async fn restart_with(server: &mut Server, synchronous: &str) -> Story {
    server.kill().await?;
    server.set(SYNCHRONOUS, synchronous);
    server.start().await
}
