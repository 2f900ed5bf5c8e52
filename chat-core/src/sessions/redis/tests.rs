//! On real servers: alone, with Sentinels, as a cluster.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use kith_harness::{Proxy, Redis, RedisCluster, RedisSentinel};
use kith_proto::id::{AccountId, DeviceId, DeviceRef};
use tokio::sync::mpsc;

use super::{OpenError, Options, RedisDirectory};
use crate::domain::Rate;
use crate::sessions::{
    GatewayId, Place, SessionDirectory, Stale,
    buckets::{self, BucketKey, Buckets, Take},
    conformance::{self, Fixture, address, conformance_tests, each, eventually, until_told},
};

async fn open(url: String, gateway: GatewayId, lease: Duration) -> RedisDirectory {
    let options = Options { lease, ..Options::new(url, gateway, address(gateway)) };
    eventually("a directory", async || RedisDirectory::open(&options).await).await
}

/// Behind a link of its own.
struct Alone {
    redis: Redis,
    proxy: Proxy,
}

impl Alone {
    fn url(&self) -> String {
        self.redis.url_through(self.proxy.address())
    }

    async fn open(&self, gateway: u64) -> RedisDirectory {
        open(self.url(), GatewayId(gateway), Duration::from_secs(600)).await
    }
}

#[async_trait(?Send)]
impl Fixture for Alone {
    async fn new() -> Self {
        let redis = Redis::start().await.unwrap();
        let proxy = Proxy::start(redis.address()).await.unwrap();
        Self { redis, proxy }
    }

    async fn join(&self, gateway: GatewayId, lease: Duration) -> Arc<dyn SessionDirectory> {
        Arc::new(open(self.url(), gateway, lease).await)
    }

    async fn flush(&self) {
        self.redis.flush().await.unwrap();
    }

    async fn pause(&self) {
        self.redis.pause().await.unwrap();
    }

    async fn resume(&self) {
        self.redis.resume().await.unwrap();
    }

    async fn cut(&self) {
        self.proxy.reset();
    }
}

mod alone {
    use super::*;

    conformance_tests!(Alone);
}

#[async_trait(?Send)]
impl buckets::conformance::Fixture for Alone {
    async fn new() -> Self {
        <Self as Fixture>::new().await
    }

    async fn member(&self) -> Arc<dyn Buckets> {
        // Which of them nobody asks.
        Arc::new(self.open(rand::random()).await)
    }
}

mod buckets_alone {
    use super::*;

    buckets::conformance::bucket_tests!(Alone);
}

const ONE: Rate = Rate { capacity: 1, per_minute: 1 };

#[tokio::test]
async fn buckets_that_are_away_fail_in_time_and_are_full_after_a_flush() {
    let alone = <Alone as Fixture>::new().await;
    let buckets = alone.open(1).await;
    let key = BucketKey { kind: b'a', of: [1; 32] };
    assert_eq!(buckets.take(key, ONE).await.unwrap(), Take::Taken);
    let left: u64 = alone.redis.ask(&["EVAL", "return redis.call('PTTL', redis.call('KEYS', 'kith:b:*')[1])", "0"]).await.unwrap().parse().unwrap();
    assert!((1..=60_000).contains(&left), "it is not kept for longer than it takes to fill: {left}");
    alone.redis.pause().await.unwrap();
    let begun = tokio::time::Instant::now();
    assert!(buckets.take(key, ONE).await.is_err());
    assert!(begun.elapsed() < Duration::from_secs(5));
    alone.redis.resume().await.unwrap();
    eventually("it answers again", async || buckets.remaining(&[(key, ONE)]).await).await;
    alone.redis.flush().await.unwrap();
    assert_eq!(eventually("it is asked", async || buckets.take(key, ONE).await).await, Take::Taken);
}

/// Several servers that clients find by themselves, past any proxy.
struct Several<Servers> {
    servers: Servers,
    url: String,
    nodes: fn(&Servers) -> &[Redis],
}

#[async_trait]
trait Start: Send + Sync + Sized + 'static {
    async fn several() -> Several<Self>;
}

#[async_trait]
impl Start for RedisSentinel {
    async fn several() -> Several<Self> {
        let servers = Self::start().await.unwrap();
        Several { url: servers.url(), servers, nodes: Self::servers }
    }
}

