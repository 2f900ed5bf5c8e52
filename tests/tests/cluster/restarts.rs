//! Gateways are killed, stopped, drained and restarted, and their clocks jump, under load.

use std::time::Duration;

use anyhow::ensure;
use kith_tests::{
    Story,
    chaos::{Fault, FleetOptions, Party, Trial, manners},
};

const A_WHILE: Duration = Duration::from_secs(2);
const FORTY_DAYS_MS: i64 = 40 * 86_400_000;

#[tokio::test(flavor = "multi_thread")]
async fn all_gateways_are_restarted_one_after_the_other_under_load() -> Story {
    let mut trial = Trial::start(&FleetOptions { gateways: 3, ..FleetOptions::default() }, &manners(6)).await?;
    trial.survive_one(Fault::RollingRestart, Duration::ZERO).await?;
    trial.survive_one(Fault::Kill(Party::Gateway(1)), A_WHILE).await?;
    Ok(())
}

/// Rule 6 under load: devices move away from a gateway that stands still for longer than its lease, and leave messages in its sockets that it must not handle.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_stands_still_and_its_devices_are_elsewhere() -> Story {
    let mut trial = Trial::start(&FleetOptions::default(), &manners(6)).await?;
    trial.survive_one(Fault::Pause(Party::Gateway(0)), A_WHILE).await?;
    let survived = trial.survive_one(Fault::Pause(Party::Gateway(0)), Duration::from_secs(12)).await?;
    ensure!(survived.ghosts > 0, "nobody left a message behind");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_of_a_gateway_jumps_under_load() -> Story {
    let mut trial = Trial::start(&FleetOptions::default(), &manners(6)).await?;
    for ahead_ms in [90_000, -7_200_000, FORTY_DAYS_MS, -FORTY_DAYS_MS] {
        trial.survive_one(Fault::Clock(0, ahead_ms), A_WHILE).await?;
    }
    Ok(())
}
