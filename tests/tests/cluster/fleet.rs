//! Two servers that know of one another.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use kith_harness::{Database, Postgres, Redis};
use kith_proto::{id::DeviceRef, v1::ServerFrame, v1::server_frame::Kind};
use kith_tests::{
    expect::caught_up,
    person::Person,
    rest::Rest,
    server::{KEEP_ALIVE_MS, Options, Server},
    socket::Socket,
    wait,
};
use reqwest::Method;

/// For anything that has to come about between servers, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// So long that no check of the heads comes to help within a test.
pub(crate) const NEVER: Duration = Duration::from_secs(600);

/// A busy machine may keep a server from running for half of it, which is only tested where it is meant.
pub(crate) const LEASE: Duration = Duration::from_secs(60);

/// A directory that tells two servers of one another, and the database they share. Fields are dropped in this order: servers first.
pub(crate) struct Fleet {
    pub(crate) one: Server,
    pub(crate) two: Server,
    pub(crate) redis: Redis,
    _database: Database,
}

impl Fleet {
    /// Two servers that are linked. Heads are checked every `keep_alive`.
    pub(crate) async fn start(keep_alive: Duration) -> anyhow::Result<Self> {
        Self::start_with(keep_alive, LEASE, &[]).await
    }

    /// The same with a shorter lease, for interruptions.
    pub(crate) async fn start_with_lease(keep_alive: Duration, lease: Duration) -> anyhow::Result<Self> {
        Self::start_with(keep_alive, lease, &[]).await
    }

    /// The same with more settings.
    pub(crate) async fn start_with(keep_alive: Duration, lease: Duration, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let database = Postgres::shared().create_database().await?;
        kith_chat_core::postgres::migrate(&database.url(), 1).await?;
        Self::on(database, keep_alive, lease, settings).await
    }

    /// The same on a database that was migrated.
    pub(crate) async fn on(database: Database, keep_alive: Duration, lease: Duration, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let redis = Redis::start().await?;
        let server = async || {
            let options = settings.iter().fold(Options::new(), |options, (name, value)| options.set(name, value));
            options
                .set("KITH_POSTGRES_URL", &database.url())
                .set("KITH_POSTGRES_CONNECTIONS", "4")
                .set("KITH_REDIS_URL", &redis.url())
                .set("KITH_CLUSTER_LEASE_MS", &lease.as_millis().to_string())
                .set(KEEP_ALIVE_MS, &keep_alive.as_millis().to_string())
                .start()
                .await
        };
        let (one, two) = (server().await?, server().await?);
        let fleet = Self { one, two, redis, _database: database };
        fleet.linked().await?;
        Ok(fleet)
    }

    /// Returns when both have a link to the other.
    pub(crate) async fn linked(&self) -> anyhow::Result<()> {
        for server in [&self.one, &self.two] {
            until_metric(server, "kith_peer_links", |links| links == 1).await?;
        }
        Ok(())
    }

    /// Two people who have both written, the one connected to the first server and the other to the second; both are level.
    pub(crate) async fn friends(&self) -> anyhow::Result<(Friend, Friend)> {
        let mut alice = Friend::at(&self.one, "alice").await?;
        let mut bob = Friend::at(&self.two, "bob").await?;
        let (to_bob, to_alice) = (bob.person.device_ref(), alice.person.device_ref());
        alice.says(to_bob, "hello").await?;
        bob.hears("hello").await?;
        bob.says(to_alice, "hello yourself").await?;
        alice.hears("hello yourself").await?;
        Ok((alice, bob))
    }
}

/// A person with a socket.
pub(crate) struct Friend {
    pub(crate) person: Person,
    pub(crate) socket: Socket,
}

impl Friend {
    pub(crate) async fn at(server: &Server, name: &str) -> anyhow::Result<Self> {
        let mut person = Person::register(&server.origin(), name).await?;
        let (mut socket, _) = person.connect().await?;
        caught_up(&mut socket).await?;
        Ok(Self { person, socket })
    }

    /// The same device at another server; gives back the socket that it had.
    pub(crate) async fn moves_to(&mut self, server: &Server) -> anyhow::Result<Socket> {
        self.person.rest = server.rest()?;
        let (socket, _) = self.person.connect().await?;
        Ok(std::mem::replace(&mut self.socket, socket))
    }

    /// Sends; returns the seq.
    pub(crate) async fn says(&mut self, to: DeviceRef, text: &'static str) -> anyhow::Result<u64> {
        let message = self.person.message(to, text);
        Ok(kith_tests::expect::accepted(&mut self.socket, message).await?.seq)
    }

    /// Waits for a delivery with this body; returns its seq.
    pub(crate) async fn hears(&mut self, text: &str) -> anyhow::Result<u64> {
        let wanted = |frame: ServerFrame| match frame.kind {
            Some(Kind::Deliver(deliver)) if deliver.body[..] == *text.as_bytes() => Some(deliver.seq),
            _ => None,
        };
        self.socket.find(&format!("the message {text:?}"), SOON, wanted).await
    }
}

/// A number from `/metrics`.
pub(crate) async fn metric(rest: &Rest, name: &str) -> anyhow::Result<u64> {
    let (status, _, body) = rest.raw(Method::GET, "/metrics", None, None).await?;
    ensure!(status == 200, "/metrics says {status}");
    let page = String::from_utf8(body)?;
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("no metric {name}"))?.parse()?)
}

pub(crate) async fn until_metric(server: &Server, name: &str, wanted: impl Fn(u64) -> bool) -> anyhow::Result<()> {
    let rest = server.rest()?;
    wait::until(name, SOON, async || metric(&rest, name).await.ok().filter(|value| wanted(*value))).await?;
    Ok(())
}
