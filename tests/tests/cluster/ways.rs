//! Every way between devices, servers and services is cut, slow, one-way and black-holed, under load. Nothing is lost, and what does not need the way goes on.

use std::time::Duration;

use kith_harness::Direction;
use kith_tests::{
    Story,
    chaos::{Fault, FleetOptions, Link, Trial, Trouble, manners},
};

/// Longer than what is under way takes, so that it is hit.
const LASTS: Duration = Duration::from_millis(1_500);
const TROUBLES: [Trouble; 5] = [
    Trouble::Cut,
    Trouble::Slow(Duration::from_millis(300)),
    Trouble::OneWay(Direction::ToServer),
    Trouble::OneWay(Direction::FromServer),
    Trouble::BlackHole,
];

/// Everybody goes on writing.
async fn every_trouble(link: Link) -> Story {
    let mut trial = Trial::start(&FleetOptions::default(), &manners(6)).await?;
    for trouble in TROUBLES {
        trial.survive_one(Fault::Way(link, trouble), LASTS).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_from_devices() -> Story {
    every_trouble(Link::Clients(0)).await
}

/// Everybody falls silent meanwhile: only the check of the heads can find what the other gateway was not told.
#[tokio::test(flavor = "multi_thread")]
async fn the_way_between_gateways() -> Story {
    let mut trial = Trial::start(&FleetOptions::default(), &manners(6)).await?;
    for trouble in TROUBLES {
        // Which one dials is decided by their ids: both ways are bad, and one of them is there.
        let both = [Link::Peers(0), Link::Peers(1)].map(|link| kith_tests::chaos::Timed::now(Fault::Way(link, trouble), LASTS));
        trial.survive(&both, true).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_to_postgresql() -> Story {
    every_trouble(Link::Postgres(0)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_to_redis() -> Story {
    every_trouble(Link::Redis(1)).await
}
