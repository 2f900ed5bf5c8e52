//! A standby answers what devices page when they come back. It may lag, die and come again: nobody misses anything, and nobody waits for it.

use std::ops::RangeInclusive;

use anyhow::{bail, ensure};
use kith_harness::{Postgres, Standby};
use kith_proto::{
    id::DeviceRef,
    v1::{AbsentReason, server_frame::Kind},
};
use kith_tests::{
    Story,
    expect::accepted,
    person::{Person, ack},
    server::Server,
    socket::{Event, SOON, Socket},
    wait,
};
use reqwest::Method;
use serde_json::Value;

use crate::fleet::{self, Fleet, Friend, LEASE, NEVER};

/// More than one page.
const MISSED: u64 = 600;

/// Two servers that have a standby beside their database. Fields are dropped in this order.
struct Stage {
    fleet: Fleet,
    standby: Standby,
    _server: Postgres,
}

impl Stage {
    async fn set() -> anyhow::Result<Self> {
        let server = Postgres::start().await?;
        let standby = server.standby().await?;
        let database = server.create_database().await?;
        kith_chat_core::postgres::migrate(&database.url(), 1).await?;
        standby.caught_up().await?;
        let replica = database.url_through(standby.address());
        let fleet = Fleet::on(database, NEVER, LEASE, &[("KITH_POSTGRES_REPLICA_URL", &replica)]).await?;
        Ok(Self { fleet, standby, _server: server })
    }

    /// Both servers say so in `/readyz`, which is 200 either way.
    async fn replica_is_named(&self, wanted: bool) -> Story {
        let name = format!("replica {}", self.standby.address());
        for server in [&self.fleet.one, &self.fleet.two] {
            let rest = server.rest()?;
            let said = wait::until("/readyz says whether the replica is there", fleet::SOON * 2, async || {
                let (status, _, ready) = rest.raw(Method::GET, "/readyz", None, None).await.ok()?;
                let ready: Value = serde_json::from_slice(&ready).ok()?;
                let is_named = ready["missing"].as_array()?.iter().any(|missing| missing.as_str().is_some_and(|text| text.starts_with(&name)));
                (is_named == wanted).then_some(status)
            });
            ensure!(said.await? == 200, "it is not needed");
        }
        Ok(())
    }
}

/// How many pages of catch-up at this server were answered so.
async fn pages(server: &Server, answered: &str) -> anyhow::Result<u64> {
    let name = format!("kith_postgres_replica_reads_total{{transaction=\"log.catch_up\",answered=\"{answered}\"}}");
    // It is not there before it has counted something.
    Ok(fleet::metric(&server.rest()?, &name).await.unwrap_or(0))
}

/// Somebody who comes and goes.
struct Guest {
    person: Person,
    level: u64,
}

impl Guest {
    /// Comes back at this server, and is told everything that came since, in order and without a hole; all of it is there, or his own.
    async fn comes_back(&mut self, server: &Server, friend: DeviceRef, expected: RangeInclusive<u64>) -> anyhow::Result<Socket> {
        ensure!(*expected.start() == self.level + 1, "the story is wrong");
        self.person.rest = server.rest()?;
        let (mut socket, _) = self.person.connect().await?;
        loop {
            match socket.next_within(SOON).await? {
                Event::Frame(frame) => match frame.kind {
                    Some(Kind::Deliver(deliver)) => {
                        ensure!(deliver.seq == self.level + 1, "{} came after {}", deliver.seq, self.level);
                        ensure!(!deliver.body.is_empty() || deliver.absent() == AbsentReason::Own, "{deliver:?}");
                        self.level = deliver.seq;
                    }
                    Some(Kind::Absent(absent)) => bail!("a message is said to be gone: {absent:?}"),
                    Some(Kind::CaughtUp(_)) => break,
                    _ => {}
                },
                Event::Closed(ending) => bail!("{ending:?}"),
            }
        }
        ensure!(self.level == *expected.end(), "level at {} and not at {}", self.level, expected.end());
        let done = socket.ask(ack(self.person.conversation(friend), self.level)).await?;
        ensure!(matches!(done, Kind::Done(_)), "{done:?}");
        Ok(socket)
    }
}

async fn write(alice: &mut Friend, bob: DeviceRef, count: u64) -> Story {
    for _ in 0..count {
        alice.says(bob, "are you there?").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_comes_from_the_replica_and_what_that_lacks_from_the_primary() -> Story {
    let stage = Stage::set().await?;
    let (one, two) = (&stage.fleet.one, &stage.fleet.two);
    stage.replica_is_named(false).await?;
    let mut alice = Friend::at(one, "alice").await?;
    let mut bob = Guest { person: Person::register(&two.origin(), "bob").await?, level: 0 };
    let (to_bob, to_alice) = (bob.person.device_ref(), alice.person.device_ref());

    // Bob sleeps for long, and the replica has everything.
    write(&mut alice, to_bob, MISSED).await?;
    stage.standby.caught_up().await?;
    bob.comes_back(two, to_alice, 1..=MISSED).await?;
    ensure!(pages(two, "replica").await? >= 2 && pages(two, "primary_after_replica").await? == 0, "the primary was asked for what the replica has");

    // It stands still. Alice writes, Bob answers, and comes back where he has not been: what he reads is what he has just written.
    stage.standby.pause_replay().await?;
    write(&mut alice, to_bob, 20).await?;
    let mut socket = bob.comes_back(two, to_alice, MISSED + 1..=MISSED + 20).await?;
    let mine = accepted(&mut socket, bob.person.message(to_alice, "I was asleep")).await?;
    ensure!(mine.seq == MISSED + 21);
    bob.comes_back(one, to_alice, MISSED + 21..=MISSED + 21).await?;
    ensure!(pages(two, "primary_after_replica").await? > 0 && pages(one, "primary_after_replica").await? > 0, "the primary was not asked");

    // It dies. Nobody is kept waiting, and whoever runs the servers can see it.
    stage.standby.kill().await?;
    write(&mut alice, to_bob, 20).await?;
    bob.comes_back(two, to_alice, MISSED + 22..=MISSED + 41).await?;
    stage.replica_is_named(true).await?;

    // It is back, and answers again.
    stage.standby.restart().await?;
    stage.replica_is_named(false).await?;
    write(&mut alice, to_bob, 20).await?;
    stage.standby.caught_up().await?;
    let before = pages(two, "replica").await?;
    bob.comes_back(two, to_alice, MISSED + 42..=MISSED + 61).await?;
    ensure!(pages(two, "replica").await? > before, "it is not asked any more");
    Ok(())
}
