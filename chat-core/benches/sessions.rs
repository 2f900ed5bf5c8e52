//! What the session directory in Redis costs: `cargo bench --workspace --bench sessions`.
//!
//! Each line tells keys per second, and microseconds of processor time (user and system) per key: of Redis, and of this process, which is the directory, the
//! driver's tasks, and the little that makes the load. A real Redis, on this machine; so many calls at a time as the line says.

#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use kith_chat_core::sessions::{
    GatewayId, SessionDirectory,
    redis::{Options, RedisDirectory},
};
use kith_harness::{Redis, RedisCluster};
use kith_proto::id::{AccountId, DeviceId, DeviceRef};

const ACCOUNTS: u64 = 100_000;

fn device(account: u64) -> DeviceRef {
    let mut id = [7; 16];
    // As random as real ones.
    id[..8].copy_from_slice(&(account.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_be_bytes());
    DeviceRef { account: AccountId(id), device: DeviceId(id) }
}

/// Processor time of this process.
fn own_cpu() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().filter_map(|task| {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(threads.sum())
}

struct Bench {
    directory: Arc<RedisDirectory>,
    servers: Vec<Redis>,
    cluster: Option<RedisCluster>,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Enter,
    Find,
}

impl Bench {
    async fn alone() -> Self {
        let redis = Redis::start().await.unwrap();
        Self { directory: open(redis.url()).await, servers: vec![redis], cluster: None }
    }

    async fn cluster() -> Self {
        let cluster = RedisCluster::start(3, 0).await.unwrap();
        Self { directory: open(cluster.url()).await, servers: Vec::new(), cluster: Some(cluster) }
    }

    fn redis_cpu(&self) -> Duration {
        let nodes = self.servers.iter().chain(self.cluster.iter().flat_map(RedisCluster::nodes));
        nodes.map(|node| node.cpu().unwrap()).sum()
    }

    /// `total` keys in batches, `at_once` calls at a time.
    async fn run(&self, what: What, batch: u64, at_once: usize, total: u64) {
        let next = Arc::new(AtomicU64::new(0));
        let callers = (0..at_once).map(|_| {
            let (directory, next) = (Arc::clone(&self.directory), Arc::clone(&next));
            tokio::spawn(async move {
                loop {
                    let from = next.fetch_add(batch, Ordering::Relaxed);
                    if from >= total {
                        return;
                    }
                    let devices = (from..from + batch).map(|n| device(n % ACCOUNTS));
                    match what {
                        What::Enter => drop(directory.enter(&devices.map(|device| (device, from)).collect::<Vec<_>>()).await.unwrap()),
                        What::Find => {
                            let accounts: Vec<_> = devices.map(|device| device.account).collect();
                            assert!(directory.find(&accounts).await.unwrap().iter().all(|places| places.len() == 1));
                        }
                    }
                }
            })
        });
        for caller in callers.collect::<Vec<_>>() {
            caller.await.unwrap();
        }
    }

    async fn report(&self, name: &str, what: What, batch: u64, at_once: usize, total: u64) {
        self.run(what, batch, at_once, total / 10).await;
        let (begun, own, redis) = (Instant::now(), own_cpu(), self.redis_cpu());
        self.run(what, batch, at_once, total).await;
        let keys = f64::from(u32::try_from(total).unwrap());
        let each = |time: Duration| time.as_secs_f64() * 1e6 / keys;
        let (own, redis) = (each(own_cpu() - own), each(self.redis_cpu().saturating_sub(redis)));
        let per_second = keys / begun.elapsed().as_secs_f64();
        println!("{name:<12} {what:<6?} {batch:>4} keys, {at_once:>2} at once {per_second:>10.0}/s {redis:>6.2} us Redis {own:>6.2} us this process");
    }
}

async fn open(url: String) -> Arc<RedisDirectory> {
    Arc::new(RedisDirectory::open(&Options::new(url, GatewayId(1), "127.0.0.1:1")).await.unwrap())
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        for (name, bench, total) in [("alone", Bench::alone().await, 2_000_000), ("cluster of 3", Bench::cluster().await, 400_000)] {
            bench.run(What::Enter, 512, 4, ACCOUNTS).await;
            for (batch, at_once) in [(1, 16), (50, 1), (50, 4), (512, 1), (512, 4)] {
                let total = if batch == 1 { total / 10 } else { total };
                bench.report(name, What::Find, batch, at_once, total).await;
                bench.report(name, What::Enter, batch, at_once, total / 4).await;
            }
        }
    });
}