#[async_trait]
impl Start for RedisCluster {
    async fn several() -> Several<Self> {
        let servers = Self::start(3, 0).await.unwrap();
        Several { url: servers.url(), servers, nodes: Self::nodes }
    }
}

impl<Servers> Several<Servers> {
    fn nodes(&self) -> &[Redis] {
        (self.nodes)(&self.servers)
    }
}

#[async_trait(?Send)]
impl<Servers: Start> Fixture for Several<Servers> {
    async fn new() -> Self {
        Servers::several().await
    }

    async fn join(&self, gateway: GatewayId, lease: Duration) -> Arc<dyn SessionDirectory> {
        Arc::new(open(self.url.clone(), gateway, lease).await)
    }

    async fn flush(&self) {
        for node in self.nodes() {
            // A replica forgets with its master, and says that it takes no orders.
            eventually("it is flushed", async || match node.flush().await {
                Err(error) if !error.to_string().contains("READONLY") => Err(error),
                _ => Ok(()),
            })
            .await;
        }
    }

    async fn pause(&self) {
        for node in self.nodes() {
            node.pause().await.unwrap();
        }
    }

    async fn resume(&self) {
        for node in self.nodes() {
            node.resume().await.unwrap();
        }
    }

    async fn cut(&self) {
        for node in self.nodes() {
            node.ask(&["CLIENT", "KILL", "TYPE", "normal"]).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_sentinels() {
    conformance::all(&Several::<RedisSentinel>::new().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_cluster() {
    let servers = Several::<RedisCluster>::new().await;
    conformance::all(&servers).await;
    // Buckets lie on all servers.
    let directory = open(servers.url.clone(), GatewayId(77), Duration::from_secs(600)).await;
    let buckets: Vec<_> = (0..20).map(|n| (BucketKey { kind: b'a', of: [n; 32] }, ONE)).collect();
    for (key, rate) in &buckets {
        assert_eq!(directory.take(*key, *rate).await.unwrap(), Take::Taken);
    }
    assert_eq!(directory.remaining(&buckets).await.unwrap(), [0; 20]);
}

const PHONE: DeviceRef = DeviceRef { account: AccountId([1; 16]), device: DeviceId([2; 16]) };

async fn finds_again(reader: &RedisDirectory, writer: &RedisDirectory, epoch: u64) {
    let expected = [[Place { device: PHONE.device, gateway: writer.gateway(), epoch }]];
    eventually("it is entered", async || writer.enter(&[(PHONE, epoch)]).await).await;
    eventually("it is found", async || match reader.find(&[PHONE.account]).await {
        Ok(places) if places == expected => Ok(()),
        other => Err(other),
    })
    .await;
}

async fn until_everything_is_stale(news: &mut mpsc::Receiver<Stale>) {
    until_told(news, |stale| stale == Stale::Everything).await;
}

#[tokio::test]
async fn a_start_that_fails_names_the_address_and_no_password() {
    let redis = Redis::start().await.unwrap();
    let address = redis.address().to_string();
    let open = async |url: String| match RedisDirectory::open(&Options::new(url, GatewayId(1), "a:1")).await.unwrap_err() {
        OpenError::Unreachable { address, source } => (OpenError::Unreachable { address, source }).to_string(),
        other => panic!("{other:?}"),
    };
    assert!(open(format!("redis://:s3cret@{address}")).await.contains(&address));
    redis.stop().await.unwrap();
    let error = open(redis.url()).await;
    assert!(error.contains(&address), "{error}");
    let options = Options::new(redis.url(), GatewayId(1), "a:1");
    let password = redis.url().split(['@', ':']).nth(2).unwrap().to_owned();
    assert!(!format!("{options:?}{error}").contains(&password) && format!("{options:?}").contains(&address));
}

#[tokio::test]
async fn scripts_that_redis_has_forgotten_are_loaded_again() {
    let alone = <Alone as Fixture>::new().await;
    let directory = alone.open(1).await;
    for epoch in 1..3 {
        alone.redis.ask(&["SCRIPT", "FLUSH"]).await.unwrap();
        finds_again(&directory, &directory, epoch).await;
    }
}

#[tokio::test]
async fn what_is_left_behind_ends_by_itself() {
    let alone = <Alone as Fixture>::new().await;
    let directory = alone.open(1).await;
    directory.enter(&[(PHONE, 1)]).await.unwrap();
    directory.renew().await.unwrap();
    let key = alone.redis.ask(&["EVAL", "return redis.call('KEYS', 'kith:s:*')[1] and redis.call('PTTL', redis.call('KEYS', 'kith:s:*')[1])", "0"]);
    assert!(key.await.unwrap().parse::<u64>().unwrap() > 24 * 60 * 60 * 1000);
    assert!(alone.redis.ask(&["PTTL", "kith:gateways"]).await.unwrap().parse::<u64>().unwrap() > 0);
    // A device that leaves takes its account's key with it.
    directory.leave(&[(PHONE, 1)]).await.unwrap();
    assert_eq!(alone.redis.ask(&["EVAL", "return #redis.call('KEYS', 'kith:s:*')", "0"]).await.unwrap(), "0");
}

#[tokio::test]
async fn a_link_that_breaks_without_a_sound_is_noticed() {
    let alone = <Alone as Fixture>::new().await;
    let (reader, writer) = (alone.open(1).await, open(alone.redis.url(), GatewayId(2), Duration::from_secs(600)).await);
    let mut news = reader.stale().unwrap();
    finds_again(&reader, &writer, 1).await;
    alone.proxy.blackhole();
    until_everything_is_stale(&mut news).await;
    assert!(!reader.is_up() && writer.is_up());
    alone.proxy.heal();
    finds_again(&reader, &writer, 2).await;
    assert!(reader.is_up());
}

#[tokio::test]
async fn a_restart_of_redis_is_survived() {
    let alone = <Alone as Fixture>::new().await;
    let (reader, writer) = (alone.open(1).await, alone.open(2).await);
    let mut news = reader.stale().unwrap();
    finds_again(&reader, &writer, 1).await;
    alone.redis.kill().await.unwrap();
    until_everything_is_stale(&mut news).await;
    alone.redis.restart().await.unwrap();
    finds_again(&reader, &writer, 2).await;
    assert!(writer.renew().await.unwrap().anew);
}

#[tokio::test]
async fn connections_end_with_the_directory() {
    let alone = <Alone as Fixture>::new().await;
    let directory = alone.open(1).await;
    directory.enter(&[(PHONE, 1)]).await.unwrap();
    assert_eq!(alone.proxy.connections(), 2);
    drop(directory);
    eventually("they end", async || match alone.proxy.connections() {
        0 => Ok(()),
        more => Err(more),
    })
    .await;
}

#[tokio::test]
async fn a_master_that_dies_is_replaced_by_its_sentinels() {
    let servers = RedisSentinel::start().await.unwrap();
    let [reader, writer] =
        [open(servers.url(), GatewayId(1), Duration::from_secs(600)).await, open(servers.url(), GatewayId(2), Duration::from_secs(600)).await];
    let mut news = reader.stale().unwrap();
    finds_again(&reader, &writer, 1).await;
    servers.servers()[0].kill().await.unwrap();
    until_everything_is_stale(&mut news).await;
    finds_again(&reader, &writer, 2).await;
    finds_again(&writer, &reader, 3).await;
    until_told(&mut news, |stale| stale == Stale::Account(PHONE.account)).await;
}

#[tokio::test]
async fn a_master_of_a_cluster_that_dies_is_replaced() {
    let servers = RedisCluster::start(3, 1).await.unwrap();
    let [reader, writer] =
        [open(servers.url(), GatewayId(1), Duration::from_secs(600)).await, open(servers.url(), GatewayId(2), Duration::from_secs(600)).await];
    let mut news = reader.stale().unwrap();
    finds_again(&reader, &writer, 1).await;
    servers.nodes()[0].kill().await.unwrap();
    until_everything_is_stale(&mut news).await;
    finds_again(&reader, &writer, 2).await;
    finds_again(&writer, &reader, 3).await;
    until_told(&mut news, |stale| stale == Stale::Account(PHONE.account)).await;
}

#[tokio::test]
async fn a_flush_of_one_server_of_a_cluster_is_noticed() {
    let servers = RedisCluster::start(3, 0).await.unwrap();
    let reader = open(servers.url(), GatewayId(1), Duration::from_secs(600)).await;
    let mut news = reader.stale().unwrap();
    for node in servers.nodes() {
        node.flush().await.unwrap();
        until_everything_is_stale(&mut news).await;
        assert!(reader.is_up());
    }
}
