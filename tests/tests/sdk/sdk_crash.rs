//! A18: SIGKILL of an SDK client between any two steps of send and receive. No message key is used twice, nothing is lost, nothing is shown twice.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use kith_client::FaultPoint;
use kith_tests::{
    Story,
    actor::{Fate, Role},
    identity::random,
    recorder::no_key_was_used_twice,
};

use crate::tapped;

const TEXTS: u64 = 6;
/// At which passage of the point the successive lives end.
const LIVES: [u64; 3] = [1, 2, 4];

fn two(origin: &str, folder: &std::path::Path) -> (Role, Role) {
    let tag = hex::encode(random::<4>());
    let role = |name: &str, peer: &str| Role {
        program: PathBuf::from(env!("CARGO_BIN_EXE_sdk_actor")),
        origin: origin.to_owned(),
        home: folder.join(name),
        name: format!("{name}-{tag}"),
        peer: format!("{peer}-{tag}"),
        count: TEXTS,
    };
    (role("alice", "bob"), role("bob", "alice"))
}

/// Alice dies at the point, again and again; Bob lives through it.
async fn dies_at(point: FaultPoint) -> Story {
    let folder = tempfile::tempdir()?;
    let (_server, tap) = tapped().await?;
    let (alice, bob) = two(&tap.origin(), folder.path());
    let bobs_life = tokio::spawn(bob.live(None)?.fate());
    let mut deaths = 0;
    for passage in LIVES {
        match alice.live(Some((point, passage)))?.fate().await.with_context(|| format!("life until passage {passage}"))? {
            Fate::Died => deaths += 1,
            Fate::Done(alice) => alice.end().await?,
        }
    }
    ensure!(deaths > 0, "the point is never passed");
    let Fate::Done(last) =
        alice.live(None)?.fate().await.with_context(|| format!("the last life; Bob was shown {:?}", bob.shown().unwrap_or_default()))?
    else {
        anyhow::bail!("the last life ended by itself")
    };
    let Fate::Done(bobs_life) = bobs_life.await?? else { anyhow::bail!("Bob died") };
    last.end().await?;
    bobs_life.end().await?;
    for role in [&alice, &bob] {
        let shown = role.shown()?;
        ensure!(shown == role.expected(), "{} was shown {shown:?}", role.name);
    }
    let sends = tap.sends()?;
    ensure!(sends.len() as u64 >= 2 * TEXTS);
    no_key_was_used_twice(&sends)
}

async fn dies_at_each(points: &[FaultPoint]) -> Story {
    for point in points {
        dies_at(*point).await.with_context(|| format!("killed at {point:?}"))?;
    }
    Ok(())
}

/// Two halves, which run beside each other.
#[tokio::test(flavor = "multi_thread")]
async fn a18_killed_while_sending() -> Story {
    let (sending, _) = FaultPoint::ALL.split_at(8);
    dies_at_each(sending).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a18_killed_while_receiving_or_connecting() -> Story {
    let (_, receiving) = FaultPoint::ALL.split_at(8);
    dies_at_each(receiving).await
}
