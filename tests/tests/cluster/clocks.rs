//! Clocks of servers differ. Of several servers on one database only that one's clock counts for messages.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use kith_harness::{Database, Postgres};
use kith_tests::{
    Story,
    expect::accepted,
    server::{Options, Server},
    shim::WallClock,
};
use tempfile::TempDir;

use crate::fleet::{Friend, metric, until_metric};

const HOUR_MS: u64 = 3_600_000;
/// More than messages are kept.
const FORTY_DAYS_MS: i64 = 40 * 86_400_000;
const SWEEPS: &str = "kith_log_sweeps_total";

/// Two servers on one database: the clock of the second one is wrong from its start.
struct Differing {
    right: Server,
    wrong: Server,
    _database: Database,
    _folder: TempDir,
}

impl Differing {
    async fn start(ahead_ms: i64) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let clock = WallClock::new(folder.path().join("clock"))?;
        clock.set(ahead_ms)?;
        let database = Postgres::shared().create_database().await?;
        kith_chat_core::postgres::migrate(&database.url(), 1).await?;
        let options = || Options::new().set("KITH_POSTGRES_URL", &database.url()).set("KITH_POSTGRES_CONNECTIONS", "4");
        let right = options().start().await?;
        let wrong = options().set("KITH_POSTGRES_SWEEP_EVERY_MS", "50");
        let wrong = clock.environment()?.iter().fold(wrong, |options, (name, value)| options.set(name, value)).start().await?;
        Ok(Self { right, wrong, _database: database, _folder: folder })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_clock_is_ahead_from_its_start_expires_nothing_of_the_others() -> Story {
    let servers = Differing::start(FORTY_DAYS_MS).await?;
    let mut alice = Friend::at(&servers.right, "alice").await?;
    let bob = Friend::at(&servers.right, "bob").await?;
    let Friend { person: mut bob, socket } = bob;
    drop(socket);
    alice.says(bob.device_ref(), "for when you are back").await?;
    // Two from now on: one may be under way.
    let before = metric(&servers.wrong.rest()?, SWEEPS).await.unwrap_or(0);
    until_metric(&servers.wrong, SWEEPS, |sweeps| sweeps >= before + 2).await?;
    let (socket, _) = bob.connect().await?;
    let mut bob = Friend { person: bob, socket };
    bob.hears("for when you are back").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_with_a_wrong_clock_accepts_has_the_time_of_the_database() -> Story {
    for ahead_ms in [FORTY_DAYS_MS, -FORTY_DAYS_MS] {
        let servers = Differing::start(ahead_ms).await?;
        let mut alice = Friend::at(&servers.wrong, "alice").await?;
        let bob = Friend::at(&servers.wrong, "bob").await?;
        let message = alice.person.message(bob.person.device_ref(), "at what time?");
        let at_ms = accepted(&mut alice.socket, message).await?.at_ms;
        let now_ms = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis()).context("the far future")?;
        ensure!(at_ms.abs_diff(now_ms) < HOUR_MS, "{at_ms} is not the time, which is {now_ms}");
    }
    Ok(())
}
